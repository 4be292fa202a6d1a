/**
 * An owner's threads: their records, which runs wait in one's line, which attempt may write its checkpoints, and what its
 * watchers are told. Two owners may both have a thread of the same id: their keys differ.
 *
 * Invariants:
 * - only the first in line is ever given to a worker, so a thread never has two runs at once;
 * - the order of the line is the order in which `enter` was answered, whichever gateway asked;
 * - the fence names one attempt of the first in line, and never goes back to an earlier one;
 * - a record changes, and its watchers are told, in one script; the owner's index follows (thread-index.ts), and what a
 *   crash kept from it whoever next touches the thread brings there;
 * - nobody enters a thread that is being deleted, and no script but `enter`, `create` and `reserve` makes one.
 */
import type { RunRecord, ThreadRecord, ThreadRun, ThreadStatus } from "@throughline/protocol";
import { ProtocolError } from "@throughline/protocol";
import { defaultPrefix, newEpoch } from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";
import { ThreadIndex, type ThreadState } from "./thread-index.ts";
import { ownerScope, threadKeyNames } from "./thread-keys.ts";
import { oldKeyNames, type RawState, withScripts } from "./thread-scripts.ts";

/** How many runs may be in a thread's line. */
export const defaultMaxInLine = 1_000;

export type Entered =
  /** It is being deleted, or was. */
  | { outcome: "deleting" }
  /** It was in line before, and its turn is over. */
  | { outcome: "over" }
  | { outcome: "busy" | "full"; activeRunId: string }
  /**
   * `before`: the runs in line before this one, the active one first. `ordinal`: its number in the thread, where it is
   * known. `state`: for the index, to be shown.
   */
  | { outcome: "in"; before: string[]; ordinal: number | null; state: ThreadState | null };

/** A thread as it is. */
export interface LookedAt {
  record: ThreadRecord;
  /** Characters of the record's JSON. */
  size: number;
  /** As they are stored. */
  metadata: string;
  /** For how long it has been being deleted, ms; null: it is not. */
  deletingForMs: number | null;
  state: ThreadState;
}

export type SettledStatus = Exclude<ThreadStatus, "busy">;

export class Threads {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  readonly #scope: string;
  readonly owner: string;
  readonly index: ThreadIndex;

  constructor(redis: Redis | Cluster, owner: string, prefix = defaultPrefix) {
    this.#redis = withScripts(redis);
    this.#prefix = prefix;
    this.#scope = ownerScope(owner);
    this.owner = owner;
    this.index = new ThreadIndex(redis, owner, prefix);
  }

