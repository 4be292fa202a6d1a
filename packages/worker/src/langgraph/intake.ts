/** Reads a stream that is pushed into, and knows when it has caught up. */
export class Intake<T> {
  #waiting = false;
  #over = false;
  #begin!: () => void;
  readonly #begun = new Promise<void>((resolve) => {
    this.#begin = resolve;
  });

  /**
   * Reads all of the stream once it is there. `take` deals with each at once, without waiting for anything. Rejects
   * where the stream breaks off, or does not come at all.
   */
  async read(source: Promise<AsyncIterable<T>>, take: (each: T) => void): Promise<void> {
    try {
      const iterator = (await source)[Symbol.asyncIterator]();
      for (;;) {
        const next = iterator.next();
        this.#waiting = true;
        this.#begin();
        const { done, value } = await next;
        this.#waiting = false;
        if (done) return;
        take(value);
      }
    } finally {
      this.#over = true;
      this.#begin();
    }
  }

  /** Resolves when all that was pushed before the call has been read and dealt with. */
  async caughtUp(): Promise<void> {
    // LangGraph hands a stream out with its first chunk: until then there is nothing to be read.
    await this.#begun;
    // From a push to its reader it is microtasks only: in the next turn the reader waits for the next.
    do await new Promise(setImmediate);
    while (!this.#waiting && !this.#over);
  }
}
