import { Cluster, type ClusterOptions, Redis, type RedisOptions } from "ioredis";
import type { Logger } from "./logger.ts";
import { describeRedisUrl, parseRedisUrl, type RedisAddress } from "./redis-url.ts";
import { backoffDelay } from "./timing.ts";

/** One Redis, the master that Sentinels name, or a Cluster. */
export type RedisConnection = Redis | Cluster;

/**
 * What a connection is for, on each kind of Redis:
 * - `commands`: a gateway's. While Redis is away every command fails at once, so that the caller can say so.
 * - `worker`: a worker's. Commands wait for Redis and are sent again after a reconnect, so they must be idempotent.
 * - `subscriber`: pub/sub. Who uses it subscribes again after a reconnect, and so knows when that has worked.
 * - `blocking`: BullMQ's, which blocks in it.
 */
export type RedisRole = "commands" | "worker" | "subscriber" | "blocking";

export interface ConnectRedisOptions {
  /** Goes before the role in the connection's name (`CLIENT LIST`). @default "throughline" */
  name?: string;
  logger?: Pick<Logger, "warn" | "info">;
  /** Called once per outage, not once per attempt to reconnect. */
  onError?: (error: Error) => void;
}

export class RedisUnavailableError extends Error {
  readonly code = "redis_unavailable";
  override readonly name = "RedisUnavailableError";
}

type NodeOptions = RedisOptions & { replyMapping: "legacy" };

const connectTimeoutMs = 5_000;
const keepAliveMs = 10_000;
/** How long sent commands may go without a byte of reply before the socket counts as dead. Never armed while idle. */
const silenceMs = { commands: 3_000, worker: 10_000, subscriber: 10_000, blocking: 12_000 };
/** How often a connection to a Cluster asks which node has which slots. It also learns by being sent elsewhere. */
const slotsRefreshMs = 5_000;

/** What `checkRedis` reports of a connection that is not ready. */
interface Known {
  where: string;
  lastError?: Error;
}
const known = new WeakMap<RedisConnection, Known>();

/**
 * Connects in the background and reconnects for ever (50 ms to 2 s apart), until `disconnect()` or `quit()`.
 *
 * @param url see redis-url.ts
 * @throws {RedisUrlError}
 */
export function connectRedis(
  url: string,
  role: RedisRole,
  options: ConnectRedisOptions = {},
): RedisConnection {
  const address = parseRedisUrl(url);
  const where = describeRedisUrl(url);
  const nodeOptions: NodeOptions = {
    ...roleOptions(role),
    connectionName: `${options.name ?? "throughline"}:${role}`.replaceAll(/\s+/g, "-"),
    connectTimeout: connectTimeoutMs,
    keepAlive: keepAliveMs,
    noDelay: true,
    retryStrategy: reconnectDelay,
    replyMapping: "legacy",
  };
  const redis = open(address, role, nodeOptions);
  known.set(redis, { where });
  const label = `redis (${role}, ${where})`;
  if (redis instanceof Cluster) reportNodeOutages(redis, label, options);
  reportOutages(redis, label, options);
  return redis;
}

function open(address: RedisAddress, role: RedisRole, nodeOptions: NodeOptions): RedisConnection {
  if (address.kind === "single") return new Redis(address.url, nodeOptions);
  const { username, password, tls } = address;
  const login = { ...(username && { username }), ...(password && { password }), ...(tls && { tls: {} }) };
  if (address.kind === "cluster") {
    return openCluster(address, role, { ...nodeOptions, ...login });
  }
  const { sentinels, name, db, sentinelUsername, sentinelPassword } = address;
  return new Redis({
    ...nodeOptions,
    ...login,
    ...(tls && { enableTLSForSentinelMode: true, sentinelTLS: {} }),
    ...(sentinelUsername && { sentinelUsername }),
    ...(sentinelPassword && { sentinelPassword }),
    sentinels,
    name,
    db,
    sentinelRetryStrategy: reconnectDelay,
    // A master that was demoted before its Sentinel could cut us off.
    reconnectOnError: (error) => error.message.startsWith("READONLY"),
  });
}

