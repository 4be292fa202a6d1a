/** Lua scripts as commands of a Redis connection: one file, one command. */
import { readFileSync } from "node:fs";
import type { Cluster, Redis } from "ioredis";

export interface LuaScript {
  /** The name of its file, without `.lua`. */
  file: string;
  /** How many keys it takes; undefined: each call says how many, with its first argument. */
  keys: number | undefined;
  /** Files of functions that it uses, put before it. */
  uses?: readonly string[];
  /** Lua that goes before it: what TypeScript knows as well. */
  prelude?: string;
}

export interface LuaOptions {
  /** What the text of a script becomes for a connection. @default the same text */
  adapt?: (lua: string, redis: Redis | Cluster) => string;
}

/**
 * A function that defines the scripts as commands of a connection and answers that connection. Called again for the same
 * connection it does nothing. EVALSHA with a fallback to EVAL is ioredis's business.
 *
 * @param folder of the files, ending in "/"
 * @param scripts by the name of the command
 */
export function luaCommands(
  folder: URL,
  scripts: Readonly<Record<string, LuaScript>>,
  { adapt = (lua) => lua }: LuaOptions = {},
): <Connection extends Redis | Cluster>(redis: Connection) => Connection {
  const defined = new WeakSet<object>();
  const read = (file: string) => readFileSync(new URL(`${file}.lua`, folder), "utf8");
  return (redis) => {
    if (defined.has(redis)) return redis;
    for (const [name, { file, keys, uses = [], prelude = "" }] of Object.entries(scripts)) {
      const lua = adapt(prelude + [...uses, file].map(read).join(""), redis);
      redis.defineCommand(name, keys === undefined ? { lua } : { lua, numberOfKeys: keys });
    }
    defined.add(redis);
    return redis;
  };
}
