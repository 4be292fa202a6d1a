/** A client as thin as one can be: a raw socket, its commands and its answers. Whatever comes is held to the schemas. */
import type { Socket } from "node:net";
import {
  commands,
  type ErrorFrame,
  type EventFrame,
  errorFrame,
  events,
  type Method,
  type Params,
  ProtocolError,
  type Result,
  type ServerFrame,
  successFrame,
  type ThreadState,
} from "@throughline/protocol";
import { type ClientOptions, WebSocket } from "ws";
import { Transcript } from "./transcript.ts";
import { patienceMs, until, within } from "./until.ts";

export interface TestClientOptions extends ClientOptions {
  protocols?: string[];
  /** Whether every frame is checked against its schema. Default true; false where speed is what is tested. */
  validate?: boolean;
}

interface Pending {
  method: Method | undefined;
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
  /** Called before the next frame is looked at. */
  onResult: ((result: unknown) => void) | undefined;
}

export class TestClient {
  readonly ws: WebSocket;
  /** Resolves when the socket is gone. */
  readonly closed: Promise<{ code: number; reason: string }>;
  readonly events: EventFrame[] = [];
  /** Answers with an id that nobody waits for, or with none. */
  readonly strays: ErrorFrame[] = [];
  readonly #pending = new Map<number, Pending>();
  readonly #transcripts = new Map<string, Transcript>();
  readonly #validate: boolean;
  #lastId = 0;

  private constructor(url: string, { protocols, validate = true, ...options }: TestClientOptions) {
    this.#validate = validate;
    this.ws = new WebSocket(url, protocols ?? ["throughline.v1"], options);
    this.ws.on("message", (data) => this.#onFrame(data.toString()));
    this.ws.on("error", () => {}); // A close follows, with its code.
    this.closed = new Promise((resolve) => {
      this.ws.on("close", (code, reason) => {
        const error = new Error(`the socket was closed: ${code} ${reason}`);
        for (const { reject } of this.#pending.values()) reject(error);
        this.#pending.clear();
        resolve({ code, reason: reason.toString() });
      });
    });
  }

  /** Opens a socket and waits for the gateway's hello, or for the refusal. */
  static async open(url: string, options: TestClientOptions = {}): Promise<TestClient> {
    const client = new TestClient(url, options);
    const hello = until(() => client.events.length > 0, patienceMs, "server.hello");
    const refused = client.closed.then(({ code, reason }) => {
      throw new RefusedError(code, reason);
    });
    refused.catch(() => {});
    await Promise.race([hello, refused]);
    hello.catch(() => {});
    return client;
  }

  get hello(): Extract<EventFrame, { method: "server.hello" }>["params"] {
    return this.events[0]!.params as never;
  }

  /** The TCP socket below. */
  get socket(): Socket {
    return (this.ws as unknown as { _socket: Socket })._socket;
  }

  /** Sends a command. Rejects with the ProtocolError that it is answered with. */
  async call<M extends Method>(
    method: M,
    params: Params<M>,
    onResult?: (result: Result<M>) => void,
  ): Promise<Result<M>> {
    return (await this.#send(method, params, method, onResult as never)) as Result<M>;
  }

  /** The state at a thread's head, which it must have, or at a checkpoint; without the record that a head comes with. */
  async state(threadId: string, checkpointId?: string): Promise<ThreadState> {
    const { thread: _, ...state } = await this.call("thread.get", { threadId, checkpointId });
    if (state.checkpointId === null) throw new Error(`thread ${threadId} has no checkpoint`);
    return state as ThreadState;
  }

  /** Sends a command that need not be one. */
  async command(method: string, params?: unknown): Promise<unknown> {
    return await this.#send(method, params, undefined, undefined);
  }

  /** Sends a frame as it is. */
  raw(data: string | Buffer): void {
    this.ws.send(data);
  }

  /** The error that a command is answered with. */
  async refusal(method: string, params?: unknown): Promise<ProtocolError> {
    let result: unknown;
    try {
      result = await this.command(method, params);
    } catch (error) {
      if (error instanceof ProtocolError) return error;
      throw error;
    }
    throw new Error(`${method} was answered with ${JSON.stringify(result)}`);
  }

  /** What was told of a run on this socket, or on those that this transcript was on before. */
  transcript(runId: string): Transcript {
    let transcript = this.#transcripts.get(runId);
    if (transcript === undefined) {
      transcript = new Transcript(runId);
      this.#transcripts.set(runId, transcript);
    }
    return transcript;
  }

  /** Starts a run and follows it from its first offset. */
  async start(params: Params<"run.start">): Promise<Transcript> {
    const { runId } = await this.call("run.start", params, (result) => {
      this.#transcripts.set(result.runId, new Transcript(result.runId, 0));
    });
    return this.transcript(runId);
  }

  /** Subscribes to a run; a transcript that is given goes on where it is. */
  async follow(
    runId: string,
    params: Omit<Params<"run.subscribe">, "runId"> = {},
    transcript?: Transcript,
  ): Promise<Transcript> {
    const after = params.after ?? transcript?.last ?? 0;
    await this.call("run.subscribe", { ...params, runId, after }, (result) => {
      const from = after === "head" ? result.head : after;
      if (transcript !== undefined && transcript.next !== from + 1) transcript.goBack(from);
      this.#transcripts.set(runId, transcript ?? new Transcript(runId, from));
    });
    return this.transcript(runId);
  }

  /** Closes in the orderly way. */
  async close(): Promise<void> {
    this.ws.close();
    await within(this.closed, patienceMs, "the close");
  }

  /** The cable is cut. */
  drop(): void {
    this.ws.terminate();
  }

  #send(
    method: string,
    params: unknown,
    known: Method | undefined,
    onResult: ((result: unknown) => void) | undefined,
  ): Promise<unknown> {
    const id = ++this.#lastId;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { method: known, resolve, reject, onResult });
    });
    this.ws.send(JSON.stringify({ id, method, params }));
    return within(answer, patienceMs, `the answer to ${method}`);
  }

  #onFrame(text: string): void {
    const frame = JSON.parse(text) as ServerFrame;
    if (frame.type === "event") {
      if (this.#validate) events[frame.method].parse(frame.params);
      if (frame.method !== "run.parts") this.events.push(frame);
      if ("runId" in frame.params) this.transcript(String(frame.params.runId)).onEvent(frame);
      return;
    }
    if (frame.type === "error") errorFrame.parse(frame);
    else successFrame.parse(frame);
    const pending = frame.id === null ? undefined : this.#pending.get(frame.id);
    if (frame.id === null || pending === undefined) {
      if (frame.type === "success") throw new Error(`command ${frame.id} was answered twice`);
      this.strays.push(frame);
      return;
    }
    this.#pending.delete(frame.id);
    if (frame.type === "error") {
      pending.reject(new ProtocolError(frame.error, frame.message, frame.details));
      return;
    }
    if (pending.method !== undefined) commands[pending.method].result.parse(frame.result);
    pending.onResult?.(frame.result);
    pending.resolve(frame.result);
  }
}

/** The gateway closed the socket before it said hello. */
export class RefusedError extends Error {
  readonly code: number;
  constructor(code: number, reason: string) {
    super(`refused with ${code}: ${reason}`);
    this.code = code;
  }
}
