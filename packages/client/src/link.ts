/**
 * The link to the gateway: which socket is the current one, and when the next is tried.
 *
 * Invariants:
 * - at most one socket is current, and only what it sends is passed on, but for answers on a socket that was left;
 * - tries are spaced by the protocol's backoff, and start over only after a socket has stayed up for `healthyMs`, or its
 *   gateway has announced its end: a gateway that accepts and drops is not hammered;
 * - a draining gateway's socket is used until it closes or the next one is open, whichever is first.
 */
import {
  backoffDelay,
  bearerSubprotocolPrefix,
  closeAction,
  closeCodes,
  type ServerFrame,
  subprotocol,
} from "@throughline/protocol";
import { ConnectionClosedError } from "./errors.ts";
import type { Clock, WebSocketClass } from "./platform.ts";
import { type Hello, Socket, type SocketTimes } from "./socket.ts";

/** A token, or a function that gets one. The function is asked again when a gateway refuses what it gave. */
export type TokenSource = string | (() => string | Promise<string>);

/**
 * Where the connection stands. `attempt` counts tries since the connection was last well, from 1. Times are in ms;
 * `retryAt` is the clock's time. `reason` is for people to read; `code` is a WebSocket close code.
 */
export type ConnectionState =
  | { readonly status: "connecting"; readonly attempt: number }
  | { readonly status: "open"; readonly connectionId: string }
  | {
      readonly status: "waiting";
      readonly attempt: number;
      readonly retryAt: number;
      readonly retryInMs: number;
      readonly reason: string;
    }
  | { readonly status: "closed"; readonly reason: string; readonly code?: number };

export interface LinkHooks {
  /** A new socket is current. The one before, if it still lives, stays for the answers that it owes. */
  onOpen(socket: Socket): void;
  onFrame(socket: Socket, frame: ServerFrame, size: number): void;
  /** The socket is gone. `current`: there is none now. */
  onDown(socket: Socket, current: boolean): void;
  onClosed(error: ConnectionClosedError): void;
  onState(state: ConnectionState): void;
  /** Whether commands sent on this socket are waiting for their answers, and cannot be sent again on another. */
  owes(socket: Socket): boolean;
}

export interface LinkOptions extends SocketTimes {
  token: TokenSource | undefined;
  WebSocket: WebSocketClass;
  clock: Clock;
  random: () => number;
  nextId: () => number;
  /** How long a socket must stay up for the backoff to start over, in ms. */
  healthyMs: number;
}

/** How much later than a draining gateway asked for its clients come back at the most, in ms. */
const maxDrainSpreadMs = 300;

export class Link {
  readonly #url: string;
  readonly #options: LinkOptions;
  readonly #hooks: LinkHooks;
  #state: ConnectionState = { status: "connecting", attempt: 1 };
  #current: Socket | undefined;
  #openedAt = 0;
  /** The socket that is being opened. */
  #next: Socket | undefined;
  /** The socket before the current one, while it owes answers. */
  #left: Socket | undefined;
  /** Sockets tried since the link was last well. */
  #tries = 0;
  #retry: { timer: unknown; at: number; reason: string } | undefined;
  /** Changes with every dial: a token that arrives late belongs to a dial that is over. */
  #dial = 0;
  #token: string | undefined;
  #refusedToken: string | undefined;

  constructor(url: string, options: LinkOptions, hooks: LinkHooks) {
    this.#url = url;
    this.#options = options;
    this.#hooks = hooks;
  }

  get state(): ConnectionState {
    return this.#state;
  }

  get current(): Socket | undefined {
    return this.#current;
  }

  open(): void {
    this.#connect();
  }

