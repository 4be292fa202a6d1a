/**
 * Lists whose elements are stored once each. A conversation is a list that every step makes longer: as a whole, it would
 * be stored once more with each of them. Here a stored list is the numbers of its elements, as ranges: that of a thread
 * of any length is one or two. lists.lua has the other half, and how it stands in Redis.
 *
 * An element is a line of text:
 *
 *     m<JSON>          a message, flat, of which it is made again just as it was
 *     p<JSON>          plain JSON
 *     s<type> <text>   what the serializer made of anything else
 *     b<base64>        the same, where that is no text
 *
 * An element is known by its line. One that is changed in place has another line, and is stored anew; a copy has the
 * same, and is not.
 */
import { isDeepStrictEqual } from "node:util";
import { BaseMessage } from "@langchain/core/messages";
import { JsonPlusSerializer, type SerializerProtocol } from "@langchain/langgraph-checkpoint";
import type { FlatMessage } from "@throughline/protocol";
import { isPlain } from "./json.ts";
import { END, isStateKey, PREVIOUS } from "./langgraph.ts";
import { flattenMessage, unflattenMessage } from "./messages.ts";
import { dump, load } from "./stored.ts";

const mark = "list\0";
/** Shorter lists, in characters, are stored whole: a reference would save nothing. */
const worthwhile = 200;
/** As lists.lua has it. */
const pageSize = 32;
/** Characters of the lists that a process remembers, beside those that it has in its hands. */
const remembered = 16 * 1024 * 1024;

/** As lists.lua answers them: the elements' generation, then for each stem pages and single elements. */
export type RawElements = [
  generation: Buffer,
  ...lists: [stem: Buffer, pages: (number | Buffer)[], long: (number | Buffer)[]][],
];

/** Where a channel is. */
export type Scope = [threadKey: string, ns: string];

/** A list that is to be stored. */
export interface DumpedList {
  /** The thread's key, the namespace and the channel. */
  name: string;
  lines: readonly string[];
}

/** A list as put.lua takes it. */
export interface Reference {
  list: DumpedList;
  value: string;
  /** The lines that are new. */
  fresh: string[];
  /** The number of each element; undefined: it is new. */
  numbers: (number | undefined)[];
}

/** The same for put-writes.lua, which gives no numbers. */
export function inline({ value, fresh }: Reference): string {
  return [value, ...fresh].join("\n");
}

/** What is known of stored lists. */
export class Lists {
  readonly #serde: SerializerProtocol;
  /** Those that were read or stored last, by name. */
  readonly #latest = new Map<string, StoredList>();
  #size = 0;

  constructor(serde: SerializerProtocol) {
    this.#serde = serde;
  }

