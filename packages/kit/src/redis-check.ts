import { Cluster, Redis } from "ioredis";
import {
  explain,
  isLoginError,
  lastError,
  type RedisConnection,
  RedisUnavailableError,
  whereIs,
} from "./redis.ts";

export class RedisTooOldError extends Error {
  readonly code = "redis_too_old";
  override readonly name = "RedisTooOldError";
}

/** A node of a Cluster behind a URL that says one server: it would refuse most keys. */
export class RedisIsClusterError extends Error {
  readonly code = "redis_is_cluster";
  override readonly name = "RedisIsClusterError";
}

/** The URL names a database that the server does not have, or that our login may not select. */
export class RedisDatabaseError extends Error {
  readonly code = "redis_database";
  override readonly name = "RedisDatabaseError";
}

export interface RedisCheck {
  /** Of a Cluster: the lowest among its masters. */
  version: string;
  /** What will hurt in production, a sentence each. Empty where the server does not let us ask. */
  warnings: string[];
}

interface Server {
  where: string;
  version: string;
  info: Map<string, string>;
  warnings: string[];
}

/**
 * Waits until `redis` is ready and looks at what kind of server it is, or, of a Cluster, at each of its masters.
 * @throws {RedisUnavailableError} when it is not ready after `timeoutMs` (default 5 s), or at once when it refuses our login.
 * @throws {RedisTooOldError} below Redis 6.2, of a Cluster below 7.0.
 * @throws {RedisIsClusterError}
 * @throws {RedisDatabaseError}
 */
export async function checkRedis(
  redis: RedisConnection,
  options: { timeoutMs?: number } = {},
): Promise<RedisCheck> {
  await untilReady(redis, options.timeoutMs ?? 5_000);
  let servers: Server[];
  try {
    servers = await lookAtAll(redis);
  } catch (error) {
    throw unavailable(redis, error);
  }
  // The oldest first: it decides.
  servers.sort((a, b) => compareVersions(a.version, b.version));
  const [{ version, where, info }] = servers as [Server];
  if (redis instanceof Cluster) {
    if (compareVersions(version, "7.0") < 0) {
      throw new RedisTooOldError(
        `Redis at ${where} is version ${version}: in a Cluster Redis 7.0 or newer, or Valkey, is needed ` +
          "(before it, a Cluster sends every live message to all of its nodes)",
      );
    }
  } else {
    if (compareVersions(version, "6.2") < 0) {
      throw new RedisTooOldError(
        `Redis at ${where} is version ${version}: Redis 6.2 or newer, or Valkey, is needed`,
      );
    }
    if (info.get("cluster_enabled") === "1") {
      throw new RedisIsClusterError(
        `Redis at ${where} is a node of a Cluster: the Redis URL must begin with redis+cluster:// or rediss+cluster://`,
      );
    }
  }
  if (redis instanceof Redis) await selectDatabase(redis, where);
  return { version, warnings: [...new Set(servers.flatMap(({ warnings }) => warnings))] };
}

/** Selects the URL's database again: ioredis stays in number 0, and says nothing, where Redis refuses it. */
async function selectDatabase(redis: Redis, where: string): Promise<void> {
  const { db = 0 } = redis.options;
  if (db === 0) return;
  try {
    await redis.select(db);
  } catch (error) {
    if ((error as Error).name !== "ReplyError") throw unavailable(redis, error);
    throw new RedisDatabaseError(
      `Redis at ${where} refuses database ${db} of the Redis URL: ${(error as Error).message}`,
      { cause: error },
    );
  }
}

async function lookAtAll(redis: RedisConnection): Promise<Server[]> {
  if (redis instanceof Redis) return [await look(redis, whereIs(redis))];
  const masters = redis.nodes("master");
  if (masters.length === 0) throw new Error("the Cluster has no master");
  return await Promise.all(
    masters.map(async (node) => await look(node, `${node.options.host}:${node.options.port}`)),
  );
}

async function look(redis: Redis, where: string): Promise<Server> {
  const info = parseInfo(await redis.info());
  const version = info.get("redis_version") ?? "unknown";
  return { where, version, info, warnings: await findWarnings(redis, info) };
}

/** As numbers, part by part: 7.0 comes before 10.1. */
function compareVersions(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true });
}

async function findWarnings(redis: Redis, info: Map<string, string>): Promise<string[]> {
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
async function readSavePoints(redis: Redis): Promise<string | undefined> {
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
    const finish = (error?: Error) => {
      clearTimeout(timer);
      redis.off("ready", onReady);
      redis.off("error", onError);
      redis.off("node error", onError);
      redis.off("end", onEnd);
      if (error === undefined) resolve();
      else reject(error);
    };
    const onReady = () => finish();
    const onEnd = () => finish(unavailable(redis, lastError(redis)));
    const onError = (error: Error) => {
      if (isLoginError(error)) finish(unavailable(redis, error));
    };
    const timer = setTimeout(() => {
      const error = lastError(redis) ?? new Error(`not ready after ${timeoutMs / 1000} s`);
      finish(unavailable(redis, error));
    }, timeoutMs);
    redis.on("ready", onReady);
    redis.on("error", onError);
    redis.on("node error", onError);
    redis.on("end", onEnd);
    const error = lastError(redis);
    if (error !== undefined) onError(error);
    else if (redis.status === "end") onEnd();
  });
}

function unavailable(redis: RedisConnection, cause: unknown): RedisUnavailableError {
  return new RedisUnavailableError(`Redis at ${whereIs(redis)} is not available: ${explain(cause)}`, {
    cause,
  });
}

function parseInfo(text: string): Map<string, string> {
  const fields = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  return fields;
}
