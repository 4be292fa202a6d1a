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
  backoff,
  backoffDelay,
  bearerSubprotocolPrefix,
  closeAction,
  closeCodes,
  type ServerFrame,
  subprotocol,
} from "@throughline/protocol";
import type { Down, ReasonCode } from "./down.ts";
import { ConnectionClosedError } from "./errors.ts";
import {
  type Clock,
  httpStatus,
  isOffline,
  type NetworkEvent,
  onNetworkEvent,
  type WebSocketClass,
} from "./platform.ts";
import { type Hello, Socket, type SocketTimes } from "./socket.ts";

/** A token, or a function that gets one. The function is asked again when a gateway refuses what it gave. */
export type TokenSource = string | (() => string | Promise<string>);

/**
 * Where the connection stands. `attempt` counts tries since the connection was last well, from 1. Times are in ms;
 * `retryAt` is the clock's time. `reason` is for people to read, `code` for programs; `closeCode` is the WebSocket's.
 * While the device is offline (`code: "offline"`) tries are rare, and not counted.
 */
export type ConnectionState =
  | { readonly status: "connecting"; readonly attempt: number }
  | { readonly status: "open"; readonly connectionId: string }
  | {
      readonly status: "waiting";
      readonly attempt: number;
      readonly retryAt: number;
      readonly retryInMs: number;
      readonly code: ReasonCode;
      readonly reason: string;
    }
  | {
      readonly status: "closed";
      readonly code: ReasonCode;
      readonly reason: string;
      readonly closeCode?: number;
    };

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
/** How long a gateway may take to answer where the network has just changed, or somebody looks again, in ms. */
const probeMs = 3000;
/** A link that never came up asks from this try on whether a server is there that knows no such path. */
const suspectTries = 3;

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
  #retry: ({ timer: unknown; at: number } & Down) | undefined;
  /** A gateway said hello once: the address is one. */
  #wasOpen = false;
  #offNetwork: () => void = () => {};
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
    this.#offNetwork = onNetworkEvent((event) => this.#onNetwork(event));
    this.#connect();
  }

  reconnectNow(): void {
    if (this.#retry !== undefined && this.#current === undefined) this.#connect();
  }

  close(down: Down): void {
    if (this.#state.status === "closed") return;
    this.#offNetwork();
    this.#dial += 1;
    this.#cancelRetry();
    for (const socket of [this.#current, this.#next, this.#left]) socket?.abandon();
    this.#current = undefined;
    this.#next = undefined;
    this.#left = undefined;
    this.#setState({ status: "closed", ...down });
    this.#hooks.onClosed(new ConnectionClosedError(down.reason, down.closeCode));
  }

  /** The gateway will close this socket soon: go elsewhere in about that long. */
  drain(retryInMs: number): void {
    // However short it was up, as it is where gateways are restarted one after the other.
    this.#tries = 0;
    // A little later, so that the sockets of a gateway do not all come back in the same moment; not by much, for its
    // socket may close at any time from then on.
    const spreadMs = this.#options.random() * Math.min(retryInMs / 5, maxDrainSpreadMs);
    const down: Down = { code: "restarting", reason: "the gateway restarts" };
    this.#scheduleIn(Math.max(retryInMs + spreadMs, this.#backoffMs()), down);
  }

  /** Abandons the socket before the current one, once it owes no answers. */
  abandonLeft(): void {
    if (this.#left === undefined || this.#hooks.owes(this.#left)) return;
    this.#left.abandon();
    this.#left = undefined;
  }

  /** What timers would find out half a minute later. A gateway that asked for time gets it. */
  #onNetwork(event: NetworkEvent): void {
    if (this.#current !== undefined) {
      this.#current.probe(Math.min(probeMs, this.#options.pongMs));
    } else if (event === "offline") {
      if (this.#retry !== undefined) this.#retryLater(this.#retry);
    } else if (this.#retry === undefined) {
      // What was begun without a network may take long to notice that there is one.
      if (event === "online" && this.#next !== undefined) this.#connect();
    } else if (this.#retry.code !== "overloaded" && this.#retry.code !== "restarting") {
      this.#connect();
    }
  }

  /** Waits for the next try: as the backoff has it, or, without a network, until there is one. */
  #retryLater(down: Down): void {
    if (isOffline()) {
      // Some devices say so that have one.
      this.#scheduleIn(backoff.maxMs, { code: "offline", reason: "this device is offline" });
    } else {
      this.#scheduleIn(this.#backoffMs(), down);
    }
  }

  #connect(): void {
    this.#cancelRetry();
    this.#next?.abandon();
    this.#next = undefined;
    this.#dial += 1;
    if (this.#tries === 0 || !isOffline()) this.#tries += 1;
    const dial = this.#dial;
    if (this.#current === undefined) this.#setState({ status: "connecting", attempt: this.#tries });
    this.#getToken().then(
      (token) => {
        if (dial === this.#dial) this.#openSocket(token);
      },
      (error: unknown) => {
        if (dial === this.#dial) this.#retryLater({ code: "token", reason: `no token: ${messageOf(error)}` });
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
      this.close({ code: "token", reason: "the token was refused", closeCode: closeCodes.badToken });
      return;
    }
    let socket: InstanceType<WebSocketClass>;
    try {
      const { url, subprotocols } = address(this.#url, token);
      socket = new WebSocket(url, subprotocols);
    } catch (error) {
      // What the constructor throws at is the address itself: no later try will do better.
      this.close({ code: "address", reason: messageOf(error) });
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
        onDown: (from, down) => this.#onDown(from, down),
      },
    );
  }

  #onHello(socket: Socket, hello: Hello): void {
    this.#cancelRetry();
    this.#wasOpen = true;
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
    this.abandonLeft();
  }

  #onDown(socket: Socket, down: Down): void {
    if (socket === this.#left) {
      this.#left = undefined;
      this.#hooks.onDown(socket, false);
      return;
    }
    if (socket === this.#next) this.#next = undefined;
    else this.#lostCurrent(socket, down.closeCode);
    if (this.#isOver(down)) return;
    if (this.#current === undefined && this.#next !== undefined) {
      this.#setState({ status: "connecting", attempt: this.#tries });
    } else if (this.#retry !== undefined) {
      this.#showRetry(this.#retry);
    } else {
      this.#retryLater(down);
      if (down.code === "unreachable") void this.#suspectAddress();
    }
  }

  /** A server that answers 404 here is no gateway, or not under this path: it is not asked for ever. */
  async #suspectAddress(): Promise<void> {
    if (this.#wasOpen || this.#tries < suspectTries) return;
    const [address = ""] = this.#url.split("?");
    if ((await httpStatus(this.#url)) !== 404 || this.#wasOpen) return;
    const reason = `the server at ${address} answers 404: check the URL, a gateway's path is /v1/ws`;
    this.close({ code: "address", reason });
  }

  #lostCurrent(socket: Socket, code: number | undefined): void {
    this.#current = undefined;
    // Told to back off, it does: such a gateway is not well, however long it was up.
    if (code !== closeCodes.overloaded && code !== closeCodes.rateLimited) this.#startOverIfWell();
    this.#hooks.onDown(socket, true);
  }

  /** Does what a close code asks for. True: the link is closed for good. */
  #isOver(down: Down): boolean {
    const action = down.closeCode === undefined ? "reconnect" : closeAction(down.closeCode);
    if (action === "refresh-token" && typeof this.#options.token === "function") {
      this.#refusedToken = this.#token;
      this.#token = undefined;
      return false;
    }
    if (action === "reconnect") return false;
    this.close(down);
    return true;
  }

  #backoffMs(): number {
    return backoffDelay(this.#tries, this.#options.random);
  }

  #startOverIfWell(): void {
    if (this.#options.clock.now() - this.#openedAt >= this.#options.healthyMs) this.#tries = 0;
  }

  #scheduleIn(ms: number, { code, reason }: Down): void {
    this.#cancelRetry();
    const timer = this.#options.clock.setTimeout(() => this.#connect(), ms);
    this.#retry = { timer, at: this.#options.clock.now() + ms, code, reason };
    this.#showRetry(this.#retry);
  }

  /** Nobody needs to hear of a retry while the old socket still serves. */
  #showRetry({ at, code, reason }: { at: number } & Down): void {
    if (this.#current !== undefined) return;
    const retryInMs = Math.max(0, Math.round(at - this.#options.clock.now()));
    this.#setState({ status: "waiting", attempt: this.#tries + 1, retryAt: at, retryInMs, code, reason });
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
