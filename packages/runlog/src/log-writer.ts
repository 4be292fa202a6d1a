/**
 * Writes runs' logs: claim → append → finish, with group commit.
 *
 * All runs of a process that have something to say at the end of a turn of the event loop share one command (on a
 * Cluster: one for each slot). So a lone token costs one round trip, and under load batches grow by themselves: see
 * run-writer.ts.
 */
import type { Ending } from "@throughline/protocol";
import type { Cluster, Redis } from "ioredis";
import { nanoid } from "nanoid";
import { isCluster } from "./cluster.ts";
import { defaultPrefix, runKeys } from "./keys.ts";
import { persist } from "./retry.ts";
import { defaultRetention, newEpoch, type Retention, type StoredRun, storedRun } from "./run.ts";
import { RunWriter } from "./run-writer.ts";
import { withScripts } from "./scripts.ts";

export interface WriterOptions {
  /** Of every key. @default "tl" */
  prefix?: string;
  /** How long runs and logs are kept. @default 7 days each */
  retention?: Partial<Retention>;
  /** Characters of JSON that a run may hold unacknowledged before `write` asks its agent to wait. @default 262_144 */
  highWater?: number;
  /** Characters of JSON in one part. @default 8_388_608 */
  maxPart?: number;
  /** Names the process: a run that it claims from itself has lost no worker. @default a random id of this writer */
  holder?: string;
  /** Hears of every failure of a command that is followed by another try. */
  onRetry?: (error: Error) => void;
}

/** One command's bounds: Redis does nothing else while it runs. */
const maxRunsAtOnce = 64;
const maxSizeAtOnce = 1024 * 1024;

export type Claimed =
  | { outcome: "missing" }
  | { outcome: "ended"; status: Ending }
  | { outcome: "claimed"; run: StoredRun; writer: RunWriter };

/** All the runs that a process writes. One connection, pipelined. */
export class LogWriter {
  readonly #redis: Redis | Cluster;
  readonly prefix: string;
  readonly retention: Retention;
  readonly holder: string;
  readonly highWater: number;
  readonly maxPart: number;
  readonly onRetry: ((error: Error) => void) | undefined;
  #due: RunWriter[] = [];

  constructor(redis: Redis | Cluster, options: WriterOptions = {}) {
    this.#redis = withScripts(redis);
    this.prefix = options.prefix ?? defaultPrefix;
    this.retention = { ...defaultRetention, ...options.retention };
    this.holder = options.holder ?? nanoid();
    this.highWater = options.highWater ?? 256 * 1024;
    this.maxPart = options.maxPart ?? 8 * 1024 * 1024;
    this.onRetry = options.onRetry;
  }

  /**
   * Takes a run for a new attempt. From here on no earlier attempt can write.
   *
   * @param hasFailed this process had the run and could not go on with it: counted as a crash
   */
  async claim(runId: string, hasFailed = false): Promise<Claimed> {
    const holder = hasFailed ? nanoid() : this.holder;
    const keys = runKeys(this.prefix, runId);
    const epoch = newEpoch();
    const reply = await this.persist((redis) =>
      redis.tlClaim(keys.run, keys.log, this.retention.idleMs, epoch, keys.live, holder),
    );
    if (reply[0] === "missing") return { outcome: "missing" };
    if (reply[0] === "ended") return { outcome: "ended", status: reply[1] as Ending };
    const [, attempt, fence, head, fields] = reply as [string, number, number, number, string[]];
    const run = storedRun(runId, pairs(fields));
    return { outcome: "claimed", run, writer: new RunWriter(this, keys, runId, { attempt, fence }, head) };
  }

  /** A sealed writer for a run that has ended: it takes nothing. */
  ended(run: StoredRun): RunWriter {
    const { runId, attempt, head } = run.record;
    const keys = runKeys(this.prefix, runId);
    const writer = new RunWriter(this, keys, runId, { attempt, fence: attempt + 1 }, head);
    writer.seal();
    return writer;
  }

  /** Pushes a key's expiry out. A failure is ignored: it is done again within a minute. */
  touch(key: string, ttlMs: number): void {
    this.#redis.pexpire(key, ttlMs).catch(() => {});
  }

  /** Has a writer's append sent at the end of this turn. */
  enqueue(writer: RunWriter): void {
    if (this.#due.push(writer) === 1) setImmediate(this.#flush);
  }

  readonly #flush = (): void => {
    const due = this.#due;
    this.#due = [];
    if (!isCluster(this.#redis)) {
      this.#sendTogether(due);
      return;
    }
    // On a Cluster a command is for one slot, and nearly every run has its own: one command for each, sent together.
    const bySlot = new Map<number, RunWriter[]>();
    for (const writer of due) {
      const together = bySlot.get(writer.slot);
      if (together === undefined) bySlot.set(writer.slot, [writer]);
      else together.push(writer);
    }
    for (const together of bySlot.values()) this.#sendTogether(together);
  };

  #sendTogether(due: readonly RunWriter[]): void {
    for (let i = 0; i < due.length; ) {
      const from = i;
      const keys: string[] = [];
      const args: (string | number | Buffer)[] = [];
      for (let size = 0; i < due.length && i - from < maxRunsAtOnce && size < maxSizeAtOnce; i++) {
        size += due[i]!.prepare(keys, args);
      }
      this.#send(due.slice(from, i), keys, args);
    }
  }

  #send(
    writers: readonly RunWriter[],
    keys: readonly string[],
    args: readonly (string | number | Buffer)[],
  ): void {
    this.#redis.tlAppend(keys.length, ...keys, ...args).then(
      (answers) => {
        for (let i = 0; i < writers.length; i++) {
          const answer = answers[i]!;
          if (typeof answer === "number") writers[i]!.answered(null, answer);
          else writers[i]!.answered(replyError(answer), 0);
        }
      },
      (error: Error) => {
        for (const writer of writers) writer.answered(error, 0);
      },
    );
  }

  /** Runs `send` until Redis has answered it, whatever its connection goes through. */
  persist<T>(send: (redis: Redis | Cluster) => Promise<T>): Promise<T> {
    return persist(() => send(this.#redis), this.onRetry);
  }
}

/** The error of one run's part of a command. */
function replyError(message: string): Error {
  const error = new Error(message);
  error.name = "ReplyError";
  return error;
}

function pairs(flat: readonly string[]): Record<string, string> {
  const record: Record<string, string> = {};
  for (let i = 0; i < flat.length; i += 2) record[flat[i]!] = flat[i + 1]!;
  return record;
}
