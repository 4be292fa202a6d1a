/**
 * One attempt at a run, and why it stops before its agent is done.
 *
 * Invariant: an attempt stops for one reason, the first; from then on the log takes nothing more from its agent.
 */
import { setMaxListeners } from "node:events";
import { flattenValues } from "@throughline/checkpoint";
import { type Fold, lifecycle, type Part } from "@throughline/protocol";
import type { RunWriter } from "@throughline/runlog";
import type { ReaderWatch } from "./reader-watch.ts";

/** Someone asked for a cancel: the reason that an agent finds in its signal. */
export class RunCancelledError extends Error {
  override readonly name = "AbortError";
  readonly code = "run_cancelled";
  constructor() {
    super("the run was cancelled");
  }
}

/** Another worker has the run: the reason that an agent finds in its signal. */
export class AttemptLostError extends Error {
  override readonly name = "AbortError";
  readonly code = "attempt_lost";
  constructor(cause?: unknown) {
    super("this attempt has lost its run to another", { cause });
  }
}

/** The worker was told to stop: the reason that an agent finds in its signal. */
export class WorkerStoppingError extends Error {
  override readonly name = "AbortError";
  readonly code = "worker_stopping";
  constructor() {
    super("the worker is stopping; the run is handed to another");
  }
}

/** The run took longer than it may: the reason that an agent finds in its signal. */
export class RunTimeoutError extends Error {
  override readonly name = "AbortError";
  readonly code = "run_timeout";
  constructor(timeoutMs: number) {
    super(`the run took longer than its timeoutMs, ${timeoutMs}`);
  }
}

export type StopReason = RunCancelledError | AttemptLostError | WorkerStoppingError | RunTimeoutError;

export class Attempt {
  readonly runId: string;
  readonly writer: RunWriter;
  readonly fold: Fold;
  readonly #controller = new AbortController();
  readonly #stopped: Promise<StopReason>;
  #stop!: (reason: StopReason) => void;
  #reason: StopReason | undefined;
  /** What was acknowledged when the runner last looked: see Runner.tick. */
  seen = -1;
  /** The fold's snapshot when the log was half as long as it may be: the next trim cuts there. */
  cut: { offset: number; json: string } | undefined;
  /** Only of a run that ends when nobody reads it. */
  readers: ReaderWatch | undefined;
  /** As its session has it: see Session.rewindFloor. */
  rewindFloor: () => Promise<number> = async () => Number.POSITIVE_INFINITY;

  constructor(writer: RunWriter, fold: Fold) {
    this.runId = writer.runId;
    this.writer = writer;
    this.fold = fold;
    this.#stopped = new Promise((resolve) => {
      this.#stop = resolve;
    });
    // An agent may put any number of listeners on its signal: Node shall not warn of a leak.
    setMaxListeners(0, this.#controller.signal);
    writer.onCancel = () => this.stop(new RunCancelledError());
    writer.onFailure = (error) => this.stop(new AttemptLostError(error));
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Why the attempt was stopped; undefined while it goes on. */
  get reason(): StopReason | undefined {
    return this.#reason;
  }

  /** Resolves when the attempt is stopped. */
  get stopped(): Promise<StopReason> {
    return this.#stopped;
  }

  /** Stops the attempt: nothing more is taken from its agent, and its signal is aborted. Only the first call counts. */
  stop(reason: StopReason): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.writer.seal();
    this.#controller.abort(reason);
    this.#stop(reason);
  }

  /** Puts a part into the log and the fold. Answers a promise where the agent is to wait. */
  take(part: Part): Promise<void> | undefined {
    const [told, wait] = this.#write(part);
    this.fold.add(told, this.writer.offset);
    return wait;
  }

  /** Writes a part. What JSON cannot represent in it is converted first. */
  #write(part: Part): [told: Part, wait: Promise<void> | undefined] {
    try {
      return [part, this.writer.write(part)];
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      const told = flattenValues(part) as Part;
      return [told, this.writer.write(told)];
    }
  }

  /** Takes back what is in the log and the fold after `to`. */
  rewind(to: number): Promise<void> | undefined {
    // A snapshot must not hold what was taken back.
    if (this.cut !== undefined && this.cut.offset > to) this.cut = undefined;
    return this.take(lifecycle({ event: "rewound", attempt: this.writer.attempt, to }));
  }

  /** Puts a part into the fold only: the run's `modes` leave it out of the log. */
  foldOnly(part: Part): void {
    this.fold.add(part, this.writer.offset);
  }
}
