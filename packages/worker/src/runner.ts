/**
 * Runs attempts, from claim to ending.
 *
 * Invariants:
 * - the control channel is listened to before the run is claimed: a cancel is either in the claim's answer or heard;
 * - parts acknowledged → checkpoint saved → terminal part, in this order, whatever the ending;
 * - an attempt that lost its run writes nothing more, anywhere, and says nothing of an ending.
 */
import type { BaseStore } from "@langchain/langgraph";
import { messageCount, type RedisCheckpointSaver } from "@throughline/checkpoint";
import {
  type Dispatcher,
  keepsInput,
  ownerScope,
  type RunJob,
  requestOf,
  threadRun,
} from "@throughline/dispatch";
import { isDoneWithin } from "@throughline/kit/timing";
import {
  type CheckpointRef,
  type FlatMessage,
  Fold,
  isEnding,
  type Keep,
  type LifecycleData,
  lifecycle,
} from "@throughline/protocol";
import {
  type LiveSubscriber,
  type LogReader,
  type LogWriter,
  newEpoch,
  persist,
  runKeys,
  type StoredRun,
} from "@throughline/runlog";
import type { Logger } from "pino";
import type { Agent } from "./agent.ts";
import {
  Attempt,
  AttemptLostError,
  RunCancelledError,
  RunTimeoutError,
  type StopReason,
  WorkerStoppingError,
} from "./attempt.ts";
import { FunctionSession } from "./function-session.ts";
import { logAgentError, type PublicErrorHook, tellError, tellTrouble } from "./public-error.ts";
import { ReaderWatch } from "./reader-watch.ts";
import type { Assignment, Outcome, Session } from "./session.ts";
import { Trial } from "./trial.ts";

export interface RunnerOptions {
  /** How long an agent gets to obey its signal before its run ends without it, in ms. */
  cancelGraceMs: number;
  /** How many workers a run may take down with it before it fails. */
  maxCrashes: number;
  /** Characters of JSON after which a run's log is trimmed: it then holds between half of this and all of it. */
  maxLog: number;
  /** What readers are told of an agent's errors. */
  publicError?: PublicErrorHook | undefined;
}

export interface RunnerParts {
  log: LogWriter;
  reader: LogReader;
  control: LiveSubscriber;
  dispatcher: Dispatcher;
  saver: RedisCheckpointSaver;
  /** The long-term store of an owner. */
  storeOf: (owner: string) => BaseStore | undefined;
  agents: ReadonlyMap<string, Agent>;
  logger: Logger;
  prefix: string;
}

/**
 * What becomes of the run's job. `handed-over`: back on the queue at once, for another worker. `done`: nothing. All
 * others come back after a pause, to any worker; `busy`: for this worker tries another run alone.
 */
export type RunOutcome = "done" | "lost" | "handed-over" | "again" | "busy" | "unknown-agent";

export class Runner {
  readonly #parts: RunnerParts;
  readonly #options: RunnerOptions;
  /** The attempts of this process, by run. */
  readonly active = new Map<string, Attempt>();
  readonly #trial = new Trial(this.active);
  /** Runs that this process could not go on with. */
  readonly #failed = new Set<string>();
  #leaving = false;