  reconnectNow(): void {
    if (this.#retry !== undefined && this.#current === undefined) this.#connect();
  }

  close(reason: string, code?: number): void {
    if (this.#state.status === "closed") return;
    this.#dial += 1;
    this.#cancelRetry();
    for (const socket of [this.#current, this.#next, this.#left]) socket?.abandon();
    this.#current = undefined;
    this.#next = undefined;
    this.#left = undefined;
    this.#setState({ status: "closed", reason, ...(code === undefined ? {} : { code }) });
    this.#hooks.onClosed(new ConnectionClosedError(reason, code));
  }

  /** The gateway will close this socket soon: go elsewhere in about that long. */
  drain(retryInMs: number): void {
    // However short it was up, as it is where gateways are restarted one after the other.
    this.#tries = 0;
    // A little later, so that the sockets of a gateway do not all come back in the same moment; not by much, for its
    // socket may close at any time from then on.
    const spreadMs = this.#options.random() * Math.min(retryInMs / 5, maxDrainSpreadMs);
    this.#scheduleIn(Math.max(retryInMs + spreadMs, this.#backoffMs()), "the gateway restarts");
  }

  /** Lets the socket before the current one go, if it owes nothing any more. */
  settle(): void {
    if (this.#left === undefined || this.#hooks.owes(this.#left)) return;
    this.#left.abandon();
    this.#left = undefined;
  }

  #connect(): void {
    this.#cancelRetry();
    this.#next?.abandon();
    this.#next = undefined;
    this.#dial += 1;
    this.#tries += 1;
    const dial = this.#dial;
    if (this.#current === undefined) this.#setState({ status: "connecting", attempt: this.#tries });
    this.#getToken().then(
      (token) => {
        if (dial === this.#dial) this.#openSocket(token);
      },
      (error: unknown) => {
        if (dial === this.#dial) this.#scheduleIn(this.#backoffMs(), `no token: ${messageOf(error)}`);
      },
    );
  }

  async #getToken(): Promise<string | undefined> {
    const { token } = this.#options;
    if (typeof token !== "function") return token;
    this.#token ??= await token();
    return this.#token;
  }

  #openSocket(token: string | undefined): void {
    const { clock, nextId, WebSocket, helloMs, pongMs } = this.#options;
    if (token !== undefined && token === this.#refusedToken) {
      this.close("the token was refused", closeCodes.badToken);
      return;
    }
    let socket: InstanceType<WebSocketClass>;
    try {
      const { url, subprotocols } = address(this.#url, token);
      socket = new WebSocket(url, subprotocols);
    } catch (error) {
      // What the constructor throws at is the address itself: no later try will do better.
      this.close(messageOf(error));
      return;
    }
    this.#next = new Socket(
      socket,
      clock,
      nextId,
      { helloMs, pongMs },
      {
        onHello: (from, hello) => this.#onHello(from, hello),
        onFrame: (from, frame, size) => {
          if (from === this.#current || from === this.#left) this.#hooks.onFrame(from, frame, size);
        },
        onDown: (from, reason, code) => this.#onDown(from, reason, code),
      },
    );
  }

  #onHello(socket: Socket, hello: Hello): void {
    this.#cancelRetry();
    this.#next = undefined;
    if (this.#left !== undefined) {
      this.#left.abandon();
      this.#hooks.onDown(this.#left, false);
    }
    this.#left = this.#current;
    this.#current = socket;
    this.#openedAt = this.#options.clock.now();
    this.#setState({ status: "open", connectionId: hello.connectionId });
    this.#hooks.onOpen(socket);
    this.settle();
  }

  #onDown(socket: Socket, reason: string, code?: number): void {
    if (socket === this.#left) {
      this.#left = undefined;
      this.#hooks.onDown(socket, false);
      return;
    }
    if (socket === this.#next) this.#next = undefined;
    else this.#lostCurrent(socket, code);
    if (this.#isOver(reason, code)) return;
    if (this.#current === undefined && this.#next !== undefined) {
      this.#setState({ status: "connecting", attempt: this.#tries });
    } else if (this.#retry !== undefined) {
      this.#showRetry(this.#retry);
    } else {
      this.#scheduleIn(this.#backoffMs(), reason);
    }
  }

  #lostCurrent(socket: Socket, code: number | undefined): void {
    this.#current = undefined;
    // Told to back off, it does: such a gateway is not well, however long it was up.
    if (code !== closeCodes.overloaded && code !== closeCodes.rateLimited) this.#startOverIfWell();
    this.#hooks.onDown(socket, true);
  }

  /** Does what a close code asks for. True: the link is closed for good. */
  #isOver(reason: string, code: number | undefined): boolean {
    const action = code === undefined ? "reconnect" : closeAction(code);
    if (action === "refresh-token" && typeof this.#options.token === "function") {
      this.#refusedToken = this.#token;
      this.#token = undefined;
      return false;
    }
    if (action === "reconnect") return false;
    this.close(reason, code);
    return true;
  }

  #backoffMs(): number {
    return backoffDelay(this.#tries, this.#options.random);
  }

  #startOverIfWell(): void {
    if (this.#options.clock.now() - this.#openedAt >= this.#options.healthyMs) this.#tries = 0;
  }

  #scheduleIn(ms: number, reason: string): void {
    this.#cancelRetry();
    const timer = this.#options.clock.setTimeout(() => this.#connect(), ms);
    this.#retry = { timer, at: this.#options.clock.now() + ms, reason };
    this.#showRetry(this.#retry);
  }

  /** Nobody needs to hear of a retry while the old socket still serves. */
  #showRetry({ at, reason }: { at: number; reason: string }): void {
    if (this.#current !== undefined) return;
    const retryInMs = Math.max(0, Math.round(at - this.#options.clock.now()));
    this.#setState({ status: "waiting", attempt: this.#tries + 1, retryAt: at, retryInMs, reason });
  }

  #cancelRetry(): void {
    this.#options.clock.clearTimeout(this.#retry?.timer);
    this.#retry = undefined;
  }

  #setState(state: ConnectionState): void {
    this.#state = state;
    this.#hooks.onState(state);
  }
}

/** What a subprotocol may consist of: a token as of RFC 7230. */
const subprotocolSafe = /^[\w!#$%&'*+.^`|~-]+$/;

/** A token goes where a browser can put it: into a subprotocol, or, with characters that have no place there, the query. */
function address(url: string, token: string | undefined): { url: string; subprotocols: string[] } {
  if (token === undefined || token === "") return { url, subprotocols: [subprotocol] };
  if (subprotocolSafe.test(token)) {
    return { url, subprotocols: [subprotocol, bearerSubprotocolPrefix + token] };
  }
  const query = `${url.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}`;
  return { url: url + query, subprotocols: [subprotocol] };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
