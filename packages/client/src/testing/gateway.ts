/**
 * A gateway that does what a test tells it to, on a real port: also what no gateway should do. It answers nothing by
 * itself but hello, and that only if it is left to.
 */
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import type { ErrorCode, EventMethod, EventParams, Method, Params, Result } from "@throughline/protocol";
import { errorCodes, lifecycle, type Part, subprotocol } from "@throughline/protocol";
import { type WebSocket, WebSocketServer } from "ws";

const deadlineMs = 60_000;

export interface Command<M extends Method = Method> {
  id: number;
  method: M;
  params: Params<M>;
}

export class ScriptedGateway {
  readonly #server: WebSocketServer;
  readonly port: number;
  readonly #peers = new Queue<Peer>("a connection");
  /** Every connection so far. */
  readonly peers: Peer[] = [];
  /** What new connections are greeted with; null: nothing. */
  hello: Partial<EventParams<"server.hello">> | null = {};
  /** Looks after every new connection; without it, tests take them with `accept`. */
  onPeer: ((peer: Peer) => void) | undefined;

  static async listen(port = 0): Promise<ScriptedGateway> {
    const server = new WebSocketServer({ host: "127.0.0.1", port, handleProtocols: () => subprotocol });
    await once(server, "listening");
    return new ScriptedGateway(server);
  }

  constructor(server: WebSocketServer) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
    server.on("connection", (socket, request) => {
      const peer = new Peer(socket, request);
      this.peers.push(peer);
      if (this.hello !== null) peer.greet(this.hello);
      if (this.onPeer !== undefined) this.onPeer(peer);
      else this.#peers.put(peer);
    });
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/v1/ws`;
  }

  /** The next connection. */
  accept(): Promise<Peer> {
    return this.#peers.take();
  }

  async close(): Promise<void> {
    for (const peer of this.peers) peer.drop();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** The gateway's end of one connection. */
export class Peer {
  readonly #socket: WebSocket;
  readonly #commands = new Queue<Command>("a command");
  readonly subprotocols: string[];
  readonly path: string;
  /** The close code, once the client has gone. */
  readonly closed: Promise<number>;
  isClosed = false;
  /** Every command so far. */
  readonly received: Command[] = [];
  /** Answers commands; what it answers `false` to waits for `command`. */
  onCommand: ((command: Command) => boolean) | undefined;

  constructor(socket: WebSocket, request: IncomingMessage) {
    this.#socket = socket;
    this.subprotocols = (request.headers["sec-websocket-protocol"] ?? "").split(/, */);
    this.path = request.url ?? "";
    this.closed = new Promise((resolve) =>
      socket.on("close", (code) => {
        this.isClosed = true;
        resolve(code);
      }),
    );
    socket.on("error", () => {});
    socket.on("message", (data) => {
      const command = JSON.parse(String(data)) as Command;
      this.received.push(command);
      if (this.onCommand?.(command) !== true) this.#commands.put(command);
    });
  }

  /** The next command, which is to be this one. */
  async command<M extends Method>(method: M): Promise<Command<M>> {
    const command = await this.#commands.take();
    if (command.method !== method) throw new Error(`expected ${method}, got ${JSON.stringify(command)}`);
    return command as Command<M>;
  }

  /** The next command, whichever it is. */
  take(): Promise<Command> {
    return this.#commands.take();
  }

  send(frame: unknown): void {
    this.#socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  greet(hello: Partial<EventParams<"server.hello">> = {}): void {
    const params = { protocol: 1, connectionId: "c1", heartbeatMs: 25_000, maxFrameBytes: 1 << 20, ...hello };
    this.send({ type: "event", method: "server.hello", params });
  }

  answer<M extends Method>(command: Command<M>, result: Result<M>): void {
    this.send({ type: "success", id: command.id, result });
  }

  refuse(command: Command, error: ErrorCode, details?: Record<string, unknown>): void {
    const { retryable } = errorCodes[error];
    this.send({ type: "error", id: command.id, error, message: `no: ${error}`, retryable, details });
  }

  event<E extends EventMethod>(method: E, params: EventParams<E>): void {
    this.send({ type: "event", method, params });
  }

  parts(runId: string, offset: number, parts: (Part | null)[]): void {
    this.event("run.parts", { runId, offset, parts });
  }

  /** Takes the next run.subscribe and answers it. */
  async subscribed(result: Partial<Result<"run.subscribe">> = {}): Promise<Command<"run.subscribe">> {
    const command = await this.command("run.subscribe");
    const { runId } = command.params;
    this.answer(command, { runId, status: "running", first: 1, head: 0, epoch: "e1", ...result });
    return command;
  }

  /** Takes the next run.start and answers it: the run is `r1` of thread `t1`. */
  async started(result: Partial<Result<"run.start">> = {}): Promise<Command<"run.start">> {
    const command = await this.command("run.start");
    this.answer(command, {
      runId: "r1",
      threadId: "t1",
      status: "queued",
      epoch: "e1",
      created: true,
      ...result,
    });
    return command;
  }

  close(code: number, reason?: string): void {
    this.#socket.close(code, reason);
  }

  /** As when the network goes away. */
  drop(): void {
    this.#socket.terminate();
  }
}

/** Parts to send. */
export const parts = {
  token(text: string, id = "m1"): Part {
    return { type: "messages", ns: [], data: [{ type: "AIMessageChunk", id, content: text }, {}] };
  },
  /** A piece of a tool call. */
  call(piece: { index?: number; id?: string; name?: string; args: string }, id = "m1"): Part {
    const chunk = { type: "AIMessageChunk", id, content: "", tool_call_chunks: [piece] };
    return { type: "messages", ns: [], data: [chunk, {}] };
  },
  custom(data: string): Part {
    return { type: "custom", ns: [], data };
  },
  started(attempt = 1): Part {
    return lifecycle({ event: "started", attempt });
  },
  rewound(to: number, attempt = 2): Part {
    return lifecycle({ event: "rewound", attempt, to });
  },
  completed(): Part {
    return lifecycle({ event: "completed", checkpoint: { threadId: "t1", checkpointId: "k1" } });
  },
};

/** What has come, and who waits for it, each with a deadline. */
class Queue<T> {
  readonly #what: string;
  readonly #items: T[] = [];
  readonly #takers: ((item: T) => void)[] = [];

  constructor(what: string) {
    this.#what = what;
  }

  put(item: T): void {
    const taker = this.#takers.shift();
    if (taker === undefined) this.#items.push(item);
    else taker(item);
  }

  take(): Promise<T> {
    const item = this.#items.shift();
    if (item !== undefined) return Promise.resolve(item);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${this.#what} did not come`)), deadlineMs);
      this.#takers.push((taken) => {
        clearTimeout(timer);
        resolve(taken);
      });
    });
  }
}
