/**
 * LangGraph's checkpoints on plain Redis. What must hold:
 *
 * - A write is one script: it happens whole or not at all, and a view with a fence writes only while it holds it.
 * - The head is a pointer, moved by every `put` of a view that is no branch. Ids grow with their writer's clock, so the
 *   highest id is the latest checkpoint only as long as one machine writes; the pointer is it always.
 * - A value is stored once per (namespace, channel, version), and versions are unique across branches (`getNextVersion`);
 *   an element of a list once for all versions (lists.ts).
 */
import { randomUUID } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import type { RunnableConfig } from "@langchain/core/runnables";
import {
  BaseCheckpointSaver,
  type ChannelVersions,
  type Checkpoint,
  type CheckpointListOptions,
  type CheckpointMetadata,
  type CheckpointTuple,
  type DeltaChannelHistory,
  getCheckpointId,
  maxChannelVersion,
  type PendingWrite,
  type SerializerProtocol,
  WRITES_IDX_MAP,
} from "@langchain/langgraph-checkpoint";
import type { Cluster, Redis } from "ioredis";
import { partOf } from "./copy.ts";
import { Elements } from "./elements.ts";
import {
  HeadMovedError,
  InvalidArgumentError,
  NoSuchCheckpointError,
  NoSuchThreadError,
  StaleAttemptError,
  ThreadExistsError,
} from "./errors.ts";
import { checkpointBounds, everyThread, segment, type ThreadKeys, threadKeys } from "./keys.ts";
import { SENDS } from "./langgraph.ts";
import { type DumpedList, inline, Lists, type Reference } from "./lists.ts";
import { Outlines } from "./outline.ts";
import { type RawTuple, type RawWalk, withScripts } from "./scripts.ts";
import { dump, loadTuple, loadWrites } from "./stored.ts";

export interface SaverOptions {
  /** Of every key. @default "tl" */
  prefix?: string;
  /**
   * Goes before a thread's id in its keys, such as `owner/`, so that threads of one id are apart. It is in no answer.
   * @default ""
   */
  scope?: string;
  /** @default LangGraph's JsonPlusSerializer */
  serde?: SerializerProtocol;
}

/** The attempt that writes through a view. The key `<prefix>:{threadId}:fence` names it as `<runId>:<fence>`. */
export interface Fence {
  runId: string;
  /** The attempt's fencing token: a number that no other attempt of the run has. */
  fence: number;
  /**
   * `put` leaves the head where it is, and `putWrites` writes only to checkpoints of this view.
   * @default false
   */
  branch?: boolean;
  /**
   * Awaited before each write, after its value was serialised. The object that it resolves with becomes part of a
   * checkpoint's metadata; null: the write is left out. @default none
   */
  before?: (write: WriteToCome) => Promise<Record<string, unknown> | null>;
}

/** A write that waits for its fence's `before`. */
export interface WriteToCome {
  kind: "checkpoint" | "writes";
  /** The namespace's key: "" is the root. */
  ns: string;
  /** A checkpoint's step, as its metadata has it. */
  step: number | undefined;
  /** Whose writes they are. */
  task: string | undefined;
}

export interface PutOptions {
  /** Put only while the head is this id (null: while there is none), else throw HeadMovedError. @default no condition */
  ifHead?: string | null;
}

export interface CopyOptions {
  /** The copy's head; only what leads to it is copied. @default all, with the heads as they are */
  checkpointId?: string | undefined;
}

/** Checkpoints, and ancestors, that one script reads: few enough not to block Redis for long. */
const PAGE = 16;
const WALK = 256;

export class RedisCheckpointSaver extends BaseCheckpointSaver {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  #scope: string;
  #lists: Lists;
  #flat = false;
  #fence: Fence | undefined;
  /** The ids of what a branch has put. */
  readonly #branched = new Set<string>();

  /** Uses the connection that it is given; opens none and closes none. */
  constructor(redis: Redis | Cluster, options: SaverOptions = {}) {
    super(options.serde);
    this.#redis = withScripts(redis);
    this.#prefix = options.prefix ?? "tl";
    this.#scope = options.scope ?? "";
    this.#lists = new Lists(this.serde);
  }

