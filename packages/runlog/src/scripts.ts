/**
 * The Lua scripts: one file, one transition, one typed call; what several of them use is put before them. What each takes and answers stands at the head of its file in lua/. Channels are arguments, not keys: during a
 * slot's move a Cluster takes no command that names several keys of which one is missing, as a channel always is.
 */
import { readFileSync } from "node:fs";
import type { Cluster, Redis, Result } from "ioredis";
import { isCluster } from "./cluster.ts";

interface Script {
  file: string;
  /** undefined: the call says how many. */
  keys: number | undefined;
  /** Files of functions that it uses. */
  after?: readonly string[];
}

const scripts = {
  tlOpen: { file: "open", keys: 1, after: ["clock", "incarnation"] },
  tlClaim: { file: "claim", keys: 2, after: ["clock", "incarnation"] },
  /** Any number of runs at once: its first argument is the number of keys. */
  tlAppend: { file: "append", keys: undefined },
  tlFinish: { file: "finish", keys: 3, after: ["clock"] },
  tlCancel: { file: "cancel", keys: 2, after: ["clock", "incarnation"] },
  tlRead: { file: "read", keys: 2 },
  tlSnapshot: { file: "snapshot", keys: 2 },
  tlRenew: { file: "renew", keys: 1, after: ["incarnation"] },
  tlRelease: { file: "release", keys: 1 },
  tlTry: { file: "try", keys: 1 },
  tlTrim: { file: "trim", keys: 3 },
  tlStored: { file: "stored", keys: 3 },
} as const satisfies Record<string, Script>;

type Name = keyof typeof scripts;
type Argument = string | number | Buffer;

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlOpen(...keysAndArgs: Argument[]): Result<[number, ...string[]], Context>;
    tlClaim(...keysAndArgs: Argument[]): Result<[string, ...unknown[]], Context>;
    tlAppend(numberOfKeys: number, ...keysAndArgs: Argument[]): Result<(number | string)[], Context>;
    tlFinish(...keysAndArgs: Argument[]): Result<number, Context>;
    tlCancel(...keysAndArgs: Argument[]): Result<[string, ...(string | number)[]], Context>;
    tlReadBuffer(...keysAndArgs: Argument[]): Result<(Buffer | number)[], Context>;
    tlSnapshotBuffer(...keysAndArgs: Argument[]): Result<[] | [Buffer, number, number, Buffer], Context>;
    tlRenew(...keysAndArgs: Argument[]): Result<number, Context>;
    tlRelease(...keysAndArgs: Argument[]): Result<number, Context>;
    tlTry(...keysAndArgs: Argument[]): Result<number, Context>;
    tlTrim(...keysAndArgs: Argument[]): Result<number, Context>;
    tlStored(...keysAndArgs: Argument[]): Result<[] | [string, number, number], Context>;
  }
}

const defined = new WeakSet<object>();

/**
 * Makes the scripts callable on this connection. EVALSHA with a fall back to EVAL is ioredis's business. On a Cluster what
 * they publish stays on its shard; a single Redis has SPUBLISH only since version 7, and no use for it.
 */
export function withScripts<Connection extends Redis | Cluster>(redis: Connection): Connection {
  if (defined.has(redis)) return redis;
  for (const name of Object.keys(scripts) as Name[]) {
    const { file, keys, after = [] }: Script = scripts[name];
    const text = [...after, file].map(read).join("");
    const lua = isCluster(redis) ? text.replaceAll("'PUBLISH'", "'SPUBLISH'") : text;
    redis.defineCommand(name, keys === undefined ? { lua } : { lua, numberOfKeys: keys });
  }
  defined.add(redis);
  return redis;
}

function read(file: string): string {
  return readFileSync(new URL(`../lua/${file}.lua`, import.meta.url), "utf8");
}
