/** Work under one key is done one after the other, in the order in which it came; under several keys at once. */
export class OneByOne {
  /** The last that came under each key that has work. */
  readonly #last = new Map<string, Promise<unknown>>();

  /** @throws what the work throws; what came before it may fail */
  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#last.get(key);
    const done = before === undefined ? work() : before.then(work, work);
    this.#last.set(key, done);
    try {
      return await done;
    } finally {
      if (this.#last.get(key) === done) this.#last.delete(key);
    }
  }
}
