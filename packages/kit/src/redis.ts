import { Redis, type RedisOptions } from "ioredis";
import type { Logger } from "./logger.ts";

/** One Redis for now. Callers name this type only, so that a Cluster can join it. */
export type RedisConnection = Redis;

/**
 * What a connection is for:
 * - `commands`: a gateway's. While Redis is away every command fails at once, so that the caller can say so.
 * - `worker`: a worker's. Commands wait for Redis and are sent again after a reconnect, so they must be idempotent.
 * - `subscriber`: pub/sub. Who uses it subscribes again after a reconnect, and so knows when that has worked.
 * - `blocking`: BullMQ's, which blocks in it.
 */
export type RedisRole = "commands" | "worker" | "subscriber" | "blocking";

export interface ConnectRedisOptions {
  /** Goes before the role in the connection's name (`CLIENT LIST`). Default: "throughline". */
  name?: string;
  logger?: Pick<Logger, "warn" | "info">;
  /** Called once per outage, not once per attempt to reconnect. */
  onError?: (error: Error) => void;
}

export class RedisUnavailableError extends Error {
  readonly code = "redis_unavailable";
  override readonly name = "RedisUnavailableError";
}

export class RedisTooOldError extends Error {
  readonly code = "redis_too_old";
  override readonly name = "RedisTooOldError";
}

const connectTimeoutMs = 5_000;
const keepAliveMs = 10_000;
/** How long sent commands may go without a byte of reply before the socket counts as dead. Never armed while idle. */
const silenceMs = { commands: 5_000, worker: 10_000, subscriber: 10_000 };

/** The first failure of a connection that is not ready, for `checkRedis` to report. */
const lastErrors = new WeakMap<RedisConnection, Error>();

/** Connects in the background and reconnects for ever (50 ms to 2 s apart), until `disconnect()` or `quit()`. */
export function connectRedis(
  url: string,
  role: RedisRole,
  options: ConnectRedisOptions = {},
): RedisConnection {
  assertRedisUrl(url);
  const redisOptions: RedisOptions & { replyMapping: "legacy" } = {
    ...roleOptions(role),
    connectionName: `${options.name ?? "throughline"}:${role}`.replaceAll(/\s+/g, "-"),
    connectTimeout: connectTimeoutMs,
    keepAlive: keepAliveMs,
    noDelay: true,
    retryStrategy: reconnectDelay,
    replyMapping: "legacy",
  };
  const redis = new Redis(url, redisOptions);
  reportOutages(redis, `redis (${role}, ${describeRedisUrl(url)})`, options);
  return redis;
}

function roleOptions(role: RedisRole): RedisOptions {
  switch (role) {
    case "commands":
      return { enableOfflineQueue: false, maxRetriesPerRequest: 0, socketTimeout: silenceMs.commands };
    case "worker":
      return { maxRetriesPerRequest: null, socketTimeout: silenceMs.worker };
    case "subscriber":
      return { maxRetriesPerRequest: null, autoResubscribe: false, socketTimeout: silenceMs.subscriber };
    case "blocking":
      return { maxRetriesPerRequest: null };
  }
}

/** Exponential from 50 ms, capped at 2 s, with the upper half random so that a fleet does not return in step. */
function reconnectDelay(attempt: number): number {
  const ceiling = Math.min(50 * 2 ** Math.min(attempt, 10), 2_000);
  return Math.round(ceiling / 2 + (Math.random() * ceiling) / 2);
}

function reportOutages(redis: RedisConnection, label: string, options: ConnectRedisOptions): void {
  let downSince: number | undefined;
  redis.on("error", (error: Error) => {
    lastErrors.set(redis, error);
  });
  redis.on("close", () => {
    if (downSince !== undefined || redis.status === "end") return;
    downSince = Date.now();
    const error = lastErrors.get(redis) ?? new Error("the connection was closed");
    options.logger?.warn(`${label} is away: ${explain(error)}; reconnecting`);
    options.onError?.(error);
  });
  redis.on("ready", () => {
    lastErrors.delete(redis);
    if (downSince === undefined) return;
    options.logger?.info(`${label} is back after ${((Date.now() - downSince) / 1000).toFixed(1)} s`);
    downSince = undefined;
  });
}

export interface RedisCheck {
  version: string;
  /** What will hurt in production, a sentence each. Empty where the server does not let us ask. */
  warnings: string[];
}

