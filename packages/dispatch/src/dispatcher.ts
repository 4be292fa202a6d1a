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
} from "@throughline/protocol";
import { isEnding, ProtocolError } from "@throughline/protocol";
import {
  type Cancelled,
  defaultPrefix,
  defaultRetention,
  newEpoch,
  type Retention,
  RunStore,
  type StoredRun,
} from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";
import { nanoid } from "nanoid";
import { AgentRegistry } from "./agents.ts";
import { briefOf } from "./brief.ts";
import { digest, type OwnerLimits, Owners } from "./owners.ts";
import { RunQueue } from "./queue.ts";
import { defaultMaxInLine, Threads } from "./threads.ts";

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

export class Dispatcher {
  readonly runs: RunStore;
  readonly agents: AgentRegistry;
  readonly #queue: RunQueue;
  readonly #owners: Owners;
  readonly #maxInLine: number;
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;

  /**
   * @param options.maxInLine runs that may wait in one thread. Default 1,000
   * @param options.limits what one owner may have. Default: whatever it wants, and nothing is counted
   */
  constructor(
    redis: Redis | Cluster,
    options: {
      prefix?: string;
      retention?: Partial<Retention>;
      maxInLine?: number;
      limits?: OwnerLimits;
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
      brief,
    });
    if (!opened.created) {
      // Whoever asks: a run is answered to its owner only.
      if (opened.owner !== start.owner) throw new ProtocolError("no_such_run", `there is no run ${runId}`);
      if (isEnding(opened.status)) return { ...found(opened), runId };
    }
    try {
      const bytes = Buffer.byteLength(request) + Buffer.byteLength(metadata) + Buffer.byteLength(brief);
      await this.#owners.admit(start.owner, runId, bytes, opened.created);
    } catch (error) {
      if (opened.created && error instanceof ProtocolError) await this.#takeBack(start, runId);
      throw error;
    }
    const strategy = start.multitaskStrategy ?? "enqueue";
    const threads = this.threadsOf(start.owner);
    const enter = () => threads.enter(threadId, runId, strategy === "reject", this.#maxInLine);
    let entered = await enter();
    // Busy with a run that has ended is not busy.
    if (entered.outcome === "busy" && (await this.active(start.owner, threadId)) === null)
      entered = await enter();
    if (entered.outcome !== "in") {
      if (opened.created) await this.#takeBack(start, runId);
      const { activeRunId } = entered;
      const what =
        entered.outcome === "busy" ? "an active run" : `${this.#maxInLine} runs in line, its limit`;
      throw new ProtocolError("thread_busy", `thread ${threadId} has ${what}`, { activeRunId });
    }
    await this.#redis.tlIndex(this.#owners.runsKey(start.owner), runId);
    const [first = runId] = entered.before;
    await this.#heal(threads, threadId, first);
    if (opened.created && (strategy === "interrupt" || strategy === "rollback")) {
      const keep: Keep = strategy === "interrupt" ? "thread" : "discard";
      await Promise.all(
        entered.before.map((before) => this.cancel(before, { keep, reason: `${strategy} by run ${runId}` })),
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

  /** A run has ended: its thread's next one gets its turn, and its owner's next one its place. */
  async ended(owner: string, threadId: string, runId: string): Promise<void> {
    const threads = this.threadsOf(owner);
    const moveOn = async () => {
      const first = await threads.leave(threadId, runId);
      if (first !== null) await this.#heal(threads, threadId, first);
    };
    await Promise.all([moveOn(), this.#owners.ended(owner, runId)]);
  }

  /**
   * Counts what is about to be written to a thread's state, of so many bytes, and has it written.
   *
   * @throws ProtocolError payload_too_large where its owner has as much stored as it may; what `write` throws
   */
  async keeping<T>(owner: string, threadId: string, bytes: number, write: () => Promise<T>): Promise<T> {
    await this.#owners.keep(owner, threadId, bytes);
    try {
      return await write();
    } catch (error) {
      await this.#owners.giveBack(owner, threadId, bytes).catch(() => {});
      throw error;
    }
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
    const { threadId } = run.record;
    const threads = this.threadsOf(run.owner);
    const entered = await threads.enter(threadId, runId, false);
    if (entered.outcome === "in") await this.#heal(threads, threadId, entered.before[0] ?? runId);
  }

  /**
   * Sees to it that the first in line is on its queue. Those that have ended or expired are passed over, but for those
   * whose input is to be kept.
   */
  async #heal(threads: Threads, threadId: string, first: string): Promise<string | null> {
    let next: string | null = first;
    while (next !== null && !(await this.#enqueue(next))) {
      await this.#owners.ended(threads.owner, next);
      next = await threads.leave(threadId, next);
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

  /** Puts a run on its queue. false: it has ended and there is nothing left to do, or its record has expired. */
  async #enqueue(runId: string): Promise<boolean> {
    const run = await this.runs.look(runId);
    if (run === null) return false;
    const { record, owner } = run;
    if (isEnding(record.status)) {
      const whole = await this.runs.get(runId);
      if (whole === null || !keepsInput(whole)) return false;
    }
    await this.#queue.add(await this.#queueOf(run), { runId, threadId: record.threadId, owner });
    return true;
  }

  async #queueOf({ record, queue }: { record: RunRecord; queue?: string | undefined }): Promise<string> {
    return queue ?? requestOf(await this.runs.must(record.runId)).queue;
  }

  #idempotencyKey(owner: string, key: string): string {
    return `${this.#prefix}:{${digest(JSON.stringify([owner, key]))}}:idempotency`;
  }
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
