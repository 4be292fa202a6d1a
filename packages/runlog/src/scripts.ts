/**
 * The Lua scripts: one file, one transition, one typed call; what several of them use is put before them. What each takes and answers stands at the head of its file in lua/. Channels are arguments, not keys: during a
 * slot's move a Cluster takes no command that names several keys of which one is missing, as a channel always is.
 */
import { readFileSync } from "node:fs";
import { type LuaOptions, luaCommands } from "@throughline/kit/lua";
import { endings } from "@throughline/protocol";
import type { Result } from "ioredis";
import { isCluster } from "./cluster.ts";

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
    tlReaders(...keysAndArgs: Argument[]): Result<number, Context>;
    tlStep(...keysAndArgs: Argument[]): Result<number, Context>;
    tlStored(...keysAndArgs: Argument[]): Result<[] | [string, number, number], Context>;
    tlNote(...keysAndArgs: Argument[]): Result<number, Context>;
  }
}

/** `endings[status]`: whether a run with that status has ended. */
const prelude = `local endings = { ${endings.map((each) => `${each} = true`).join(", ")} }\n`;

const folder = new URL("../lua/", import.meta.url);

/** For others' logs: what asks whether Redis is still the one that it was. To be put before a script. */
export const incarnationLua = readFileSync(new URL("incarnation.lua", folder), "utf8");

/** On a Cluster what scripts publish stays on its shard; a single Redis has SPUBLISH only since version 7, and no use for it. */
export const publishing: LuaOptions = {
  adapt: (lua, redis) => (isCluster(redis) ? lua.replaceAll("'PUBLISH'", "'SPUBLISH'") : lua),
};

/** Makes the scripts callable on this connection. */
export const withScripts = luaCommands(
  folder,
  {
    tlOpen: { file: "open", keys: 1, uses: ["clock", "incarnation"] },
    tlClaim: { file: "claim", keys: 2, uses: ["clock", "incarnation"], prelude },
    /** Any number of runs at once: its first argument is the number of keys. */
    tlAppend: { file: "append", keys: undefined },
    tlFinish: { file: "finish", keys: 3, uses: ["clock"] },
    tlCancel: { file: "cancel", keys: 2, uses: ["clock", "incarnation"], prelude },
    tlRead: { file: "read", keys: 2 },
    tlSnapshot: { file: "snapshot", keys: 2 },
    tlRenew: { file: "renew", keys: 1, uses: ["incarnation"] },
    tlRelease: { file: "release", keys: 1 },
    tlTry: { file: "try", keys: 1 },
    tlTrim: { file: "trim", keys: 3 },
    tlReaders: { file: "readers", keys: 2, uses: ["clock"], prelude },
    tlStep: { file: "step", keys: 1 },
    tlStored: { file: "stored", keys: 3 },
    tlNote: { file: "note", keys: 1 },
  },
  publishing,
);
