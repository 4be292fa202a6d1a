/**
 * One client's connection: frames in, frames out, limits.
 *
 * Invariants:
 * - every command is answered once; a bad one costs the socket nothing but its answer;
 * - what a socket holds unsent is bounded: subscriptions stop at the high-water mark, and commands are not read while
 *   there is so much more than that that it can only be their answers;
 * - one write to a socket that keeps up per turn of the event loop, of one Buffer, whatever was sent in it;
 * - what the kernel does not take waits here, but for little: what has been given to the socket cannot be taken back, and
 *   stands before the close frame that says why.
 */
import type { Duplex } from "node:stream";
import { type CommandFrame, closeCodes, commandFrame, ProtocolError } from "@throughline/protocol";
import { WebSocket } from "ws";
import { Allowance } from "./allowance.ts";
import type { Principal } from "./auth.ts";
import { pingFrame, textFrame } from "./frame.ts";
import { type JsonLimits, jsonProblem } from "./json-scan.ts";
import { Semaphore } from "./semaphore.ts";
import type { Outlet, Subscription } from "./subscription.ts";

export interface SocketLimits {
  highWater: number;
  lowWater: number;
  commandsPerSecond: number;
  bytesPerSecond: number;
  slowSocketMs: number;
}

/** What answers commands: see commands.ts. */
export type CommandHandler = (connection: ClientSocket, frame: CommandFrame) => Promise<Answer>;

export interface Answer {
  result: unknown;
  /** What begins once the answer is on its way. */
  begin?: () => void;
}

/** Subscriptions of one socket that read a page at once. */
const catchingUp = 2;
/** Commands of one socket under way at once. */
const maxPending = 256;
/** How many seconds' worth of commands, and of their bytes, may come at once. */
const burstSeconds = 5;
/** Of a command's JSON: PROTOCOL.md has them. What takes them all costs the gateway milliseconds. */
const jsonLimits: JsonLimits = { maxDepth: 100, maxValues: 50_000 };
/** A frame that costs next to nothing to read. */
const smallFrameBytes = 4_096;
const nothing = Buffer.alloc(0);
/** What a close frame can hold, in bytes. */
const maxReasonBytes = 123;

/** Connections that have something to write at the end of this turn. */
let dirty: ClientSocket[] = [];

function flushDirty(): void {
  const connections = dirty;
  dirty = [];
  for (const connection of connections) connection.flush();
}

export class ClientSocket implements Outlet {
  readonly id: string;
  principal: Principal;
  readonly #ws: WebSocket;
  readonly #socket: Duplex;
  readonly #limits: SocketLimits;
  readonly #handle: CommandHandler;
  /** Mostly one, seldom many: an array costs an idle socket a fifth of what a map does. */
  #subscriptions: Subscription[] | undefined;
  #turns: Semaphore | undefined;
  #frame: Buffer | undefined;
  #more: Buffer[] | undefined;
  #unsent = 0;
  /** Writes that call back when the socket is done with them. */
  #writing = 0;
  #drained: { promise: Promise<void>; resolve: () => void } | undefined;
  #pending = 0;
  #badFrames = 0;
  readonly #commands: Allowance;
  readonly #bytes: Allowance;
  #refused = 0;
  #alive = true;
  /** Bytes that had been sent when progress was last looked at, and when that was. */
  #progress = 0;
  #progressAt = 0;
  #written = 0;

  constructor(
    id: string,
    principal: Principal,
    ws: WebSocket,
    socket: Duplex,
    limits: SocketLimits,
    handle: CommandHandler,
  ) {
    this.id = id;
    this.principal = principal;
    this.#ws = ws;
    this.#socket = socket;
    this.#limits = limits;
    this.#handle = handle;
    this.#commands = new Allowance(limits.commandsPerSecond, burstSeconds);
    this.#bytes = new Allowance(limits.bytesPerSecond, burstSeconds);
  }

  // What goes out.

  get closed(): boolean {
    return this.#ws.readyState !== WebSocket.OPEN;
  }

  /** Bytes that were sent and have not left this process. */
  get buffered(): number {
    return this.#unsent + this.#socket.writableLength;
  }

  get writable(): boolean {
    return this.buffered < this.#limits.highWater;
  }

  get turns(): Semaphore {
    this.#turns ??= new Semaphore(catchingUp);
    return this.#turns;
  }

  send(frame: Buffer): void {
    if (this.closed) return;
    this.#unsent += frame.length;
    if (this.#frame === undefined) {
      this.#frame = frame;
      if (dirty.push(this) === 1) process.nextTick(flushDirty);
    } else {
      this.#more ??= [];
      this.#more.push(frame);
    }
  }

  sendJson(value: unknown): void {
    this.send(textFrame(JSON.stringify(value)));
  }

