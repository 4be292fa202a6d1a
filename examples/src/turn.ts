/**
 * Long work without holding up the process: whoever works through something big asks between two small steps whether
 * its turn is over, and if so lets the event loop go round.
 *
 *     const over = turn.over();
 *     if (over !== undefined) await over;
 */
import { setImmediate } from "node:timers/promises";

/** Well below the 50 ms from which on people, and other runs' tokens, notice a pause. */
const turnMs = 8;

export class Turn {
  readonly #signal: AbortSignal;
  #since = performance.now();

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** What to await when the turn is over; undefined while it is not. Throws the signal's reason once it is aborted. */
  over(): Promise<void> | undefined {
    this.#signal.throwIfAborted();
    return performance.now() - this.#since < turnMs ? undefined : this.#next();
  }

  async #next(): Promise<void> {
    await setImmediate();
    this.#signal.throwIfAborted();
    this.#since = performance.now();
  }
}
