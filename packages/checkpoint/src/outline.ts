/**
 * Checkpoints without their state: what a tree of a conversation is drawn of. Of its messages an outline says how many
 * there are, and the ids of those that its parent has not.
 *
 * A list that is stored by its elements is known by their numbers: what two checkpoints have in common is not read.
 * Numbers mean the same elements within one generation; where it changes while something is read, that is read anew.
 * A list has each id once, as LangGraph's reducer leaves it.
 */
import type { CheckpointTuple, SerializerProtocol } from "@langchain/langgraph-checkpoint";
import { isDeltaSnapshot } from "@langchain/langgraph-checkpoint";
import { isRecord } from "@throughline/protocol";
import type { Cluster, Redis } from "ioredis";
import { Elements, isMarked, mark, rangesOf } from "./elements.ts";
import { checkpointBounds, type ThreadKeys } from "./keys.ts";
import { END, ERROR, INTERRUPT, NEXT_NODES, START } from "./langgraph.ts";
import type { Lists } from "./lists.ts";
import { marksOf } from "./marks.ts";
import { minus, type Range, rangesIn, sizeOf } from "./ranges.ts";
import type { RawOutline, RawTuple } from "./scripts.ts";
import { load, loadTuple } from "./stored.ts";

const channel = "messages";
/** Checkpoints, and bytes of their values, that one script reads: few enough not to block Redis for long. */
const most = 64;
const mostBytes = 512 * 1024;
/** How often a page is read that others discard elements of. */
const maxTries = 10;

export interface Outline {
  /** `channel_values` has what the next nodes are known by, `pendingWrites` values only of errors and questions. */
  tuple: CheckpointTuple;
  count: number;
  added: string[];
}

/** The messages of a checkpoint: by the numbers of their elements, or, of a list that was stored whole, by their ids. */
type Messages = { ranges: readonly Range[] } | { ids: readonly (string | undefined)[] };

const none: Messages = { ids: [] };

interface Row {
  tuple: CheckpointTuple;
  parentId: string;
  /** Of its own state. */
  messages: Messages;
}

export interface OutlineSource {
  redis: Redis | Cluster;
  serde: SerializerProtocol;
  lists: Lists;
  keys: ThreadKeys;
  threadId: string;
  ns: string;
}

/** One reader's: what it has read once is not read again. */
export class Outlines {
  readonly #source: OutlineSource;
  #generation: string | undefined;
  /** By id; undefined: there is none. */
  readonly #rows = new Map<string, Row | undefined>();
  /** By the field of the stored list, or of what a functional graph returned that has one in it. */
  readonly #messages = new Map<string, Promise<Messages>>();
  /** The ids of elements, by their numbers. */
  readonly #ids = new Map<number, string | undefined>();

  constructor(source: OutlineSource) {
    this.#source = source;
  }

  /**
   * The newest checkpoints below an id, branches included: at least one where there is one.
   *
   * @returns `isLast`: there are no more
   */
  async page(limit: number, below?: string): Promise<{ outlines: Outline[]; isLast: boolean }> {
    const { max, min } = checkpointBounds(this.#source.ns, below);
    return await this.#again(async () => {
      const { ids, more } = await this.#read("page", max, min, Math.min(limit, most));
      const rows = ids.map((id) => this.#rows.get(id)!);
      await this.#want(rows.flatMap((row) => [row.parentId, shownBy(row)]));
      await this.#want(rows.map(({ parentId }) => shownBy(this.#rows.get(parentId))));
      const pairs = rows.map((row) => ({
        row,
        own: this.#shownMessages(row),
        parents: this.#shownMessages(this.#rows.get(row.parentId)),
      }));
      await this.#loadIds(pairs.flatMap(({ own, parents }) => neededFor(own, parents)));
      const outlines = pairs.map(({ row: { tuple }, own, parents }) => ({
        tuple,
        count: countOf(own),
        added: this.#added(own, parents),
      }));
      return { outlines, isLast: !more };
    });
  }