function openCluster(
  { nodes }: Extract<RedisAddress, { kind: "cluster" }>,
  role: RedisRole,
  { retryStrategy: _, ...redisOptions }: NodeOptions,
): Cluster {
  const common = {
    redisOptions,
    clusterRetryStrategy: reconnectDelay,
    slotsRefreshInterval: slotsRefreshMs,
    slotsRefreshTimeout: 2_000,
    // Certificates are for names: node:net looks them up when it connects.
    dnsLookup: (hostname, callback) => callback(null, hostname),
  } satisfies ClusterOptions;
  if (role === "commands") {
    return new FailFastCluster(nodes, { ...common, retryDelayOnFailover: 0, retryDelayOnClusterDown: 0 });
  }
  return new Cluster(nodes, {
    ...common,
    // For as long as it takes. Two nodes that send us to each other are asked a hundred times a second at most.
    maxRedirections: Number.POSITIVE_INFINITY,
    retryDelayOnMoved: 10,
  });
}

/**
 * Its own `enableOfflineQueue: false` would refuse what is sent to a node while the connection to that one node is being
 * made. This refuses only while there is no Cluster.
 */
class FailFastCluster extends Cluster {
  override sendCommand(...args: Parameters<Cluster["sendCommand"]>): ReturnType<Cluster["sendCommand"]> {
    const [command] = args;
    // CLUSTER INFO is how it finds out that it is ready.
    if (this.status !== "ready" && command.name !== "cluster") {
      command.reject(new Error("Connection is closed."));
      return command.promise;
    }
    return super.sendCommand(...args);
  }
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
      // BullMQ blocks for ten seconds at the most.
      return { maxRetriesPerRequest: null, socketTimeout: silenceMs.blocking };
  }
}

const reconnectMs = { min: 50, max: 2_000 } as const;

/** The upper half is random, so that a fleet does not return in step. */
function reconnectDelay(attempt: number): number {
  const ceiling = backoffDelay(reconnectMs, attempt);
  return Math.round(ceiling / 2 + (Math.random() * ceiling) / 2);
}

function reportOutages(redis: RedisConnection, label: string, options: ConnectRedisOptions): void {
  let downSince: number | undefined;
  redis.on("error", (error: Error) => noteError(redis, error));
  const onClose = () => {
    if (downSince !== undefined || redis.status === "end") return;
    downSince = Date.now();
    const error = lastError(redis) ?? new Error("the connection was closed");
    options.logger?.warn(`${label} is away: ${explain(error)}; reconnecting`);
    options.onError?.(error);
  };
  // A Cluster learns from this very event that it was closed on purpose.
  redis.on("close", () => queueMicrotask(onClose));
  redis.on("ready", () => {
    delete known.get(redis)?.lastError;
    if (downSince === undefined) return;
    options.logger?.info(`${label} is back after ${((Date.now() - downSince) / 1000).toFixed(1)} s`);
    downSince = undefined;
  });
}

/** One node of a Cluster may be away while the others serve. */
function reportNodeOutages(cluster: Cluster, label: string, options: ConnectRedisOptions): void {
  const down = new Set<string>();
  cluster.on("node error", (error: Error, node: string) => {
    noteError(cluster, error);
    if (down.has(node) || cluster.status !== "ready") return;
    down.add(node);
    options.logger?.warn(`${label}: node ${node} is away: ${explain(error)}`);
    options.onError?.(error);
  });
  cluster.on("+node", (node: Redis) => {
    node.on("ready", () => {
      const key = `${node.options.host}:${node.options.port}`;
      if (down.delete(key)) options.logger?.info(`${label}: node ${key} is back`);
    });
  });
}

function noteError(redis: RedisConnection, error: Error & { lastNodeError?: Error }): void {
  const state = known.get(redis);
  // "Failed to refresh slots cache" says less than why.
  if (state !== undefined) state.lastError = error.lastNodeError ?? error;
}

/** The last failure of a connection that is not ready. */
export function lastError(redis: RedisConnection): Error | undefined {
  return known.get(redis)?.lastError;
}

/** Where a connection leads to, without the login. */
export function whereIs(redis: RedisConnection): string {
  return known.get(redis)?.where ?? "an unknown place";
}

export function isLoginError(error: Error): boolean {
  return /^(NOAUTH|WRONGPASS|NOPERM|DENIED|ERR invalid password)/.test(error.message);
}

/** What went wrong, for a person. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return "the connection was closed";
  const code = (error as NodeJS.ErrnoException).code;
  if (isLoginError(error)) return "it refused the login; check the user and password in the URL";
  if (/cluster support disabled/.test(error.message)) return "it is no Cluster; say redis:// in the URL";
  if (code === "ECONNREFUSED") return "nothing listens there (ECONNREFUSED)";
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return `no such host (${code})`;
  if (code === "ETIMEDOUT") return "it did not answer in time (ETIMEDOUT)";
  return error.message || code || error.name;
}
