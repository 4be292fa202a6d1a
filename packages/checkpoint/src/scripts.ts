/**
 * The Lua scripts: one file, one transition or one read, all on the same six keys of a thread. What each takes and
 * answers stands at the head of its file in lua/.
 */
import { readFileSync } from "node:fs";
import type { Callback, ChainableCommander, Cluster, Redis, Result } from "ioredis";
import type { ThreadKeys } from "./keys.ts";

const scripts = {
  tlCheckpointPut: "put",
  tlCheckpointPutWrites: "put-writes",
  tlCheckpointRead: "read",
  tlCheckpointWalk: "walk",
  tlCheckpointSetHead: "set-head",
  tlCheckpointDiscard: "discard",
  tlCheckpointDelete: "delete",
  tlCheckpointDump: "dump",
  tlCheckpointRestore: "restore",
} as const;

type Argument = string | number | Buffer;
type KeysAndArgs = [...keys: ThreadKeys, ...args: Argument[]];

/** As read.lua answers it. */
export type RawTuple = [
  ns: Buffer,
  id: Buffer,
  parent: Buffer,
  checkpoint: Buffer,
  metadata: Buffer,
  values: Buffer[],
  writes: Buffer[],
];
/** As walk.lua answers it. */
export type RawWalk = [above: Buffer, ...steps: [values: Buffer[], writes: Buffer[]][]];

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlCheckpointPut(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointPutWrites(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointReadBuffer(...keysAndArgs: KeysAndArgs): Result<RawTuple[], Context>;
    tlCheckpointWalkBuffer(...keysAndArgs: KeysAndArgs): Result<RawWalk, Context>;
    tlCheckpointSetHead(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointDiscard(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointDelete(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointDumpBuffer(...keysAndArgs: KeysAndArgs): Result<(Buffer | null)[], Context>;
    tlCheckpointRestore(...keysAndArgs: KeysAndArgs): Result<number, Context>;
  }
}

export type { Callback, ChainableCommander };

const defined = new WeakSet<object>();

/** Makes the scripts callable on this connection. EVALSHA with a fall back to EVAL is ioredis's business. */
export function withScripts<Connection extends Redis | Cluster>(redis: Connection): Connection {
  if (defined.has(redis)) return redis;
  for (const [name, file] of Object.entries(scripts)) {
    const lua = readFileSync(new URL(`../lua/${file}.lua`, import.meta.url), "utf8");
    redis.defineCommand(name, { lua, numberOfKeys: 6 });
  }
  defined.add(redis);
  return redis;
}
