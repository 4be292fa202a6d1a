/**
 * What the client needs of the place that it runs in, a browser or Node, and nothing more. It is compiled without the
 * types of either, so that it cannot come to depend on one.
 */

/** Time, as the client sees it. Tests pass their own. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

export type SocketEventType = "open" | "message" | "close" | "error";

/** What a socket's events may carry: `data` of a message; `code` and `reason` of a close; `message` of an error. */
export interface SocketEvent {
  readonly type: string;
  readonly data?: unknown;
  readonly code?: number;
  readonly reason?: string;
  readonly message?: string;
}

/** The part of the standard WebSocket that the client uses. The class of the package `ws` has it, too. */
export interface WebSocketLike {
  addEventListener(type: SocketEventType, listener: (event: SocketEvent) => void): void;
  send(text: string): void;
  close(code?: number, reason?: string): void;
  /** Only in Node: ends a dead socket without waiting for its peer. */
  terminate?(): void;
}

export type WebSocketClass = new (url: string, subprotocols: string[]) => WebSocketLike;

interface Platform {
  WebSocket?: WebSocketClass;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  queueMicrotask(run: () => void): void;
  requestAnimationFrame?(run: () => void): unknown;
  crypto: { randomUUID?(): string; getRandomValues(bytes: Uint8Array): Uint8Array };
  TextEncoder: new () => { encode(text: string): Uint8Array };
}

const platform = globalThis as unknown as Platform;

export const systemClock: Clock = {
  now: () => Date.now(),
  setTimeout: (run, ms) => platform.setTimeout(run, ms),
  clearTimeout: (timer) => platform.clearTimeout(timer),
};

export function defaultWebSocket(): WebSocketClass | undefined {
  return platform.WebSocket;
}

/** Runs `draw` before the next paint, or at once after the current task where nothing is painted. */
export function nextFrame(draw: () => void): void {
  if (platform.requestAnimationFrame === undefined) platform.queueMicrotask(draw);
  else platform.requestAnimationFrame(draw);
}

/** Runs it when what is going on now is over. */
export function soon(run: () => void): void {
  platform.queueMicrotask(run);
}

/** 128 random bits as text. `randomUUID` is missing on pages that are not served over TLS. */
export function randomId(): string {
  const { crypto } = platform;
  if (crypto.randomUUID !== undefined) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

/** Whether the text takes more than `max` bytes as UTF-8. A code unit takes three at most. */
export function isLongerThan(text: string, max: number): boolean {
  if (text.length * 3 <= max) return false;
  return text.length > max || new platform.TextEncoder().encode(text).length > max;
}
