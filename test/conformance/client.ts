/** A raw socket to a gateway: no reconnects, no help. It checks every frame that comes against the schemas. */
import assert from "node:assert/strict";
import {
  commands,
  type ErrorFrame,
  type EventMethod,
  type EventParams,
  errorFrame,
  events,
  type Method,
  type Part,
  type Result,
  type ServerFrame,
  subprotocol,
  successFrame,
  type ThreadEvent,
} from "@throughline/protocol";
import { WebSocket } from "ws";

export interface SocketOptions {
  /** Subprotocols to offer. Default: throughline.v1. */
  protocols?: string[];
  headers?: Record<string, string>;
  /** Whether to answer pings. Default: true. */
  autoPong?: boolean;
}

/** What a run's subscription has brought at an offset; null: left out by the filter. */
export interface Seen {
  offset: number;
  part: Part | null;
}

/** What a watch has brought at an offset; null: left out. */
export interface Told {
  offset: number;
  event: ThreadEvent | null;
}

/** When a gateway is held to hang, ms: no bound on what is tested, but far longer than anything takes. */
export const deadlineMs = 60_000;

/** The gateway sent an error where an answer was due. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  readonly frame: ErrorFrame;
  constructor(method: string, frame: ErrorFrame) {
    super(`${method} was refused: ${frame.error}: ${frame.message}`);
    this.frame = frame;
  }
}

export class Socket {
  readonly ws: WebSocket;
  /** Every frame so far, in order. */
  readonly frames: ServerFrame[] = [];
  readonly pings: number[] = [];
  closed: { code: number; reason: string } | undefined;
  readonly #asked = new Map<number, Method>();
  readonly #watchers = new Set<() => void>();
  #failure: Error | undefined;
  /** What Node said of a connection that broke, or was never made. */
  #lost = "";
  #lastId = 0;

  constructor(url: string, options: SocketOptions = {}) {
    this.ws = new WebSocket(url, options.protocols ?? [subprotocol], {
      headers: options.headers ?? {},
      autoPong: options.autoPong ?? true,
    });
    this.ws.on("message", (data: Buffer, isBinary) => {
      try {
        this.frames.push(this.#read(data, isBinary));
      } catch (error) {
        this.#failure ??= error as Error;
      }
      this.#look();
    });
    this.ws.on("ping", () => {
      this.pings.push(performance.now());
      this.#look();
    });
    this.ws.on("close", (code, reason) => {
      this.closed = { code, reason: reason.toString() || this.#lost };
      this.#look();
    });
    this.ws.on("error", (error) => {
      this.#lost = error.message; // `close` follows.
    });
  }

  send(frame: unknown): void {
    this.ws.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** Sends a command. Answers its id. */
  ask<M extends Method>(method: M, params: Record<string, unknown> = {}): number {
    const id = ++this.#lastId;
    this.#asked.set(id, method);
    this.send({ id, method, params });
    return id;
  }

  /** The answer to the command with this id. @throws RefusedError */
  async answer<M extends Method>(id: number, method: M, ms = deadlineMs): Promise<Result<M>> {
    const frame = await this.until(
      `the answer to ${method}`,
      () => this.frames.find((each) => each.type !== "event" && each.id === id),
      ms,
    );
    if (frame.type === "error") throw new RefusedError(method, frame);
    return (frame as { result: unknown }).result as Result<M>;
  }

  call<M extends Method>(method: M, params: Record<string, unknown> = {}, ms?: number): Promise<Result<M>> {
    return this.answer(this.ask(method, params), method, ms);
  }

  /** The error that a command is answered with; fails where it succeeds. */
  async refused(method: string, params: Record<string, unknown> = {}): Promise<ErrorFrame> {
    try {
      const result = await this.call(method as Method, params);
      assert.fail(`${method} succeeded: ${JSON.stringify(result)}`);
    } catch (error) {
      if (error instanceof RefusedError) return error.frame;
      throw error;
    }
  }

  /** The next event of this kind, from frame number `from` on. */
  async event<E extends EventMethod>(
    method: E,
    runId?: string,
    from = 0,
    ms = deadlineMs,
  ): Promise<EventParams<E>> {
    const which = runId === undefined ? method : `${method} of ${runId}`;
    return await this.until(which, () => this.#find(method, runId, from), ms);
  }

  /** What run.parts brought of a run, from frame number `from` on. Fails where frames do not follow on each other. */
  parts(runId: string, from = 0): Seen[] {
    const seen: Seen[] = [];
    for (const frame of this.frames.slice(from)) {
      if (frame.type !== "event" || frame.method !== "run.parts" || frame.params.runId !== runId) continue;
      const { offset, parts, skipped } = frame.params;
      const last = seen.at(-1);
      if (last !== undefined) assert.equal(offset, last.offset + 1, `frames of ${runId} are not contiguous`);
      assert.ok(skipped === undefined || parts.length === 0, "`skipped` stands in place of parts");
      const all = skipped === undefined ? parts : Array.from({ length: skipped }, () => null);
      assert.ok(all.length > 0, "a frame of run.parts brought nothing");
      for (const [i, part] of all.entries()) seen.push({ offset: offset + i, part });
    }
    return seen;
  }

  /**
   * What thread.events brought of a thread, or of all of the owner's where none is named, from frame number `from` on.
   * Fails where frames do not follow on each other; a reset begins anew.
   */
  told(threadId?: string, from = 0): Told[] {
    const told: Told[] = [];
    let next: number | undefined;
    for (const frame of this.frames.slice(from)) {
      if (
        frame.type !== "event" ||
        !("threadId" in frame.params ? frame.params.threadId === threadId : threadId === undefined)
      )
        continue;
      if (frame.method === "thread.reset") next = frame.params.offset + 1;
      if (frame.method !== "thread.events") continue;
      const { offset, events: list, skipped } = frame.params;
      if (next !== undefined) assert.equal(offset, next, `frames of ${threadId} are not contiguous`);
      assert.ok(skipped === undefined || list.length === 0, "`skipped` stands in place of events");
      const all = skipped === undefined ? list : Array.from({ length: skipped }, () => null);
      assert.ok(all.length > 0, "a frame of thread.events brought nothing");
      for (const [i, event] of all.entries()) told.push({ offset: offset + i, event });
      next = offset + all.length;
    }
    return told;
  }

  /** What came of a run until its subscription ended. */
  async ended(runId: string, from = 0, ms = deadlineMs): Promise<Seen[]> {
    const { reason } = await this.event("run.unsubscribed", runId, from, ms);
    assert.equal(reason, "ended");
    return this.parts(runId, from);
  }

  /** How the gateway closed this socket. */
  async untilClosed(ms = deadlineMs): Promise<{ code: number; reason: string }> {
    return await this.until("the close", () => this.closed, ms, true);
  }

  /** What `find` answers once it answers something; looked for with every frame, ping and close. */
  async until<T>(
    what: string,
    find: () => T | undefined | false,
    ms = deadlineMs,
    closes = false,
  ): Promise<T> {
    return await new Promise<T>((resolve, reject) => {
      const finish = (report: () => void) => {
        clearTimeout(deadline);
        this.#watchers.delete(look);
        report();
      };
      const look = () => {
        if (this.#failure !== undefined) return finish(() => reject(this.#failure));
        let found: T | undefined | false;
        try {
          found = find();
        } catch (error) {
          return finish(() => reject(error));
        }
        if (found !== undefined && found !== false) return finish(() => resolve(found as T));
        if (this.closed !== undefined && !closes) {
          const { code, reason } = this.closed;
          finish(() =>
            reject(new Error(`waiting for ${what}, the socket was closed with ${code} ${reason}`)),
          );
        }
      };
      const late = () => reject(new Error(`${what} did not come within ${ms} ms`));
      const deadline = setTimeout(() => finish(late), ms);
      this.#watchers.add(look);
      look();
    });
  }

  close(): void {
    this.ws.terminate();
  }

  #find<E extends EventMethod>(
    method: E,
    runId: string | undefined,
    from: number,
  ): EventParams<E> | undefined {
    for (let i = from; i < this.frames.length; i++) {
      const frame = this.frames[i]!;
      if (frame.type !== "event" || frame.method !== method) continue;
      const params = frame.params as EventParams<E>;
      if (runId === undefined || (params as { runId?: string }).runId === runId) return params;
    }
    return undefined;
  }

  #look(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }

  #read(data: Buffer, isBinary: boolean): ServerFrame {
    assert.equal(isBinary, false, "the gateway sent a binary frame");
    const frame = JSON.parse(data.toString()) as ServerFrame;
    if (frame.type === "event") {
      assert.ok(Object.hasOwn(events, frame.method), `there is no event ${frame.method}`);
      events[frame.method].parse(frame.params);
    } else if (frame.type === "success") {
      successFrame.parse(frame);
      const method = this.#asked.get(frame.id);
      if (method !== undefined) commands[method].result.parse(frame.result);
    } else {
      errorFrame.parse(frame);
    }
    return frame;
  }
}
