/**
 * The sockets of this gateway: how they come, are kept alive, and go.
 *
 * Invariants:
 * - a socket that is refused is refused after the upgrade, with a close code: a browser cannot see an HTTP status; it
 *   may send next to nothing, and is gone within a second;
 * - nothing that a client sends can end the process, or keep a descriptor of a socket that is not served;
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
import { Addresses, addressOf } from "./addresses.ts";
import { Allowance } from "./allowance.ts";
import type { Authenticator, Principal } from "./auth.ts";
import { ClientSocket, type CommandHandler, closeReason, type SocketLimits } from "./client-socket.ts";
import { type GatewayEnv, isLoopback, normalOrigin } from "./config.ts";
import { eventFrame } from "./frame.ts";
import { Refusals } from "./refusals.ts";

/** A socket that knows its connection: no map from one to the other. */
class GatewaySocket extends WebSocket {
  connection: ClientSocket | undefined;
  /** The sockets that are looked at with this one. */
  slot: Set<GatewaySocket> | undefined;
}

/** How long a socket stays open beyond the time that it was told, for the client's next one to be open by then, ms. */
const handoverMs = 1_000;
/** How long a client may take to answer a close before its socket is cut, ms: while draining, and otherwise. */
const drainCloseMs = 1_000;
const defaultCloseMs = 15_000;

/** How long a socket that is refused may take to hear why, ms. */
const refusalMs = 1_000;
/** What a client that is refused may still send, in bytes. */
const refusedBytes = 125;

/** Sockets are looked at in turn, a few at a time: no burst of pings. */
const beatSlots = 20;

/** Why a socket is not served. */
interface Refusal {
  code: number;
  reason: string;
}

/** The open sockets. */
export class Sockets {
  readonly #env: GatewayEnv;
  readonly #logger: Logger;
  readonly #authenticator: Authenticator;
  readonly #handle: CommandHandler;
  readonly #limits: SocketLimits;
  readonly #server: WebSocketServer;
  /** Upgrades those that are refused, to tell them why. */
  readonly #refuser: WebSocketServer;
  readonly #addresses: Addresses;
  readonly #refusals: Refusals;
  readonly #opening: Allowance;
  readonly #slots: Set<GatewaySocket>[] = Array.from({ length: beatSlots }, () => new Set());
  readonly #beating: NodeJS.Timeout;
  #beatSlot = 0;
  #opened = 0;
  draining = false;

