/**
 * Reads that may be long take turns: so many at once, whoever asks, and the sockets one after the other, so that one that
 * asks for a hundred delays another's one by as many as there are sockets, not by a hundred.
 *
 * Invariants:
 * - a socket whose last answers are still to be read has no turn: what it is answered is bounded by what it takes;
 * - what waits is bounded; over it, who has more than an equal share waiting is refused, and who has less is not.
 */
import { ProtocolError } from "@throughline/protocol";

/** Who asks: a socket. */
export interface Taker {
  readonly writable: boolean;
  readonly closed: boolean;
  /** Resolves when it takes more, or is gone. */
  drained(): Promise<void>;
}

interface Waiting {
  begin(): void;
  refuse(error: ProtocolError): void;
}

export class FairTurns {
  readonly #maxWaiting: number;
  #free: number;
  #waiting = 0;
  /** What waits, by who asked. Only who has something waiting is here. */
  readonly #lines = new Map<Taker, Waiting[]>();
  /** Those of them whose turn comes, in order; the others are waited for to take what they have. */
  readonly #ring: Taker[] = [];

  /**
   * @param atOnce how many are under way at once
   * @param maxWaiting how many wait before any is refused
   */
  constructor(atOnce: number, maxWaiting: number) {
    this.#free = atOnce;
    this.#maxWaiting = maxWaiting;
  }

  /**
   * Does the work when its turn has come.
   *
   * @throws ProtocolError rate_limited where too many wait; what the work throws
   */
  async take<T>(taker: Taker, work: () => Promise<T>): Promise<T> {
    await this.#turn(taker);
    try {
      return await work();
    } finally {
      // Its answer is made first, and who wants little is answered between two that want much.
      setImmediate(() => {
        this.#free++;
        this.#next();
      });
    }
  }

  #turn(taker: Taker): Promise<void> {
    const line = this.#lines.get(taker);
    const own = line?.length ?? 0;
    const sockets = this.#lines.size + (line === undefined ? 1 : 0);
    if (this.#waiting >= this.#maxWaiting && own >= Math.max(1, Math.floor(this.#maxWaiting / sockets))) {
      const message = `${this.#waiting} reads wait for their turn here, ${own} of them this socket's: ask again later`;
      return Promise.reject(new ProtocolError("rate_limited", message));
    }
    return new Promise((begin, refuse) => {
      this.#waiting++;
      if (line !== undefined) {
        line.push({ begin, refuse });
        return;
      }
      this.#lines.set(taker, [{ begin, refuse }]);
      this.#ring.push(taker);
      this.#next();
    });
  }

  #next(): void {
    while (this.#free > 0) {
      const taker = this.#ring.shift();
      if (taker === undefined) return;
      const line = this.#lines.get(taker)!;
      if (taker.closed) {
        this.#lines.delete(taker);
        this.#waiting -= line.length;
        for (const { refuse } of line) refuse(new ProtocolError("unavailable", "the socket is closed"));
        continue;
      }
      if (!taker.writable) {
        void taker.drained().then(() => {
          this.#ring.push(taker);
          this.#next();
        });
        continue;
      }
      const { begin } = line.shift()!;
      this.#waiting--;
      if (line.length > 0) this.#ring.push(taker);
      else this.#lines.delete(taker);
      this.#free--;
      begin();
    }
  }
}
