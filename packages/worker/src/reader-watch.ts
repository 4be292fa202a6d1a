/**
 * Cancels a run that was started so when nobody reads it any more, on any gateway.
 *
 * The worker that has the run looks, for it is the one process of which the run knows that it lives. Gateways say who
 * reads (apps/gateway/src/reader-leases.ts); what a gateway that died said runs out.
 *
 * Invariants:
 * - the time before the attempt began does not count, nor while it is not this worker's: a run that has begun has its
 *   grace for its first reader to come;
 * - while Redis cannot be asked nobody can say that he reads: after that gateways get the time to say it again.
 */
import type { Attempt } from "./attempt.ts";

/** An answer that took longer is one of a Redis that was out of reach, ms. */
const slowMs = 1_000;
/** Gateways say who reads more often than this, ms: see reader-leases.ts. */
const againMs = 4_000;

export interface Readers {
  /** Whether somebody reads the run, or has until a moment ago. */
  isRead: () => Promise<boolean>;
  cancel: () => Promise<unknown>;
}

export class ReaderWatch {
  readonly #attempt: Attempt;
  readonly #readers: Readers;
  #looking = false;
  /** Nothing is decided before, by the monotonic clock. */
  #notBefore: number;

  constructor(attempt: Attempt, graceMs: number, readers: Readers) {
    this.#attempt = attempt;
    this.#readers = readers;
    this.#notBefore = performance.now() + graceMs;
  }

  /** To be called about once a second. Never rejects. */
  async look(): Promise<void> {
    if (this.#looking || this.#attempt.reason !== undefined) return;
    this.#looking = true;
    const asked = performance.now();
    try {
      const isRead = await this.#readers.isRead();
      if (performance.now() - asked > slowMs) this.#wait();
      else if (!isRead && asked >= this.#notBefore) await this.#readers.cancel();
    } catch {
      this.#wait();
    } finally {
      this.#looking = false;
    }
  }

  #wait(): void {
    this.#notBefore = Math.max(this.#notBefore, performance.now() + againMs);
  }
}
