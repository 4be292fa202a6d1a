/**
 * A connection to a gateway: commands with their answers, and the runs that are followed over it. It outlives sockets:
 * what was sent and not answered is sent again on the next one, unless that could do it twice.
 */
import {
  type AgentInfo,
  type ErrorFrame,
  type EventFrame,
  type Method,
  type Params,
  ProtocolError,
  type Result,
  type RunRecord,
  type ServerFrame,
} from "@throughline/protocol";
import type { Agents, StartOf } from "./agents.ts";
import { type ConnectionClosedError, ConnectionLostError, UsageError } from "./errors.ts";
import { type ConnectionState, Link, type TokenSource } from "./link.ts";
import type { StartParams } from "./params.ts";
import {
  type Clock,
  defaultWebSocket,
  isLongerThan,
  randomId,
  systemClock,
  type WebSocketClass,
} from "./platform.ts";
import { type AttachOptions, type CancelOptions, Run, type RunHandle, type RunPort } from "./run.ts";
import type { Socket } from "./socket.ts";
import { allRuns, Thread } from "./thread.ts";
import { Watch, type Watching, type WatchPort, type WatchSink } from "./watch.ts";

export interface ConnectOptions {
  /** A function is asked again when what it gave was refused (close code 4401). */
  token?: TokenSource;
  /** @default the global one. Node 20 has none: pass the class that the package `ws` exports */
  WebSocket?: WebSocketClass;
  /** How long a gateway may take to say hello, in ms. @default 10_000 */
  helloMs?: number;
  /** How long it may take to answer after it has been quiet for its heartbeat, in ms. @default 5_000 */
  pongMs?: number;
  /** How long a socket must stay up for the backoff to start over, in ms. @default 5_000 */
  healthyMs?: number;
  /** How much of one run may wait to be read, in UTF-16 code units of frame text. @default 1_048_576 */
  bufferSize?: number;
  /**
   * The largest snapshot of a trimmed log that is put together, in UTF-16 code units of its JSON. A run with a larger one
   * fails with ProtocolError `payload_too_large`.
   *
   * @default 134_217_728 (128 Mi)
   */
  maxSnapshotSize?: number;
  clock?: Clock;
  /** Uniform in [0, 1). */
  random?: () => number;
}

/**
 * What becomes of a command whose socket died before the answer: `resend` on the next one; `reject`, for it may have been
 * done, and must not be done twice; `drop`, for it meant that socket only.
 */
type WhenLost = "resend" | "reject" | "drop";

interface Pending {
  readonly method: Method;
  readonly text: string;
  readonly whenLost: WhenLost;
  /** Called before the next frame is looked at. */
  readonly succeed: (result: unknown) => void;
  readonly fail: (error: Error) => void;
  /** Where it was sent; undefined: not yet. */
  socket: Socket | undefined;
}

/** Commands that must not be sent twice. `run.start` may be: it always carries an idempotency key. */
const onceOnly: ReadonlySet<Method> = new Set(["thread.update"]);

/**
 * Opens a connection, and keeps it open until `close()`. It answers at once; `state` says how it is going. With the type
 * of what the worker serves, `connect<typeof agents>(url)`, it knows the agents' names, inputs, states and custom data.
 */
export function connect<A extends Agents = Agents>(url: string, options: ConnectOptions = {}): Connection<A> {
  return new Connection<A>(url, options);
}

export class Connection<A extends Agents = Agents> {
  /** Of types alone: what `connect` was told of the agents. */
  declare readonly "~agents": A;
  readonly #link: Link;
  readonly #clock: Clock;
  readonly #stateListeners = new Set<(state: ConnectionState) => void>();
  readonly #pending = new Map<number, Pending>();
  readonly #runs = new Map<string, RunHandle>();
  readonly #watches = new Map<string | undefined, Watch>();
  readonly #allSinks = new Set<WatchSink>();
  /** Answers come in any order: a watch must not overtake the end of the one before it. */
  readonly #unwatching = new Set<string | undefined>();
  readonly #port: RunPort;
  readonly #watchPort: WatchPort;
  #lastId = 0;
  #closed: ConnectionClosedError | undefined;

