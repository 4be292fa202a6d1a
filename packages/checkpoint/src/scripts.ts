/**
 * The Lua scripts: one file, one transition or one read, all on the same six keys of a thread. What each takes and
 * answers stands at the head of its file in lua/; lists.lua goes before those that use it.
 */
import { readFileSync } from "node:fs";
import type { Callback, ChainableCommander, Cluster, Redis, Result } from "ioredis";
import type { ThreadKeys } from "./keys.ts";
import type { RawElements } from "./lists.ts";

const scripts = {
  tlCheckpointPut: "put",
  tlCheckpointPutWrites: "put-writes",
  tlCheckpointRead: "read",
  tlCheckpointWalk: "walk",
  tlCheckpointDiscard: "discard",
  tlCheckpointSetHead: "set-head",
  tlCheckpointDelete: "delete",
  tlCheckpointDump: "dump",
  tlCheckpointRestore: "restore",
} as const;
const usingLists = new Set(["put", "put-writes", "read", "walk", "discard"]);

type Argument = string | number | Buffer;
/** A list is taken for as many arguments: one that is spread may be longer than a call's arguments can be. */
type KeysAndArgs = [...keys: ThreadKeys, ...args: (Argument | Argument[])[]];

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
/** As put.lua answers it. */
export type RawPut = [outcome: number, generation: string, ...firsts: number[]] | [refused: number];
/** As walk.lua answers it. */
export type RawWalk = [
  elements: RawElements,
  above: Buffer,
  ...steps: [values: Buffer[], writes: Buffer[]][],
];

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlCheckpointPut(...keysAndArgs: KeysAndArgs): Result<RawPut, Context>;
    tlCheckpointPutWrites(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointReadBuffer(
      ...keysAndArgs: KeysAndArgs
    ): Result<[elements: RawElements, ...tuples: RawTuple[]], Context>;
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
  const lists = read("lists");
  for (const [name, file] of Object.entries(scripts)) {
    const lua = (usingLists.has(file) ? lists : "") + read(file);
    redis.defineCommand(name, { lua, numberOfKeys: 6 });
  }
  defined.add(redis);
  return redis;
}

function read(file: string): string {
  return readFileSync(new URL(`../lua/${file}.lua`, import.meta.url), "utf8");
}
