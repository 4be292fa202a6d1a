/**
 * The sockets of this gateway: how they come, are kept alive, and go.
 *
 * Invariants:
 * - a socket that is refused is refused after the upgrade, with a close code: a browser cannot see an HTTP status;
 * - but while draining, before the upgrade, with 503: that is what makes a load balancer try another gateway;
 * - every socket that was open when the draining began is told, and closed; none opens after that.
 */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import type { Logger } from "@throughline/kit";
import {
  bearerSubprotocolPrefix,
  closeCodes,
  ProtocolError,
  protocolVersion,
  subprotocol,
} from "@throughline/protocol";
import { nanoid } from "nanoid";
import { WebSocket, WebSocketServer } from "ws";
import type { Authenticator, Principal } from "./auth.ts";
import { type GatewayEnv, isLoopback } from "./config.ts";
import { eventFrame } from "./frame.ts";
import { type CommandHandler, Connection, type SocketLimits } from "./socket.ts";

/** A socket that knows its connection: no map from one to the other. */
class GatewaySocket extends WebSocket {
  connection: Connection | undefined;
  /** The sockets that are looked at with this one. */
  slot: Set<GatewaySocket> | undefined;
}

/** How long a socket stays open beyond the time that it was told, for the client's next one to be open by then, ms. */
const handoverMs = 1_000;
/** How long a client may take to answer a close before its socket is cut, ms. */
const closeMs = 1_000;

/** Sockets are looked at in turn, a few at a time: no burst of pings. */
const beatSlots = 20;

/** The open sockets. */
export class Sockets {
  readonly #env: GatewayEnv;
  readonly #logger: Logger;
  readonly #authenticator: Authenticator;
  readonly #handle: CommandHandler;
  readonly #limits: SocketLimits;
  readonly #server: WebSocketServer;
  readonly #slots: Set<GatewaySocket>[] = Array.from({ length: beatSlots }, () => new Set());
  readonly #beating: NodeJS.Timeout;
  #beatSlot = 0;
  #opened = 0;
  #second = 0;
  #openedThisSecond = 0;
  draining = false;

