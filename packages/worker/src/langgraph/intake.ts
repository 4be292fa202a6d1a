/** Reads a stream that is pushed into without end in sight, and knows when it has caught up. */
export class Intake<T> {
  #waiting = false;
  #over = false;
  #onWait: (() => void)[] = [];

  async *read(source: AsyncIterable<T>): AsyncGenerator<T, void> {
    const iterator = source[Symbol.asyncIterator]();
    try {
      for (;;) {
        this.#wait();
        const { done, value } = await iterator.next();
        this.#waiting = false;
        if (done) return;
        yield value;
      }
    } finally {
      this.#over = true;
      this.#wait();
    }
  }

  /** Resolves when all that was pushed before the call has been read and dealt with. */
  async caughtUp(): Promise<void> {
    for (;;) {
      // From a push to its reader it is microtasks only: in the next turn the reader has it, if it waits for any.
      await new Promise(setImmediate);
      if (this.#waiting || this.#over) return;
      await new Promise<void>((resolve) => this.#onWait.push(resolve));
    }
  }

  #wait(): void {
    this.#waiting = true;
    for (const resolve of this.#onWait.splice(0)) resolve();
  }
}