  /** How many messages a checkpoint has, "" for the head; 0 where there is none. */
  async count(id: string): Promise<number> {
    return await this.#again(async () => {
      const { ids } = await this.#read("these", this.#source.ns, 1, id);
      const row = this.#rows.get(ids[0] ?? "");
      await this.#want([shownBy(row)]);
      return countOf(this.#shownMessages(row));
    });
  }

  /** Does it until all of it was of one generation. */
  async #again<T>(work: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof GenerationError) || tries === maxTries) throw error;
        this.#generation = undefined;
        for (const known of [this.#rows, this.#messages, this.#ids]) known.clear();
      }
    }
  }

  async #read(
    ...which:
      | ["page", max: string, min: string, count: number]
      | ["these", ns: string, n: number, ...string[]]
  ): Promise<{ ids: string[]; more: boolean }> {
    const { redis, keys } = this.#source;
    const lists = [[START], [channel, END], NEXT_NODES, [ERROR, INTERRUPT]];
    const counted = lists.flatMap((list) => [list.length, ...list]);
    const raw: RawOutline = await redis.tlCheckpointOutlineBuffer(...keys, mostBytes, ...which, ...counted);
    const [generation, more, fields, ...tuples] = raw;
    this.#isOf(generation.toString());
    const values = new Map<string, Buffer>();
    for (let i = 0; i < fields.length; i += 2) values.set(fields[i]!.toString(), fields[i + 1]!);
    const ids: string[] = [];
    for (const row of await Promise.all(tuples.map((tuple) => this.#row(tuple, values)))) {
      this.#rows.set(row.tuple.checkpoint.id, row);
      ids.push(row.tuple.checkpoint.id);
    }
    return { ids, more: more.length > 0 };
  }

  #isOf(generation: string): void {
    this.#generation ??= generation;
    if (this.#generation !== generation)
      throw new GenerationError("the lists of the thread changed while they were read");
  }

  /** Reads those of these checkpoints that were not read. */
  async #want(wanted: readonly (string | undefined)[]): Promise<void> {
    const missing = new Set(wanted.filter((id): id is string => !!id && !this.#rows.has(id)));
    while (missing.size > 0) {
      const asked = [...missing].slice(0, most);
      const { ids, more } = await this.#read("these", this.#source.ns, asked.length, ...asked);
      for (const id of ids) missing.delete(id);
      if (more) continue;
      for (const id of asked) {
        if (missing.delete(id)) this.#rows.set(id, undefined);
      }
    }
  }

  async #row(
    [ns, id, parent, body, metadata, fields, writes]: RawTuple,
    stored: ReadonlyMap<string, Buffer>,
  ): Promise<Row> {
    const { serde, threadId } = this.#source;
    const values: Buffer[] = [];
    let messages: Promise<Messages> | undefined;
    for (let i = 0; i < fields.length; i += 2) {
      const [name, field] = [fields[i]!.toString(), fields[i + 1]!.toString()];
      const value = stored.get(field) ?? Buffer.alloc(0);
      if (name !== channel && name !== END) {
        values.push(fields[i]!, value);
        continue;
      }
      messages = this.#messages.get(field) ?? this.#stored(value, name === END);
      this.#messages.set(field, messages);
    }
    // What is empty was not asked for.
    const orNothing = async (_: string, value: Buffer) =>
      value.length === 0 ? null : await load(serde, value);
    const raw: RawTuple = [ns, id, parent, body, metadata, values, writes];
    const [tuple, own] = await Promise.all([
      loadTuple(serde, threadId, raw, { loadValue: orNothing, loadWrite: orNothing }),
      messages ?? none,
    ]);
    return { tuple, parentId: parent.toString(), messages: own };
  }

  /** The messages that a reader of the checkpoint is shown. */
  #shownMessages(row: Row | undefined): Messages {
    const seen = this.#rows.get(shownBy(row) ?? "") ?? row;
    if (seen === undefined) return none;
    const { beside = {} } = marksOf(seen.tuple);
    return Object.hasOwn(beside, channel) ? { ids: idsIn(beside[channel]) } : seen.messages;
  }

  async #stored(value: Buffer, isReturned: boolean): Promise<Messages> {
    // A list that was returned is no list of messages: it is shown under another name.
    if (isMarked(value))
      return isReturned ? none : { ranges: rangesIn(value.toString("latin1", mark.length)) };
    const loaded = await load(this.#source.serde, value);
    return { ids: idsIn(isReturned ? (isRecord(loaded) ? loaded[channel] : undefined) : loaded) };
  }

  /** Reads the ids of elements that are not known yet. */
  async #loadIds(wanted: readonly Range[]): Promise<void> {
    const numbers = new Set<number>();
    for (const [first, last] of wanted) {
      for (let number = first; number <= last; number++) if (!this.#ids.has(number)) numbers.add(number);
    }
    if (numbers.size === 0) return;
    const { redis, keys, lists, serde } = this.#source;
    const generation = this.#generation!;
    const pages = lists.pages(keys[3]);
    const known = pages?.generation === generation ? (pages.lists.get(channel)?.length ?? 0) : 0;
    const sorted = [...numbers].sort((a, b) => a - b);
    const value = `${mark}${rangesOf(sorted)}`;
    const raw = await redis.tlCheckpointElementsBuffer(...keys, generation, channel, value, known);
    this.#isOf(raw[0].toString());
    const elements = new Elements(raw, pages);
    lists.keep(keys[3], elements);
    const values = elements.of(channel, sorted).map((element) => element.value(serde, true));
    const ids = (await Promise.all(values)).map(idOf);
    for (const [i, number] of sorted.entries()) this.#ids.set(number, ids[i]);
  }

  #added(own: Messages, parents: Messages): string[] {
    const [fresh, gone] =
      "ranges" in own && "ranges" in parents
        ? [{ ranges: minus(own.ranges, parents.ranges) }, { ranges: minus(parents.ranges, own.ranges) }]
        : [own, parents];
    if (countOf(fresh) === 0) return [];
    // Of a message that was replaced, the parent has the id.
    const before = new Set(this.#idsOf(gone));
    const added = this.#idsOf(fresh).filter((id): id is string => id !== undefined && !before.has(id));
    return [...new Set(added)];
  }

  #idsOf(messages: Messages): readonly (string | undefined)[] {
    if ("ids" in messages) return messages.ids;
    const ids: (string | undefined)[] = [];
    for (const [first, last] of messages.ranges) {
      for (let number = first; number <= last; number++) ids.push(this.#ids.get(number));
    }
    return ids;
  }
}

