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
import {
  Element,
  type Elements,
  isMarked,
  mark,
  numbersIn,
  Pages,
  rangesOf,
  StoredList,
} from "./elements.ts";
import { isPlain } from "./json.ts";
import { END, isStateKey, PREVIOUS } from "./langgraph.ts";
import { flattenMessage, unflattenMessage } from "./messages.ts";
import { dump, load } from "./stored.ts";

/** Shorter lists, in characters, are stored whole: a reference would save nothing. */
const worthwhile = 200;
/** Characters of the lists that a process remembers, and of the pages of such lists. */
const remembered = 8 * 1024 * 1024;

/** A list that is to be stored. */
export interface DumpedList {
  /** The thread's key and the channel. */
  name: string;
  channel: string;
  lines: readonly string[];
  /** What is known of the list that it was made of. */
  stored: StoredList | undefined;
  /** The number in it that each element has; undefined: it is new. */
  numbers: readonly (number | undefined)[];
}

/** A list as put.lua takes it. */
export interface Reference {
  list: DumpedList;
  value: string;
  /** The lines that are new. */
  fresh: string[];
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
  /** By the thread's key. */
  readonly #pages = new Map<string, Pages>();
  #pagesSize = 0;

  constructor(serde: SerializerProtocol) {
    this.#serde = serde;
  }

