/**
 * A run, as an application follows it: its parts, what they add up to, and its end.
 *
 * Invariants:
 * - whoever reads gets every offset once and in order, across sockets, gateways and workers (P1);
 * - what waits to be read is bounded: past the mark a reader's subscription is paused until the reader has caught up;
 *   without a reader, parts are folded and let go, for the log still has them;
 * - `offset`, `fold` and `status` always belong together: they follow the reader, or, without one, what comes.
 */
import {
  type Filter,
  Fold,
  type FoldedMessage,
  isEnding,
  type Keep,
  type Result,
  type RunRecord,
  type RunStatus,
} from "@throughline/protocol";
import { DetachedError, UsageError } from "./errors.ts";
import { Inbox, smallSize } from "./inbox.ts";
import {
  type EndingData,
  endingOf,
  isEndingData,
  type OffsetPart,
  partEvent,
  type RunEvent,
  snapshotEvent,
} from "./run-event.ts";
import { Subscription, type SubscriptionPort } from "./subscription.ts";

export interface AttachOptions {
  /** The last offset that the application has, or "head" for only what is new. @default 0 */
  after?: number | "head";
  /** The epoch that `after` belongs to: what `run.epoch` said. */
  epoch?: string;
  filter?: Filter;
}

/** Of a run that is followed because its thread is watched. */
interface LedOptions extends AttachOptions {
  isLed?: boolean;
  threadId?: string;
}

export interface CancelOptions {
  /** What becomes of the partial answer. @default `thread`, the conversation goes on from it */
  keep?: Keep;
  reason?: string;
}

/** What a run's connection does with it. */
export interface RunHandle {
  readonly run: Run;
  readonly subscription: Subscription;
  /** `run.start` was answered. `subscribed`: that opened the subscription, too. */
  started(result: Result<"run.start">, subscribed: boolean): void;
  /** The run can be followed no more. */
  fail(error: Error): void;
}

/** What a run needs of its connection. */
export interface RunPort extends SubscriptionPort {
  /** How much may wait to be read, in UTF-16 code units of frame text. */
  readonly bufferSize: number;
  /** Has frames passed on to the handle. Throws UsageError `already_attached`, ConnectionClosedError. */
  register(handle: RunHandle): void;
  release(handle: RunHandle): void;
  cancel(runId: string, options: CancelOptions): Promise<Result<"run.cancel">>;
  record(runId: string): Promise<RunRecord>;
}

export class Run implements AsyncIterable<OffsetPart> {
  readonly runId: string;
  /**
   * The run's ending. Rejects when the run can be followed no more. While somebody reads, the end has come when the
   * reader is there.
   */
  readonly ended: Promise<EndingData>;
  /** Of `ended`. */
  #resolvers!: { resolve(ending: EndingData): void; reject(error: Error): void };
  readonly #port: RunPort;
  readonly #handle: RunHandle;
  readonly #subscription: Subscription;
  readonly #listeners = new Set<() => void>();
  readonly #observers = new Set<(event: RunEvent) => void>();

  #threadId: string | undefined;
  #status: RunStatus = "queued";
  #error: Error | undefined;
  #fold = new Fold();
  #offset: number;
  /** Nothing more will come, whatever the log holds. */
  #over = false;

  readonly #inbox = new Inbox();
  #reading = false;
  /** The last offset that a reader was given: where the next one goes on. */
  #readTo: number;
  #readEnding = false;
  /** Parts were let go unread: the next reader has to get them from the log. */
  #letGo = false;
  /** A reset that was let go with them. */
  #resetLetGo: RunEvent | undefined;
  /** Where "head" is, the first answer will tell. */
  #fromHead: boolean;