/**
 * Waits until `redis` is ready and looks at what kind of server it is.
 * @throws {RedisUnavailableError} when it is not ready after `timeoutMs` (default 5 s), or at once when it refuses our login.
 * @throws {RedisTooOldError} below Redis 6.2.
 */
export async function checkRedis(
  redis: RedisConnection,
  options: { timeoutMs?: number } = {},
): Promise<RedisCheck> {
  await untilReady(redis, options.timeoutMs ?? 5_000);
  let info: Map<string, string>;
  try {
    info = parseInfo(await redis.info());
  } catch (error) {
    throw unavailable(redis, error);
  }
  const version = info.get("redis_version") ?? "unknown";
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major < 6 || (major === 6 && minor < 2)) {
    throw new RedisTooOldError(
      `Redis at ${describeConnection(redis)} is version ${version}: Redis 6.2 or newer, or Valkey, is needed`,
    );
  }
  return { version, warnings: await findWarnings(redis, info) };
}

async function findWarnings(redis: RedisConnection, info: Map<string, string>): Promise<string[]> {
  const warnings: string[] = [];
  const policy = info.get("maxmemory_policy");
  if (policy !== undefined && policy !== "noeviction") {
    warnings.push(
      `maxmemory-policy is ${policy}: Redis may drop runs under memory pressure; set it to noeviction`,
    );
  }
  if (info.get("aof_enabled") === "0" && (await readSavePoints(redis)) === "") {
    warnings.push("nothing is persisted: a Redis restart loses every run; set appendonly yes");
  }
  return warnings;
}

/** RDB save points, which INFO does not show. Undefined where CONFIG is forbidden, as on managed Redis. */
async function readSavePoints(redis: RedisConnection): Promise<string | undefined> {
  try {
    const reply: unknown = await redis.config("GET", "save");
    return Array.isArray(reply) && typeof reply[1] === "string" ? reply[1] : undefined;
  } catch {
    return undefined;
  }
}

function untilReady(redis: RedisConnection, timeoutMs: number): Promise<void> {
  if (redis.status === "ready") return Promise.resolve();
  return new Promise((resolve, reject) => {
    const settle = (error?: Error) => {
      clearTimeout(timer);
      redis.off("ready", onReady);
      redis.off("error", onError);
      redis.off("end", onEnd);
      if (error === undefined) resolve();
      else reject(error);
    };
    const onReady = () => settle();
    const onEnd = () => settle(unavailable(redis, lastErrors.get(redis)));
    const onError = (error: Error) => {
      if (isLoginError(error)) settle(unavailable(redis, error));
    };
    const timer = setTimeout(() => {
      const error = lastErrors.get(redis) ?? new Error(`not ready after ${timeoutMs / 1000} s`);
      settle(unavailable(redis, error));
    }, timeoutMs);
    redis.on("ready", onReady);
    redis.on("error", onError);
    redis.on("end", onEnd);
    const known = lastErrors.get(redis);
    if (known !== undefined) onError(known);
    else if (redis.status === "end") onEnd();
  });
}

function isLoginError(error: Error): boolean {
  return /^(NOAUTH|WRONGPASS|NOPERM|DENIED|ERR invalid password)/.test(error.message);
}

function unavailable(redis: RedisConnection, cause: unknown): RedisUnavailableError {
  const where = describeConnection(redis);
  return new RedisUnavailableError(`Redis at ${where} is not available: ${explain(cause)}`, { cause });
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return "the connection was closed";
  const code = (error as NodeJS.ErrnoException).code;
  if (isLoginError(error)) return "it refused the login; check the user and password in the URL";
  if (code === "ECONNREFUSED") return "nothing listens there (ECONNREFUSED)";
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return `no such host (${code})`;
  if (code === "ETIMEDOUT") return "it did not answer in time (ETIMEDOUT)";
  return error.message || code || error.name;
}

function describeConnection(redis: RedisConnection): string {
  const { path, host, port } = redis.options;
  return path ?? `${host ?? "localhost"}:${port ?? 6379}`;
}

function parseInfo(text: string): Map<string, string> {
  const fields = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  return fields;
}

function assertRedisUrl(url: string): void {
  if (!/^rediss?:\/\//.test(url) || !URL.canParse(url)) {
    throw new RedisUnavailableError(
      "the Redis URL must look like redis://host:6379 or rediss://user:password@host:6379",
    );
  }
}

/** Host and port of a Redis URL, without the login, for logs. */
export function describeRedisUrl(url: string): string {
  const parsed = new URL(url);
  return `${parsed.hostname || "localhost"}:${parsed.port || 6379}`;
}
