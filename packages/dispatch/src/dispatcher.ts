/**
 * Starts runs, cancels them, and moves a thread's line on.
 *
 * Starting is four steps in four places: record, thread's line, queue, index. Each is idempotent, and whatever a crash
 * between them left behind, or a failover lost of them, is healed by whoever next touches the thread, or has been
 * waiting for a run of it: who has ended is taken out of line, and the first in line is put on the queue again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type {
  GraphCommand,
  Keep,
  MultitaskStrategy,
  OnDisconnect,
  RunConfig,
  RunRecord,
  RunStatus,
  ThreadRecord,
  ThreadRun,
} from "@throughline/protocol";
import { isEnding, ProtocolError } from "@throughline/protocol";
import {
  type Cancelled,
  defaultPrefix,
  defaultRetention,
  type ListedRun,
  newEpoch,
  type Retention,
  RunStore,
  type StoredRun,
} from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";
import { nanoid } from "nanoid";
import { AgentRegistry } from "./agents.ts";
import { briefOf } from "./brief.ts";
import type { CopiesCheckpoints, CopyThread } from "./copy-thread.ts";
import type { DeletesCheckpoints } from "./delete-thread.ts";
import type { ThreadQuery } from "./list-threads.ts";
import { type OwnerLimits, Owners } from "./owners.ts";
import { RunQueue } from "./queue.ts";
import { digest } from "./thread-keys.ts";
import type { Metadata } from "./thread-metadata.ts";
import { ThreadOperations } from "./thread-operations.ts";
import {
  beingDeleted,
  defaultMaxInLine,
  type Entered,
  type SettledStatus,
  Threads,
  threadRun,
} from "./threads.ts";

/** A run to start, checked. What is in `request` is for its worker. */
export interface StartRequest {
  agent: string;
  owner: string;
  threadId?: string;
  multitaskStrategy?: MultitaskStrategy;
  idempotencyKey?: string;
  metadata?: Record<string, unknown>;
  /** What the worker is to know; JSON. */
  request: RunRequest;
}

/** What a worker reads of a run: `request` in its record. */
export interface RunRequest {
  queue: string;
  input?: unknown;
  checkpointId?: string;
  /** From nothing, as on a new thread. */
  fromNothing?: true;
  modes?: string[];
  subgraphs?: boolean;
  config?: RunConfig;
  command?: GraphCommand;
  /** Nodes of a graph, or "*": the run ends `interrupted` before, or after, each of them. */
  interruptBefore?: "*" | string[];
  interruptAfter?: "*" | string[];
  /** How long the run may take from its first attempt on, ms. */
  timeoutMs?: number;
  /** "cancel": the run ends when nobody has read it for longer than its grace. Default: it goes on. */
  onDisconnect?: OnDisconnect;
  /** How long nobody may read it then, ms. */
  disconnectGraceMs?: number;
  /** In place of running the agent: what is to be written to its thread's state. */
  update?: StateUpdate;
}

/** A write to a thread's state, by hand. */
export interface StateUpdate {
  values: Record<string, unknown>;
  /** The node that it counts as written by. Default: the last one that wrote. */
  asNode?: string | undefined;
  /** The subgraph that it is for, by its path. Default: the thread's own state. */
  ns?: readonly string[] | undefined;
}

export interface Started {
  runId: string;
  threadId: string;
  status: RunStatus;
  epoch: string;
  created: boolean;
}

/** How long a run that has ended is waited for whose input is still to be kept. */
const inputWaitMs = 1_000;
const inputPollMs = 20;
/** Runs that one list looks at. */
const maxScan = 1_000;
/** Records that a list reads at once: each may have a megabyte of metadata. */
const readAtOnce = 16;
const idempotencyTtlS = 24 * 60 * 60;
/** How long what is active in a thread that is deleted may take to end, ms. */
const deleteWaitMs = 10_000;
/** For how long a thread is being deleted before it is taken for given up, ms: longer than that takes. */
const givenUpMs = 30_000;

