/** Reads a stream that is pushed into, and knows when it has caught up. */
export class Intake<T> {
  #waiting = false;
  #over = false;

  /** Reads all of it. `take` deals with each at once, without waiting for anything. */
  async read(source: AsyncIterable<T>, take: (each: T) => void): Promise<void> {
    const iterator = source[Symbol.asyncIterator]();
    try {
      for (;;) {
        this.#waiting = true;
        const { done, value } = await iterator.next();
        this.#waiting = false;
        if (done) return;
        take(value);
      }
    } finally {
      this.#over = true;
    }
  }

  /** Resolves when all that was pushed before the call has been read and dealt with. */
  async caughtUp(): Promise<void> {
    // From a push to its reader it is microtasks only: in the next turn the reader waits for the next.
    do await new Promise(setImmediate);
    while (!this.#waiting && !this.#over);
  }
}
