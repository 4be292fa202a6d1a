/**
 * One WebSocket, from its making to its death, which is reported once. A socket is open only when the gateway has said
 * hello. A browser does not see pings: one that has been quiet for the gateway's heartbeat is asked for a sign of life.
 */
import { closeCodes, type EventParams, protocolVersion, type ServerFrame } from "@throughline/protocol";
import { type Down, downOf, type ReasonCode } from "./down.ts";
import { readFrame } from "./frames.ts";
import type { Clock, WebSocketLike } from "./platform.ts";

export interface Hello extends EventParams<"server.hello"> {}

export interface SocketHooks {
  onHello(socket: Socket, hello: Hello): void;
  /** `size`: length of the frame's text, in UTF-16 code units. */
  onFrame(socket: Socket, frame: ServerFrame, size: number): void;
  /** Once, and never after `abandon`. No close code: the client gave the socket up. */
  onDown(socket: Socket, down: Down): void;
}

export interface SocketTimes {
  /** How long the gateway may take to say hello, in ms. */
  helloMs: number;
  /** How long it may take to answer a ping, in ms. */
  pongMs: number;
}

export class Socket {
  hello: Hello | undefined;
  #ws: WebSocketLike | undefined;
  readonly #clock: Clock;
  readonly #hooks: SocketHooks;
  readonly #times: SocketTimes;
  readonly #nextId: () => number;
  #timer: unknown;
  #heardAt = 0;
  #asked = false;
  /** When the timer fires, by the clock. */
  #dueAt = 0;
  #opened = false;
  #error: string | undefined;

  constructor(ws: WebSocketLike, clock: Clock, nextId: () => number, times: SocketTimes, hooks: SocketHooks) {
    this.#ws = ws;
    this.#clock = clock;
    this.#nextId = nextId;
    this.#times = times;
    this.#hooks = hooks;
    this.#timer = clock.setTimeout(
      () => this.#giveUp("no_answer", "the gateway did not say hello"),
      times.helloMs,
    );
    ws.addEventListener("open", () => {
      this.#opened = true;
    });
    ws.addEventListener("message", (event) => this.#onMessage(event.data));
    ws.addEventListener("close", (event) => this.#onClose(event.code ?? 1006, event.reason ?? ""));
    // A close follows every error. In Node the error says what went wrong, in a browser nobody does.
    ws.addEventListener("error", (event) => {
      this.#error = event.message;
    });
  }

  send(text: string): void {
    this.#ws?.send(text);
  }

  /** Asks for a sign of life now, where the socket is open: it is given up after `ms` without any. */
  probe(ms: number): void {
    if (this.#ws === undefined || this.hello === undefined) return;
    if (this.#asked && this.#dueAt - this.#clock.now() <= ms) return;
    this.#clock.clearTimeout(this.#timer);
    this.#ask(ms);
  }

  /** Closes the socket and forgets it: no hook is called any more. */
  abandon(code = 1000, reason = ""): void {
    const ws = this.#ws;
    if (ws === undefined) return;
    this.#forget();
    ws.close(code, reason);
  }

  #forget(): void {
    this.#ws = undefined;
    this.#clock.clearTimeout(this.#timer);
  }

  /** The socket is of no use any more, and may well be unable to say goodbye. */
  #giveUp(code: ReasonCode, reason: string, closeCode?: number): void {
    const ws = this.#ws;
    if (ws === undefined) return;
    this.#forget();
    if (ws.terminate !== undefined) ws.terminate();
    else ws.close();
    this.#hooks.onDown(this, { code, reason, ...(closeCode === undefined ? {} : { closeCode }) });
  }

  #onClose(code: number, reason: string): void {
    if (this.#ws === undefined) return;
    this.#forget();
    this.#hooks.onDown(this, downOf(code, this.#opened, reason || this.#error));
  }

  #onMessage(data: unknown): void {
    if (this.#ws === undefined) return;
    this.#heardAt = this.#clock.now();
    this.#asked = false;
    const frame = typeof data === "string" ? readFrame(data) : undefined;
    if (frame === undefined) {
      this.#giveUp("protocol", "the gateway sent what is no frame");
      return;
    }
    if (this.hello !== undefined) {
      this.#hooks.onFrame(this, frame, (data as string).length);
    } else if (frame.type === "event" && frame.method === "server.hello") {
      this.#greet(frame.params);
    } else {
      this.#giveUp("protocol", "the gateway did not begin with hello");
    }
  }

  #greet(hello: Hello): void {
    if (hello.protocol !== protocolVersion) {
      const reason = `the gateway speaks version ${hello.protocol} of the protocol`;
      this.#giveUp("protocol", reason, closeCodes.badFrame);
      return;
    }
    this.hello = hello;
    this.#clock.clearTimeout(this.#timer);
    this.#watch(hello.heartbeatMs);
    this.#hooks.onHello(this, hello);
  }

  /** Looks after the socket in `ms`: by then something has been heard, or a ping is sent. */
  #watch(ms: number): void {
    this.#dueAt = this.#clock.now() + ms;
    this.#timer = this.#clock.setTimeout(() => this.#check(), ms);
  }

  #ask(deadlineMs: number): void {
    if (!this.#asked) this.send(JSON.stringify({ id: this.#nextId(), method: "server.ping" }));
    this.#asked = true;
    this.#watch(deadlineMs);
  }

  #check(): void {
    const heartbeatMs = this.hello?.heartbeatMs ?? 0;
    const quietMs = this.#clock.now() - this.#heardAt;
    if (this.#asked) {
      this.#giveUp("no_answer", "the gateway does not answer");
      return;
    }
    if (quietMs < heartbeatMs) {
      this.#watch(heartbeatMs - quietMs);
      return;
    }
    this.#ask(this.#times.pongMs);
  }
}
