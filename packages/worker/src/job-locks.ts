/**
 * Renews the locks of the jobs that this process has in its hands.
 *
 * In place of BullMQ's own renewal, which knows a job by its id only: it forgets one that this process gave back and has
 * again when the first round is over, and the lock of the second runs out. It also goes by the wall clock, which may be
 * set back.
 */
import type { Job, Worker } from "bullmq";

export class JobLocks {
  readonly #worker: Worker;
  readonly #lockMs: number;
  readonly #onLost: (jobId: string) => void;
  /** The latest round of each job. */
  readonly #held = new Map<string, Job>();
  readonly #timer: NodeJS.Timeout;
  #renewing = false;

  /**
   * @param lockMs how long a lock lasts, ms; it is renewed four times in that time
   * @param onLost told of a job whose lock is another's, or nobody's
   */
  constructor(worker: Worker, lockMs: number, onLost: (jobId: string) => void) {
    this.#worker = worker;
    this.#lockMs = lockMs;
    this.#onLost = onLost;
    this.#timer = setInterval(() => void this.#renew(), lockMs / 4);
  }

  /** Runs `round` with the job's lock renewed. */
  async during(job: Job, round: () => Promise<void>): Promise<void> {
    const id = job.id as string;
    this.#held.set(id, job);
    try {
      await round();
    } finally {
      if (this.#held.get(id) === job) this.#held.delete(id);
    }
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #renew(): Promise<void> {
    if (this.#renewing || this.#held.size === 0) return;
    this.#renewing = true;
    const held = [...this.#held];
    try {
      const tokens = held.map(([, job]) => job.token as string);
      const lost = new Set(
        await this.#worker.extendJobLocks(
          held.map(([id]) => id),
          tokens,
          this.#lockMs,
        ),
      );
      for (const [id, job] of held) if (lost.has(id) && this.#held.get(id) === job) this.#onLost(id);
    } catch (error) {
      this.#worker.emit("error", error as Error);
    } finally {
      this.#renewing = false;
    }
  }
}