  /**
   * Serialises a channel's value. Nothing is awaited before all of it has been read.
   *
   * @param scope the thread's key and the namespace
   * @param forWrite a list is stored whole, unless most of it is stored already
   * @throws InvalidArgumentError
   */
  async dump(
    [key, ns]: Scope,
    channel: string,
    value: unknown,
    forWrite = false,
  ): Promise<Buffer | DumpedList> {
    const what = `key ${channel} of the state`;
    // Another serializer may have a reason, such as encryption, to see all that is stored.
    const isOurs = this.#serde.constructor === JsonPlusSerializer;
    if (!isOurs || !Array.isArray(value) || !isShared(channel)) return await dump(this.#serde, value, what);
    // A hole is an element, too.
    const elements: unknown[] = Array.from(value);
    const name = `${key}\0${ns}\0${channel}`;
    const stored = this.#latest.get(name);
    const texts = elements.map(textOf);
    let size = 0;
    for (const text of texts) size += text?.length ?? worthwhile;
    const isKnown = (text: string | undefined, i: number) =>
      text !== undefined && stored?.find(text, i) !== undefined;
    if (forWrite ? !texts.some(isKnown) : size < worthwhile) return await dump(this.#serde, value, what);
    const lines = elements.map((element, i) => {
      const text = texts[i];
      const isWhole = text !== undefined && (isKnown(text, i) || isAllOf(text, element));
      return isWhole ? text : this.#line(element, what);
    });
    return { name, lines: await awaitAll(lines) };
  }

  /** Whether a list is known, or so short that nothing is lost if it is not. */
  knows({ name, lines }: DumpedList): boolean {
    return lines.length <= 1 || this.#latest.has(name);
  }

  /**
   * Lists in terms of what is stored.
   *
   * @param generation of the elements that may be named. Default: that of the first list that is known
   */
  refer(
    lists: readonly DumpedList[],
    generation?: string,
  ): { references: Map<DumpedList, Reference>; generation: string } {
    const named =
      generation ?? lists.map(({ name }) => this.#latest.get(name)?.generation).find(Boolean) ?? "";
    const references = lists.map((list): [DumpedList, Reference] => {
      const stored = this.#latest.get(list.name);
      const known = stored?.generation === named ? stored : undefined;
      const numbers = list.lines.map((line, i) => known?.find(line, i));
      const fresh = list.lines.filter((_, i) => numbers[i] === undefined);
      return [list, { list, value: mark + rangesOf(numbers), fresh, numbers }];
    });
    return { references: new Map(references), generation: named };
  }

  /** Lists were stored, their new elements with the numbers from `firsts` on. */
  stored(references: readonly Reference[], generation: string, firsts: readonly number[]): void {
    for (const [i, { list, numbers }] of references.entries()) {
      let next = firsts[i]!;
      const all = numbers.map((number) => number ?? next++);
      this.#remember(list.name, new StoredList(generation, list.lines, all));
    }
  }

  /**
   * What stands in Redis for a channel's value, made that value again.
   *
   * @param isLatest what is stored next is likely to be made of it
   */
  async load(
    [key, ns]: Scope,
    channel: string,
    value: Buffer,
    elements: Elements,
    isLatest: boolean,
  ): Promise<unknown> {
    if (value.toString("latin1", 0, mark.length) !== mark) return await load(this.#serde, value);
    const [ranges = "", ...inline] = value.toString("utf8", mark.length).split("\n");
    const all = [...numbersIn(ranges)];
    const numbers = all.filter((number) => number !== undefined);
    const stored = elements.lines(`${ns}\0${channel}`, numbers);
    if (isLatest) {
      this.#remember(`${key}\0${ns}\0${channel}`, new StoredList(elements.generation, stored, numbers));
    }
    const [known, fresh] = [stored.values(), inline.values()];
    return await awaitAll(
      all.map((number) => this.#element((number === undefined ? fresh : known).next().value as string)),
    );
  }

  #remember(name: string, list: StoredList): void {
    this.#size += list.size - (this.#latest.get(name)?.size ?? 0);
    this.#latest.delete(name);
    this.#latest.set(name, list);
    for (const [oldest, { size }] of this.#latest) {
      if (this.#size <= remembered) break;
      this.#latest.delete(oldest);
      this.#size -= size;
    }
  }

  /** What is no message, and no JSON. */
  async #line(element: unknown, what: string): Promise<string> {
    const dumped = await dump(this.#serde, element, what);
    const line = dumped.toString();
    const isText = line.startsWith("json") && !line.includes("\n");
    return isText ? `s${line.replace("\0", " ")}` : `b${dumped.toString("base64")}`;
  }

  #element(line: string): unknown {
    const rest = line.slice(1);
    switch (line[0]) {
      case "m":
        return unflattenMessage(JSON.parse(rest) as FlatMessage);
      case "p":
        return JSON.parse(rest);
      case "s":
        return load(this.#serde, Buffer.from(rest.replace(" ", "\0")));
      case "b":
        return load(this.#serde, Buffer.from(rest, "base64"));
      default:
        throw new Error(`an element of a list is of an unknown kind: ${line.slice(0, 40)}`);
    }
  }
}

/** The elements that an answer of Redis brought. */
export class Elements {
  readonly generation: string;
  readonly #lists = new Map<string, { pages: Map<number, string[]>; long: Map<number, string> }>();

  constructor([generation, ...lists]: RawElements) {
    this.generation = generation.toString();
    for (const [stem, pages, long] of lists) {
      this.#lists.set(stem.toString().slice(0, -"\0#".length), {
        pages: new Map(pairs(pages).map(([page, text]) => [page, text.split("\n")])),
        long: new Map(pairs(long)),
      });
    }
  }

  /** @param list namespace and channel */
  lines(list: string, numbers: readonly number[]): string[] {
    if (numbers.length === 0) return [];
    const { pages, long } = this.#lists.get(list)!;
    return numbers.map((number) => {
      const line = pages.get(Math.floor((number - 1) / pageSize))?.[(number - 1) % pageSize];
      const element = line === "@" ? long.get(number) : line;
      if (!element) throw new Error(`element ${number} of list ${JSON.stringify(list)} is missing`);
      return element;
    });
  }
}

/** A list's elements as they are stored. */
class StoredList {
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

function pairs(raw: readonly (number | Buffer)[]): [number, string][] {
  return Array.from({ length: raw.length / 2 }, (_, i) => [Number(raw[2 * i]), raw[2 * i + 1]!.toString()]);
}

/** Promise.all, where any is a promise: there may be thousands of values, and usually none is. */
async function awaitAll<T>(values: readonly (T | Promise<T>)[]): Promise<T[]> {
  return values.some((each) => each instanceof Promise) ? await Promise.all(values) : (values as T[]);
}

/** Whether lists in this channel are stored by their elements. What LangGraph keeps there for a step is not. */
function isShared(channel: string): boolean {
  return isStateKey(channel) || channel === END || channel === PREVIOUS;
}

/** Messages and plain JSON as lines. undefined: only the serializer may know what it is. */
function textOf(element: unknown): string | undefined {
  if (!BaseMessage.isInstance(element)) return isJson(element) ? `p${JSON.stringify(element)}` : undefined;
  try {
    const flat = flattenMessage(element);
    return isJson(flat) ? `m${JSON.stringify(flat)}` : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the element is made again of its text just as it is. */
function isAllOf(text: string, element: unknown): boolean {
  if (!BaseMessage.isInstance(element)) return text[0] === "p";
  try {
    return isSameMessage(element, unflattenMessage(flattenMessage(element)));
  } catch {
    return false;
  }
}

/** Whether a value is what JSON says of it, and nothing that the serializer would take for something else. */
function isJson(value: unknown): boolean {
  if (value === null || typeof value === "string" || typeof value === "boolean") return true;
  if (typeof value === "number") return Number.isFinite(value) && !Object.is(value, -0);
  if (typeof value !== "object" || "lc" in value || "toJSON" in value) return false;
  if (!Array.isArray(value)) return isPlain(value) && Object.values(value).every(isJson);
  return Array.from(value).every(isJson);
}

/** Whether two messages are stored alike; what is undefined is as good as not there. */
function isSameMessage(a: BaseMessage, b: BaseMessage): boolean {
  return a.lc_id.join() === b.lc_id.join() && isDeepStrictEqual(storedOf(a), storedOf(b));
}

/** What the serializer stores of a message: the fields that it was made with, as they are now. */
function storedOf(message: BaseMessage): object {
  const live = message as unknown as Record<string, unknown>;
  const fields = Object.keys(message.lc_kwargs).map((key) => [
    key,
    key in live ? live[key] : message.lc_kwargs[key],
  ]);
  return Object.fromEntries(fields.filter(([, value]) => value !== undefined));
}

/** `<first>-<last>,…`; `+<count>` for so many that have no number yet. */
function rangesOf(numbers: readonly (number | undefined)[]): string {
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

function* numbersIn(ranges: string): Generator<number | undefined> {
  if (ranges === "") return;
  for (const range of ranges.split(",")) {
    if (range.startsWith("+")) yield* Array<undefined>(Number(range)).fill(undefined);
    const [first, last] = range.split("-").map(Number);
    for (let number = first!; number <= last!; number++) yield number;
  }
}
