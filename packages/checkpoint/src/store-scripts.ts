/**
 * The store's Lua scripts: one file, one transition or one read, all on the same three keys. What each takes and answers
 * stands at the head of its file in lua/; store-expiry.lua goes before each.
 */
import { type LuaScript, luaCommands } from "@throughline/kit/lua";
import type { Result } from "ioredis";
import type { StoreKeys } from "./store-keys.ts";

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

const script = (file: string): LuaScript => ({ file, keys: 3, uses: ["store-expiry"] });

/** Makes the scripts callable on this connection. */
export const withStoreScripts = luaCommands(new URL("../lua/", import.meta.url), {
  tlStorePut: script("store-put"),
  tlStoreGet: script("store-get"),
  tlStoreTouch: script("store-touch"),
  tlStoreSearch: script("store-search"),
  tlStoreNamespaces: script("store-namespaces"),
});