export class Dispatcher {
  readonly runs: RunStore;
  readonly agents: AgentRegistry;
  readonly #queue: RunQueue;
  readonly #owners: Owners;
  readonly #maxInLine: number;
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  readonly #threads: ThreadOperations;

  /**
   * @param options.maxInLine runs that may wait in one thread. Default 1,000
   * @param options.limits what one owner may have. Default: whatever it wants, and nothing is counted
   * @param options.deleteWaitMs how long what is active in a thread that is deleted may take to end, ms. Default 10,000
   * @param options.givenUpMs after how long another's deletion is carried through, ms. Default 30,000
   */
  constructor(
    redis: Redis | Cluster,
    options: {
      prefix?: string;
      retention?: Partial<Retention>;
      maxInLine?: number;
      limits?: OwnerLimits;
      deleteWaitMs?: number;
      givenUpMs?: number;
    } = {},
  ) {
    this.#redis = redis;
    this.#maxInLine = options.maxInLine ?? defaultMaxInLine;
    this.#prefix = options.prefix ?? defaultPrefix;
    this.runs = new RunStore(redis, options);
    this.agents = new AgentRegistry(redis, this.#prefix);
    this.#queue = new RunQueue(redis, this.#prefix);
    this.#owners = new Owners(redis, this.runs, {
      prefix: this.#prefix,
      limits: options.limits ?? {},
      idleMs: options.retention?.idleMs ?? defaultRetention.idleMs,
    });
    this.#threads = new ThreadOperations({
      redis,
      runs: this.runs,
      queue: this.#queue,
      owners: this.#owners,
      waitMs: options.deleteWaitMs ?? deleteWaitMs,
      givenUpMs: options.givenUpMs ?? givenUpMs,
      threadsOf: (owner) => this.threadsOf(owner),
      active: (owner, threadId) => this.active(owner, threadId),
      describe: (run) => this.describe(run),
      cancel: (runId, ask) => this.cancel(runId, ask),
      idempotencyKey: (keyDigest) => this.#idempotencyKeyOf(keyDigest),
    });
  }

  /**
   * Starts a run.
   *
   * @throws ProtocolError no_such_run (a run id that is another owner's), thread_busy; rate_limited and
   * payload_too_large where its owner has as much as it may
   */
  async start(start: StartRequest): Promise<Started> {
    let runId = `run_${nanoid()}`;
    let threadId = start.threadId ?? `thread_${nanoid()}`;
    if (start.idempotencyKey !== undefined) {
      [runId, threadId] = await this.#remember(start.owner, start.idempotencyKey, runId, threadId);
    }
    const epoch = newEpoch();
    const request = JSON.stringify(start.request);
    const metadata = start.metadata === undefined ? "" : JSON.stringify(start.metadata);
    const brief = JSON.stringify(briefOf(start.request));
    const opened = await this.runs.open({
      runId,
      threadId,
      agent: start.agent,
      owner: start.owner,
      epoch,
      request,
      queue: start.request.queue,
      metadata,
      idempotency:
        start.idempotencyKey === undefined ? undefined : idempotencyDigest(start.owner, start.idempotencyKey),
      brief,
    });
    if (!opened.created) {
      // Whoever asks: a run is answered to its owner only.
      if (opened.owner !== start.owner) throw new ProtocolError("no_such_run", `there is no run ${runId}`);
      if (isEnding(opened.status)) return { ...found(opened), runId };
    }
    let run: ThreadRun;
    try {
      const bytes = Buffer.byteLength(request) + Buffer.byteLength(metadata) + Buffer.byteLength(brief);
      const [listed] = await Promise.all([
        this.runs.look(runId),
        this.#owners.admit(start.owner, runId, bytes, opened.created),
      ]);
      run = coming(runId, start.agent, listed);
    } catch (error) {
      if (opened.created && error instanceof ProtocolError) await this.#takeBack(start, runId);
      throw error;
    }
    const strategy = start.multitaskStrategy ?? "enqueue";
    const threads = this.threadsOf(start.owner);
    const onlyIfIdle = strategy === "reject";
    const enter = () =>
      this.#enter(threads, threadId, run, { onlyIfIdle, isNew: opened.created, queue: start.request.queue });
    let entered = await enter();
    // Busy with a run that has ended is not busy.
    if (entered.outcome === "busy" && (await this.active(start.owner, threadId)) === null)
      entered = await enter();
    if (entered.outcome !== "in" && entered.outcome !== "over") {
      if (opened.created) await this.#takeBack(start, runId);
      if (entered.outcome === "deleting") await this.threadRecord(start.owner, threadId);
      throw refused(threadId, entered, this.#maxInLine);
    }
    // Over: another start of the same key has let it in, and it has ended since.
    if (entered.outcome === "in") await this.#entered(threads, threadId, runId, entered);
    const before = entered.outcome === "in" ? entered.before : [];
    if (opened.created && (strategy === "interrupt" || strategy === "rollback")) {
      const keep: Keep = strategy === "interrupt" ? "thread" : "discard";
      await Promise.all(
        before.map((each) => this.cancel(each, { keep, reason: `${strategy} by run ${runId}` })),
      );
    }
    if (opened.created) return { runId, threadId, status: "queued", epoch, created: true };
    return { ...found(opened), runId };
  }

  /**
   * Asks for a cancel. A run that was only queued has ended when this answers. It stays in line until a worker has put
   * its input where it belongs, behind what came before it.
   */
  async cancel(runId: string, ask: { owner?: string; keep: Keep; reason?: string }): Promise<Cancelled> {
    const cancelled = await this.runs.cancel(runId, ask);
    if (cancelled.outcome === "requested" && ask.owner !== undefined) this.#owners.expectEnd(ask.owner);
    if (cancelled.outcome === "ended" && cancelled.now) {
      const run = await this.runs.must(runId);
      const { threadId } = run.record;
      const threads = this.threadsOf(run.owner);
      if (keepsInput(run)) {
        await this.#owners.ended(run.owner, runId);
        const first = await threads.active(threadId);
        if (first !== null) await this.#heal(threads, threadId, first);
      } else {
        await this.#queue.remove(requestOf(run).queue, runId).catch(() => {}); // A worker has it: it will see the end.
        await this.ended(run.owner, threadId, runId);
      }
    }
    return cancelled;
  }

  /**
   * A run has ended: its thread's next one gets its turn, and its owner's next one its place.
   *
   * @param known.messages how many the thread's head has. Default: as many as it had
   */
  async ended(
    owner: string,
    threadId: string,
    runId: string,
    known: { messages?: number | undefined } = {},
  ): Promise<void> {
    const threads = this.threadsOf(owner);
    const moveOn = async () => {
      const run = await this.runs.look(runId);
      const left = await threads.leave(threadId, runId, run?.record ?? null, known.messages);
      await Promise.all([
        threads.index.show(threadId, left.state),
        left.first !== null && this.#heal(threads, threadId, left.first),
      ]);
    };
    await Promise.all([moveOn(), this.#owners.ended(owner, runId)]);
  }

  /**
   * Counts what is about to be written to a thread's state, of so many bytes, and has it written.
   *
   * @throws ProtocolError payload_too_large where its owner has as much stored as it may; what `write` throws
   */
  async keeping<T>(owner: string, threadId: string, bytes: number, write: () => Promise<T>): Promise<T> {
    return await this.#owners.keeping(owner, threadId, bytes, write);
  }

  /**
   * The run whose turn it is in a thread; null where nobody waits. Its job is put back if it was lost. One that has ended
   * is waited for a moment: a worker is about to put its input into the thread.
   */
  async active(owner: string, threadId: string): Promise<string | null> {
    const threads = this.threadsOf(owner);
    for (let left = inputWaitMs; ; left -= inputPollMs) {
      const first = await threads.active(threadId);
      const next = first === null ? null : await this.#heal(threads, threadId, first);
      if (next === null || left <= 0) return next;
      const run = await this.runs.look(next);
      if (run !== null && !isEnding(run.record.status)) return next;
      await sleep(inputPollMs);
    }
  }

  /**
   * For a run that nothing has been heard of for long: whatever it waits for, the place in its thread's line, the job
   * of the first there, is put back if it was lost. Changes nothing where all is well.
   */
  async revive(runId: string): Promise<void> {
    const run = await this.runs.look(runId);
    if (run === null || isEnding(run.record.status)) return;
    const { threadId, agent } = run.record;
    const threads = this.threadsOf(run.owner);
    const entered = await this.#enter(threads, threadId, coming(runId, agent, run), {
      onlyIfIdle: false,
      isNew: false,
      queue: run.queue,
    });
    if (entered.outcome === "in") await this.#entered(threads, threadId, runId, entered);
  }

  /** @param how.isNew whether the run's record was made just now: else its thread is made only if that was not deleted */
  async #enter(
    threads: Threads,
    threadId: string,
    run: ThreadRun,
    { isNew, ...how }: { onlyIfIdle: boolean; isNew: boolean; queue: string | undefined },
  ): Promise<Entered> {
    const status = async () => (await this.runs.statuses([run.runId]))[0]!;
    // It leaves the line when it has ended. One that has left, and has not ended, lost its ending with writes of its slot.
    const isOver = async () => {
      const is = await status();
      return is === null || isEnding(is);
    };
    const options = { ...how, isOver, maxInLine: this.#maxInLine };
    if (isNew) return await threads.enter(threadId, run, options);
    // A thread that was deleted took its runs' records with it before.
    const mayMake = async () => (await status()) !== null;
    return await threads.enter(threadId, run, { ...options, mayMake });
  }

  /** A run is in line: it is numbered and listed, its thread is shown, and the first in line gets its turn. */
  async #entered(
    threads: Threads,
    threadId: string,
    runId: string,
    { before, ordinal, state }: Entered & { outcome: "in" },
  ): Promise<void> {
    const index = this.#owners.runsKey(threads.owner);
    const list = async () => {
      const [isThere] = await Promise.all([
        ordinal === null ? true : this.runs.number(runId, ordinal),
        this.#redis.tlIndex(index, runId),
      ]);
      if (!isThere) await this.#redis.zrem(index, runId);
      await this.#heal(threads, threadId, before[0] ?? runId);
    };
    await Promise.all([list(), threads.index.show(threadId, state)]);
  }

  /**
   * Sees to it that the first in line is on its queue. Those that have ended or expired are passed over, but for those
   * whose input is to be kept.
   */
  async #heal(threads: Threads, threadId: string, first: string): Promise<string | null> {
    let next: string | null = first;
    while (next !== null) {
      const run = await this.runs.look(next);
      if (run !== null && (await this.#enqueue(run))) return next;
      await this.#owners.ended(threads.owner, next);
      const left = await threads.leave(threadId, next, run?.record ?? null);
      await threads.index.show(threadId, left.state);
      next = left.first;
    }
    return next;
  }

  /** A run as its owner is told of it: one that has a worker no more waits for the next, whatever its record says. */
  async describe(run: { record: RunRecord; queue?: string | undefined }): Promise<RunRecord> {
    const { record } = run;
    if (record.status !== "running") return record;
    const held = await this.#queue.isHeld(await this.#queueOf(run), record.runId);
    return held ? record : { ...record, status: "queued" };
  }

  /**
   * An owner's runs, or a thread's, newest first, from the one after `before` on. It looks at so many at most, whatever
   * their status, and ends where what it has is as large as it may be, or by one run larger: `next` is the last that it
   * looked at, where there may be more behind.
   *
   * @param query.maxSize characters of JSON. Default: any size
   */
  async list(query: {
    owner: string;
    threadId?: string;
    status?: RunStatus;
    limit: number;
    before?: string;
    maxSize?: number;
  }): Promise<{ runs: RunRecord[]; next?: string }> {
    const { threadId, maxSize = Number.POSITIVE_INFINITY } = query;
    const index =
      threadId === undefined
        ? this.#owners.runsKey(query.owner)
        : this.threadsOf(query.owner).runsKey(threadId);
    let from = 0;
    if (query.before !== undefined) {
      const rank = await this.#redis.zrevrank(index, query.before);
      if (rank === null) return { runs: [] };
      from = rank + 1;
    }
    const runs: RunRecord[] = [];
    let size = 0;
    for (let looked = 0; ; ) {
      const page = Math.min(Math.max(query.status === undefined ? 50 : 250, query.limit), maxScan - looked);
      const runIds = await this.#redis.zrevrange(index, from, from + page - 1);
      if (runIds.length === 0) return { runs };
      const wanted = await this.#withStatus(runIds, query.status);
      const expired = new Set<string>();
      for (let i = 0; i < wanted.length; i += readAtOnce) {
        const some = wanted.slice(i, i + readAtOnce);
        const listed = await this.runs.listed(some);
        const gone = some.filter((_, j) => listed[j] === null);
        for (const runId of gone) expired.add(runId);
        if (gone.length > 0) await this.#redis.zrem(index, ...gone);
        const own = listed.flatMap((run) => (run?.owner === query.owner ? [run] : []));
        for (const record of await Promise.all(own.map((run) => this.describe(run)))) {
          if (query.status !== undefined && record.status !== query.status) continue;
          runs.push(record);
          if (runs.length === query.limit) return { runs };
          size += JSON.stringify(record).length;
          if (size >= maxSize) return { runs, next: record.runId };
        }
      }
      looked += runIds.length;
      // What has expired is no more in the index: it cannot be gone on from.
      const last = runIds.findLast((id) => !expired.has(id));
      if (looked >= maxScan && last !== undefined) return { runs, next: last };
      from += page - expired.size;
    }
  }

  /** Those of these runs that may have that status, or have expired. Of the others nothing else is read. */
  async #withStatus(runIds: readonly string[], status: RunStatus | undefined): Promise<readonly string[]> {
    if (status === undefined) return runIds;
    const statuses = await this.runs.statuses(runIds);
    // One that has lost its worker is listed as queued.
    const stored = status === "queued" ? [status, "running"] : [status];
    return runIds.filter((_, i) => statuses[i] === null || stored.includes(statuses[i]!));
  }

  /** Brings back the runs that workers of a queue have parked. To be called by each of them, every `bringBackEveryMs`. */
  async bringBack(queue: string): Promise<void> {
    await this.#queue.bringBack(queue);
  }

  /** Makes a thread without runs; one that is there stays as it is. As `ThreadOperations.create`. */
  async createThread(
    owner: string,
    thread: { threadId?: string; metadata?: Metadata },
  ): Promise<{ thread: ThreadRecord; created: boolean }> {
    return await this.#threads.create(owner, thread);
  }

  /** A thread's record; null: the owner has none by that id, or it is being deleted. */
  async threadRecord(owner: string, threadId: string): Promise<ThreadRecord | null> {
    return await this.#threads.record(owner, threadId);
  }

  /** Those of a thread's runs that have not ended, in the order of their turns; at most 100 of them. */
  async activeRuns(owner: string, threadId: string): Promise<ThreadRun[]> {
    return await this.#threads.activeRuns(owner, threadId);
  }

  /** An owner's threads, the one that something last happened to first. As `ThreadOperations.list`. */
  async listThreads(query: ThreadQuery): Promise<{ threads: ThreadRecord[]; next?: string }> {
    return await this.#threads.list(query);
  }

  /** Puts keys in the place of those that a thread's metadata have. As `ThreadOperations.patch`. */
  async patchThread(owner: string, threadId: string, patch: Metadata): Promise<ThreadRecord> {
    return await this.#threads.patch(owner, threadId, patch);
  }

  /** A thread's head moved without a run. As `ThreadOperations.headMoved`. */
  async headMoved(
    owner: string,
    threadId: string,
    head: { status: SettledStatus; messages: number },
  ): Promise<void> {
    await this.#threads.headMoved(owner, threadId, head);
  }

  /** Deletes a thread with its runs and its checkpoints. As `ThreadOperations.delete`. */
  async deleteThread(owner: string, threadId: string, checkpoints: DeletesCheckpoints): Promise<void> {
    await this.#threads.delete(owner, threadId, checkpoints);
  }

  /** Copies a thread, without its runs. As `ThreadOperations.copy`. */
  async copyThread(
    owner: string,
    threadId: string,
    copy: CopyThread,
    checkpoints: CopiesCheckpoints,
  ): Promise<ThreadRecord> {
    return await this.#threads.copy(owner, threadId, copy, checkpoints);
  }

  threadsOf(owner: string): Threads {
    return new Threads(this.#redis, owner, this.#prefix);
  }

  async close(): Promise<void> {
    await this.#queue.close();
  }

  /** The ids that this key stands for: the first caller's. */
  async #remember(owner: string, key: string, runId: string, threadId: string): Promise<[string, string]> {
    const first = await this.#redis.set(
      this.#idempotencyKey(owner, key),
      JSON.stringify([runId, threadId]),
      "EX",
      idempotencyTtlS,
      "NX",
      "GET",
    );
    return first === null ? [runId, threadId] : (JSON.parse(first) as [string, string]);
  }

  /** Undoes the record of a run that its owner or its thread has no room for, and frees its idempotency key. */
  async #takeBack(start: StartRequest, runId: string): Promise<void> {
    await this.#owners.forget(start.owner, runId);
    await this.runs.remove(runId);
    if (start.idempotencyKey === undefined) return;
    await this.#redis.del(this.#idempotencyKey(start.owner, start.idempotencyKey));
  }

  /** Puts a run on its queue. false: it has ended and there is nothing left to do. */
  async #enqueue(run: ListedRun): Promise<boolean> {
    const { record, owner } = run;
    const { runId, threadId } = record;
    if (isEnding(record.status)) {
      const whole = await this.runs.get(runId);
      if (whole === null || !keepsInput(whole)) return false;
    }
    const queue = await this.#queueOf(run);
    await this.#queue.add(queue, { runId, threadId, owner });
    // Its thread may have been deleted meanwhile, and its job would be left over.
    if (!(await this.runs.isKept(runId))) await this.#queue.remove(queue, runId);
    return true;
  }

  async #queueOf({ record, queue }: { record: RunRecord; queue?: string | undefined }): Promise<string> {
    return queue ?? requestOf(await this.runs.must(record.runId)).queue;
  }

  #idempotencyKey(owner: string, key: string): string {
    return this.#idempotencyKeyOf(idempotencyDigest(owner, key));
  }

  #idempotencyKeyOf(keyDigest: string): string {
    return `${this.#prefix}:{${keyDigest}}:idempotency`;
  }
}

