/**
 * The Lua scripts: one file, one transition or one read, all on the same six keys of a thread. What each takes and
 * answers stands at the head of its file in lua/; lists.lua goes before those that use it.
 */
import { type LuaScript, luaCommands } from "@throughline/kit/lua";
import type { Result } from "ioredis";
import type { RawElements } from "./elements.ts";
import type { ThreadKeys } from "./keys.ts";

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
/** As dump.lua answers it. */
export type RawDump = [
  dumps: (Buffer | null)[],
  line: [id: Buffer, run: Buffer, metadata: Buffer][],
  runs: Buffer[],
  below: [ns: Buffer, id: Buffer, parent: Buffer, run: Buffer, metadata: Buffer][],
  heads: Buffer[],
];
/** As outline.lua answers it. */
export type RawOutline = [generation: Buffer, more: Buffer, fields: Buffer[], ...tuples: RawTuple[]];
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
    tlCheckpointOutlineBuffer(...keysAndArgs: KeysAndArgs): Result<RawOutline, Context>;
    tlCheckpointElementsBuffer(...keysAndArgs: KeysAndArgs): Result<RawElements, Context>;
    tlCheckpointSetHead(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointDiscard(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointDelete(...keysAndArgs: KeysAndArgs): Result<number, Context>;
    tlCheckpointDumpBuffer(...keysAndArgs: KeysAndArgs): Result<RawDump, Context>;
    tlCheckpointRestore(...keysAndArgs: KeysAndArgs): Result<number, Context>;
  }
}

const script = (file: string, uses: readonly string[] = []): LuaScript => ({ file, keys: 6, uses });

/** Makes the scripts callable on this connection. */
export const withScripts = luaCommands(new URL("../lua/", import.meta.url), {
  tlCheckpointPut: script("put", ["lists"]),
  tlCheckpointPutWrites: script("put-writes", ["lists"]),
  tlCheckpointRead: script("read", ["lists"]),
  tlCheckpointOutline: script("outline", ["lists", "arguments"]),
  tlCheckpointElements: script("elements", ["lists"]),
  tlCheckpointWalk: script("walk", ["lists"]),
  tlCheckpointDiscard: script("discard", ["lists"]),
  tlCheckpointSetHead: script("set-head"),
  tlCheckpointDelete: script("delete"),
  tlCheckpointDump: script("dump"),
  tlCheckpointRestore: script("restore", ["lists", "arguments"]),
});
