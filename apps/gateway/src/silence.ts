/**
 * When the log of a quiet run is checked for messages that were lost: soon at first, then after twice as long each time,
 * so that a run that waits for hours costs next to nothing.
 */
const firstMs = 3_000;
const longestMs = 24_000;

export class Silence {
  #waitMs = firstMs;
  #lookAt = performance.now() + firstMs;

  /** Something was heard. */
  broken(): void {
    this.#waitMs = firstMs;
    this.#lookAt = performance.now() + firstMs;
  }

  isDue(now: number): boolean {
    return now >= this.#lookAt;
  }

  /** Somebody looks now. */
  looked(): void {
    this.#waitMs = Math.min(2 * this.#waitMs, longestMs);
    this.#lookAt = performance.now() + this.#waitMs;
  }

  /** It could not be looked at: the next time is at once. */
  failed(): void {
    this.#lookAt = Number.NEGATIVE_INFINITY;
  }
}
