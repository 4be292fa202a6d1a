/**
 * The wire side of one run: what was asked for, what came, and what is due next.
 *
 * Invariants (P1):
 * - the sink gets every offset once and in order; an offset that is left out is named, by `skipped` or `snapshot`;
 * - what has been passed on is dropped, part by part; what is too early makes the subscription ask again;
 * - between asking and its answer everything that comes belongs to an earlier subscription, and is ignored;
 * - a snapshot that comes in pages is passed on when it is whole; one that is cut short is asked for anew;
 * - an end is what a lifecycle part or the run's record says; silence, or being unsubscribed, is none.
 */
import {
  backoffDelay,
  type EventParams,
  type Filter,
  isEnding,
  type Part,
  ProtocolError,
  type Result,
} from "@throughline/protocol";
import { readSnapshot } from "./frames.ts";
import type { Clock } from "./platform.ts";

/** What a subscription needs of its connection. */
export interface SubscriptionPort {
  readonly clock: Clock;
  readonly random: () => number;
  /** The largest snapshot that is put together, in UTF-16 code units of its JSON. */
  readonly maxSnapshotSize: number;
  /** Whether a socket is open. The next two may be called only then; a command whose socket dies is not answered. */
  readonly isOnline: boolean;
  subscribe(params: Ask, answered: (answer: Result<"run.subscribe"> | ProtocolError) => void): void;
  unsubscribe(runId: string, answered: () => void): void;
}

export interface Ask {
  runId: string;
  after: number | "head";
  epoch?: string;
  filter?: Filter;
  /** A snapshot may come in pages. */
  pages: true;
}

/** Who gets what the subscription lets through. */
export interface SubscriptionSink {
  /** `size`: the part's share of its frame, in UTF-16 code units. */
  part(offset: number, part: Part, size: number): void;
  /** The filter left out the parts from `offset` to `to`. */
  skipped(offset: number, to: number): void;
  snapshot(snapshot: EventParams<"run.snapshot">, size: number): void;
  reset(epoch: string, reason: string): void;
  /** The answer to an ask. */
  subscribed(result: Result<"run.subscribe">): void;
  /** A frame has been passed on, all of it. */
  frameEnd(): void;
  /** The run has ended, and its ending lies before what was asked for. */
  endedBefore(): void;
  failed(error: ProtocolError): void;
}

type Phase =
  /** No socket, or resting before the next ask. */
  | "down"
  | "asking"
  | "live"
  /** The reader is slow: nothing is wanted until it has caught up. */
  | "paused"
  | "done";

export class Subscription {
  readonly runId: string;
  readonly #port: SubscriptionPort;
  readonly #sink: SubscriptionSink;
  readonly #filter: Filter | undefined;
  #phase: Phase = "down";
  /** The next offset that is due; undefined: whatever comes after the head at the time of asking. */
  #next: number | undefined;
  #epoch: string | undefined;
  /** The epoch of the answer, where a `run.reset` has to confirm it. */
  #newEpoch: string | undefined;
  /** The pages so far of the snapshot of `offset`, and the code units of their text. */
  #pages: { offset: number; texts: string[]; size: number } | undefined;
  #asked = 0;
  /** Asks since anything new came. */
  #fruitless = 0;
  #rest: unknown;
  #unsubscribing = false;
  /** A watch of the run's thread asks for it on a new socket. */
  isLed: boolean;

  constructor(
    runId: string,
    from: {
      after: number | "head";
      epoch?: string | undefined;
      filter?: Filter | undefined;
      isLed?: boolean | undefined;
    },
    port: SubscriptionPort,
    sink: SubscriptionSink,
  ) {
    this.runId = runId;
    this.#next = from.after === "head" ? undefined : from.after + 1;
    this.#epoch = from.epoch;
    this.isLed = from.isLed ?? false;
    this.#filter = from.filter;
    this.#port = port;
    this.#sink = sink;
  }

