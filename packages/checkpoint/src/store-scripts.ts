/**
 * The store's Lua scripts: one file, one transition or one read, all on the same three keys. What each takes and answers
 * stands at the head of its file in lua/; store-expiry.lua goes before each.
 */
import { readFileSync } from "node:fs";
import type { Cluster, Redis, Result } from "ioredis";
import type { StoreKeys } from "./store-keys.ts";

const scripts = {
  tlStorePut: "store-put",
  tlStoreGet: "store-get",
  tlStoreTouch: "store-touch",
  tlStoreSearch: "store-search",
  tlStoreNamespaces: "store-namespaces",
} as const;

type Argument = string | number;
/** A list is taken for as many arguments: one that is spread may be longer than a call's arguments can be. */
type KeysAndArgs = [...keys: StoreKeys, ...args: (Argument | Argument[])[]];

/** As store-get.lua answers it: value as JSON, times in ms since 1970. */
export type RawItem = [json: string, created: number, updated: number];
/** As store-search.lua answers it. */
export type RawPage = [after: string, skipped: number, ...items: [path: string, ...RawItem][]];

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlStorePut(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlStoreGet(...keysAndArgs: KeysAndArgs): Result<(RawItem | null)[], Context>;
    tlStoreTouch(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlStoreSearch(...keysAndArgs: KeysAndArgs): Result<RawPage, Context>;
    tlStoreNamespaces(...keysAndArgs: KeysAndArgs): Result<[lower: string, ...namespaces: string[]], Context>;
  }
}

const defined = new WeakSet<object>();

/** Makes the scripts callable on this connection. EVALSHA with a fall back to EVAL is ioredis's business. */
export function withStoreScripts<Connection extends Redis | Cluster>(redis: Connection): Connection {
  if (defined.has(redis)) return redis;
  const shared = read("store-expiry");
  for (const [name, file] of Object.entries(scripts)) {
    redis.defineCommand(name, { lua: shared + read(file), numberOfKeys: 3 });
  }
  defined.add(redis);
  return redis;
}

function read(file: string): string {
  return readFileSync(new URL(`../lua/${file}.lua`, import.meta.url), "utf8");
}