  /**
   * Lets a run in. What it answers as `state` is yet to be shown.
   *
   * @param options.queue that it is put on, where that is known
   * @param options.maxInLine how many may be in line; one that is there already keeps its place
   * @param options.mayMake asked where there is no thread. Default: one is made
   * @param options.isOver asked where the run was in line before, and is no more. Default: it comes into line again
   */
  async enter(
    threadId: string,
    run: ThreadRun,
    options: {
      queue?: string | undefined;
      onlyIfIdle?: boolean;
      maxInLine?: number;
      mayMake?: () => Promise<boolean>;
      isOver?: () => Promise<boolean>;
    } = {},
  ): Promise<Entered> {
    const { queue = "", onlyIfIdle = false, maxInLine = defaultMaxInLine, mayMake, isOver } = options;
    const enter = (isCareful: boolean) =>
      this.#redis.tlEnter(
        ...this.#about(threadId),
        run.runId,
        this.owner,
        onlyIfIdle ? "1" : "0",
        maxInLine,
        isCareful ? "1" : "0",
        run.agent,
        JSON.stringify(run),
        queue,
      );
    let answer = await enter(true);
    if (answer[0] === "none") {
      const isBrought = await this.#bring(threadId);
      if (!isBrought && mayMake !== undefined && !(await mayMake())) return { outcome: "deleting" };
      answer = await enter(false);
    } else if (answer[0] === "left") {
      if (isOver !== undefined && (await isOver())) return { outcome: "over" };
      answer = await enter(false);
    }
    if (answer[0] === "busy" || answer[0] === "full") return { outcome: answer[0], activeRunId: answer[1] };
    if (answer[0] !== "in") return { outcome: "deleting" };
    const [, ordinal, before, state] = answer;
    return {
      outcome: "in",
      before,
      ordinal: ordinal === "" ? null : Number(ordinal),
      state: stateOf(state),
    };
  }

  /**
   * Takes a run out of line. Answers who is first now. What it answers as `state` is yet to be shown.
   *
   * @param run how it ended; null: it has expired
   * @param messages how many the head has, where that is known
   */
  async leave(
    threadId: string,
    runId: string,
    run: RunRecord | null,
    messages?: number,
  ): Promise<{ first: string | null; state: ThreadState | null }> {
    const [first, state] = await this.#redis.tlLeave(
      ...this.#about(threadId, "fence"),
      runId,
      run === null ? "" : JSON.stringify(threadRun(run)),
      run === null ? "" : settledBy(run),
      messages ?? "",
    );
    return { first: first === "" ? null : first, state: stateOf(state) };
  }

  /**
   * Makes this attempt the one that may write checkpoints. false: it has lost the run.
   *
   * @param run as watchers are to be told that it begins. Default: they are not told
   */
  async fence(threadId: string, runId: string, fence: number, run?: ThreadRun): Promise<boolean> {
    const json = run === undefined ? "" : JSON.stringify(run);
    const take = () => this.#redis.tlFence(...this.#about(threadId, "fence"), runId, fence, json);
    let answer = await take();
    if (answer.length === 0 && (await this.#bring(threadId))) answer = await take();
    const [, state] = answer;
    if (state === undefined) return false;
    await this.index.show(threadId, stateOf(state));
    return true;
  }

  /** Makes a thread without runs, or answers the one that is there. @throws ProtocolError thread_busy: being deleted */
  async create(threadId: string, metadata: string): Promise<{ thread: ThreadRecord; created: boolean }> {
    await this.has(threadId);
    const answer = await this.#redis.tlCreate(...this.#about(threadId), this.owner, metadata);
    if (answer[0] === "deleting") throw beingDeleted(threadId);
    const [outcome, record, state] = answer;
    await this.index.show(threadId, stateOf(state));
    return { thread: JSON.parse(record) as ThreadRecord, created: outcome === "created" };
  }

  /** A thread as it is; null: there is none. One that is being deleted, too. */
  async look(threadId: string): Promise<LookedAt | null> {
    const look = () => this.#redis.tlLook(...this.#about(threadId));
    let answer = await look();
    if (answer.length === 0 && (await this.#bring(threadId))) answer = await look();
    if (answer.length === 0) return null;
    const [record, metadata, deletingForMs, state] = answer;
    return {
      record: JSON.parse(record) as ThreadRecord,
      size: record.length,
      metadata,
      deletingForMs: deletingForMs < 0 ? null : deletingForMs,
      state: stateOf(state)!,
    };
  }

  /**
   * Puts metadata in the place of those that are known; others that are there instead are answered, and stay.
   *
   * @throws ProtocolError no_such_thread, thread_busy (being deleted)
   */
  async patch(
    threadId: string,
    known: string,
    metadata: string,
  ): Promise<{ thread: ThreadRecord } | { other: string }> {
    const answer = await this.#redis.tlPatch(...this.#about(threadId), known, metadata);
    if (answer[0] === "other") return { other: answer[1] };
    return { thread: await this.#done(threadId, answer) };
  }

  /** The head moved without a run. @throws ProtocolError no_such_thread, thread_busy (being deleted) */
  async headMoved(threadId: string, status: SettledStatus, messages: number): Promise<void> {
    await this.#done(threadId, await this.#redis.tlHeadMoved(...this.#about(threadId), status, messages));
  }

  /**
   * Takes an id for a copy that is to be made. Answers its birth.
   *
   * @throws ProtocolError invalid_argument (there is one by that id), thread_busy (it is being deleted)
   */
  async reserve(threadId: string): Promise<string> {
    await this.has(threadId);
    const answer = await this.#redis.tlReserve(...this.#about(threadId), this.owner);
    if (answer[0] === "deleting") throw beingDeleted(threadId);
    if (answer[0] === "there") {
      throw new ProtocolError("invalid_argument", `there is a thread ${threadId} already`);
    }
    const state = stateOf(answer[1])!;
    // Whoever lists it carries its removal through, should the copy be given up.
    await this.index.show(threadId, state);
    return state.birth;
  }

  /** The copy for which the id was reserved is there. null: it was given up meanwhile. */
  async copied(
    threadId: string,
    birth: string,
    is: { metadata: string; status: SettledStatus; messages: number },
  ): Promise<ThreadRecord | null> {
    const answer = await this.#redis.tlCopied(
      ...this.#about(threadId),
      birth,
      is.metadata,
      is.status,
      is.messages,
    );
    return answer[0] === "none" ? null : await this.#done(threadId, answer);
  }

  /** Marks a thread as being deleted. Answers its line, and the queues that its runs were on; null: there is none. */
  async beginDelete(threadId: string): Promise<{ queues: string[]; line: string[] } | null> {
    if (!(await this.has(threadId))) return null;
    const [, queues, line] = await this.#redis.tlDelete(...this.#about(threadId));
    return queues === undefined ? null : { queues, line: line! };
  }

  /** Tells that a thread is deleted, takes it from the index, and removes all that it has. */
  async endDelete(threadId: string): Promise<void> {
    const [birth, isKnown, event] = await this.#redis.tlTellDeleted(...this.#about(threadId));
    if (birth === undefined) return;
    await this.index.remove(threadId, birth, isKnown === "1" ? event : undefined);
    await this.#redis.tlRemove(...threadKeyNames.map((name) => this.#key(threadId, name)), birth);
  }

  /** Whether the owner has such a thread. */
  async has(threadId: string): Promise<boolean> {
    const exists = (await this.#redis.exists(this.#key(threadId, "thread"))) === 1;
    return exists || (await this.#bring(threadId));
  }

  /** Whether a thread has checkpoints, be it off its head. */
  async hasCheckpoints(threadId: string): Promise<boolean> {
    return (await this.#redis.exists(this.#key(threadId, "checkpoints"))) === 1;
  }

  /** The run that is first in the thread's line; null where nobody is. */
  async active(threadId: string): Promise<string | null> {
    return await this.#redis.lindex(this.#key(threadId, "line"), 0);
  }

  /** The runs in the thread's line, the active one first. */
  async line(threadId: string): Promise<string[]> {
    return await this.#redis.lrange(this.#key(threadId, "line"), 0, -1);
  }

  /** The sorted set of all runs of a thread, in the order in which they entered. */
  runsKey(threadId: string): string {
    return this.#key(threadId, "runs");
  }

  /** The record behind a change, when the index has it. */
  async #done(
    threadId: string,
    answer: ["none"] | ["deleting"] | ["done", string, RawState],
  ): Promise<ThreadRecord> {
    if (answer[0] === "none") throw noSuchThread(threadId);
    if (answer[0] === "deleting") throw beingDeleted(threadId);
    await this.index.show(threadId, stateOf(answer[2]));
    return JSON.parse(answer[1]) as ThreadRecord;
  }

  /**
   * Brings a thread from where it was before owners' threads were apart. Answers whether there was one.
   * To go, when nobody has threads of version 0.1 any more.
   */
  async #bring(threadId: string): Promise<boolean> {
    if (looksScoped.test(threadId)) return false;
    const old = oldKeyNames.map((name) => `${this.#prefix}:{${threadId}}:${name}`);
    const dumps = await this.#redis.tlMoveOutBuffer(...old, this.owner);
    if (dumps.length === 0) return false;
    const keys = oldKeyNames.map((name) => this.#key(threadId, name));
    await this.#redis.tlMoveIn(...keys, ...dumps.map((dump) => dump ?? ""));
    await this.#redis.del(...old);
    return true;
  }

  /** What every script about a thread begins with. @param more names of further keys */
  #about(threadId: string, ...more: string[]): string[] {
    const names = ["thread", "line", "runs", "head", "told", "events", ...more];
    const keys = names.map((name) => this.#key(threadId, name));
    return [...keys, threadId, newEpoch(), this.#key(threadId, "watch")];
  }

  #key(threadId: string, name: string): string {
    return `${this.#prefix}:{${this.#scope}${threadId}}:${name}`;
  }
}

/** An id that would name the keys of a thread that is where it belongs. */
const looksScoped = /^[\w-]{22}\//;

export function noSuchThread(threadId: string): ProtocolError {
  return new ProtocolError("no_such_thread", `there is no thread ${threadId}`);
}

export function beingDeleted(threadId: string): ProtocolError {
  return new ProtocolError("thread_busy", `thread ${threadId} is being deleted`);
}

/** Of a run, what those who watch its thread are told. The ordinal comes first: thread.lua looks for it there. */
export function threadRun(record: RunRecord): ThreadRun {
  const { runId, agent, status, epoch, ordinal, from, input, inputCut, error, interrupts, checkpoint } =
    record;
  return {
    ...(ordinal === undefined ? {} : { ordinal }),
    runId,
    agent,
    status,
    epoch,
    ...(from === undefined ? {} : { from }),
    ...(input === undefined ? {} : { input }),
    ...(inputCut === undefined ? {} : { inputCut }),
    ...(error === undefined ? {} : { error }),
    ...(interrupts === undefined ? {} : { interrupts }),
    ...(checkpoint === undefined ? {} : { checkpoint }),
  };
}

/** How a thread stands when this run has ended; "": as it did. */
function settledBy({ status, cancel, attempt, input }: RunRecord): SettledStatus | "" {
  if (status === "completed") return "idle";
  if (status === "interrupted" || status === "failed") return status;
  if (status !== "cancelled" || (cancel?.keep ?? "thread") !== "thread") return "";
  // One that no worker had, and that said nothing, has left the head where it was: what that asks is open still.
  return attempt === 0 && (input ?? null) === null ? "" : "idle";
}

function stateOf(raw: RawState): ThreadState | null {
  const [birth, version, shown, updated, status, agent, ...events] = raw;
  if (birth === undefined) return null;
  return {
    birth,
    version: Number(version),
    shown: Number(shown),
    updated: updated!,
    status: status as ThreadStatus,
    agent: agent!,
    events,
  };
}
