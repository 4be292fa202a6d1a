/**
 * Writes one attempt's parts to one run's log. Parts are collected while the run's previous append is in flight.
 *
 * Invariants:
 * - one append of a run is in flight at a time, and it is repeated, byte for byte, until Redis has answered it;
 * - offsets are given out once, in order, without holes; what was refused as stale is never written by anyone;
 * - after the first refusal, and after `seal` or `finish`, nothing more is taken.
 */
import type { CheckpointRef, InterruptInfo, LifecycleData, Part } from "@throughline/protocol";
import { lifecycle } from "@throughline/protocol";
import type { Cluster, Redis } from "ioredis";
import { slotOf } from "./cluster.ts";
import { LostWritesError, NoSuchRunError, PartTooLargeError, StaleAttemptError } from "./errors.ts";
import type { RunKeys } from "./keys.ts";
import { Lines } from "./line.ts";
import { Outbox, type Outgoing } from "./outbox.ts";
import { isPassing, retryDelay } from "./retry.ts";
import { body, type Retention } from "./run.ts";

/** How often an active run's TTL is pushed out. */
const touchMs = 60_000;

/** What a run ends with, besides its status. */
export interface EndingFields {
  checkpoint?: CheckpointRef;
  error?: { name: string; message: string };
  interrupts?: InterruptInfo[];
}

/** What sends the appends of all runs of a process: a LogWriter. */
export interface Sender {
  readonly maxPart: number;
  readonly highWater: number;
  readonly retention: Retention;
  /** Hears of every failure that is followed by another try. */
  readonly onRetry: ((error: Error) => void) | undefined;
  /** Has a writer's append sent at the end of this turn. */
  enqueue(writer: RunWriter): void;
  /** Pushes a key's expiry out. */
  touch(key: string, ttlMs: number): void;
  /** Runs `send` until Redis has answered it, whatever its connection goes through. */
  persist<T>(send: (redis: Redis | Cluster) => Promise<T>): Promise<T>;
}

/** Writes one attempt's parts to one run's log. */
export class RunWriter {
  readonly runId: string;
  readonly attempt: number;
  /** The attempt's fencing token: a number that no attempt before it had, nor any after it has. */
  readonly fence: number;
  /** The Cluster slot of its keys. */
  readonly slot: number;
  readonly #log: Sender;
  readonly #keys: RunKeys;
  /** Characters of JSON that were taken since the log was last trimmed. */
  untrimmed = 0;
  /** Parts that wait for the next append. */
  readonly #outbox = new Outbox();
  readonly #lines = new Lines();
  /** Characters of JSON that are not acknowledged. */
  #size = 0;
  /** The offset of the last part that was taken. */
  #taken: number;
  #acknowledged: number;
  #inFlight: (Outgoing & { first: number }) | undefined;
  #queued = false;
  #tries = 0;
  /** When the TTL was last pushed out. Never: the first append creates the log, which has no TTL yet. */
  #touchedAt = Number.NEGATIVE_INFINITY;
  #sealed = false;
  #failure: Error | undefined;
  #waiting: Waiting | undefined;
  /** Who waits for Redis to have all up to an offset; offsets rise. */
  #flushing: (Waiting & { upTo: number })[] = [];
  /** Called once, when an append's answer says that a cancel was asked for. */
  onCancel: (() => void) | undefined;
  /** Called once, when the log refused this attempt for good. */
  onFailure: ((error: Error) => void) | undefined;

  constructor(
    log: Sender,
    keys: RunKeys,
    runId: string,
    { attempt, fence }: { attempt: number; fence: number },
    head: number,
  ) {
    this.#log = log;
    this.#keys = keys;
    this.slot = slotOf(keys.run);
    this.runId = runId;
    this.attempt = attempt;
    this.fence = fence;
    this.#taken = head;
    this.#acknowledged = head;
  }

  /** The offset of the last part that was taken, acknowledged or not. */
  get offset(): number {
    return this.#taken;
  }

