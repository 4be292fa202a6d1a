/** The Lua scripts about threads. What each takes and answers stands at the head of its file in lua/. */
import { luaCommands } from "@throughline/kit/lua";
import { incarnationLua, publishing } from "@throughline/runlog";
import type { Result } from "ioredis";
import { threadKeyNames } from "./thread-keys.ts";

type Argument = string | number;
/** `state` of thread.lua. */
export type RawState = string[];

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlEnter(
      ...keysAndArgs: Argument[]
    ): Result<
      | ["none"]
      | ["deleting"]
      | ["left"]
      | ["busy", string]
      | ["full", string]
      | ["in", string, string[], RawState],
      Context
    >;
    tlIndex(...keysAndArgs: string[]): Result<number, Context>;
    tlLeave(...keysAndArgs: Argument[]): Result<[string, RawState], Context>;
    tlFence(...keysAndArgs: Argument[]): Result<[] | [number, RawState], Context>;
    tlCreate(
      ...keysAndArgs: Argument[]
    ): Result<["deleting"] | ["there", string, RawState] | ["created", string, RawState], Context>;
    tlLook(...keysAndArgs: Argument[]): Result<[] | [string, string, number, RawState], Context>;
    tlPatch(
      ...keysAndArgs: Argument[]
    ): Result<["none"] | ["deleting"] | ["other", string] | ["done", string, RawState], Context>;
    tlHeadMoved(
      ...keysAndArgs: Argument[]
    ): Result<["none"] | ["deleting"] | ["done", string, RawState], Context>;
    tlReserve(...keysAndArgs: Argument[]): Result<["deleting"] | ["there"] | ["reserved", RawState], Context>;
    tlCopied(...keysAndArgs: Argument[]): Result<["none"] | ["done", string, RawState], Context>;
    tlDelete(...keysAndArgs: Argument[]): Result<[] | [string, string[], string[]], Context>;
    tlTellDeleted(...keysAndArgs: Argument[]): Result<[] | [string, string, string], Context>;
    tlRemove(...keysAndArgs: Argument[]): Result<number, Context>;
    tlShown(...keysAndArgs: Argument[]): Result<number, Context>;
    tlShow(...keysAndArgs: Argument[]): Result<number, Context>;
    tlThreads(...keysAndArgs: Argument[]): Result<string[], Context>;
    tlMoveOutBuffer(...keysAndArgs: string[]): Result<(Buffer | null)[], Context>;
    tlMoveIn(...keysAndArgs: (string | Buffer)[]): Result<number, Context>;
  }
}

/** All that a thread had before owners' threads were apart. */
export const oldKeyNames = [
  "thread",
  "line",
  "runs",
  "fence",
  "head",
  "checkpoints",
  "blobs",
  "writes",
  "index",
];

const tells = { prelude: incarnationLua, uses: ["by-time", "iso", "tell", "thread"] };

export const withScripts = luaCommands(
  new URL("../lua/", import.meta.url),
  {
    tlEnter: { file: "enter", keys: 6, ...tells },
    tlFence: { file: "fence", keys: 7, ...tells },
    tlLeave: { file: "leave", keys: 7, ...tells },
    tlCreate: { file: "create", keys: 6, ...tells },
    tlLook: { file: "look", keys: 6, ...tells },
    tlPatch: { file: "patch", keys: 6, ...tells },
    tlHeadMoved: { file: "head-moved", keys: 6, ...tells },
    tlReserve: { file: "reserve", keys: 6, ...tells },
    tlCopied: { file: "copied", keys: 6, ...tells },
    tlDelete: { file: "delete", keys: 6, ...tells },
    tlTellDeleted: { file: "tell-deleted", keys: 6, ...tells },
    tlRemove: { file: "remove", keys: threadKeyNames.length },
    tlShown: { file: "shown", keys: 1 },
    tlShow: { file: "show", keys: 5, prelude: incarnationLua, uses: ["by-time", "tell"] },
    tlThreads: { file: "threads", keys: 2 },
    tlIndex: { file: "index", keys: 1, uses: ["by-time"] },
    tlMoveOut: { file: "move-out", keys: oldKeyNames.length },
    tlMoveIn: { file: "move-in", keys: oldKeyNames.length },
  },
  publishing,
);