  get epoch(): string | undefined {
    return this.#epoch;
  }

  /** The last offset that was let through; 0: none. */
  get offset(): number {
    return (this.#next ?? 1) - 1;
  }

  get isDone(): boolean {
    return this.#phase === "done";
  }

  /** The answer to `run.start`, or to a watch, opened the subscription on the current socket. */
  started(): void {
    if (this.#phase === "done" || this.#phase === "paused") return;
    this.#toPhase("live");
  }

  /** A new socket is open. Nothing is subscribed there yet. */
  online(): void {
    this.#unsubscribing = false;
    this.#fruitless = 0;
    if (!this.isLed) this.ask();
  }

  /** Asks for what is due, unless nothing is. */
  ask(): void {
    if (this.#phase !== "done" && this.#phase !== "paused") this.#ask();
  }

  offline(): void {
    this.#unsubscribing = false;
    if (this.#phase !== "done" && this.#phase !== "paused") this.#toPhase("down");
  }

  pause(): void {
    if (this.#phase !== "done" && this.#phase !== "paused") this.#leave("paused");
  }

  resume(): void {
    if (this.#phase !== "paused") return;
    this.#toPhase("down");
    if (this.#port.isOnline) this.#ask();
  }

  /** Reads again from `offset`+1 on; also after the end. */
  goBack(offset: number): void {
    this.#next = offset + 1;
    this.#toPhase("down");
    if (this.#port.isOnline) this.#ask();
  }

  stop(): void {
    if (this.#phase !== "done") this.#leave("done");
  }

  onParts({ offset, parts, skipped }: EventParams<"run.parts">, size: number): void {
    if (this.#phase !== "live") return;
    // The gateway owes a reset, and sent parts of the new epoch without it.
    if (this.#newEpoch !== undefined) this.#reset(this.#newEpoch, "the log was replaced");
    const count = skipped ?? parts.length;
    const next = this.#next ?? offset;
    if (offset > next) {
      this.#askAgain();
      return;
    }
    if (offset + count <= next) return;
    this.#fruitless = 0;
    if (skipped === undefined) this.#pass(offset, parts, next, size);
    else this.#skip(next, offset + count - 1);
    this.#sink.frameEnd();
  }

  onReset({ epoch, reason }: EventParams<"run.reset">): void {
    if (this.#phase !== "live") return;
    this.#reset(epoch, reason);
    this.#sink.frameEnd();
  }

  onSnapshot(snapshot: EventParams<"run.snapshot">, size: number): void {
    if (this.#phase !== "live" || snapshot.offset <= this.offset) return;
    this.#fruitless = 0;
    this.#next = snapshot.offset + 1;
    this.#sink.snapshot(snapshot, size);
    this.#sink.frameEnd();
  }

  onPage({ offset, page, pages, text }: EventParams<"run.page">): void {
    if (this.#phase !== "live" || offset <= this.offset) return;
    if (page === 1) this.#pages = { offset, texts: [], size: 0 };
    const joined = this.#pages;
    if (joined?.offset !== offset || page !== joined.texts.length + 1) {
      this.#askAgain();
      return;
    }
    joined.texts.push(text);
    joined.size += text.length;
    const { maxSnapshotSize } = this.#port;
    if (joined.size > maxSnapshotSize) {
      this.#leave("done");
      const message = `the snapshot of run ${this.runId} is longer than maxSnapshotSize, ${maxSnapshotSize}`;
      this.#sink.failed(new ProtocolError("payload_too_large", message));
      return;
    }
    if (page < pages) return;
    this.#pages = undefined;
    const snapshot = readSnapshot(this.runId, joined.texts.join(""));
    if (snapshot?.offset === offset) this.onSnapshot(snapshot, joined.size);
    else this.#askAgain();
  }

  onUnsubscribed(): void {
    if (this.#phase === "live") this.#askAgain();
  }

  #pass(offset: number, parts: readonly (Part | null)[], from: number, size: number): void {
    const share = Math.ceil(size / parts.length);
    let skippedFrom: number | undefined;
    for (let at = from; at < offset + parts.length; at++) {
      const part = parts[at - offset] ?? null;
      if (part === null) {
        skippedFrom ??= at;
        continue;
      }
      if (skippedFrom !== undefined) this.#skip(skippedFrom, at - 1);
      skippedFrom = undefined;
      this.#next = at + 1;
      const ending = part.type === "lifecycle" && isEnding(part.data.event);
      if (ending) this.#toPhase("done");
      this.#sink.part(at, part, share);
      // The sink may have stopped the subscription, and nothing comes after an ending.
      if (this.#phase !== "live") return;
    }
    if (skippedFrom !== undefined) this.#skip(skippedFrom, offset + parts.length - 1);
  }

  #skip(from: number, to: number): void {
    this.#next = to + 1;
    this.#sink.skipped(from, to);
  }

  #reset(epoch: string, reason: string): void {
    this.#newEpoch = undefined;
    this.#pages = undefined;
    this.#epoch = epoch;
    this.#next = 1;
    this.#sink.reset(epoch, reason);
  }

  #ask(): void {
    // Answers come in any order: a subscribe must not overtake the unsubscribe before it.
    if (this.#unsubscribing) return;
    this.#toPhase("asking");
    const asked = this.#asked;
    const after = this.#next === undefined ? "head" : this.#next - 1;
    const ask: Ask = { runId: this.runId, after, pages: true };
    if (this.#epoch !== undefined) ask.epoch = this.#epoch;
    if (this.#filter !== undefined) ask.filter = this.#filter;
    this.#port.subscribe(ask, (answer) => {
      if (asked === this.#asked && this.#phase === "asking") this.#answered(answer);
    });
  }

  #answered(answer: Result<"run.subscribe"> | ProtocolError): void {
    if (answer instanceof Error) {
      if (answer.retryable) {
        this.#askAgain();
        return;
      }
      this.#toPhase("done");
      this.#sink.failed(answer);
      return;
    }
    this.#toPhase("live");
    this.#next ??= answer.head + 1;
    if (this.#epoch === undefined) this.#epoch = answer.epoch;
    else if (this.#epoch !== answer.epoch) this.#newEpoch = answer.epoch;
    this.#sink.subscribed(answer);
    const behind = answer.head === this.offset && this.#newEpoch === undefined;
    if (this.#phase === "live" && behind && isEnding(answer.status)) {
      this.#toPhase("done");
      this.#sink.endedBefore();
    }
  }

  /** Asks from where it stands. Asks that bring nothing new are spaced out. */
  #askAgain(): void {
    this.#toPhase("down");
    this.#fruitless += 1;
    if (this.#fruitless === 1) {
      this.#ask();
      return;
    }
    const ms = backoffDelay(this.#fruitless - 2, this.#port.random);
    this.#rest = this.#port.clock.setTimeout(() => {
      if (this.#port.isOnline && this.#phase === "down") this.#ask();
    }, ms);
  }

  /** Tells the gateway to stop, if it was told to begin. */
  #leave(phase: "paused" | "done"): void {
    const subscribed = this.#phase === "live" || this.#phase === "asking";
    this.#toPhase(phase);
    if (!subscribed || !this.#port.isOnline) return;
    this.#unsubscribing = true;
    this.#port.unsubscribe(this.runId, () => {
      this.#unsubscribing = false;
      if (this.#port.isOnline && this.#phase === "down") this.#ask();
    });
  }

  #toPhase(phase: Phase): void {
    this.#phase = phase;
    // Whatever was asked before is of no interest any more.
    this.#asked += 1;
    this.#newEpoch = undefined;
    this.#pages = undefined;
    this.#port.clock.clearTimeout(this.#rest);
  }
}
