/**
 * Threads: who owns one, which runs wait in its line, and which attempt may write its checkpoints.
 *
 * Invariants:
 * - only the first in line is ever given to a worker, so a thread never has two runs at once;
 * - the order of the line is the order in which `enter` was answered, whichever gateway asked;
 * - the fence names one attempt of the first in line, and never goes back to an earlier one.
 */
import { readFileSync } from "node:fs";
import { defaultPrefix } from "@throughline/runlog";
import type { Cluster, Redis, Result } from "ioredis";

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlEnter(...keysAndArgs: (string | number)[]): Result<[string, ...string[]], Context>;
    tlLeave(...keysAndArgs: (string | number)[]): Result<string, Context>;
    tlFence(...keysAndArgs: (string | number)[]): Result<number, Context>;
  }
}

const scripts = { tlEnter: ["enter", 3], tlLeave: ["leave", 2], tlFence: ["fence", 2] } as const;

/** More than anybody asks one conversation at once. */
export const defaultMaxInLine = 1_000;

export type Entered =
  | { outcome: "foreign" }
  | { outcome: "busy" | "full"; activeRunId: string }
  /** `before`: the runs in line before this one, the active one first. */
  | { outcome: "in"; before: string[] };

export class Threads {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;

  constructor(redis: Redis | Cluster, prefix = defaultPrefix) {
    this.#redis = redis;
    this.#prefix = prefix;
    for (const [name, [file, numberOfKeys]] of Object.entries(scripts)) {
      const lua = readFileSync(new URL(`../lua/${file}.lua`, import.meta.url), "utf8");
      redis.defineCommand(name, { lua, numberOfKeys });
    }
  }

  /** @param maxInLine how many may be in line; one that is there already keeps its place */
  async enter(
    threadId: string,
    runId: string,
    owner: string,
    onlyIfIdle: boolean,
    maxInLine = defaultMaxInLine,
  ): Promise<Entered> {
    const [outcome, ...rest] = await this.#redis.tlEnter(
      this.#key(threadId, "thread"),
      this.#key(threadId, "line"),
      this.#key(threadId, "runs"),
      runId,
      owner,
      Date.now(),
      onlyIfIdle ? "1" : "0",
      maxInLine,
    );
    if (outcome === "foreign") return { outcome };
    if (outcome === "busy" || outcome === "full") return { outcome, activeRunId: rest[0] as string };
    return { outcome: "in", before: rest };
  }

  /** Takes a run out of line. Answers who is first now. */
  async leave(threadId: string, runId: string): Promise<string | null> {
    const first = await this.#redis.tlLeave(this.#key(threadId, "line"), this.#key(threadId, "fence"), runId);
    return first === "" ? null : first;
  }

  /** Makes this attempt the one that may write checkpoints. false: it has lost the run. */
  async fence(threadId: string, runId: string, attempt: number): Promise<boolean> {
    const answer = await this.#redis.tlFence(
      this.#key(threadId, "line"),
      this.#key(threadId, "fence"),
      runId,
      attempt,
    );
    return answer === 1;
  }

  /** null: there is no such thread. */
  async owner(threadId: string): Promise<string | null> {
    return await this.#redis.hget(this.#key(threadId, "thread"), "owner");
  }

  /** The run that is first in the thread's line; null where nobody is. */
  async active(threadId: string): Promise<string | null> {
    return await this.#redis.lindex(this.#key(threadId, "line"), 0);
  }

  /** The sorted set of all runs of a thread, by the time they entered. */
  runsKey(threadId: string): string {
    return this.#key(threadId, "runs");
  }

  #key(threadId: string, name: string): string {
    return `${this.#prefix}:{${threadId}}:${name}`;
  }
}