  constructor(parts: RunnerParts, options: RunnerOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** Runs one attempt. Rejects only where Redis could not be asked at all: the job is to be tried again. */
  async run(job: RunJob): Promise<RunOutcome> {
    const { log, control, dispatcher, prefix } = this.#parts;
    if (this.#trial.excludes(job.runId)) return "busy";
    const { control: channel } = runKeys(prefix, job.runId);
    let attempt: Attempt | undefined;
    let crashes = 0;
    let { owner } = job;
    let timeout: NodeJS.Timeout | undefined;
    const wake = () => attempt?.stop(new RunCancelledError());
    await control.subscribe(channel, wake);
    try {
      const claimed = await log.claim(job.runId, this.#failed.delete(job.runId));
      if (claimed.outcome !== "claimed") {
        await this.#keepInput(job.runId);
        owner ??= (await dispatcher.runs.get(job.runId))?.owner;
        if (owner !== undefined) await this.#ended(owner, job);
        return "done";
      }
      const { run, writer } = claimed;
      crashes = run.crashes;
      owner = run.owner;
      const fold = new Fold();
      attempt = new Attempt(writer, fold);
      this.active.set(job.runId, attempt);
      if (run.record.cancel !== undefined) attempt.stop(new RunCancelledError());
      if (!(await this.#mayRun(run, attempt))) {
        await writer.release();
        return "busy";
      }
      if (this.#leaving) attempt.stop(new WorkerStoppingError());
      timeout = stopInTime(attempt, run);
      attempt.readers = this.#readersOf(run, attempt);
      const outcome = await this.#attempt(run, attempt);
      if (outcome === "done") await this.#ended(owner, job);
      return outcome;
    } catch (error) {
      if (attempt !== undefined && isLostWrites(error)) {
        this.#logger(job.runId, attempt).error(
          { err: error },
          "Redis lost parts of a log: it gets a new epoch",
        );
        attempt.stop(new AttemptLostError(error));
        await attempt.writer.renew(newEpoch());
        return "again";
      }
      if (!isLost(error) && !(attempt?.reason instanceof AttemptLostError)) {
        if (attempt === undefined || !(isInvalid(error) || crashes >= this.#options.maxCrashes)) {
          if (attempt !== undefined) this.#failed.add(job.runId);
          throw error;
        }
        this.#logger(job.runId, attempt).warn({ err: error }, "the run cannot go on");
        await this.#finish(attempt, { event: "failed", error: tellTrouble(error) }, null);
        await this.#ended(owner as string, job);
        return "done";
      }
      this.#logger(job.runId, attempt).warn({ err: error }, "lost the run to another attempt");
      attempt?.stop(new AttemptLostError(error));
      // Release the fence, so that a run that nobody took is not counted as a crash; unless its log takes nothing.
      const cause = attempt?.reason instanceof AttemptLostError ? attempt.reason.cause : error;
      if (!(cause instanceof Error) || isLost(cause)) await attempt?.writer.release().catch(() => {});
      else this.#failed.add(job.runId);
      return "lost";
    } finally {
      clearTimeout(timeout);
      this.#trial.end(job.runId);
      control.unsubscribe(channel, wake);
      if (attempt !== undefined && this.active.get(job.runId) === attempt) this.active.delete(job.runId);
    }
  }

  /** Waits until a suspect run is alone in this process. false: another run is tried alone, so this one has to come again. */
  async #mayRun(run: StoredRun, attempt: Attempt): Promise<boolean> {
    const { runId } = run.record;
    if (this.#trial.excludes(runId)) return false;
    // Tried alone before the last crash that it may have: no other run can be the cause of that one.
    const isSuspect = run.crashes >= Math.max(1, this.#options.maxCrashes - 1);
    if (!isSuspect || this.#isGuilty(run) || attempt.reason !== undefined) return true;
    this.#logger(runId, attempt).warn({ crashes: run.crashes }, "the run lost workers: it is tried alone");
    await this.#trial.begin(attempt, run.trials);
    return true;
  }

  #isGuilty({ crashes, blamed }: StoredRun): boolean {
    return blamed && crashes >= this.#options.maxCrashes;
  }

  /** Stops all attempts, also those whose claim is still under way, so that other workers go on with their runs. */
  handOver(): void {
    this.#leaving = true;
    for (const attempt of this.active.values()) attempt.stop(new WorkerStoppingError());
  }

  /**
   * Call it about once a second. For runs that wrote nothing since the last call it asks the log whether this worker still
   * holds them, and whether a cancel was asked for whose message was lost. It trims logs that are too long, and looks whether
   * those are read that end when they are not.
   */
  tick(): void {
    for (const attempt of this.active.values()) {
      if (attempt.seen === attempt.writer.offset) attempt.writer.check();
      attempt.seen = attempt.writer.offset;
      void attempt.readers?.look();
      if (attempt.writer.untrimmed > this.#options.maxLog / 2) void this.#trim(attempt);
    }
  }

  /** For a run that ends when nobody reads it. */
  #readersOf(run: StoredRun, attempt: Attempt): ReaderWatch | undefined {
    const { onDisconnect, disconnectGraceMs = 0 } = requestOf(run);
    if (onDisconnect !== "cancel") return undefined;
    const { dispatcher } = this.#parts;
    const { runId } = run.record;
    return new ReaderWatch(attempt, disconnectGraceMs, {
      isRead: () => dispatcher.runs.isRead(runId),
      cancel: async () => {
        this.#logger(runId, attempt).info("nobody reads the run any more: it is cancelled");
        await dispatcher.cancel(runId, { keep: "thread", reason: "nobody reads it any more" });
      },
    });
  }

  /**
   * Cuts the log where it was half as long as it may be, and remembers where it is now for the next time. A cut above
   * the rewind floor waits: readers could not take back a part of its snapshot, and would lose all of it.
   */
  async #trim(attempt: Attempt): Promise<void> {
    const { writer, fold, cut } = attempt;
    if (cut !== undefined && cut.offset > writer.acknowledged) return;
    writer.untrimmed = 0;
    try {
      if (cut !== undefined) {
        if ((await attempt.rewindFloor()) < cut.offset) return;
        await writer.trim(cut.offset, cut.json);
      }
      attempt.cut = { offset: fold.offset, json: JSON.stringify(fold.snapshot()) };
    } catch (error) {
      if (!isLost(error))
        this.#logger(attempt.runId, attempt).warn({ err: error }, "a log could not be trimmed");
    }
  }

  /** Puts the input of a run that was cancelled before any worker had it into its thread. */
  async #keepInput(runId: string): Promise<void> {
    const { log, dispatcher, agents, storeOf } = this.#parts;
    const run = await dispatcher.runs.get(runId);
    if (run === null || !keepsInput(run)) return;
    const attempt = new Attempt(log.ended(run), new Fold());
    attempt.stop(new RunCancelledError());
    const { agent: name, cancel } = run.record;
    const logger = this.#logger(runId, attempt);
    const agent = agents.get(name);
    const isFirst = await this.#persist(() => this.#fence(run, attempt));
    if (agent === undefined || !isFirst) return;
    const saver = this.#saverOf(run.owner);
    const work = { run, request: requestOf(run), attempt, saver, store: storeOf(run.owner), logger };
    try {
      const session = await openSession(agent, work);
      await this.#persist(() => session.save({ cancelled: cancel?.keep ?? "thread" }));
    } catch (error) {
      if (!isInvalid(error) && !isLost(error)) throw error;
      logger.warn({ err: error }, "the input of a cancelled run could not be kept");
    }
  }

  async #attempt(run: StoredRun, attempt: Attempt): Promise<RunOutcome> {
    const { agents } = this.#parts;
    const { writer } = attempt;
    const { runId, agent: name } = run.record;
    const logger = this.#logger(runId, attempt);
    if (!(await this.#persist(() => this.#fence(run, attempt)))) {
      throw new AttemptLostError("its thread has another active run");
    }
    const agent = agents.get(name);
    const [saver, store] = [this.#saverOf(run.owner), this.#parts.storeOf(run.owner)];
    const work = { run, request: requestOf(run), attempt, saver, store, logger };
    const session = await openSession(agent, work);
    if (session.rewindFloor !== undefined) attempt.rewindFloor = () => session.rewindFloor!();
    const end = async (outcome: Outcome, data: LifecycleData): Promise<RunOutcome> => {
      await writer.flush();
      // Retried while Redis is full or away: otherwise the agent's work would be done again.
      const checkpoint = await this.#persist(() => session.save(outcome));
      await this.#finish(attempt, data, checkpoint);
      logger.info({ event: data.event, offset: writer.offset }, "run ended");
      return "done";
    };

    const isTakeover = writer.offset > 0;
    if (isTakeover) await this.#refold(session, attempt);
    if (attempt.reason instanceof RunCancelledError) return await this.#cancelled(run, end);
    if (this.#isGuilty(run)) {
      const message = `the run took ${run.crashes} workers down with it, the last of them when it was alone there`;
      return await end("failed", { event: "failed", error: { name: "WorkerCrashedError", message } });
    }
    if (agent === undefined) {
      // Workers of two versions share this queue.
      await writer.release();
      return "unknown-agent";
    }
    // The first part of an attempt: started, resumed or rewound.
    const opening: LifecycleData = isTakeover
      ? await this.#persist(() => session.takeOver())
      : started(writer.attempt, session.asked);
    // Stopped before it began: nothing of it is in the log yet.
    if (attempt.reason !== undefined)
      return await this.#stopped(run, attempt, session, Promise.resolve(), end);
    if (isTakeover) logger.info({ offset: writer.offset }, "run taken over");
    // One part on an empty writer: nothing to wait for.
    void attempt.take(lifecycle(opening));

    const running = session.run().then(
      (finished) => ({ ok: true as const, finished }),
      (error: unknown) => ({ ok: false as const, error }),
    );
    const result = await Promise.race([running, attempt.stopped.then(() => undefined)]);
    if (attempt.reason === undefined && result !== undefined) {
      attempt.writer.seal();
      if (result.ok) return await end(result.finished.event, result.finished);
      const error = tellError(result.error, this.#options.publicError, logger);
      logAgentError(result.error, { agent: name, threadId: run.record.threadId }, logger);
      return await end("failed", { event: "failed", error });
    }
    return await this.#stopped(run, attempt, session, running, end);
  }

  /** The attempt was stopped. Gives its agent a short grace, then ends the run as the reason says. */
  async #stopped(
    run: StoredRun,
    attempt: Attempt,
    session: Session,
    running: Promise<unknown>,
    end: (outcome: Outcome, data: LifecycleData) => Promise<RunOutcome>,
  ): Promise<RunOutcome> {
    const reason = attempt.reason as StopReason;
    const inTime = await isDoneWithin(running, this.#options.cancelGraceMs);
    if (!inTime) {
      this.#logger(attempt.runId, attempt).warn(
        `the agent ignored its signal for ${this.#options.cancelGraceMs} ms; the run goes on without it`,
      );
    }
    if (reason instanceof AttemptLostError) throw reason;
    if (reason instanceof WorkerStoppingError) {
      await attempt.writer.flush();
      await session.drainWrites?.();
      await attempt.writer.release();
      this.#logger(attempt.runId, attempt).info({ offset: attempt.writer.offset }, "run handed over");
      return "handed-over";
    }
    if (reason instanceof RunTimeoutError) {
      return await end("failed", {
        event: "failed",
        error: { name: "RunTimeoutError", message: reason.message },
      });
    }
    return await this.#cancelled(run, end);
  }

  async #cancelled(
    run: StoredRun,
    end: (outcome: Outcome, data: LifecycleData) => Promise<RunOutcome>,
  ): Promise<RunOutcome> {
    // The record as it is now: the claim's answer is from before the cancel.
    const cancel =
      run.record.cancel ?? (await this.#parts.dispatcher.runs.must(run.record.runId)).record.cancel;
    const keep: Keep = cancel?.keep ?? "thread";
    return await end(
      { cancelled: keep },
      { event: "cancelled", keep, ...(cancel?.reason === undefined ? {} : { reason: cancel.reason }) },
    );
  }

  async #finish(attempt: Attempt, data: LifecycleData, checkpoint: CheckpointRef | null): Promise<void> {
    const ending = checkpoint === null ? data : { ...data, checkpoint };
    await attempt.writer.finish(ending, {
      ...(checkpoint === null ? {} : { checkpoint }),
      ...(data.event === "failed" ? { error: data.error } : {}),
      ...(data.event === "interrupted" ? { interrupts: data.interrupts } : {}),
    });
  }

  /** Folds what earlier attempts wrote to the log. */
  async #refold(session: Session, { runId, fold }: Attempt): Promise<void> {
    const { reader } = this.#parts;
    const snapshot = await reader.snapshot(runId);
    if (snapshot !== null) fold.restore(snapshot);
    for await (const { offset, part } of reader.parts(runId, snapshot?.offset ?? 0)) {
      fold.add(part, offset);
      session.recall?.(part, offset);
    }
  }

  #persist<T>(send: () => Promise<T>): Promise<T> {
    return persist(send, this.#parts.log.onRetry);
  }

  /** Lets the attempt, and nobody else, write its thread's checkpoints. false: the thread has another active run. */
  async #fence({ owner, record }: StoredRun, { writer }: Attempt): Promise<boolean> {
    const { threadId, runId } = record;
    const threads = this.#parts.dispatcher.threadsOf(owner);
    if (isEnding(record.status)) return await threads.fence(threadId, runId, writer.fence);
    const begun = { ...threadRun(record), status: "running" } as const;
    return await threads.fence(threadId, runId, writer.fence, begun);
  }

  /** A run is over: its thread goes on, and is told to have as many messages as its head has. */
  async #ended(owner: string, { threadId, runId }: RunJob): Promise<void> {
    const messages = await messageCount(this.#saverOf(owner), threadId);
    await this.#parts.dispatcher.ended(owner, threadId, runId, { messages });
  }

  #saverOf(owner: string): RedisCheckpointSaver {
    return this.#parts.saver.scoped(ownerScope(owner));
  }

  #logger(runId: string, attempt: Attempt | undefined): Logger {
    return this.#parts.logger.child({ runId, attempt: attempt?.writer.attempt });
  }
}