function idempotencyDigest(owner: string, key: string): string {
  return digest(JSON.stringify([owner, key]));
}

/** A run that comes into line, as its thread's watchers are told of it. */
function coming(runId: string, agent: string, run: ListedRun | null): ThreadRun {
  return { ...(run === null ? { runId, agent } : threadRun(run.record)), status: "queued" };
}

function refused(
  threadId: string,
  entered: Exclude<Entered, { outcome: "in" | "over" }>,
  maxInLine: number,
): ProtocolError {
  if (entered.outcome === "deleting") return beingDeleted(threadId);
  const { activeRunId } = entered;
  const what = entered.outcome === "busy" ? "an active run" : `${maxInLine} runs in line, its limit`;
  return new ProtocolError("thread_busy", `thread ${threadId} has ${what}`, { activeRunId });
}

/** Whether a run was cancelled before any worker had it, and its input is to be kept. */
export function keepsInput(run: StoredRun): boolean {
  const { status, attempt, cancel } = run.record;
  if (status !== "cancelled" || attempt > 0 || cancel?.keep === "discard") return false;
  const { input } = requestOf(run);
  return input !== undefined && input !== null;
}

/** What the worker is to know of a run. */
export function requestOf(run: StoredRun): RunRequest {
  return JSON.parse(run.request) as RunRequest;
}

function found(opened: { threadId: string; status: RunStatus; epoch: string }): Omit<Started, "runId"> {
  return { threadId: opened.threadId, status: opened.status, epoch: opened.epoch, created: false };
}