  /**
   * A view that writes only while the thread's fence is `<runId>:<fence>`: every write through it checks that in the
   * script that writes, and otherwise throws StaleAttemptError, having written nothing. It reads like any other. What
   * it writes is marked as the run's unless the config or the metadata name another `run_id`.
   */
  fenced(fence: Fence): RedisCheckpointSaver {
    const view = this.scoped(this.#scope);
    view.#fence = { ...fence };
    return view;
  }

  /** A view for reading: most messages in the state are flat ones already, where making them would be in vain. */
  flat(): RedisCheckpointSaver {
    const view = this.scoped(this.#scope);
    view.#flat = true;
    return view;
  }

  /** A view of the threads of another scope. */
  scoped(scope: string): RedisCheckpointSaver {
    const view = new RedisCheckpointSaver(this.#redis, { prefix: this.#prefix, scope, serde: this.serde });
    view.#lists = this.#lists;
    return view;
  }

  /** The checkpoint that the config names, else the head. One round trip. */
  override async getTuple(config: RunnableConfig): Promise<CheckpointTuple | undefined> {
    const threadId: unknown = config.configurable?.thread_id;
    if (threadId === undefined) return undefined;
    return await this.#readOne(String(threadId), namespace(config), getCheckpointId(config));
  }

  /**
   * A thread's checkpoints, newest id first, branches included; namespace by namespace where the config names none.
   * Without a thread it goes through all of them with SCAN: for maintenance, not for a request.
   */
  override async *list(
    config: RunnableConfig,
    options: CheckpointListOptions = {},
  ): AsyncGenerator<CheckpointTuple> {
    const { limit = Number.POSITIVE_INFINITY, before, filter } = options;
    if (limit <= 0) return;
    const threadId: unknown = config.configurable?.thread_id;
    const ns: string | undefined = config.configurable?.checkpoint_ns;
    const only = getCheckpointId(config);
    const below = before && getCheckpointId(before);
    let left = limit;
    for await (const thread of threadId === undefined ? this.#threads() : [String(threadId)]) {
      for await (const [raw, elements] of this.#pages(thread, ns, below, filter || only ? PAGE : left)) {
        const id = raw[1].toString();
        if ((only && id !== only) || (below && id >= below)) continue;
        const tuple = await this.#tuple(thread, raw, elements, false);
        if (filter && !matches(tuple.metadata, filter)) continue;
        yield tuple;
        left -= 1;
        if (left === 0) return;
      }
    }
  }

  /** A thread's checkpoints in one namespace, without their state. */
  outlines(threadId: string, ns = ""): Outlines {
    const [redis, keys] = [this.#redis, this.#keys(threadId)];
    return new Outlines({ redis, serde: this.serde, lists: this.#lists, keys, threadId, ns: segment(ns) });
  }

  /**
   * Stores a checkpoint as a child of the one that the config names, and moves the head to it unless this view is a
   * branch. The metadata gets the config's `run_id` where it has none.
   * @throws StaleAttemptError, HeadMovedError (with `ifHead`), InvalidArgumentError
   */
  override async put(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    newVersions: ChannelVersions,
    options: PutOptions = {},
  ): Promise<RunnableConfig> {
    const { threadId, keys } = this.#thread(config);
    const ns = namespace(config);
    const id = segment(checkpoint.id);
    const parentId = segment(String(config.configurable?.checkpoint_id ?? ""));
    const runId = (metadata as { run_id?: unknown }).run_id ?? this.#runId(config);
    const marked = runId === undefined ? metadata : { ...metadata, run_id: runId };
    const { channel_values: values, ...rest } = checkpoint;
    // A channel without a value keeps its version: what was stored under that is no part of this checkpoint.
    const versions = Object.entries(checkpoint.channel_versions).filter(([channel]) =>
      isStorable(values[channel]),
    );
    const fresh = Object.entries(newVersions).filter(([channel]) => isStorable(values[channel]));
    // Nothing may be awaited before this: the caller is free to change what it gave once put() has returned.
    const [body, plainMeta, ...dumped] = await Promise.all([
      dump(this.serde, rest, "a checkpoint"),
      dump(this.serde, marked, "a checkpoint's metadata"),
      ...fresh.map(([channel]) => this.#lists.dump(keys[3], channel, values[channel])),
    ]);
    const more = await this.#fence?.before?.({
      kind: "checkpoint",
      ns,
      step: metadata.step,
      task: undefined,
    });
    const stored = { configurable: { thread_id: threadId, checkpoint_ns: ns, checkpoint_id: id } };
    if (more === null) return stored;
    const meta =
      more === undefined
        ? plainMeta
        : await dump(this.serde, { ...marked, ...more }, "a checkpoint's metadata");
    const outcome = await this.#store(
      dumped,
      { threadId, ns, id: parentId },
      async (references, generation) => {
        const [outcome, now = "", ...firsts] = await this.#redis.tlCheckpointPut(
          ...keys,
          this.#token(),
          ns,
          id,
          parentId,
          segment(String(runId ?? "")),
          this.#fence?.branch ? "0" : "1",
          options.ifHead === undefined ? "" : `=${options.ifHead ?? ""}`,
          generation,
          randomUUID(),
          body,
          meta,
          versions.length,
          versions.flatMap(([channel, version]) => [segment(channel), String(version)]),
          fresh.flatMap(([channel, version], i) => {
            const each = dumped[i]!;
            const { value, fresh } = Buffer.isBuffer(each)
              ? { value: each, fresh: [] }
              : references.get(each)!;
            return [segment(channel), String(version), value, fresh.length, ...fresh];
          }),
        );
        if (outcome === 1) this.#lists.stored([...references.values()], now, firsts);
        return outcome;
      },
    );
    if (outcome === -3) throw new HeadMovedError(threadId, options.ifHead ?? null);
    this.#check(outcome, threadId);
    if (this.#fence?.branch) this.#branched.add(id);
    return stored;
  }

  /**
   * Stores a task's writes to the checkpoint that the config names, which need not be there yet. Once stored a write
   * stays, except an error, an interrupt or a resume, which a later one replaces.
   * @throws StaleAttemptError, InvalidArgumentError
   */
  override async putWrites(
    config: RunnableConfig,
    writes: PendingWrite[],
    taskId: string,
    taskPath = "",
  ): Promise<void> {
    const { threadId, keys } = this.#thread(config);
    const id = getCheckpointId(config);
    if (id === "") throw new InvalidArgumentError("the config names no checkpoint_id to put writes to");
    const ns = namespace(config);
    const values = await Promise.all(
      writes.map(([channel, value]) => this.#lists.dump(keys[3], channel, value, true)),
    );
    if (this.#fence?.branch && !this.#branched.has(id)) return;
    const write: WriteToCome = { kind: "writes", ns, step: undefined, task: taskId };
    if ((await this.#fence?.before?.(write)) === null) return;
    const outcome = await this.#store(values, { threadId, ns, id }, (references, generation) =>
      this.#redis.tlCheckpointPutWrites(
        ...keys,
        this.#token(),
        ns,
        segment(id),
        segment(taskId),
        segment(String(this.#runId(config) ?? "")),
        taskPath,
        generation,
        writes.flatMap(([channel], i) => {
          const special = Object.hasOwn(WRITES_IDX_MAP, channel);
          const place = position(special ? WRITES_IDX_MAP[channel]! : i);
          const each = values[i]!;
          const value = Buffer.isBuffer(each) ? each : inline(references.get(each)!);
          return [place, special ? "1" : "0", channel, value];
        }),
      ),
    );
    this.#check(outcome, threadId);
  }

  /** Deletes all of a thread's checkpoints; not its fence. @throws StaleAttemptError */
  override async deleteThread(threadId: string): Promise<void> {
    const answer = await this.#redis.tlCheckpointDelete(...this.#keys(threadId), this.#token());
    this.#check(answer, threadId);
  }

  /** What a thread's checkpoints take of Redis' memory, bytes, about. */
  async size(threadId: string): Promise<number> {
    const [, ...keys] = this.#keys(threadId);
    const sizes = await Promise.all(keys.map((key) => this.#redis.memory("USAGE", key)));
    return sizes.reduce<number>((sum, size) => sum + (size ?? 0), 0);
  }

  /** The heads of all namespaces that a thread has checkpoints in: the root's under "". */
  async heads(threadId: string): Promise<Map<string, string>> {
    const [, head] = this.#keys(threadId);
    return new Map(Object.entries(await this.#redis.hgetall(head)));
  }

  /** The id of the head, null where there is none. */
  async head(threadId: string, ns = ""): Promise<string | null> {
    const [, head] = this.#keys(threadId);
    return this.#redis.hget(head, ns);
  }

  /** Puts the head at a checkpoint; null takes it away. @throws StaleAttemptError, NoSuchCheckpointError */
  async setHead(threadId: string, checkpointId: string | null, ns = ""): Promise<void> {
    const answer = await this.#redis.tlCheckpointSetHead(
      ...this.#keys(threadId),
      this.#token(),
      segment(ns),
      segment(checkpointId ?? ""),
    );
    this.#check(answer, threadId, checkpointId);
  }

  /**
   * Takes a run back out of its thread: every checkpoint whose metadata carry its `run_id`, in all namespaces, with
   * their writes; the writes that it left on other checkpoints; and the values that only those used. The root's head
   * goes to `head`. Another namespace's head that was the run's falls back to the nearest ancestor that stays.
   * Looks at every checkpoint of the namespaces that the run wrote in.
   * @throws StaleAttemptError, NoSuchCheckpointError (`head` is unknown, or the run's own)
   */
  async discardRun(threadId: string, runId: string, { head }: { head: string | null }): Promise<void> {
    const answer = await this.#redis.tlCheckpointDiscard(
      ...this.#keys(threadId),
      this.#token(),
      segment(runId),
      segment(head ?? ""),
      "0",
      randomUUID(),
    );
    this.#check(answer, threadId, head);
  }

  /**
   * Takes back the writes that a run left on checkpoints which are not its own: what it finished there is not done for
   * those who go on from them. Its own checkpoints, and all heads, stay.
   * @throws StaleAttemptError
   */
  async discardWrites(threadId: string, runId: string): Promise<void> {
    const keys = this.#keys(threadId);
    this.#check(
      await this.#redis.tlCheckpointDiscard(...keys, this.#token(), segment(runId), "", "1", randomUUID()),
      threadId,
    );
  }

  /**
   * Copies a thread's checkpoints, ids and heads to a thread that has none; with `checkpointId` only what leads to that
   * checkpoint of the root, which is the copy's head (copy.ts). Each side is atomic, both together are not, for they may
   * be in different slots: what is written to `from` in between is not in the copy. A fence is checked on `to`, which is
   * what is written.
   * @throws NoSuchThreadError, NoSuchCheckpointError, ThreadExistsError, StaleAttemptError
   */
  async copyThread(from: string, to: string, { checkpointId }: CopyOptions = {}): Promise<void> {
    if (checkpointId === "") throw new NoSuchCheckpointError(from, checkpointId);
    const raw = await this.#redis.tlCheckpointDumpBuffer(...this.#keys(from), segment(checkpointId ?? ""));
    const [dumps] = raw;
    if (dumps.every((dump) => dump === null)) throw new NoSuchThreadError(from);
    const part = checkpointId === undefined ? undefined : await partOf(this.serde, raw);
    if (checkpointId !== undefined && part === undefined) throw new NoSuchCheckpointError(from, checkpointId);
    const counted = (list: string[]) => [list.length, ...list];
    const answer = await this.#redis.tlCheckpointRestore(
      ...this.#keys(to),
      this.#token(),
      randomUUID(),
      ...dumps.map((dump) => dump ?? ""),
      part === undefined ? "0" : "1",
      part === undefined
        ? []
        : [[...part.heads].flat(), part.otherRuns, part.fields].flatMap((list) => counted(list)),
    );
    if (answer === -4) throw new ThreadExistsError(to);
    this.#check(answer, to);
  }

  /** As the base class has it, but a round trip per 256 ancestors instead of one each. */
  override async getDeltaChannelHistory({
    config,
    channels,
  }: {
    config: RunnableConfig;
    channels: string[];
  }): Promise<Record<string, DeltaChannelHistory>> {
    const found = new Map(
      channels.map((channel): [string, DeltaChannelHistory] => [channel, { writes: [] }]),
    );
    const wanted = new Set(channels);
    const { keys } = this.#thread(config);
    const ns = namespace(config);
    let above: string | undefined = getCheckpointId(config);
    while (above !== undefined && wanted.size > 0) {
      const [raw, next, ...steps]: RawWalk = await this.#redis.tlCheckpointWalkBuffer(
        ...keys,
        ns,
        above,
        WALK,
        ...wanted,
      );
      const loadValue = this.#loader(keys, new Elements(raw), false);
      for (const [values, writes] of steps) {
        for (const write of (await loadWrites(writes, loadValue)).reverse())
          found.get(write[1])?.writes.push(write);
        for (let i = 0; i < values.length; i += 2) {
          const channel = values[i]!.toString();
          found.get(channel)!.seed = await loadValue(channel, values[i + 1]!);
          wanted.delete(channel);
        }
      }
      above = next.toString() || undefined;
    }
    for (const history of found.values()) history.writes.reverse();
    return Object.fromEntries(found);
  }

  /**
   * The next whole number, and a fraction by chance. Two branches off one checkpoint count on from the same version;
   * without the fraction one's value would be stored over the other's.
   */
  override getNextVersion(current: number | undefined): number {
    return Math.floor(current ?? 0) + 1 + Math.random();
  }

  #keys(threadId: string): ThreadKeys {
    return threadKeys(this.#prefix, threadId, this.#scope);
  }

  #thread(config: RunnableConfig): { threadId: string; keys: ThreadKeys } {
    const threadId: unknown = config.configurable?.thread_id;
    if (threadId === undefined) throw new InvalidArgumentError("the config names no configurable.thread_id");
    return { threadId: String(threadId), keys: this.#keys(String(threadId)) };
  }

  #token(): string {
    return this.#fence ? `${this.#fence.runId}:${this.#fence.fence}` : "";
  }

  #runId(config: RunnableConfig): unknown {
    return config.metadata?.run_id ?? config.configurable?.run_id ?? this.#fence?.runId;
  }

  #check(answer: number, threadId: string, checkpointId?: string | null): void {
    if (answer === -1) throw new StaleAttemptError(threadId, this.#token());
    if (answer === -2) throw new NoSuchCheckpointError(threadId, checkpointId ?? "");
  }

  /** Stores lists by what is there of them; where that may be gone meanwhile, it is looked at once more. */
  async #store(
    dumped: readonly (Buffer | DumpedList)[],
    { threadId, ns, id }: { threadId: string; ns: string; id: string },
    call: (references: Map<DumpedList, Reference>, generation: string) => Promise<number>,
  ): Promise<number> {
    const lists = dumped.filter((each): each is DumpedList => !Buffer.isBuffer(each));
    const learn = async () => {
      const [raw, elements] = await this.#look(threadId, ns, id);
      this.#lists.learn(lists, raw?.[5] ?? [], elements);
      return elements.generation;
    };
    const isKnown = ({ stored, lines }: DumpedList) => stored !== undefined || lines.length <= 1;
    let { references, generation } = this.#lists.refer(
      lists,
      lists.every(isKnown) ? undefined : await learn(),
    );
    for (;;) {
      const outcome = await call(references, generation);
      if (outcome !== -5) return outcome;
      ({ references, generation } = this.#lists.refer(lists, await learn()));
    }
  }

  async #readOne(threadId: string, ns: string, id: string): Promise<CheckpointTuple | undefined> {
    const [raw, elements] = await this.#look(threadId, ns, id);
    return raw && (await this.#tuple(threadId, raw, elements, true));
  }

  /** Reads a checkpoint, and the pages of its lists that are not known. */
  async #look(threadId: string, ns: string, id: string): Promise<[raw: RawTuple | undefined, Elements]> {
    const keys = this.#keys(threadId);
    const known = this.#lists.pages(keys[3]);
    const pages = [...(known?.lists ?? [])].flatMap(([channel, { length }]) => [channel, length]);
    const [elements, tuple] = await this.#redis.tlCheckpointReadBuffer(
      ...keys,
      "one",
      ns,
      id,
      known?.generation ?? "",
      pages,
    );
    const read = new Elements(elements, known);
    this.#lists.keep(keys[3], read);
    return [tuple, read];
  }

  #loader(keys: ThreadKeys, elements: Elements, isLatest: boolean) {
    const options = { isLatest, flat: this.#flat };
    return (channel: string, value: Buffer) => this.#lists.load(keys[3], channel, value, elements, options);
  }

  async *#pages(threadId: string, ns: string | undefined, below: string | undefined, want: number) {
    const keys = this.#keys(threadId);
    let { max, min } = checkpointBounds(ns, ns === undefined ? undefined : below || undefined);
    const count = Math.min(want, PAGE);
    for (;;) {
      const [raw, ...page] = await this.#redis.tlCheckpointReadBuffer(...keys, "page", max, min, count);
      const elements = new Elements(raw);
      for (const tuple of page) yield [tuple, elements] as const;
      const last = page.at(-1);
      if (page.length < count || !last) return;
      max = checkpointBounds(last[0].toString(), last[1].toString()).max;
    }
  }

  async *#threads(): AsyncGenerator<string> {
    const { match, threadId } = everyThread(
      `${this.#redis.options.keyPrefix ?? ""}${this.#prefix}`,
      this.#scope,
    );
    const seen = new Set<string>();
    for (const node of "nodes" in this.#redis ? this.#redis.nodes("master") : [this.#redis]) {
      let cursor = "0";
      do {
        const [next, found] = await node.scan(cursor, "MATCH", match, "COUNT", 1000);
        for (const key of found) {
          const id = threadId(key);
          if (!seen.has(id)) yield id;
          seen.add(id);
        }
        cursor = next;
      } while (cursor !== "0");
    }
  }

