/**
 * The wire side of a watch: what happens to a thread, or to all of the owner's, told once and in order.
 *
 * Invariants:
 * - the sink gets every event once and in order, from after the head at the time of the first answer; where some can be
 *   had no more it is told `reset`, and asks anew for what it needs;
 * - on a new socket the watch goes on behind the last event that it was told (R146); so do the runs that it leads, behind
 *   their last offsets;
 * - between asking and its answer every event belongs to an earlier watch, and is ignored.
 */
import {
  backoffDelay,
  type EventParams,
  isEnding,
  type Params,
  type ProtocolError,
  type Result,
  type ThreadEvent,
  type ThreadRun,
} from "@throughline/protocol";
import type { Clock } from "./platform.ts";
import type { Run, RunHandle } from "./run.ts";

export type Watched = Result<"thread.watch">;

/** What a watch needs of its connection. */
export interface WatchPort {
  readonly clock: Clock;
  readonly random: () => number;
  readonly isOnline: boolean;
  watch(params: Params<"thread.watch">, answered: (answer: Watched | ProtocolError) => void): void;
  /** The watch is over. `tell`: the gateway is to know. */
  unwatch(watch: Watch, tell: boolean): void;
  /** The run, followed from its first part on by the watch, unless it is followed already. */
  lead(run: ThreadRun, threadId: string): RunHandle;
}

/** Who is told. `run` is there for an event of a run that has not ended, of a thread's watch. */
export interface WatchSink {
  /** The watch stands, on this socket; `runs` are those of `result.runs`, in their order. */
  watched(result: Watched, runs: readonly Run[]): void;
  event(event: ThreadEvent, run: Run | undefined): void;
  /** Events were lost. */
  reset(): void;
  /** Nothing more comes. */
  deleted(): void;
  failed(error: ProtocolError): void;
}

/** A watch, for whom it tells. */
export interface Watching {
  /** Whether runs that come now are subscribed to on this socket. */
  readonly isLive: boolean;
  /** Watches no more; the runs are followed no more. */
  stop(): void;
}

export class Watch implements Watching {
  readonly threadId: string | undefined;
  readonly #port: WatchPort;
  readonly #sink: WatchSink;
  readonly #led = new Map<string, RunHandle>();
  #phase: "down" | "asking" | "live" | "done" = "down";
  /** The last offset that was told; undefined: none yet. */
  #offset: number | undefined;
  #epoch: string | undefined;
  #asked = 0;
  #fruitless = 0;
  #rest: unknown;

  constructor(threadId: string | undefined, port: WatchPort, sink: WatchSink) {
    this.threadId = threadId;
    this.#port = port;
    this.#sink = sink;
  }

  get isLive(): boolean {
    return this.#phase === "live";
  }

  online(): void {
    this.#fruitless = 0;
    if (this.#phase !== "done") this.#ask();
  }

  offline(): void {
    if (this.#phase !== "done") this.#toPhase("down");
  }

  stop(): void {
    if (this.#phase === "done") return;
    const tell = this.#phase !== "down";
    this.#toPhase("done");
    this.#port.unwatch(this, tell);
    // What the application follows itself is its own.
    for (const { run, subscription } of this.#led.values()) if (subscription.isLed) run.detach();
    this.#led.clear();
  }

  onEvents({ offset, events, skipped }: EventParams<"thread.events">): void {
    if (this.#phase !== "live") return;
    const due = (this.#offset ?? 0) + 1;
    const end = offset + (skipped ?? events.length);
    if (offset > due) this.#askAgain();
    else if (end > due) {
      this.#fruitless = 0;
      for (let at = due; at < end && this.#phase === "live"; at++) {
        this.#offset = at;
        const event = skipped === undefined ? events[at - offset] : null;
        if (event !== null && event !== undefined) this.#tell(event);
      }
    }
  }

  onReset({ epoch, offset }: EventParams<"thread.reset">): void {
    if (this.#phase !== "live") return;
    this.#epoch = epoch;
    this.#offset = offset;
    this.#sink.reset();
    // Runs may have come in the gap: the answer names those that are in line now.
    if (this.threadId !== undefined) this.#askAgain();
  }

  onUnwatched({ reason }: EventParams<"thread.unwatched">): void {
    if (this.#phase !== "live") return;
    if (reason === "deleted") {
      this.#over();
      this.#sink.deleted();
    } else {
      this.#offset = undefined;
      this.#epoch = undefined;
      this.#askAgain();
      this.#sink.reset();
    }
  }

  #tell(event: ThreadEvent): void {
    let run: Run | undefined;
    if (event.event === "run" && this.threadId !== undefined) {
      const { runId, status } = event.run;
      if (isEnding(status)) run = this.#led.get(runId)?.run;
      else run = this.#lead(event.run).run;
      if (isEnding(status)) this.#led.delete(runId);
    }
    this.#sink.event(event, run);
  }

  #lead(run: ThreadRun): RunHandle {
    const handle = this.#led.get(run.runId) ?? this.#port.lead(run, this.threadId!);
    this.#led.set(run.runId, handle);
    return handle;
  }

  #ask(): void {
    this.#toPhase("asking");
    const asked = this.#asked;
    const { threadId } = this;
    const params: Params<"thread.watch"> = { after: this.#offset ?? "head" };
    if (threadId !== undefined) params.threadId = threadId;
    if (this.#epoch !== undefined) params.epoch = this.#epoch;
    if (threadId !== undefined) {
      const known: NonNullable<NonNullable<typeof params.runs>["known"]> = {};
      for (const [runId, { subscription }] of this.#led) {
        const { offset: after, epoch } = subscription;
        if (subscription.isDone) this.#led.delete(runId);
        else known[runId] = epoch === undefined ? { after } : { after, epoch };
      }
      params.runs = { pages: true, known };
    }
    this.#port.watch(params, (answer) => {
      if (asked === this.#asked && this.#phase === "asking") this.#answered(answer);
    });
  }

  #answered(answer: Watched | ProtocolError): void {
    if (answer instanceof Error) {
      if (answer.retryable) this.#askAgain();
      else {
        this.#over();
        this.#sink.failed(answer);
      }
      return;
    }
    this.#toPhase("live");
    this.#offset ??= answer.head;
    this.#epoch = answer.epoch;
    const { runs = [] } = answer;
    const led = runs.map((run) => this.#lead(run));
    for (const handle of this.#led.values()) {
      if (!handle.subscription.isLed) continue;
      // One that is active no more ended meanwhile: what is left of it is had by itself.
      if (led.includes(handle)) handle.subscription.started();
      else handle.subscription.ask();
    }
    this.#sink.watched(
      answer,
      led.map(({ run }) => run),
    );
  }

  #askAgain(): void {
    this.#toPhase("down");
    this.#fruitless += 1;
    const ms = this.#fruitless === 1 ? 0 : backoffDelay(this.#fruitless - 2, this.#port.random);
    this.#rest = this.#port.clock.setTimeout(() => {
      if (this.#port.isOnline && this.#phase === "down") this.#ask();
    }, ms);
  }

  /** The runs that it led see to themselves. */
  #over(): void {
    this.#toPhase("done");
    this.#port.unwatch(this, false);
    for (const { subscription } of this.#led.values()) subscription.isLed = false;
    this.#led.clear();
  }

  #toPhase(phase: "down" | "asking" | "live" | "done"): void {
    this.#phase = phase;
    this.#asked += 1;
    this.#port.clock.clearTimeout(this.#rest);
  }
}
