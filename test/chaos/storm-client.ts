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
  /** When it had what it was told to expect, by performance.now(); undefined: it has not. */
  caughtUpAt: number | undefined;
  readonly #sockets: Set<WebSocket>;
  #expected: number | undefined;

  constructor(url: string, runId: string, weather: Weather, pauses: boolean) {
    const sockets = new Set<WebSocket>();
    const isExpecting = () => this.#expected !== undefined;
    class StormSocket extends WebSocket {
      constructor(address: string, protocols: string[]) {
        super(address, protocols, { perMessageDeflate: false });
        sockets.add(this);
        let frames = 0;
        let isOpened = false;
        this.on("open", () => {
          isOpened = true;
        });
        this.on("message", () => {
          frames += 1;
          if (pauses && !weather.isCalm && isExpecting() && frames === framesUntilPause) this.pause();
        });
        this.on("close", (code: number) => {
          sockets.delete(this);
          // 1000 is the client's own; what never opened found the gateway away.
          if (code !== 1000 && isOpened && isExpecting())
            weather.closes.set(code, (weather.closes.get(code) ?? 0) + 1);
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

  /** The storm begins, before there is a gateway to come back to: when it has `offset` it has all that it missed. */
  expect(offset: number): void {
    this.#expected = offset;
  }

  /** Reads again. */
  read(): void {
    for (const socket of this.#sockets) socket.resume();
  }

  protected override onPart(): void {
    if (this.#expected !== undefined && this.offset >= this.#expected) this.caughtUpAt ??= performance.now();
  }
}