  async #tuple(
    threadId: string,
    raw: RawTuple,
    elements: Elements,
    isLatest: boolean,
  ): Promise<CheckpointTuple> {
    const keys = this.#keys(threadId);
    const tuple = await loadTuple(this.serde, threadId, raw, {
      loadValue: this.#loader(keys, elements, isLatest),
      loadWrite: this.#loader(keys, elements, false),
    });
    if (tuple.checkpoint.v < 4 && tuple.parentConfig)
      await this.#migratePendingSends(tuple.checkpoint, threadId, raw);
    return tuple;
  }

  /** Before version 4 a checkpoint's sends stood with its parent's writes; since then they are a channel. */
  async #migratePendingSends(
    checkpoint: Checkpoint,
    threadId: string,
    [ns, , parentId]: RawTuple,
  ): Promise<void> {
    const parent = await this.#readOne(threadId, ns.toString(), parentId.toString());
    const writes = parent?.pendingWrites ?? [];
    const versions = Object.values(checkpoint.channel_versions);
    checkpoint.channel_values[SENDS] = writes
      .filter(([, channel]) => channel === SENDS)
      .map(([, , send]) => send);
    checkpoint.channel_versions[SENDS] =
      versions.length > 0 ? maxChannelVersion(...versions) : this.getNextVersion(undefined);
  }
}

/** What is no value in JSON is no value of a channel: it has none when it is loaded. */
function isStorable(value: unknown): boolean {
  return value !== undefined && typeof value !== "function" && typeof value !== "symbol";
}

function namespace(config: RunnableConfig): string {
  return segment(config.configurable?.checkpoint_ns ?? "");
}

/** A write's place among its task's, so written that bytes sort as numbers: special ones are negative. */
function position(index: number): string {
  return String(index + 16).padStart(6, "0");
}

function matches(metadata: object | undefined, filter: Record<string, unknown>): boolean {
  const have: Record<string, unknown> = { ...metadata };
  return Object.entries(filter).every(([key, value]) => isDeepStrictEqual(have[key], value));
}