  /**
   * Serialises a channel's value. Nothing is awaited before all of it has been read.
   *
   * @param key the thread's
   * @param forWrite a list is stored whole, unless most of it is stored already
   * @throws InvalidArgumentError
   */
  async dump(key: string, channel: string, value: unknown, forWrite = false): Promise<Buffer | DumpedList> {
    const what = `key ${channel} of the state`;
    // Another serializer may have a reason, such as encryption, to see all that is stored.
    const isOurs = this.#serde.constructor === JsonPlusSerializer;
    if (!isOurs || !Array.isArray(value) || !isShared(channel)) return await dump(this.#serde, value, what);
    // A hole is an element, too.
    const elements: unknown[] = Array.from(value);
    const name = `${key}\0${channel}`;
    const stored = this.#latest.get(name);
    const texts = elements.map(textOf);
    let size = 0;
    for (const text of texts) size += text?.length ?? worthwhile;
    const known = texts.map((text, i) => (text === undefined ? undefined : stored?.find(text, i)));
    const isWhole = forWrite ? known.every((number) => number === undefined) : size < worthwhile;
    if (isWhole) return await dump(this.#serde, value, what);
    const lines = await awaitAll(
      elements.map((element, i) => {
        const text = texts[i];
        const isAll = text !== undefined && (known[i] !== undefined || isAllOf(text, element));
        return isAll ? text : this.#line(element, what);
      }),
    );
    // What is no text may be known as well, by what the serializer made of it.
    const numbers = lines.map(
      (line, i) => known[i] ?? (line === texts[i] ? undefined : stored?.find(line, i)),
    );
    return { name, channel, lines, stored, numbers };
  }

  /** Learns from a checkpoint what lists are made of that are to be stored. */
  learn(lists: readonly DumpedList[], values: readonly Buffer[], elements: Elements): void {
    for (const list of lists) {
      const place = values.findIndex((value, i) => i % 2 === 0 && value.toString() === list.channel);
      const value = values[place + 1];
      const isList = place !== -1 && value !== undefined && isMarked(value);
      // What is known of another namespace's list is as good: elements are shared.
      if (isList) list.stored = elements.list(list.channel, value);
      else if (list.stored?.generation !== elements.generation) list.stored = undefined;
      list.numbers = list.lines.map((line, i) => list.stored?.find(line, i));
    }
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
    const named = generation ?? lists.find(({ stored }) => stored !== undefined)?.stored?.generation ?? "";
    const references = lists.map((list): [DumpedList, Reference] => {
      if (list.stored?.generation !== named) list.numbers = list.lines.map(() => undefined);
      const fresh = list.lines.filter((_, i) => list.numbers[i] === undefined);
      return [list, { list, value: mark + rangesOf(list.numbers), fresh }];
    });
    return { references: new Map(references), generation: named };
  }

  /** Lists were stored, their new elements with the numbers from `firsts` on. */
  stored(references: readonly Reference[], generation: string, firsts: readonly number[]): void {
    for (const [i, { list }] of references.entries()) {
      let next = firsts[i]!;
      const all = list.numbers.map((number) => number ?? next++);
      this.#remember(list.name, new StoredList(generation, list.lines, all));
    }
  }

  /**
   * What stands in Redis for a channel's value, made that value again.
   *
   * @param isLatest what is stored next is likely to be made of it
   * @param flat messages are not made: they stay flat, as whole ones
   */
  async load(
    key: string,
    channel: string,
    value: Buffer,
    elements: Elements,
    { isLatest = false, flat = false }: { isLatest?: boolean; flat?: boolean },
  ): Promise<unknown> {
    if (!isMarked(value)) return await load(this.#serde, value);
    const [ranges = "", ...inline] = value.toString("utf8", mark.length).split("\n");
    const all = [...numbersIn(ranges)];
    const numbers = all.filter((number) => number !== undefined);
    const stored = elements.of(channel, numbers);
    if (isLatest) {
      const lines = stored.map((element) => element.line);
      this.#remember(`${key}\0${channel}`, new StoredList(elements.generation, lines, numbers));
    }
    const fresh = inline.map((line) => new Element(line));
    const [known, others] = [stored.values(), fresh.values()];
    return await awaitAll(
      all.map((number) => {
        const element = (number === undefined ? others : known).next().value as Element;
        return element.value(this.#serde, flat);
      }),
    );
  }

  /** The pages of a thread's lists that need not be read again. */
  pages(key: string): Pages | undefined {
    const pages = this.#pages.get(key);
    if (pages === undefined) return undefined;
    this.#pages.delete(key);
    this.#pages.set(key, pages);
    return pages;
  }

  /** Keeps the pages that were read: those that are full are never another, but in another generation. */
  keep(key: string, elements: Elements): void {
    const before = this.#pages.get(key);
    const pages = before?.generation === elements.generation ? before : new Pages(elements.generation);
    this.#pagesSize -= before?.size ?? 0;
    elements.addTo(pages);
    this.#pages.delete(key);
    this.#pages.set(key, pages);
    this.#pagesSize += pages.size;
    this.#pagesSize -= evict(this.#pages, this.#pagesSize);
  }

  #remember(name: string, list: StoredList): void {
    this.#size += list.size - (this.#latest.get(name)?.size ?? 0);
    this.#latest.delete(name);
    this.#latest.set(name, list);
    this.#size -= evict(this.#latest, this.#size);
  }

  /** What is no message, and no JSON. */
  async #line(element: unknown, what: string): Promise<string> {
    const dumped = await dump(this.#serde, element, what);
    const line = dumped.toString();
    const isText = line.startsWith("json") && !line.includes("\n");
    return isText ? `s${line.replace("\0", " ")}` : `b${dumped.toString("base64")}`;
  }
}

/** Promise.all, where any is a promise: there may be thousands of values, and usually none is. */
async function awaitAll<T>(values: readonly (T | Promise<T>)[]): Promise<T[]> {
  return values.some((each) => each instanceof Promise) ? await Promise.all(values) : (values as T[]);
}

/** Lets go of the oldest where all are too large; of the newest never. Answers how large they were. */
function evict(entries: Map<string, { size: number }>, size: number): number {
  let gone = 0;
  for (const [name, entry] of entries) {
    if (size - gone <= remembered || entries.size === 1) break;
    entries.delete(name);
    gone += entry.size;
  }
  return gone;
}

/** Whether lists in this channel are stored by their elements. What LangGraph keeps there for a step is not. */
function isShared(channel: string): boolean {
  return isStateKey(channel) || channel === END || channel === PREVIOUS;
}

/** Messages and plain JSON as lines. undefined: only the serializer may know what it is. */
function textOf(element: unknown): string | undefined {
  try {
    if (!BaseMessage.isInstance(element)) return isJson(element) ? `p${JSON.stringify(element)}` : undefined;
    const flat = flattenMessage(element);
    return isJson(flat) ? `m${JSON.stringify(flat)}` : undefined;
  } catch {
    // Too deep, or it throws when it is read: the serializer says what cannot be stored.
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