  /** The offset of the last part that Redis has. */
  get acknowledged(): number {
    return this.#acknowledged;
  }

  /** Why the log refused this attempt; undefined while it has not. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /**
   * Takes a part and gives it the next offset, `writer.offset`. Answers a promise where the agent is to wait: too much
   * is unacknowledged.
   *
   * @throws StaleAttemptError, NoSuchRunError, LostWritesError once the log has refused this attempt
   * @throws PartTooLargeError for a part over the limit; it is not taken
   */
  write(part: Part): Promise<void> | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#sealed) throw new StaleAttemptError(this.runId, this.attempt);
    const line = this.#lines.of(part);
    if (line.length > this.#log.maxPart) throw new PartTooLargeError(line.length, this.#log.maxPart);
    this.#outbox.push(line);
    this.#size += line.length + 2;
    this.untrimmed += line.length;
    this.#taken++;
    if (!this.#queued) this.#enqueue();
    if (this.#size < this.#log.highWater) return undefined;
    this.#waiting ??= withResolvers();
    return this.#waiting.promise;
  }

  /** Takes no more parts. What was taken is still written. */
  seal(): void {
    this.#sealed = true;
  }

  /**
   * Resolves when Redis has everything that was taken before the call.
   *
   * @throws StaleAttemptError, NoSuchRunError, LostWritesError once the log has refused this attempt
   */
  flush(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#acknowledged === this.#taken) return Promise.resolve();
    let last = this.#flushing.at(-1);
    if (last?.upTo !== this.#taken) {
      last = { upTo: this.#taken, ...withResolvers() };
      this.#flushing.push(last);
    }
    return last.promise;
  }

  /** Asks the log, without writing, whether this attempt still holds the run and whether a cancel was asked for. */
  check(): void {
    if (this.#failure !== undefined || this.#queued) return;
    this.#enqueue();
  }

  /**
   * Ends the run with its terminal part. Call it after `flush`, and after what it names (a checkpoint) is saved.
   *
   * @returns the offset of the terminal part
   * @throws StaleAttemptError, NoSuchRunError, LostWritesError
   */
  async finish(data: LifecycleData, fields: EndingFields = {}): Promise<number> {
    this.seal();
    await this.flush();
    const offset = this.#taken + 1;
    const json = body([lifecycle(data)]);
    const extra: string[] = [];
    if (fields.checkpoint !== undefined) extra.push("final", JSON.stringify(fields.checkpoint));
    if (fields.error !== undefined) extra.push("error", JSON.stringify(fields.error));
    if (fields.interrupts !== undefined) extra.push("interrupts", JSON.stringify(fields.interrupts));
    const { run, log, live, snapshot } = this.#keys;
    const retention = this.#log.retention.endedMs;
    const status = await this.#log.persist((redis) =>
      redis.tlFinish(run, log, snapshot, this.fence, offset, json, data.event, retention, live, ...extra),
    );
    if (status !== 1) throw this.#refusal(status);
    this.#taken = this.#acknowledged = offset;
    return offset;
  }

  /** Gives the run back, for another worker to claim. Call it after `seal` and `flush`. @throws StaleAttemptError, NoSuchRunError */
  async release(): Promise<void> {
    const status = await this.#log.persist((redis) => redis.tlRelease(this.#keys.run, this.fence));
    if (status !== 1) throw this.#refusal(status);
  }

  /** Notes that a suspect run is tried alone in its process; `cleared`: that it passed, and is no suspect any more. */
  async tried(how: "alone" | "cleared"): Promise<void> {
    const status = await this.#log.persist((redis) => redis.tlTry(this.#keys.run, this.fence, how));
    if (status !== 1) throw this.#refusal(status);
  }

  /**
   * After LostWritesError: gives the log a new epoch, so that everyone who follows it begins anew with what is left,
   * and the run back for another attempt.
   */
  async renew(epoch: string): Promise<void> {
    const { run, live } = this.#keys;
    const status = await this.#log.persist((redis) => redis.tlRenew(run, this.fence, epoch, live));
    if (status !== 1) throw this.#refusal(status);
  }

  /**
   * Keeps what an agent wants back of the step that is the next part, and that of the last one in the log.
   *
   * @param state JSON
   * @param last the offset of the last step in the log; 0: there is none
   */
  async keepStep(state: string, last: number): Promise<void> {
    const { run } = this.#keys;
    const status = await this.#log.persist((redis) =>
      redis.tlStep(run, this.fence, this.#taken + 1, last, state),
    );
    if (status !== 1) throw this.#refusal(status);
  }

  /** Drops the log up to `upTo`, the last offset of a batch, and keeps `snapshot` in its place. */
  async trim(upTo: number, snapshot: string): Promise<void> {
    const { run, log, snapshot: key } = this.#keys;
    const idle = this.#log.retention.idleMs;
    const status = await this.#log.persist((redis) =>
      redis.tlTrim(run, log, key, this.fence, upTo, snapshot, idle),
    );
    if (status !== 1) throw this.#refusal(status);
  }

  /** For LogWriter: adds this run's append to a command. Answers its size, in characters. */
  prepare(keys: string[], args: (string | number | Buffer)[]): number {
    if (this.#inFlight === undefined) {
      const outgoing = this.#outbox.take();
      this.#inFlight = { ...outgoing, first: this.#taken - outgoing.count + 1 };
    }
    const { first, count, body, size } = this.#inFlight;
    const { run, log, live } = this.#keys;
    keys.push(run, log);
    const ttl = this.#ttl();
    if (ttl > 0) this.#log.touch(this.#keys.snapshot, ttl);
    args.push(this.fence, first, count, body, ttl, live);
    return size;
  }

  /** For LogWriter: the append that is in flight was answered, or failed with `error`. */
  answered(error: Error | null, status: number): void {
    const batch = this.#inFlight!;
    if (error !== null && isPassing(error)) {
      this.#log.onRetry?.(error);
      setTimeout(() => this.#log.enqueue(this), retryDelay(this.#tries++));
      return;
    }
    this.#queued = false;
    this.#tries = 0;
    if (error !== null || status < 0) {
      this.#fail(error ?? this.#refusal(status));
      return;
    }
    this.#inFlight = undefined;
    batch.release();
    this.#acknowledged = batch.first + batch.count - 1;
    this.#size -= batch.size;
    if (this.#outbox.count > 0) this.#enqueue();
    while (this.#flushing.length > 0 && this.#flushing[0]!.upTo <= this.#acknowledged) {
      this.#flushing.shift()!.resolve();
    }
    if (this.#waiting !== undefined && this.#size < this.#log.highWater) {
      this.#waiting.resolve();
      this.#waiting = undefined;
    }
    if (status === 2 && this.onCancel !== undefined) {
      const { onCancel } = this;
      this.onCancel = undefined;
      onCancel();
    }
  }

  #enqueue(): void {
    this.#queued = true;
    this.#log.enqueue(this);
  }

  #ttl(): number {
    const now = performance.now();
    if (now - this.#touchedAt < touchMs) return 0;
    this.#touchedAt = now;
    return this.#log.retention.idleMs;
  }

  #refusal(status: number): Error {
    if (status === -1) return new NoSuchRunError(this.runId);
    if (status === -3) return new LostWritesError(this.runId, this.#acknowledged);
    return new StaleAttemptError(this.runId, this.attempt);
  }

  #fail(error: Error): void {
    this.#failure = error;
    this.#inFlight = undefined;
    this.#outbox.take().release();
    this.#waiting?.reject(error);
    for (const flushing of this.#flushing.splice(0)) flushing.reject(error);
    this.#waiting = undefined;
    this.onFailure?.(error);
    this.onFailure = undefined;
  }
}

interface Waiting {
  promise: Promise<void>;
  resolve: () => void;
  reject: (error: Error) => void;
}

function withResolvers(): Waiting {
  let resolve!: () => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
