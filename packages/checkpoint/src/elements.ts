/**
 * Elements of lists as Redis has them: by their numbers, in pages. lists.lua says how; lists.ts what an element's line is.
 */
import type { SerializerProtocol } from "@langchain/langgraph-checkpoint";
import type { FlatMessage } from "@throughline/protocol";
import { unflattenMessage, wholeMessage } from "./messages.ts";
import { load } from "./stored.ts";

/** What a list's value begins with; its ranges follow. */
export const mark = "list\0";
/** As lists.lua has it. */
const pageSize = 32;

/** As lists.lua answers them: the elements' generation, then for each stem pages and single elements. */
export type RawElements = [
  generation: Buffer,
  ...lists: [stem: Buffer, pages: (number | Buffer)[], long: (number | Buffer)[]][],
];

/** An element as it is stored, and what it says. */
export class Element {
  readonly line: string;
  #json: unknown;

  constructor(line: string) {
    this.line = line;
  }

  /** Nobody else's: whoever gets it may change it. A promise where the serializer is asked. */
  value(serde: SerializerProtocol, flat: boolean): unknown {
    const rest = this.line.slice(1);
    switch (this.line[0]) {
      case "m": {
        const message = this.#parsed(rest) as FlatMessage;
        return flat ? wholeMessage(message) : unflattenMessage(message);
      }
      case "p":
        return this.#parsed(rest);
      case "s":
        return load(serde, Buffer.from(rest.replace(" ", "\0")));
      case "b":
        return load(serde, Buffer.from(rest, "base64"));
      default:
        throw new Error(`an element of a list is of an unknown kind: ${this.line.slice(0, 40)}`);
    }
  }

  #parsed(json: string): unknown {
    this.#json ??= JSON.parse(json);
    return copyOf(this.#json);
  }
}

/** Pages of a thread's lists, from each one's first on; by channel. */
export class Pages {
  readonly generation: string;
  /** Characters. */
  size = 0;
  readonly lists = new Map<string, Element[][]>();

  constructor(generation: string) {
    this.generation = generation;
  }

  add(channel: string, number: number, page: Element[]): void {
    const pages = this.lists.get(channel) ?? [];
    this.lists.set(channel, pages);
    if (number !== pages.length || page.length < pageSize) return;
    pages.push(page);
    for (const { line } of page) this.size += line.length;
  }
}

/** The elements that an answer of Redis brought, with those that were known. */
export class Elements {
  readonly generation: string;
  readonly #lists = new Map<string, Map<number, Element[]>>();
  readonly #known: Pages | undefined;

  /** @param known pages that were not asked for */
  constructor([generation, ...lists]: RawElements, known?: Pages) {
    this.generation = generation.toString();
    this.#known = known?.generation === this.generation ? known : undefined;
    for (const [stem, pages, long] of lists) {
      const longer = new Map(pairs(long));
      const elements = pairs(pages).map(([page, text]): [number, Element[]] => {
        const lines = text.split("\n");
        return [
          page,
          lines.map(
            (line, i) => new Element(line === "@" ? (longer.get(page * pageSize + i + 1) ?? "") : line),
          ),
        ];
      });
      this.#lists.set(stem.toString().slice("\u0001\0".length, -"\0#".length), new Map(elements));
    }
  }

  /** @throws Error: the answer does not have them */
  of(channel: string, numbers: readonly number[]): Element[] {
    const pages = this.#lists.get(channel);
    const known = this.#known?.lists.get(channel);
    return numbers.map((number) => {
      const page = Math.floor((number - 1) / pageSize);
      const element = (pages?.get(page) ?? known?.[page])?.[(number - 1) % pageSize];
      // An empty line is that of an element that was deleted, or of a long one that was not asked for.
      if (!element?.line) throw new Error(`element ${number} of list ${JSON.stringify(channel)} is missing`);
      return element;
    });
  }

  /** @param value what stands for the list */
  list(channel: string, value: Buffer): StoredList {
    const numbers = [...numbersIn(value.toString("latin1", mark.length))].filter(
      (each) => each !== undefined,
    );
    const lines = this.of(channel, numbers).map(({ line }) => line);
    return new StoredList(this.generation, lines, numbers);
  }

  addTo(pages: Pages): void {
    for (const [channel, own] of this.#lists) {
      for (const [number, page] of own) {
        // A long element that nobody asked for is not here.
        if (page.every(({ line }) => line !== "")) pages.add(channel, number, page);
      }
    }
  }
}

/** A list's elements as they are stored. */
export class StoredList {
  readonly generation: string;
  readonly size: number;
  readonly #lines: readonly string[];
  readonly #numbers: readonly number[];
  #byLine: Map<string, number> | undefined;

  constructor(generation: string, lines: readonly string[], numbers: readonly number[]) {
    this.generation = generation;
    this.#lines = lines;
    this.#numbers = numbers;
    let size = 0;
    for (const line of lines) size += line.length;
    this.size = size;
  }

  /** The number of the element with this line, which most likely has this place. */
  find(line: string, place: number): number | undefined {
    if (this.#lines[place] === line) return this.#numbers[place];
    // An element behind the end of an unchanged list is new.
    if (place >= this.#lines.length && this.#byLine === undefined) return undefined;
    this.#byLine ??= new Map(this.#lines.map((each, i) => [each, this.#numbers[i]!]));
    return this.#byLine.get(line);
  }
}

/** A copy of what JSON.parse made. */
function copyOf(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(copyOf);
  // Field by field, for it is done for every message of a thread; a spread takes `__proto__` for a field.
  const copy: Record<string, unknown> = { ...value };
  for (const key in copy) {
    const each = copy[key];
    if (typeof each === "object" && each !== null) {
      Object.defineProperty(copy, key, {
        value: copyOf(each),
        writable: true,
        enumerable: true,
        configurable: true,
      });
    }
  }
  return copy;
}

function pairs(raw: readonly (number | Buffer)[]): [number, string][] {
  return Array.from({ length: raw.length / 2 }, (_, i) => [Number(raw[2 * i]), raw[2 * i + 1]!.toString()]);
}

export function isMarked(value: Buffer): boolean {
  return value.toString("latin1", 0, mark.length) === mark;
}

/** `<first>-<last>,…`; `+<count>` for so many that have no number yet. */
export function rangesOf(numbers: readonly (number | undefined)[]): string {
  const ranges: string[] = [];
  for (let i = 0; i < numbers.length; ) {
    const first = numbers[i];
    const at = (place: number) => (first === undefined ? undefined : first + place);
    let length = 1;
    while (i + length < numbers.length && numbers[i + length] === at(length)) length++;
    ranges.push(first === undefined ? `+${length}` : `${first}-${first + length - 1}`);
    i += length;
  }
  return ranges.join(",");
}

/** The numbers of these ranges; undefined for each that has none yet. */
export function* numbersIn(ranges: string): Generator<number | undefined> {
  if (ranges === "") return;
  for (const range of ranges.split(",")) {
    if (range.startsWith("+")) {
      yield* Array<undefined>(Number(range)).fill(undefined);
      continue;
    }
    const [first, last] = range.split("-").map(Number);
    for (let number = first!; number <= last!; number++) yield number;
  }
}
