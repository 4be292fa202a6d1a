/**
 * When the next token is due. Token number i (0, 1, …) is due i / rate seconds after the first: a wait that took too
 * long makes the next one shorter, so that a long story ends on time.
 */
import { Turn } from "./turn.ts";

/** At full speed, how many tokens pass between two looks at the clock. */
const stride = 256;

export class Pace {
  readonly #tokensPerSecond: number;
  readonly #signal: AbortSignal;
  readonly #turn: Turn;
  #start = 0;
  #count = 0;

  /** `tokensPerSecond` 0: as fast as it goes. */
  constructor(tokensPerSecond: number, signal: AbortSignal) {
    this.#tokensPerSecond = tokensPerSecond;
    this.#signal = signal;
    this.#turn = new Turn(signal);
  }

  /** What to await before the next token; undefined when it is due already. Throws the signal's reason once it is aborted. */
  next(): Promise<void> | undefined {
    this.#signal.throwIfAborted();
    const index = this.#count++;
    if (this.#tokensPerSecond > 0) {
      const now = performance.now();
      if (index === 0) this.#start = now;
      const due = this.#start + (index * 1000) / this.#tokensPerSecond;
      if (due > now) return waitUntil(due, this.#signal);
    }
    return index % stride === stride - 1 ? this.#turn.over() : undefined;
  }
}

/** Resolves when `performance.now()` has reached `due`. Rejects with the signal's reason, and leaves no timer behind. */
function waitUntil(due: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const check = () => {
      const left = due - performance.now();
      // A timer may fire up to a millisecond early.
      if (left > 0) {
        timer = setTimeout(check, Math.ceil(left));
        return;
      }
      signal.removeEventListener("abort", abort);
      resolve();
    };
    let timer: ReturnType<typeof setTimeout> | undefined;
    signal.addEventListener("abort", abort, { once: true });
    check();
  });
}