function started(attempt: number, asked: readonly FlatMessage[] = []): LifecycleData {
  return { event: "started", attempt, ...(asked.length === 0 ? {} : { messages: [...asked] }) };
}

/** Stops an attempt when its run has taken as long as it may. Uses Redis' clock: workers' clocks may differ. */
function stopInTime(attempt: Attempt, run: StoredRun): NodeJS.Timeout | undefined {
  const { timeoutMs } = requestOf(run);
  if (timeoutMs === undefined) return undefined;
  const stop = () => attempt.stop(new RunTimeoutError(timeoutMs));
  const left = timeoutMs - run.elapsedMs;
  if (left > 0) return setTimeout(stop, left);
  stop();
  return undefined;
}

/** The session for an agent's kind. For an unknown agent: one that can only save what its run has streamed. */
async function openSession(agent: Agent | undefined, work: Assignment): Promise<Session> {
  if (agent?.kind !== "graph") return await FunctionSession.open(agent, work);
  // Imported on demand: a worker of function agents needs no LangGraph.
  if (work.request.update !== undefined) {
    const { UpdateSession } = await import("./langgraph/update-session.ts");
    return new UpdateSession(agent, work);
  }
  const { GraphSession } = await import("./langgraph/graph-session.ts");
  return await GraphSession.open(agent, work);
}

/** Whether the log is behind what it had acknowledged, as this attempt found out by itself or while it was stopped. */
function isLostWrites(error: unknown): boolean {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: unknown };
  return code === "lost_writes" || (cause instanceof Error && isLostWrites(cause));
}

/** Whether the log or the checkpoints refused this attempt: it is no longer the run's. */
function isLost(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return code === "stale_attempt" || code === "attempt_lost" || code === "no_such_run";
}

/** Whether the run's input, or its state, cannot be stored, however often it is tried. */
function isInvalid(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === "invalid_argument";
}
