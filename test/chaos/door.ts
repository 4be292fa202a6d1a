/**
 * The way in: which gateway each socket goes to, as a load balancer without stickiness would have it, and which sockets
 * there are, to be cut or paused.
 */
import type { WebSocketClass } from "@throughline/client";
import { WebSocket } from "ws";
import type { Ledger } from "./ledger.ts";
import type { Random } from "./random.ts";
import type { Instance } from "./service.ts";
import type { Stage } from "./stage.ts";

/** Who a socket belongs to. */
export interface Visitor {
  readonly name: string;
  /** Draws the gateways. */
  readonly random: Random;
  /** It follows a run whose parts come every moment: a silence is a silence. */
  readonly isBusy: boolean;
  /** Its socket was taken from it, or is not read. */
  disturbed(): void;
}

interface Lost {
  figure: "gatewayKilled" | "gatewayDrained";
  /** When the next part would be due at best. */
  since: number;
  pid: number;
}

const partsPrefix = '{"type":"event","method":"run.parts"';
const drainingPrefix = '{"type":"event","method":"server.draining"';
const unsubscribedPrefix = '{"type":"event","method":"run.unsubscribed"';
const longestPrefix = Math.max(drainingPrefix.length, unsubscribedPrefix.length);
/** Whoever has heard nothing for so long, ms, waits for its agent, not for a gateway. */
const quietMs = 500;

export class Door {
  readonly #stage: Stage;
  readonly #ledger: Ledger;
  readonly #sockets = new Map<WebSocket, { visitor: Visitor; instance: Instance }>();
  readonly #lost = new Map<Visitor, Lost>();
  /** When each was last sent a part. */
  readonly #heardAt = new Map<Visitor, number>();

  constructor(stage: Stage, ledger: Ledger) {
    this.#stage = stage;
    this.#ledger = ledger;
  }

  get size(): number {
    return this.#sockets.size;
  }

  gateway(random: Random): Instance | undefined {
    return this.#stage.gateway(random);
  }

  /** A class for the client library, whose every socket goes to a gateway of its own. */
  classFor(visitor: Visitor): WebSocketClass {
    const door = this;
    class DoorSocket extends WebSocket {
      constructor(_url: string, protocols: string[]) {
        const instance = door.gateway(visitor.random);
        // Port 1 is nobody's: with all gateways away the connection is refused.
        super(instance?.detail ?? "ws://127.0.0.1:1", protocols, { perMessageDeflate: false });
        if (instance !== undefined) door.register(this, visitor, instance);
      }
    }
    return DoorSocket as unknown as WebSocketClass;
  }

  register(socket: WebSocket, visitor: Visitor, instance: Instance): void {
    this.#sockets.set(socket, { visitor, instance });
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("message", (data: Buffer) => this.#onMessage(data, visitor, instance));
  }

  /** A gateway was killed: its clients wait from now on. */
  gatewayKilled({ pid }: Instance): void {
    for (const { visitor, instance } of this.#sockets.values()) {
      if (instance.pid !== pid || !this.#isListening(visitor)) continue;
      this.#lost.set(visitor, { figure: "gatewayKilled", since: Date.now(), pid });
    }
  }

  /** Cuts the cables of one visitor. */
  drop(visitor: Visitor): void {
    this.#cut((each) => each.visitor === visitor);
  }

  /** Cuts the cables of all visitors of a gateway. Answers how many. */
  cut(instance: Instance): number {
    return this.#cut((each) => each.instance === instance);
  }

  /** Stops reading from a share of all sockets, until what it answers is called. */
  pause(share: number, random: Random): () => void {
    const paused = [...this.#sockets].filter(
      ([socket]) => socket.readyState === WebSocket.OPEN && random.chance(share),
    );
    for (const [socket, { visitor }] of paused) {
      this.#lost.delete(visitor);
      visitor.disturbed();
      socket.pause();
    }
    return () => {
      for (const [socket] of paused) socket.resume();
    };
  }

  #cut(which: (each: { visitor: Visitor; instance: Instance }) => boolean): number {
    const cut = [...this.#sockets].filter(([, each]) => which(each));
    for (const [socket, { visitor }] of cut) {
      this.#lost.delete(visitor);
      visitor.disturbed();
      socket.terminate();
    }
    return cut.length;
  }

  #onMessage(data: Buffer, visitor: Visitor, { pid }: Instance): void {
    const start = data.toString("latin1", 0, longestPrefix);
    if (start.startsWith(partsPrefix)) {
      const heardAt = this.#heardAt.get(visitor) ?? 0;
      this.#heardAt.set(visitor, Date.now());
      const lost = this.#lost.get(visitor);
      if (lost === undefined || lost.pid === pid) return;
      this.#lost.delete(visitor);
      // What still came on the socket before was no silence.
      const since = Math.max(lost.since, heardAt);
      this.#ledger.measure(lost.figure, since, ({ detail }) => detail.includes(`(${lost.pid})`));
    } else if (start.startsWith(unsubscribedPrefix)) {
      // The run has ended meanwhile: the next part will be another one's.
      this.#lost.delete(visitor);
    } else if (start.startsWith(drainingPrefix) && this.#isListening(visitor)) {
      const { retryInMs } = (JSON.parse(data.toString()) as { params: { retryInMs: number } }).params;
      this.#lost.set(visitor, { figure: "gatewayDrained", since: Date.now() + retryInMs, pid });
    }
  }

  #isListening(visitor: Visitor): boolean {
    return visitor.isBusy && Date.now() - (this.#heardAt.get(visitor) ?? 0) < quietMs;
  }
}