  constructor(runId: string, options: LedOptions, port: RunPort) {
    this.runId = runId;
    this.#threadId = options.threadId;
    this.#port = port;
    this.#fromHead = options.after === "head";
    this.#readTo = this.#offset = options.after === "head" ? 0 : (options.after ?? 0);
    this.ended = new Promise((resolve, reject) => {
      this.#resolvers = { resolve, reject };
    });
    // An application that does not ask how the run ended is not to die of the answer.
    this.ended.catch(() => {});
    this.#subscription = new Subscription(runId, { ...options, after: options.after ?? 0 }, port, {
      part: (offset, part, size) => this.#take(partEvent(offset, part), size),
      skipped: (offset, to) => this.#take({ kind: "skipped", offset, to }, smallSize),
      snapshot: (snapshot, size) => this.#take(snapshotEvent(snapshot), size),
      reset: (epoch, reason) => this.#take({ kind: "reset", epoch, reason }, smallSize),
      subscribed: (result) => this.#onSubscribed(result),
      frameEnd: () => this.#onFrameEnd(),
      endedBefore: () => this.#fetchEnding(),
      failed: (error) => this.#fail(error),
    });
    this.#handle = {
      run: this,
      subscription: this.#subscription,
      started: (result, subscribed) => this.#onStarted(result, subscribed),
      fail: (error) => this.#fail(error),
    };
    port.register(this.#handle);
  }

  /** Known of runs that this connection started; of others once they have ended in a checkpoint. */
  get threadId(): string | undefined {
    return this.#threadId;
  }

  get status(): RunStatus {
    return this.#status;
  }

  /** Why the run can be followed no more. A run that failed has an ending instead. */
  get error(): Error | undefined {
    return this.#error;
  }

  /** Where `fold` stands: the last offset that was read, or, while nobody reads, that came. */
  get offset(): number {
    return this.#offset;
  }

  /** The log's epoch: to go on in another process, give it to `attach` together with `offset`. */
  get epoch(): string | undefined {
    return this.#subscription.epoch;
  }

  /** What the parts up to `offset` add up to; of a run that was attached to in its middle, those since `after`. */
  get fold(): Fold {
    return this.#fold;
  }

  /** The text of the newest message. */
  get text(): string {
    return this.#fold.text();
  }

  /** The messages so far; tool calls that are being streamed are in their `calls`. */
  get messages(): FoldedMessage[] {
    return this.#fold.messages();
  }

  /**
   * The parts, up to and with the ending. One reader at a time; where one stops early, the next goes on. After a reset
   * (which `events` shows) offsets count from 1 again. `detach()` ends it.
   * Throws ProtocolError (`no_such_run`, …), ConnectionClosedError, UsageError (`already_reading`).
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<OffsetPart, void, undefined> {
    for await (const event of this.#read()) {
      if (event.kind === "part" || event.kind === "rewound") yield { offset: event.offset, part: event.part };
    }
  }

  /** As iterating over the run itself, but with all that happens beside its parts. */
  get events(): AsyncIterable<RunEvent> {
    return this.#read();
  }

  /** Calls the listener whenever something that can be seen here has changed. Answers how to stop that. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls the observer with every event that the fold takes in, as it does. Answers how to stop that. */
  onEvent(observer: (event: RunEvent) => void): () => void {
    this.#observers.add(observer);
    return () => this.#observers.delete(observer);
  }

  /** Stops the run: see `connection.cancel`. */
  cancel(options: CancelOptions = {}): Promise<Result<"run.cancel">> {
    return this.#port.cancel(this.runId, options);
  }

  /** Follows the run no more. The run itself goes on. */
  detach(): void {
    if (this.#over) return;
    this.#inbox.clear();
    this.#finish();
    this.#resolvers.reject(new DetachedError(this.runId));
  }

  #onStarted(result: Result<"run.start">, subscribed: boolean): void {
    this.#threadId = result.threadId;
    if (!isEnding(result.status)) this.#status = result.status;
    if (subscribed) this.#subscription.started();
    else this.#subscription.online();
  }

  #onSubscribed(result: Result<"run.subscribe">): void {
    if (this.#fromHead) this.#readTo = this.#offset = this.#subscription.offset;
    this.#fromHead = false;
    // An ending is taken from the log alone, when the story has got there.
    if (!isEnding(result.status) && !isEnding(this.#status)) this.#status = result.status;
    this.#changed();
  }

  #take(event: RunEvent, size: number): void {
    // What is left of a log that was replaced is of no use to anyone.
    if (event.kind === "reset") {
      this.#inbox.clear();
      this.#readTo = 0;
      this.#letGo = false;
    }
    if (!this.#reading) this.#apply(event);
    if (!this.#letGo) this.#inbox.push({ event, size, folded: !this.#reading });
  }

  #onFrameEnd(): void {
    const isFull = this.#inbox.size > this.#port.bufferSize;
    if (this.#reading) {
      if (isFull) this.#subscription.pause();
      this.#inbox.wake();
      return;
    }
    if (isFull) {
      this.#resetLetGo = this.#inbox.items.find(({ event }) => event.kind === "reset")?.event;
      this.#inbox.clear();
      this.#letGo = true;
    }
    this.#changed();
  }

  /** Brings fold, offset and status up to the event. What they hold already is passed over. */
  #apply(event: RunEvent): void {
    if (event.kind === "reset") {
      this.#fold = new Fold();
      this.#offset = 0;
      for (const observe of this.#observers) observe(event);
      return;
    }
    const to = event.kind === "skipped" ? event.to : event.offset;
    if (to <= this.#offset) return;
    this.#offset = to;
    for (const observe of this.#observers) observe(event);
    if (event.kind === "snapshot") {
      this.#fold = Fold.from(event);
    } else if (event.kind !== "skipped") {
      this.#fold.add(event.part, event.offset);
      if (event.part.type !== "lifecycle") return;
      if (isEndingData(event.part.data)) this.#end(event.part.data);
      else this.#status = "running";
    }
  }

  #end(ending: EndingData): void {
    this.#status = ending.event;
    this.#threadId ??= ending.checkpoint?.threadId;
    this.#port.release(this.#handle);
    this.#resolvers.resolve(ending);
  }

  /** The ending lies before the offset that was asked for: it will not come as a part. */
  #fetchEnding(): void {
    this.#port.record(this.runId).then(
      (record) => {
        const ending = endingOf(record);
        if (this.#over || ending === undefined) return;
        this.#threadId = record.threadId;
        this.#end(ending);
        this.#finish();
      },
      (error: Error) => this.#fail(error),
    );
  }

  #fail(error: Error): void {
    if (this.#over) return;
    this.#error = error;
    this.#resolvers.reject(error);
    this.#finish();
  }

  #finish(): void {
    this.#over = true;
    this.#subscription.stop();
    this.#port.release(this.#handle);
    this.#inbox.wake();
    this.#changed();
  }

  async *#read(): AsyncGenerator<RunEvent, void, undefined> {
    if (this.#reading) {
      throw new UsageError(
        "already_reading",
        `run ${this.runId} is being read already: one reader at a time`,
      );
    }
    this.#reading = true;
    try {
      if (this.#letGo && !this.#over) this.#readAgain();
      while (!this.#readEnding) {
        const event = this.#deliver();
        if (event !== undefined) yield event;
        else if (this.#error !== undefined) throw this.#error;
        else if (this.#over) return;
        else await this.#inbox.more();
      }
    } finally {
      this.#stopReading();
    }
  }

  #deliver(): RunEvent | undefined {
    const next = this.#inbox.shift();
    if (next === undefined) return undefined;
    const { event, folded } = next;
    if (!folded) this.#apply(event);
    if (event.kind === "skipped") this.#readTo = event.to;
    else if (event.kind !== "reset") this.#readTo = event.offset;
    if (event.kind === "part" && event.part.type === "lifecycle" && isEnding(event.part.data.event)) {
      this.#readEnding = true;
      this.#port.release(this.#handle);
    }
    if (this.#inbox.size <= this.#port.bufferSize / 2) this.#subscription.resume();
    this.#changed();
    return event;
  }

  #readAgain(): void {
    this.#letGo = false;
    // An ended run is registered no more.
    if (this.#subscription.isDone) this.#port.register(this.#handle);
    if (this.#resetLetGo !== undefined) {
      this.#inbox.push({ event: this.#resetLetGo, size: smallSize, folded: true });
      this.#resetLetGo = undefined;
    }
    this.#subscription.goBack(this.#readTo);
  }

  /** From now on fold and status follow what comes, as they do without a reader. */
  #stopReading(): void {
    this.#reading = false;
    for (const waiting of this.#inbox.items) {
      if (!waiting.folded) this.#apply(waiting.event);
      waiting.folded = true;
    }
    this.#subscription.resume();
    this.#changed();
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}