/** Elements were deleted while they were read: what was read before may name them. */
class GenerationError extends Error {
  override readonly name = "GenerationError";
  readonly code = "elements_changed";
}

/** The checkpoint whose values are shown in this one's place. */
function shownBy(row: Row | undefined): string | undefined {
  return row === undefined ? undefined : marksOf(row.tuple).shown;
}

function countOf(messages: Messages): number {
  return "ids" in messages ? messages.ids.length : sizeOf(messages.ranges);
}

/** The elements whose ids tell what is new. */
function neededFor(own: Messages, parents: Messages): Range[] {
  if ("ranges" in own && "ranges" in parents) {
    const fresh = minus(own.ranges, parents.ranges);
    return fresh.length === 0 ? [] : [...fresh, ...minus(parents.ranges, own.ranges)];
  }
  if (countOf(own) === 0) return [];
  return [own, parents].flatMap((each) => ("ranges" in each ? each.ranges : []));
}

function idsIn(value: unknown): (string | undefined)[] {
  const list: unknown = isDeltaSnapshot(value) ? value.value : value;
  return Array.isArray(list) ? list.map(idOf) : [];
}

/** Of a message in any form. */
function idOf(message: unknown): string | undefined {
  const { id } = (message ?? {}) as { id?: unknown };
  return typeof id === "string" ? id : undefined;
}