  constructor(url: string, options: ConnectOptions) {
    const WebSocket = options.WebSocket ?? defaultWebSocket();
    if (WebSocket === undefined) {
      throw new UsageError(
        "no_websocket",
        "there is no global WebSocket here: pass one as options.WebSocket",
      );
    }
    this.#clock = options.clock ?? systemClock;
    const random = options.random ?? Math.random;
    this.#port = this.#runPort(random, options.bufferSize ?? 1 << 20, options.maxSnapshotSize ?? 1 << 27);
    this.#watchPort = this.#makeWatchPort(random);
    this.#link = new Link(
      url,
      {
        WebSocket,
        token: options.token,
        clock: this.#clock,
        random,
        nextId: () => this.#nextId(),
        helloMs: options.helloMs ?? 10_000,
        pongMs: options.pongMs ?? 5000,
        healthyMs: options.healthyMs ?? 5000,
      },
      {
        onOpen: (socket) => this.#onOpen(socket),
        onFrame: (socket, frame, size) => this.#onFrame(socket, frame, size),
        onDown: (socket, current) => this.#onDown(socket, current),
        onClosed: (error) => this.#onClosed(error),
        onState: (state) => {
          for (const listener of this.#stateListeners) listener(state);
        },
        owes: (socket) =>
          [...this.#pending.values()].some((each) => each.socket === socket && each.whenLost === "reject"),
      },
    );
    this.#link.open();
  }

  get state(): ConnectionState {
    return this.#link.state;
  }

  /** Calls the listener with every new state. Answers how to stop that. */
  onState(listener: (state: ConnectionState) => void): () => void {
    this.#stateListeners.add(listener);
    return () => this.#stateListeners.delete(listener);
  }

  /** Does not wait any longer, where the state is `waiting`. */
  reconnectNow(): void {
    this.#link.reconnectNow();
  }

  /** Closes for good. Commands in flight and runs that are followed fail with ConnectionClosedError. */
  close(): void {
    this.#link.close({ code: "closed", reason: "closed by the application" });
  }

  /**
   * Starts a run and follows it from its first part on. Sent again after a lost connection; an idempotency key, the
   * caller's or one that is made up here, sees to it that the run starts once.
   * Throws ProtocolError: `no_such_agent`, `thread_busy`, `invalid_argument`, …
   */
  start(params: StartOf<A>): Promise<Run> {
    const { filter, ...command } = params as StartParams;
    // An implicit subscription has no filter; a filtered run is subscribed to by itself.
    const subscribe = filter === undefined;
    const withKey = {
      ...command,
      subscribe,
      pages: true,
      idempotencyKey: params.idempotencyKey ?? randomId(),
    };
    return new Promise((resolve, reject) => {
      const started = (result: Result<"run.start">) => {
        const { runId, epoch } = result;
        // A key that was used before may lead to a run that is followed here already.
        const known = this.#runs.get(runId)?.run;
        const run = known ?? new Run(runId, filter === undefined ? { epoch } : { epoch, filter }, this.#port);
        if (known === undefined || subscribe) this.#runs.get(runId)?.started(result, subscribe);
        resolve(run);
      };
      this.#send("run.start", withKey as Params<"run.start">, started, reject);
    });
  }

  /**
   * Follows a run, from after `after` on. A run that does not exist fails the reader, and `ended`, with `no_such_run`.
   * Throws UsageError `already_attached`: a connection follows a run once.
   */
  attach(runId: string, options: AttachOptions = {}): Run {
    const run = new Run(runId, options, this.#port);
    if (this.#port.isOnline) this.#runs.get(runId)?.subscription.online();
    return run;
  }

  /** The runs, newest first. `before`: the runId that the last page ended with. */
  async runs(params: Params<"run.list"> = {}): Promise<RunRecord[]> {
    return await allRuns((page) => this.call("run.list", page), params);
  }

  getRun(runId: string): Promise<RunRecord> {
    return this.call("run.get", { runId });
  }

  /**
   * Stops a run. Answers when it has ended, with the final offset and the checkpoint; after 10 s without that, with
   * `status: "cancelling"`, and the cancel still holds. Twice is once; a run that ended otherwise answers that ending.
   */
  cancel(runId: string, options: CancelOptions = {}): Promise<Result<"run.cancel">> {
    return this.call("run.cancel", { runId, ...options });
  }

  thread(threadId: string): Thread {
    return new Thread(threadId, (method, params) => this.call(method, params));
  }

  /** What live workers offer. */
  async agents(): Promise<AgentInfo[]> {
    return (await this.call("agent.list", {})).agents;
  }

  async ping(): Promise<void> {
    await this.call("server.ping", {});
  }

  /** Tells the gateway of a new token for this socket. A token for the next one comes from the options. */
  refreshToken(token: string): Promise<Result<"auth.refresh">> {
    return this.call("auth.refresh", { token });
  }

  /**
   * Sends any command. Waits for a socket if there is none. Rejects with ProtocolError, ConnectionClosedError, or, where a
   * command must not be sent twice, ConnectionLostError.
   */
  call<M extends Method>(method: M, params: Params<M>): Promise<Result<M>> {
    return new Promise((resolve, reject) => this.#send(method, params, resolve, reject));
  }

  /**
   * Watches a thread, and follows its runs; without an id, all of the owner's threads. It replaces an earlier watch of the
   * same. For stores: an application has `conversation()` and `threads()`.
   */
  watch(threadId: string | undefined, sink: WatchSink): Watching {
    if (threadId === undefined) return this.#watchAll(sink);
    this.#watches.get(threadId)?.stop();
    return this.#watch(threadId, sink);
  }

  /** There is one watch of all threads on a socket, whoever wants to be told. */
  #watchAll(sink: WatchSink): Watching {
    const sinks = this.#allSinks;
    sinks.add(sink);
    const known = this.#watches.get(undefined);
    const each = (tell: (sink: WatchSink) => void) => () => {
      for (const sink of sinks) tell(sink);
    };
    const watch =
      known ??
      this.#watch(undefined, {
        watched: (result) => each((sink) => sink.watched(result, []))(),
        event: (event) => each((sink) => sink.event(event, undefined))(),
        reset: each((sink) => sink.reset()),
        deleted: () => {},
        failed: (error) => {
          // Who watches from now on has another watch.
          const told = [...sinks];
          sinks.clear();
          for (const sink of told) sink.failed(error);
        },
      });
    return {
      get isLive() {
        return watch.isLive;
      },
      stop: () => {
        if (sinks.delete(sink) && sinks.size === 0) watch.stop();
      },
    };
  }

  #watch(threadId: string | undefined, sink: WatchSink): Watch {
    const watch: Watch = new Watch(threadId, this.#watchPort, sink);
    this.#watches.set(threadId, watch);
    if (this.#port.isOnline && !this.#unwatching.has(threadId)) watch.online();
    return watch;
  }

  #nextId(): number {
    this.#lastId += 1;
    return this.#lastId;
  }

  #send<M extends Method>(
    method: M,
    params: Params<M>,
    succeed: (result: Result<M>) => void,
    fail: (error: Error) => void,
    whenLost: WhenLost = onceOnly.has(method) ? "reject" : "resend",
  ): void {
    if (this.#closed !== undefined) {
      fail(this.#closed);
      return;
    }
    const id = this.#nextId();
    const text = JSON.stringify({ id, method, params });
    const pending = {
      method,
      text,
      whenLost,
      succeed: succeed as Pending["succeed"],
      fail,
      socket: undefined,
    };
    this.#pending.set(id, pending);
    if (this.#link.current !== undefined) this.#transmit(id, pending, this.#link.current);
  }

  #transmit(id: number, pending: Pending, socket: Socket): void {
    const maxBytes = socket.hello?.maxFrameBytes ?? Number.POSITIVE_INFINITY;
    // The gateway would close the socket on every run that it carries.
    if (isLongerThan(pending.text, maxBytes)) {
      this.#pending.delete(id);
      const message = `${pending.method} is longer than the ${maxBytes} bytes that the gateway takes`;
      pending.fail(new ProtocolError("payload_too_large", message));
      return;
    }
    pending.socket = socket;
    socket.send(pending.text);
  }

  #onOpen(socket: Socket): void {
    for (const [id, pending] of this.#pending) {
      if (pending.socket === undefined || pending.whenLost === "resend") this.#transmit(id, pending, socket);
      else if (pending.whenLost === "drop") this.#pending.delete(id);
    }
    for (const { subscription } of this.#runs.values()) subscription.online();
    for (const watch of this.#watches.values()) watch.online();
  }

  #onDown(socket: Socket, current: boolean): void {
    for (const [id, pending] of this.#pending) {
      if (pending.socket !== socket) continue;
      pending.socket = undefined;
      if (pending.whenLost === "resend") continue;
      this.#pending.delete(id);
      if (pending.whenLost === "reject") pending.fail(new ConnectionLostError(pending.method));
    }
    if (!current) return;
    for (const { subscription } of this.#runs.values()) subscription.offline();
    this.#unwatching.clear();
    for (const watch of this.#watches.values()) watch.offline();
  }

  #onClosed(error: ConnectionClosedError): void {
    this.#closed = error;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { fail } of pending) fail(error);
    for (const handle of [...this.#runs.values()]) handle.fail(error);
  }

  #onFrame(socket: Socket, frame: ServerFrame, size: number): void {
    if (frame.type === "event") {
      // A socket that was left still owes answers, but its events belong to subscriptions that are over.
      if (socket === this.#link.current) this.#onEvent(frame, size);
    } else if (frame.type === "success" || frame.type === "error") {
      this.#onAnswer(socket, frame);
    }
  }

  #onAnswer(socket: Socket, frame: Exclude<ServerFrame, EventFrame>): void {
    const pending = frame.id === null ? undefined : this.#pending.get(frame.id);
    if (frame.id === null || pending?.socket !== socket) return;
    this.#pending.delete(frame.id);
    if (frame.type === "success") pending.succeed(frame.result);
    else pending.fail(refusal(frame));
    this.#link.abandonLeft();
  }

  #onEvent(frame: EventFrame, size: number): void {
    switch (frame.method) {
      case "run.parts":
        this.#runs.get(frame.params.runId)?.subscription.onParts(frame.params, size);
        break;
      case "run.reset":
        this.#runs.get(frame.params.runId)?.subscription.onReset(frame.params);
        break;
      case "run.snapshot":
        this.#runs.get(frame.params.runId)?.subscription.onSnapshot(frame.params, size);
        break;
      case "run.page":
        this.#runs.get(frame.params.runId)?.subscription.onPage(frame.params);
        break;
      case "run.unsubscribed":
        this.#runs.get(frame.params.runId)?.subscription.onUnsubscribed();
        break;
      case "thread.events":
        this.#watches.get(frame.params.threadId)?.onEvents(frame.params);
        break;
      case "thread.reset":
        this.#watches.get(frame.params.threadId)?.onReset(frame.params);
        break;
      case "thread.unwatched":
        this.#watches.get(frame.params.threadId)?.onUnwatched(frame.params);
        break;
      case "server.draining":
        this.#link.drain(frame.params.retryInMs);
        break;
    }
  }

  #runPort(random: () => number, bufferSize: number, maxSnapshotSize: number): RunPort {
    const connection = this;
    return {
      clock: this.#clock,
      random,
      bufferSize,
      maxSnapshotSize,
      get isOnline() {
        return connection.#link.current !== undefined;
      },
      subscribe: (ask, answered) =>
        this.#send("run.subscribe", ask, answered, (error) => answered(error as ProtocolError), "drop"),
      unsubscribe: (runId, answered) => this.#send("run.unsubscribe", { runId }, answered, answered, "drop"),
      register: (handle) => {
        const { runId } = handle.run;
        if (this.#closed !== undefined) throw this.#closed;
        const known = this.#runs.get(runId);
        if (known !== undefined && known !== handle) {
          throw new UsageError("already_attached", `this connection follows run ${runId} already`);
        }
        this.#runs.set(runId, handle);
      },
      release: (handle) => {
        if (this.#runs.get(handle.run.runId) === handle) this.#runs.delete(handle.run.runId);
      },
      cancel: (runId, options) => this.cancel(runId, options),
      record: (runId) => this.getRun(runId),
    };
  }

  #makeWatchPort(random: () => number): WatchPort {
    const connection = this;
    return {
      clock: this.#clock,
      random,
      get isOnline() {
        return connection.#port.isOnline;
      },
      watch: (params, answered) =>
        this.#send("thread.watch", params, answered, (error) => answered(error as ProtocolError), "drop"),
      unwatch: (watch, tell) => {
        const { threadId } = watch;
        if (this.#watches.get(threadId) === watch) this.#watches.delete(threadId);
        if (!tell || !this.#port.isOnline) return;
        this.#unwatching.add(threadId);
        const answered = () => {
          if (this.#unwatching.delete(threadId)) this.#watches.get(threadId)?.online();
        };
        this.#send("thread.unwatch", threadId === undefined ? {} : { threadId }, answered, answered, "drop");
      },
      lead: ({ runId, epoch }, threadId) => {
        if (!this.#runs.has(runId)) {
          const options = { isLed: true, threadId, ...(epoch !== undefined && { epoch }) };
          new Run(runId, options, this.#port);
          this.#runs.get(runId)!.subscription.started();
        }
        return this.#runs.get(runId)!;
      },
    };
  }
}

function refusal({ error, message, details }: ErrorFrame): ProtocolError {
  return new ProtocolError(error, message, details);
}
