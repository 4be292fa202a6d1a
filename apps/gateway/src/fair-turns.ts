/**
 * Reads that may be long take turns: so many at once, whoever asks, the owners one after the other, and of each owner its
 * sockets. Who asks for a hundred, on one socket or on a hundred, delays another owner by as many as there are owners.
 *
 * Invariants:
 * - a socket whose last answers are still to be read has no turn: what it is answered is bounded by what it takes;
 * - what waits is bounded; over it, who has more than an equal share waiting is refused, and who has less is not.
 */
import { ProtocolError } from "@throughline/protocol";

/** Who asks: a socket. */
export interface Taker {
  /** Whose socket it is. */
  readonly principal: { readonly id: string };
  readonly writable: boolean;
  readonly closed: boolean;
  /** Resolves when it takes more, or is gone. */
  drained(): Promise<void>;
}

interface Waiting {
  begin(): void;
  refuse(error: ProtocolError): void;
}

/** An owner that has something waiting. */
interface Owner {
  readonly id: string;
  waiting: number;
  /** What waits, by socket. Only a socket that has something waiting is here. */
  readonly lines: Map<Taker, Waiting[]>;
  /** Those of the sockets whose turn comes, in order; the others are waited for to take what they have. */
  readonly ring: Taker[];
}

export class FairTurns {
  readonly #maxWaiting: number;
  #free: number;
  #waiting = 0;
  readonly #owners = new Map<string, Owner>();
  /** Those of them that have a socket whose turn comes, in order. */
  readonly #ring: Owner[] = [];

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
    const { id } = taker.principal;
    const owner = this.#owners.get(id) ?? { id, waiting: 0, lines: new Map(), ring: [] };
    const line = owner.lines.get(taker);
    const own = line?.length ?? 0;
    if (this.#waiting >= this.#maxWaiting) {
      const owners = this.#owners.size + (owner.waiting === 0 ? 1 : 0);
      const sockets = owner.lines.size + (line === undefined ? 1 : 0);
      const share = Math.max(1, Math.floor(this.#maxWaiting / owners));
      if (owner.waiting >= share && own >= Math.max(1, Math.floor(share / sockets))) {
        const message = `${this.#waiting} reads wait for their turn here, ${owner.waiting} of them your own: ask again later`;
        return Promise.reject(new ProtocolError("rate_limited", message));
      }
    }
    return new Promise((begin, refuse) => {
      this.#waiting++;
      owner.waiting++;
      this.#owners.set(id, owner);
      if (line !== undefined) {
        line.push({ begin, refuse });
        return;
      }
      owner.lines.set(taker, [{ begin, refuse }]);
      this.#join(owner, taker);
      this.#next();
    });
  }

  #join(owner: Owner, taker: Taker): void {
    owner.ring.push(taker);
    if (owner.ring.length === 1) this.#ring.push(owner);
  }

  #next(): void {
    while (this.#free > 0) {
      const owner = this.#ring[0];
      if (owner === undefined) return;
      const taker = owner.ring.shift()!;
      if (owner.ring.length === 0) this.#ring.shift();
      const line = owner.lines.get(taker)!;
      if (taker.closed) {
        owner.lines.delete(taker);
        this.#left(owner, line.length);
        for (const { refuse } of line) refuse(new ProtocolError("unavailable", "the socket is closed"));
        continue;
      }
      if (!taker.writable) {
        void taker.drained().then(() => {
          this.#join(owner, taker);
          this.#next();
        });
        continue;
      }
      // The owner has had its turn.
      if (owner.ring.length > 0) this.#ring.push(this.#ring.shift()!);
      const { begin } = line.shift()!;
      this.#left(owner, 1);
      if (line.length > 0) this.#join(owner, taker);
      else owner.lines.delete(taker);
      this.#free--;
      begin();
    }
  }

  /** So many of an owner's wait no more. */
  #left(owner: Owner, count: number): void {
    this.#waiting -= count;
    owner.waiting -= count;
    if (owner.waiting === 0) this.#owners.delete(owner.id);
  }
}