  constructor(env: GatewayEnv, logger: Logger, authenticator: Authenticator, handle: CommandHandler) {
    this.#env = env;
    this.#logger = logger;
    this.#authenticator = authenticator;
    this.#handle = handle;
    this.#limits = {
      highWater: env.HIGH_WATER_BYTES,
      lowWater: env.LOW_WATER_BYTES,
      commandsPerSecond: env.COMMANDS_PER_SECOND,
      slowSocketMs: env.SLOW_SOCKET_MS,
    };
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      // Compression costs about 300 KB a socket; parts are small and many.
      perMessageDeflate: false,
      maxPayload: env.MAX_FRAME_BYTES,
      handleProtocols: chooseProtocol,
      WebSocket: GatewaySocket,
    });
    this.#beating = setInterval(() => this.beat(Date.now()), env.HEARTBEAT_MS / beatSlots);
  }

  get size(): number {
    return this.#slots.reduce((sum, slot) => sum + slot.size, 0);
  }

  async upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on("error", destroy);
    // The target is whatever a client wrote: `//` is one that no URL can be made of.
    const url = URL.canParse(request.url ?? "/", "http://gateway")
      ? new URL(request.url ?? "/", "http://gateway")
      : undefined;
    if (url?.pathname !== "/v1/ws") {
      refuse(socket, "404 Not Found");
      return;
    }
    if (this.draining) {
      refuse(socket, "503 Service Unavailable");
      return;
    }
    const refusal = this.#refusal(request);
    let principal: Principal | undefined;
    let reason = "";
    if (refusal === undefined) {
      try {
        principal = await this.#authenticator.authenticate(tokenOf(request, url));
      } catch (error) {
        if (!(error instanceof ProtocolError))
          this.#logger.error({ err: error }, "a token could not be checked");
        reason = (error as Error).message;
      }
    }
    if (socket.destroyed) return;
    // A token takes its time to be checked.
    if (this.draining) {
      refuse(socket, "503 Service Unavailable");
      return;
    }
    this.#server.handleUpgrade(request, socket, head, (ws) => {
      if (refusal !== undefined) ws.close(refusal.code, refusal.reason);
      else if (principal === undefined) ws.close(closeCodes.badToken, reason.slice(0, 120));
      else this.#open(ws as GatewaySocket, socket, principal);
    });
  }

  #refusal(request: IncomingMessage): { code: number; reason: string } | undefined {
    const second = Math.floor(Date.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#openedThisSecond = 0;
    }
    if (++this.#openedThisSecond > this.#env.CONNECTIONS_PER_SECOND) {
      return { code: closeCodes.overloaded, reason: "too many connections at once: back off" };
    }
    const { origin } = request.headers;
    if (!originAllowed(origin, this.#env))
      return { code: closeCodes.forbidden, reason: "this origin is not allowed" };
    return undefined;
  }

  #open(ws: GatewaySocket, socket: Duplex, principal: Principal): void {
    const id = `c_${nanoid(12)}`;
    const connection = new Connection(id, principal, ws, socket, this.#limits, this.#handle);
    ws.connection = connection;
    ws.on("message", onMessage);
    ws.on("pong", onPong);
    ws.on("error", onError);
    ws.on("close", onClose);
    ws.slot = this.#slots[this.#opened++ % beatSlots]!.add(ws);
    const { HEARTBEAT_MS: heartbeatMs, MAX_FRAME_BYTES: maxFrameBytes } = this.#env;
    connection.send(
      eventFrame("server.hello", { protocol: protocolVersion, connectionId: id, heartbeatMs, maxFrameBytes }),
    );
  }

  /** One tick of the heartbeat: one slot's sockets. */
  beat(now: number): void {
    this.#beatSlot = (this.#beatSlot + 1) % beatSlots;
    for (const { connection } of this.#slots[this.#beatSlot]!) {
      if (connection === undefined) continue;
      const { expiresAt } = connection.principal;
      // Honoured one heartbeat longer, for a client that is refreshing it.
      if (expiresAt !== undefined && now > expiresAt + this.#env.HEARTBEAT_MS) {
        connection.close(closeCodes.badToken, "the token has run out");
      } else {
        connection.beat(now);
      }
    }
  }

  /**
   * Tells every socket to come back elsewhere, at a time of its own within DRAIN_MS, and closes those that have not
   * left a while after that: a client whose next socket is open by then misses nothing and waits for nothing.
   */
  async drain(): Promise<void> {
    this.draining = true;
    const spreadMs = this.#env.DRAIN_MS;
    const patienceMs = Math.min(handoverMs, spreadMs);
    const all = this.#slots.flatMap((slot) => [...slot]);
    await Promise.all(
      all.map(async (ws) => {
        const retryInMs = Math.round(Math.random() * spreadMs);
        const closed = new Promise((resolve) => ws.once("close", resolve));
        ws.connection?.send(eventFrame("server.draining", { retryInMs }));
        const delay = setTimeout(
          () => ws.connection?.close(closeCodes.restarting, "the gateway restarts"),
          retryInMs + patienceMs,
        );
        const end = setTimeout(() => ws.terminate(), retryInMs + patienceMs + closeMs);
        await closed;
        clearTimeout(delay);
        clearTimeout(end);
      }),
    );
    clearInterval(this.#beating);
  }
}

/** Answers an upgrade that is not to be one. */
function refuse(socket: Duplex, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
}

// One function for all sockets, not one each.
function onMessage(this: WebSocket, data: Buffer, isBinary: boolean): void {
  (this as GatewaySocket).connection?.onMessage(data, isBinary);
}

function onClose(this: WebSocket): void {
  const { slot, connection } = this as GatewaySocket;
  slot?.delete(this as GatewaySocket);
  connection?.onClose();
}

function onPong(this: WebSocket): void {
  (this as GatewaySocket).connection?.onPong();
}

function destroy(this: Duplex): void {
  this.destroy();
}

/** A frame that is none, or too large: ws closes the socket with the right code by itself. */
function onError(): void {}

function chooseProtocol(offered: Set<string>): string | false {
  if (offered.has(subprotocol)) return subprotocol;
  // A browser that offers something must be answered with something it offered.
  for (const each of offered) if (each.startsWith(bearerSubprotocolPrefix)) return each;
  return false;
}

function tokenOf(request: IncomingMessage, url: URL): string | undefined {
  const { authorization, "sec-websocket-protocol": protocols = "" } = request.headers;
  const bearer = authorization === undefined ? null : /^Bearer +(\S+)$/i.exec(authorization);
  if (bearer !== null) return bearer[1];
  for (const each of protocols.split(",")) {
    const name = each.trim();
    if (name.startsWith(bearerSubprotocolPrefix)) return name.slice(bearerSubprotocolPrefix.length);
  }
  return url.searchParams.get("token") ?? undefined;
}

/** With AUTH=none any page in a browser on this machine could reach us: only its own pages may. */
function originAllowed(origin: string | undefined, env: GatewayEnv): boolean {
  if (origin === undefined) return true;
  if (env.ALLOWED_ORIGINS !== undefined) {
    const allowed = env.ALLOWED_ORIGINS.split(",").map((each) => each.trim());
    return allowed.includes("*") || allowed.includes(origin);
  }
  if (env.AUTH !== "none") return true;
  return URL.canParse(origin) && isLoopback(new URL(origin).hostname);
}
