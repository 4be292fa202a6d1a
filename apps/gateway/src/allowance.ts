/** A token bucket on the monotonic clock: no change of the machine's time gives or takes anything. */
export class Allowance {
  readonly perSecond: number;
  readonly capacity: number;
  #left: number;
  #at: number;

  /** @param burstSeconds how many seconds' worth may be taken at once */
  constructor(perSecond: number, burstSeconds: number, now = performance.now()) {
    this.perSecond = perSecond;
    this.capacity = perSecond * burstSeconds;
    this.#left = this.capacity;
    this.#at = now;
  }

  /** Takes so much, if it is there; more than the capacity is there when the bucket is full. */
  take(amount = 1, now = performance.now()): boolean {
    this.#left = Math.min(this.capacity, this.#left + ((now - this.#at) / 1000) * this.perSecond);
    this.#at = now;
    if (this.#left < Math.min(amount, this.capacity)) return false;
    this.#left -= amount;
    return true;
  }
}
