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
  fetch?(url: string, options: object): Promise<{ status: number }>;
  navigator?: { onLine?: boolean };
  document?: Partial<Listenable> & { visibilityState?: string };
}

interface Listenable {
  addEventListener(type: string, listener: () => void): void;
  removeEventListener(type: string, listener: () => void): void;
}

const platform = globalThis as unknown as Platform & Partial<Listenable>;

export const systemClock: Clock = {
  now: () => Date.now(),
  setTimeout: (run, ms) => platform.setTimeout(run, ms),
  clearTimeout: (timer) => platform.clearTimeout(timer),
};

export function defaultWebSocket(): WebSocketClass | undefined {
  return platform.WebSocket;
}

/** What a browser tells of its network, and of whether anybody looks. */
export type NetworkEvent = "online" | "offline" | "visible";

/** Calls the listener until the answer is called. Where there are no such events, as in Node: never. */
export function onNetworkEvent(listener: (event: NetworkEvent) => void): () => void {
  const { document } = platform;
  const online = () => listener("online");
  const offline = () => listener("offline");
  const changed = () => {
    if (document?.visibilityState === "visible") listener("visible");
  };
  platform.addEventListener?.("online", online);
  platform.addEventListener?.("offline", offline);
  document?.addEventListener?.("visibilitychange", changed);
  return () => {
    platform.removeEventListener?.("online", online);
    platform.removeEventListener?.("offline", offline);
    document?.removeEventListener?.("visibilitychange", changed);
  };
}

/** Whether the device says that it has no network. Where nobody says anything it has one. */
export function isOffline(): boolean {
  return platform.navigator?.onLine === false;
}

/**
 * The status of a plain HTTP request to a WebSocket's address; undefined where it cannot be had: of another origin's server
 * a browser does not tell.
 */
export async function httpStatus(url: string): Promise<number | undefined> {
  try {
    const options = { mode: "no-cors", credentials: "omit", cache: "no-store" };
    return (await platform.fetch?.(url.replace(/^ws/i, "http"), options))?.status || undefined;
  } catch {
    return undefined;
  }
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
