/**
 * An owner's threads: which runs wait in one's line, and which attempt may write its checkpoints. Two owners may both
 * have a thread of the same id: their keys differ.
 *
 * Invariants:
 * - only the first in line is ever given to a worker, so a thread never has two runs at once;
 * - the order of the line is the order in which `enter` was answered, whichever gateway asked;
 * - the fence names one attempt of the first in line, and never goes back to an earlier one.
 */
import { createHash } from "node:crypto";
import { luaCommands } from "@throughline/kit/lua";
import { defaultPrefix } from "@throughline/runlog";
import type { Cluster, Redis, Result } from "ioredis";

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlEnter(...keysAndArgs: (string | number)[]): Result<[string, ...string[]], Context>;
    tlIndex(...keysAndArgs: string[]): Result<number, Context>;
    tlLeave(...keysAndArgs: (string | number)[]): Result<string, Context>;
    tlFence(...keysAndArgs: (string | number)[]): Result<number, Context>;
    tlMoveOutBuffer(...keysAndArgs: string[]): Result<(Buffer | null)[], Context>;
    tlMoveIn(...keysAndArgs: (string | Buffer)[]): Result<number, Context>;
  }
}

/** All that a thread has, its checkpoints too. */
const keyNames = ["thread", "line", "runs", "fence", "head", "checkpoints", "blobs", "writes", "index"];

const withScripts = luaCommands(new URL("../lua/", import.meta.url), {
  tlEnter: { file: "enter", keys: 3, uses: ["by-time"] },
  tlIndex: { file: "index", keys: 1, uses: ["by-time"] },
  tlLeave: { file: "leave", keys: 2 },
  tlFence: { file: "fence", keys: 2 },
  tlMoveOut: { file: "move-out", keys: keyNames.length },
  tlMoveIn: { file: "move-in", keys: keyNames.length },
});

/** How many runs may be in a thread's line. */
export const defaultMaxInLine = 1_000;

export type Entered =
  | { outcome: "busy" | "full"; activeRunId: string }
  /** `before`: the runs in line before this one, the active one first. */
  | { outcome: "in"; before: string[] };

/** The prefix of a thread's id in its keys: a digest of the owner. Its length is fixed, so no id yields another owner's key. */
export function ownerScope(owner: string): string {
  return `${createHash("sha256").update(owner).digest("base64url").slice(0, 22)}/`;
}

/** One of the keys of an owner's thread: its checkpoints' as well as those of its line. */
export function threadKey(prefix: string, owner: string, threadId: string, name: string): string {
  return `${prefix}:{${ownerScope(owner)}${threadId}}:${name}`;
}

export class Threads {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  readonly owner: string;

  constructor(redis: Redis | Cluster, owner: string, prefix = defaultPrefix) {
    this.#redis = withScripts(redis);
    this.#prefix = prefix;
    this.owner = owner;
  }

  /** @param maxInLine how many may be in line; one that is there already keeps its place */
  async enter(
    threadId: string,
    runId: string,
    onlyIfIdle: boolean,
    maxInLine = defaultMaxInLine,
  ): Promise<Entered> {
    const enter = (onlyIfThere: boolean) =>
      this.#redis.tlEnter(
        this.#key(threadId, "thread"),
        this.#key(threadId, "line"),
        this.#key(threadId, "runs"),
        runId,
        this.owner,
        onlyIfIdle ? "1" : "0",
        maxInLine,
        onlyIfThere ? "1" : "0",
      );
    let [outcome, ...rest] = await enter(true);
    if (outcome === "none") {
      await this.#bring(threadId);
      [outcome, ...rest] = await enter(false);
    }
    if (outcome === "busy" || outcome === "full") return { outcome, activeRunId: rest[0] as string };
    return { outcome: "in", before: rest };
  }

  /** Takes a run out of line. Answers who is first now. */
  async leave(threadId: string, runId: string): Promise<string | null> {
    const first = await this.#redis.tlLeave(this.#key(threadId, "line"), this.#key(threadId, "fence"), runId);
    return first === "" ? null : first;
  }

  /** Makes this attempt the one that may write checkpoints. false: it has lost the run. */
  async fence(threadId: string, runId: string, fence: number): Promise<boolean> {
    const take = () =>
      this.#redis.tlFence(this.#key(threadId, "line"), this.#key(threadId, "fence"), runId, fence);
    return (await take()) === 1 || ((await this.#bring(threadId)) && (await take()) === 1);
  }

  /** Whether the owner has such a thread. */
  async has(threadId: string): Promise<boolean> {
    const exists = (await this.#redis.exists(this.#key(threadId, "thread"))) === 1;
    return exists || (await this.#bring(threadId));
  }

  /** The run that is first in the thread's line; null where nobody is. */
  async active(threadId: string): Promise<string | null> {
    return await this.#redis.lindex(this.#key(threadId, "line"), 0);
  }

  /** The sorted set of all runs of a thread, in the order in which they entered. */
  runsKey(threadId: string): string {
    return this.#key(threadId, "runs");
  }

  /**
   * Brings a thread from where it was before owners' threads were apart. Answers whether there was one.
   * To go, when nobody has threads of version 0.1 any more.
   */
  async #bring(threadId: string): Promise<boolean> {
    if (looksScoped.test(threadId)) return false;
    const old = keyNames.map((name) => `${this.#prefix}:{${threadId}}:${name}`);
    const dumps = await this.#redis.tlMoveOutBuffer(...old, this.owner);
    if (dumps.length === 0) return false;
    const keys = keyNames.map((name) => this.#key(threadId, name));
    await this.#redis.tlMoveIn(...keys, ...dumps.map((dump) => dump ?? ""));
    await this.#redis.del(...old);
    return true;
  }

  #key(threadId: string, name: string): string {
    return threadKey(this.#prefix, this.owner, threadId, name);
  }
}

/** An id that would name the keys of a thread that is where it belongs. */
const looksScoped = /^[\w-]{22}\//;