  /** Writes what was sent, as long as the socket has little left to write; the rest when it is done with that. */
  flush(): void {
    const { lowWater } = this.#limits;
    while (this.#frame !== undefined && !this.closed) {
      if (this.#writing > 0 && this.#socket.writableLength > lowWater) return;
      this.#write(this.#take(lowWater));
    }
    if (this.closed) this.#drop();
  }

  /** The next frames, which come to so many bytes at the most, or are one. */
  #take(bytes: number): Buffer {
    const first = this.#frame!;
    const more = this.#more ?? [];
    let size = first.length;
    let count = 0;
    while (count < more.length && size + more[count]!.length <= bytes) size += more[count++]!.length;
    this.#unsent -= size;
    this.#frame = more[count];
    this.#more = count + 1 < more.length ? more.slice(count + 1) : undefined;
    return count === 0 ? first : Buffer.concat([first, ...more.slice(0, count)], size);
  }

  #write(bytes: Buffer): void {
    this.#written += bytes.length;
    // A socket that keeps up never pays for a callback.
    if (this.#socket.writableLength + bytes.length <= this.#limits.lowWater) {
      this.#socket.write(bytes);
      return;
    }
    this.#writing++;
    this.#socket.write(bytes, () => this.#onWritten());
  }

  #drop(): void {
    this.#frame = this.#more = undefined;
    this.#unsent = 0;
  }

  drained(): Promise<void> {
    this.flush();
    if (this.closed || this.buffered <= this.#limits.lowWater) return Promise.resolve();
    // The write that went over the mark calls back; but it may have been a pong of `ws`.
    if (this.#writing === 0) this.#write(nothing);
    this.#drained ??= withResolvers();
    return this.#drained.promise;
  }

  #onWritten(): void {
    this.#writing--;
    this.flush();
    if (this.#drained === undefined || this.buffered > this.#limits.lowWater) return;
    this.#drained.resolve();
    this.#drained = undefined;
  }

  // What comes in.

  onMessage(data: Buffer, isBinary: boolean): void {
    if (this.closed) return;
    this.#alive = true;
    const refusal = this.#refusal(data.length);
    if (refusal !== undefined) {
      this.#answerError(refusedId(data, isBinary), refusal);
      return;
    }
    let frame: CommandFrame;
    try {
      frame = parseFrame(data, isBinary);
    } catch (error) {
      const { id, message, isFrame } = error as BadFrameError;
      this.#answerError(id, new ProtocolError("invalid_argument", message));
      if (isFrame) this.#badFrames = 0;
      else if (++this.#badFrames >= 2) this.close(closeCodes.badFrame, "not a frame of throughline.v1");
      return;
    }
    this.#badFrames = 0;
    this.#pending++;
    void this.#answer(frame).then(() => this.#holdCommands());
  }

  /** A reader that is slow may still cancel a run; one that asks, and does not take the answers, has to wait. */
  #holdCommands(): void {
    if (this.buffered < 2 * this.#limits.highWater || this.#ws.isPaused) return;
    this.#ws.pause();
    void this.drained().then(() => this.#ws.resume());
  }

  async #answer(frame: CommandFrame): Promise<void> {
    try {
      const { result, begin } = await this.#handle(this, frame);
      this.sendJson({ type: "success", id: frame.id, result });
      begin?.();
    } catch (error) {
      this.#answerError(frame.id, error as ProtocolError);
    } finally {
      this.#pending--;
    }
  }

  #answerError(id: number | null, error: ProtocolError): void {
    const { code, message, retryable, details } = error;
    this.sendJson({
      type: "error",
      id,
      error: code,
      message,
      retryable,
      ...(details === undefined ? {} : { details }),
    });
  }

  /** Why the next command is not taken. Over its allowance commands are refused; far over it the socket goes. */
  #refusal(bytes: number): ProtocolError | undefined {
    const { commandsPerSecond, bytesPerSecond } = this.#limits;
    let message: string | undefined;
    if (!this.#commands.take()) message = `more than ${commandsPerSecond} commands a second`;
    else if (!this.#bytes.take(bytes)) message = `more than ${bytesPerSecond} bytes of commands a second`;
    if (message !== undefined) {
      if (++this.#refused > this.#commands.capacity) this.close(closeCodes.rateLimited, message);
      return new ProtocolError("rate_limited", message);
    }
    this.#refused = 0;
    if (this.#pending < maxPending) return undefined;
    return new ProtocolError("rate_limited", `${maxPending} commands are under way already`);
  }

  onPong(): void {
    this.#alive = true;
  }

  // Its subscriptions.

  get subscriptions(): number {
    return this.#subscriptions?.length ?? 0;
  }

  /** @param id a log's: a run's is the run's id */
  subscription(id: string): Subscription | undefined {
    return this.#subscriptions?.find((each) => each.feed.log.id === id);
  }

  /** Adds one; the one that there was for the log goes. */
  addSubscription(subscription: Subscription): void {
    const before = this.subscription(subscription.feed.log.id);
    if (before !== undefined) {
      before.close();
      this.removeSubscription(before);
    }
    if (this.#subscriptions === undefined) this.#subscriptions = [subscription];
    else this.#subscriptions.push(subscription);
  }

  /** Takes one out, if it is there. */
  removeSubscription(subscription: Subscription): void {
    const at = this.#subscriptions?.indexOf(subscription) ?? -1;
    if (at >= 0) this.#subscriptions?.splice(at, 1);
  }

  // Its life.

  /**
   * One heartbeat: ends a socket that has not answered the last ping, or that takes nothing any more. A socket that
   * has bytes of ours to read is not pinged, for the ping would wait behind them: it is judged by its progress.
   */
  beat(now: number): void {
    if (this.closed) {
      // What reads no more has a deadline of its own; what is not there any more is let go.
      if (!this.#alive) this.#ws.terminate();
      return;
    }
    const { writableLength } = this.#socket;
    if (writableLength > 0) {
      const sent = this.#written - writableLength;
      if (sent !== this.#progress || this.#progressAt === 0) {
        this.#progress = sent;
        this.#progressAt = now;
      } else if (now - this.#progressAt > this.#limits.slowSocketMs) {
        this.#alive = true;
        this.#giveUp(`no progress for ${this.#limits.slowSocketMs} ms`);
      }
      return;
    }
    this.#progressAt = 0;
    if (!this.#alive) {
      this.#giveUp("no answer to a ping");
      return;
    }
    this.#alive = false;
    this.send(pingFrame);
  }

  /**
   * Closes a socket that does not read. Not torn down at once: a client that reads again within `closeMs` finds out why,
   * behind the little that it cannot be spared.
   */
  #giveUp(reason: string): void {
    this.#drop();
    this.close(closeCodes.noProgress, reason);
    // Its answer to that is to be heard, or the kernel would take what we sent for lost.
    if (this.#ws.isPaused) this.#ws.resume();
  }

  /** Closes with a code of the protocol. What was sent before goes out first. */
  close(code: number, reason: string): void {
    while (this.#frame !== undefined && !this.closed) this.#write(this.#take(this.#limits.lowWater));
    this.#ws.close(code, closeReason(reason));
  }

  /** The socket is gone: so is all that it held. */
  onClose(): void {
    for (const subscription of this.#subscriptions ?? []) subscription.close();
    this.#subscriptions = undefined;
    this.#drained?.resolve();
    this.#drained = undefined;
  }
}

/** As much of a text as a close frame can hold, and nothing but printable ASCII: more is an error of `ws`. */
export function closeReason(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, "?").slice(0, maxReasonBytes);
}

class BadFrameError extends Error {
  readonly id: number | null;
  /** It is one of this protocol, but for what it holds. */
  readonly isFrame: boolean;
  constructor(id: number | null, message: string, isFrame = false) {
    super(message);
    this.id = id;
    this.isFrame = isFrame;
  }
}

const example = '{"id":1,"method":"server.ping","params":{}}';

function parseFrame(data: Buffer, isBinary: boolean): CommandFrame {
  if (isBinary)
    throw new BadFrameError(null, `a binary frame came; commands are text frames like ${example}`);
  const problem = jsonProblem(data, jsonLimits);
  if (problem !== undefined) {
    const id = idOf(data);
    throw new BadFrameError(id, `the command ${problem}`, id !== null);
  }
  let json: unknown;
  try {
    json = JSON.parse(data.toString());
  } catch {
    throw new BadFrameError(null, `the frame is not JSON; a command is a text frame like ${example}`);
  }
  const parsed = commandFrame.safeParse(json);
  if (parsed.success) return parsed.data;
  const id = (json as { id?: unknown } | null)?.id;
  const readable = typeof id === "number" && Number.isSafeInteger(id) && id >= 0;
  const [issue] = parsed.error.issues;
  const where = issue?.path.join(".") || "the frame";
  throw new BadFrameError(
    readable ? id : null,
    `${where}: ${issue?.message}; a command looks like ${example}`,
  );
}

/** The id of a command that is refused for its costs: of a large one only what it begins with is looked at. */
function refusedId(data: Buffer, isBinary: boolean): number | null {
  if (data.length > smallFrameBytes) return idOf(data);
  try {
    return parseFrame(data, isBinary).id;
  } catch (error) {
    return (error as BadFrameError).id;
  }
}

/** The id of a frame that is not read, where it comes first. */
function idOf(data: Buffer): number | null {
  const beginning = data.toString("latin1", 0, 64);
  const id = /^\s*\{\s*"id"\s*:\s*(\d{1,15})\s*[,}]/.exec(beginning)?.[1];
  return id === undefined ? null : Number(id);
}

function withResolvers(): { promise: Promise<void>; resolve: () => void } {
  let resolve!: () => void;
  const promise = new Promise<void>((yes) => {
    resolve = yes;
  });
  return { promise, resolve };
}
