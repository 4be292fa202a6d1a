/** The BullMQ queue that hands runs to workers: its names, its times, and the producer. */
import { type JobsOptions, Queue } from "bullmq";
import type { Cluster, Redis } from "ioredis";

/** What a job says. All the rest is in the run's record. */
export interface RunJob {
  runId: string;
  threadId: string;
  /** undefined: of a version that had it only in the run's record. */
  owner?: string;
}

export const defaultQueue = "default";

/** BullMQ's prefix: in braces, so that a queue is one Cluster slot. */
export function queuePrefix(prefix: string): string {
  return `{${prefix}:jobs}`;
}

/**
 * A lock of 4 s, renewed every 2 s, and a check every second. Measured side by side on a busy machine, ten kills and some
 * 200 runs each, a killed worker's runs went on with another one after 4.0 s (p50), 4.8 s (p90) and at most 4.9 s; with a
 * lock of 5 s it was 4.1, 5.7 and 5.7 s, with BullMQ's defaults (30 s each) a minute. Shorter still, and a worker that
 * computes for a moment, or waits for Redis, loses its runs.
 */
export const lockTimes = { lockDuration: 4_000, stalledInterval: 1_000 } as const;

/**
 * A parked job waits in BullMQ's delayed set, which goes by the clocks of the processes that look at it. So it is put at a
 * time that none of them comes to (ms since 1970; the latest that BullMQ can keep in order), and `bringBack` brings it
 * back, which asks no clock.
 */
export const parkedUntil = 2 ** 41 - 1;

/** How often workers bring back what is parked, ms: a run that is parked waits for up to this long. */
export const bringBackEveryMs = 500;

const jobOptions: JobsOptions = {
  // Not the agent's tries: those end in the log. These are for a worker that could not even reach Redis. There is no
  // backoff, which would be by that worker's clock.
  attempts: 1_000_000,
  stackTraceLimit: 0,
  removeOnComplete: true,
  removeOnFail: true,
};

/** Puts runs on queues. One per process; it uses the connection it is given. */
export class RunQueue {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  readonly #queues = new Map<string, Queue<RunJob>>();

  constructor(redis: Redis | Cluster, prefix: string) {
    this.#redis = redis;
    this.#prefix = queuePrefix(prefix);
  }

  /** Puts a run on its queue. Idempotent while its job is there. */
  async add(queue: string, job: RunJob): Promise<void> {
    await this.#queue(queue).add("run", job, { ...jobOptions, jobId: job.runId });
  }

  /** Takes a run that no worker has picked up off its queue, if it is still there. false: a worker has it. */
  async remove(queue: string, runId: string): Promise<boolean> {
    return (await this.#queue(queue).remove(runId)) === 1;
  }

  /** Brings back what is parked on a queue, unless somebody else just has. To be called every `bringBackEveryMs`. */
  async bringBack(queue: string): Promise<void> {
    const jobs = this.#queue(queue);
    // Less than the interval: a lone worker does it each time.
    const ttlMs = bringBackEveryMs * 0.9;
    const isOurs = await this.#redis.set(jobs.toKey("brought-back"), "1", "PX", ttlMs, "NX");
    if (isOurs !== null) await jobs.promoteJobs();
  }

  /** Whether a worker holds the lock of a run's job. */
  async isHeld(queue: string, runId: string): Promise<boolean> {
    return (await this.#redis.exists(this.#queue(queue).toKey(`${runId}:lock`))) === 1;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#queues.values()].map((queue) => queue.close()));
  }

  #queue(name: string): Queue<RunJob> {
    let queue = this.#queues.get(name);
    if (queue === undefined) {
      queue = new Queue<RunJob>(name, {
        connection: this.#redis,
        prefix: this.#prefix,
        skipVersionCheck: true,
      });
      // Its connection is ours: who owns it hears of its errors.
      queue.on("error", () => {});
      this.#queues.set(name, queue);
    }
    return queue;
  }
}
