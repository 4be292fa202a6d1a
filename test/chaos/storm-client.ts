/** A client in a storm: it may stop reading in the middle of catching up, and it remembers when it was done. */
import { WebSocket } from "ws";
import { Follower } from "../support/follower.ts";

export interface Weather {
  /** How many sockets were closed, by code; those that our own clients closed are left out. */
  readonly closes: Map<number, number>;
  /** Nobody pauses any more. */
  isCalm: boolean;
}

/** The hello, the answer to the subscribe, and the first page. */
const framesUntilPause = 3;

export class StormClient extends Follower {
  readonly pauses: boolean;
  /** From when it was told what to expect to when it had it, ms; 0: it has not. */
  caughtUpMs = 0;
  readonly #sockets: Set<WebSocket>;
  #expected: { offset: number; since: number } | undefined;

  constructor(url: string, runId: string, weather: Weather, pauses: boolean) {
    const sockets = new Set<WebSocket>();
    const isExpecting = () => this.#expected !== undefined;
    class StormSocket extends WebSocket {
      constructor(address: string, protocols: string[]) {
        super(address, protocols, { perMessageDeflate: false });
        sockets.add(this);
        let frames = 0;
        this.on("message", () => {
          frames += 1;
          if (pauses && !weather.isCalm && isExpecting() && frames === framesUntilPause) this.pause();
        });
        this.on("close", (code: number) => {
          sockets.delete(this);
          // 1000 is the client's own; 1006 with the gateway away is no socket at all.
          if (code !== 1000 && isExpecting()) weather.closes.set(code, (weather.closes.get(code) ?? 0) + 1);
        });
      }
    }
    super(url, runId, {
      WebSocket: StormSocket as never,
      // One that is paused is not to find out by itself: the gateway's patience is what is tested.
      ...(pauses ? { pongMs: 600_000 } : {}),
    });
    this.pauses = pauses;
    this.#sockets = sockets;
  }

  /** The storm begins: when it has `offset` it has all that it missed. */
  expect(offset: number, since: number): void {
    this.#expected = { offset, since };
  }

  /** Reads again. */
  read(): void {
    for (const socket of this.#sockets) socket.resume();
  }

  protected override onPart(): void {
    if (this.#expected === undefined || this.offset < this.#expected.offset || this.caughtUpMs > 0) return;
    this.caughtUpMs = Math.max(1, performance.now() - this.#expected.since);
  }
}