  /** @param closeMs how long a client may take to answer a close before its socket is cut */
  constructor(
    env: GatewayEnv,
    logger: Logger,
    authenticator: Authenticator,
    handle: CommandHandler,
    closeMs = defaultCloseMs,
  ) {
    this.#env = env;
    this.#logger = logger;
    this.#authenticator = authenticator;
    this.#handle = handle;
    this.#limits = {
      highWater: env.HIGH_WATER_BYTES,
      lowWater: env.LOW_WATER_BYTES,
      commandsPerSecond: env.COMMANDS_PER_SECOND,
      bytesPerSecond: env.BYTES_PER_SECOND,
      slowSocketMs: env.SLOW_SOCKET_MS,
    };
    const options = {
      noServer: true,
      clientTracking: false,
      // Compression costs about 300 KB a socket; parts are small and many.
      perMessageDeflate: false,
      handleProtocols: chooseProtocol,
      closeTimeout: closeMs,
    };
    this.#server = new WebSocketServer({
      ...options,
      maxPayload: env.MAX_FRAME_BYTES,
      WebSocket: GatewaySocket,
    });
    this.#refuser = new WebSocketServer({ ...options, maxPayload: refusedBytes });
    this.#addresses = new Addresses(env.MAX_SOCKETS_PER_ADDRESS);
    this.#refusals = new Refusals(logger);
    this.#opening = new Allowance(env.CONNECTIONS_PER_SECOND, 1);
    this.#beating = setInterval(() => this.beat(), env.HEARTBEAT_MS / beatSlots);
  }

  get size(): number {
    return this.#slots.reduce((sum, slot) => sum + slot.size, 0);
  }

  /** Never rejects, whatever a client sends. */
  async upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on("error", destroy);
    try {
      await this.#upgrade(request, socket, head);
    } catch (error) {
      this.#logger.error({ err: error }, "an upgrade failed");
      socket.destroy();
    }
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    // The target is whatever a client wrote: `//` is one that no URL can be made of.
    const url = URL.canParse(request.url ?? "/", "http://gateway")
      ? new URL(request.url ?? "/", "http://gateway")
      : undefined;
    if (url?.pathname !== "/v1/ws") {
      answer(socket, "404 Not Found", "there are /v1/ws (a WebSocket), /healthz and /readyz here");
      return;
    }
    if (this.draining) {
      answer(socket, "503 Service Unavailable", "this gateway is going away");
      return;
    }
    const address = addressOf(request, this.#env.TRUST_PROXY);
    let refusal = this.#refusal(request, address);
    let principal: Principal | undefined;
    if (refusal === undefined) {
      // It counts while its token is checked: who opens many at once is to find none free.
      this.#addresses.enter(address);
      socket.once("close", () => this.#addresses.leave(address));
      const checked = await this.#principal(request, url);
      if ("code" in checked) refusal = checked;
      else principal = checked;
    }
    if (socket.destroyed) return;
    // A token takes its time to be checked.
    if (this.draining) {
      answer(socket, "503 Service Unavailable", "this gateway is going away");
      return;
    }
    if (principal !== undefined) {
      const known = principal;
      this.#server.handleUpgrade(request, socket, head, (ws) =>
        this.#open(ws as GatewaySocket, socket, known),
      );
      return;
    }
    const { code, reason } = refusal!;
    this.#refusals.note({
      code,
      reason,
      address: address ?? request.socket.remoteAddress,
      origin: request.headers.origin,
    });
    setTimeout(() => socket.destroy(), refusalMs).unref();
    this.#refuser.handleUpgrade(request, socket, head, (ws) => {
      ws.on("error", onError);
      ws.close(code, closeReason(reason));
    });
  }

  async #principal(request: IncomingMessage, url: URL): Promise<Principal | Refusal> {
    try {
      return await this.#authenticator.authenticate(tokenOf(request, url));
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        this.#logger.error({ err: error }, "a token could not be checked");
        return { code: closeCodes.overloaded, reason: "the token could not be checked now" };
      }
      const isPassing = error.code === "unavailable";
      return { code: isPassing ? closeCodes.overloaded : closeCodes.badToken, reason: error.message };
    }
  }

  #refusal(request: IncomingMessage, address: string | undefined): Refusal | undefined {
    const { overloaded: code } = closeCodes;
    if (!this.#opening.take()) return { code, reason: "too many connections at once: back off" };
    if (this.size >= this.#env.MAX_SOCKETS)
      return { code, reason: "this gateway has as many sockets as it takes" };
    if (this.#addresses.isFull(address)) return { code, reason: "too many sockets from this address" };
    if (!originAllowed(request.headers.origin, this.#env))
      return { code: closeCodes.forbidden, reason: "this origin is not allowed" };
    return undefined;
  }

  #open(ws: GatewaySocket, socket: Duplex, principal: Principal): void {
    const id = `c_${nanoid(12)}`;
    const connection = new ClientSocket(id, principal, ws, socket, this.#limits, this.#handle);
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
  beat(): void {
    this.#beatSlot = (this.#beatSlot + 1) % beatSlots;
    const [now, time] = [performance.now(), Date.now()];
    for (const { connection } of this.#slots[this.#beatSlot]!) {
      if (connection === undefined) continue;
      const { expiresAt } = connection.principal;
      // Honoured one heartbeat longer, for a client that is refreshing it.
      if (expiresAt !== undefined && time > expiresAt + this.#env.HEARTBEAT_MS) {
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
        const end = setTimeout(() => ws.terminate(), retryInMs + patienceMs + drainCloseMs);
        await closed;
        clearTimeout(delay);
        clearTimeout(end);
      }),
    );
    clearInterval(this.#beating);
  }
}

/** Answers an upgrade that is not to be one, and is done with its socket, whatever its client does. */
function answer(socket: Duplex, status: string, error: string): void {
  const body = `${JSON.stringify({ error })}\n`;
  socket.end(
    `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  // Nobody reads what comes: its end would never be seen.
  socket.resume();
  setTimeout(() => socket.destroy(), refusalMs).unref();
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
  const { ALLOWED_ORIGINS: allowed } = env;
  if (allowed !== undefined) return allowed.includes("*") || allowed.includes(normalOrigin(origin) ?? origin);
  if (env.AUTH !== "none") return true;
  return URL.canParse(origin) && isLoopback(new URL(origin).hostname);
}
