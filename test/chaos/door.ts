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
  /** It leaves a gateway that drains when it is told to, and not when its socket is closed. */
  readonly heedsDraining: boolean;
  /** Its socket was taken from it, or is not read. */
  disturbed(): void;
}

interface Lost {
  figure: "gatewayKilled" | "gatewayDrained";
  /** When the next part would be due at best. */
  since: number;
  pid: number;
  /** The run whose next part it is: another one may be long in coming. */
  runId: string;
}

/** The last frame of parts that somebody was sent. */
interface Heard {
  at: number;
  runId: string;
}

const partsPrefix = '{"type":"event","method":"run.parts","params":{"runId":"';
const drainingPrefix = '{"type":"event","method":"server.draining"';
const unsubscribedPrefix = '{"type":"event","method":"run.unsubscribed"';
/** Holds a prefix and a run's id. */
const startLength = 150;
/** Whoever has heard nothing for so long, ms, waits for its agent, not for a gateway. */
const quietMs = 500;

export class Door {
  readonly #stage: Stage;
  readonly #ledger: Ledger;
  readonly #sockets = new Map<WebSocket, { visitor: Visitor; instance: Instance }>();
  readonly #lost = new Map<Visitor, Lost>();
  readonly #heard = new Map<Visitor, Heard>();

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
      const runId = this.#listensTo(visitor);
      if (instance.pid !== pid || runId === undefined) continue;
      this.#lost.set(visitor, { figure: "gatewayKilled", since: Date.now(), pid, runId });
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
    const start = data.toString("latin1", 0, startLength);
    if (start.startsWith(partsPrefix)) {
      const runId = start.slice(partsPrefix.length, start.indexOf('"', partsPrefix.length));
      this.#heard.set(visitor, { at: Date.now(), runId });
      const lost = this.#lost.get(visitor);
      if (lost?.runId !== runId) return;
      if (lost.pid === pid) {
        // What still comes on the socket before is no silence.
        lost.since = Math.max(lost.since, Date.now());
        return;
      }
      this.#lost.delete(visitor);
      const { since } = lost;
      this.#ledger.measure(lost.figure, since, ({ detail }) => detail.includes(`(${lost.pid})`));
    } else if (start.startsWith(unsubscribedPrefix)) {
      // The run has ended meanwhile: the next part will be another one's.
      this.#lost.delete(visitor);
    } else if (start.startsWith(drainingPrefix) && visitor.heedsDraining) {
      const runId = this.#listensTo(visitor);
      if (runId === undefined) return;
      const { retryInMs } = (JSON.parse(data.toString()) as { params: { retryInMs: number } }).params;
      this.#lost.set(visitor, { figure: "gatewayDrained", since: Date.now() + retryInMs, pid, runId });
    }
  }

  /** The run whose parts it is being sent, if it is. */
  #listensTo(visitor: Visitor): string | undefined {
    const heard = this.#heard.get(visitor);
    return visitor.isBusy && heard !== undefined && Date.now() - heard.at < quietMs ? heard.runId : undefined;
  }
}
