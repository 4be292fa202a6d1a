/**
 * What each owner has of what all share: runs that have not ended, and bytes that are stored.
 *
 * Invariants:
 * - a run is counted before it enters its thread, and after its record was written: what is counted and has no record
 *   is gone;
 * - a run is counted once, however often its start, its end or its cancel is repeated;
 * - times say when it is worth to look at a run again; what is there of it is what counts;
 * - a run that never came into line takes nobody's place: nothing but its start, sent again, would ever bring it there;
 * - what a crash left counted is found out where it would shut its owner out, and with later starts once it has expired.
 */
import { luaCommands } from "@throughline/kit/lua";
import { isEnding, ProtocolError, type RunStatus } from "@throughline/protocol";
import type { RunStore } from "@throughline/runlog";
import type { Cluster, Redis, Result } from "ioredis";
import { ownerKey, threadKey } from "./thread-keys.ts";

declare module "ioredis" {
  interface RedisCommander<Context> {
    tlAdmit(...keysAndArgs: (string | number)[]): Result<[string, ...string[]], Context>;
    tlCorrect(...keysAndArgs: (string | number)[]): Result<number, Context>;
    tlKeep(...keysAndArgs: (string | number)[]): Result<[string, ...string[]], Context>;
  }
}

const withScripts = luaCommands(new URL("../lua/", import.meta.url), {
  tlAdmit: { file: "admit", keys: 4 },
  tlCorrect: { file: "correct", keys: 4 },
  tlKeep: { file: "keep", keys: 3 },
});

/** What one owner may have. */
export interface OwnerLimits {
  /** Runs that have not ended. @default no bound */
  maxRuns?: number | undefined;
  /** Bytes of what is stored of the owner's runs, and of what was written to threads by hand. @default no bound */
  maxBytes?: number | undefined;
}

/** What a record takes beside its request and its metadata, about, in bytes. */
const recordBytes = 1_500;
/** Runs that are looked at in one go. */
const pageSize = 1_000;
/** How long nobody looks again for an owner of whom nothing was left over, ms; and again at all the owner's threads. */
const lookAgainMs = 1_000;
const lookAtThreadsAgainMs = 60_000;
/** How old a run is that is taken for one whose start was given up before it came into line, ms: longer than a start takes. */
const givenUpMs = 60_000;
/** How long what is counted stays when the last of an owner's runs has expired, ms. */
const lingerMs = 24 * 60 * 60 * 1000;

export class Owners {
  readonly #redis: Redis | Cluster;
  readonly #runs: RunStore;
  readonly #prefix: string;
  readonly #limits: OwnerLimits;
  readonly #idleMs: number;
  /** Who looks for an owner's left-overs now. */
  readonly #looking = new Map<string, Promise<boolean>>();
  /** Until when nobody is to look again, by this process' own clock, which nobody sets. */
  readonly #looked = new Map<string, number>();

  /** @param options.idleMs how long a run is kept while nothing happens, ms */
  constructor(
    redis: Redis | Cluster,
    runs: RunStore,
    options: { prefix: string; limits: OwnerLimits; idleMs: number },
  ) {
    this.#redis = withScripts(redis);
    this.#runs = runs;
    this.#prefix = options.prefix;
    this.#limits = options.limits;
    this.#idleMs = options.idleMs;
  }

  /** The sorted set of all runs of an owner, by when they started. */
  runsKey(owner: string): string {
    return this.#key(owner, "runs");
  }

  /**
   * Counts a run whose record is there, before it enters its thread. Nothing is counted where there are no limits.
   *
   * @param size bytes of its request and its metadata
   * @param isNew whether its record was written by this start
   * @throws ProtocolError rate_limited (too many runs that have not ended), payload_too_large (too much is stored)
   */
  async admit(owner: string, runId: string, size: number, isNew: boolean): Promise<void> {
    const { maxRuns = 0, maxBytes = 0 } = this.#limits;
    if (maxRuns === 0 && maxBytes === 0) return;
    const [active, bytes, due, threads] = this.#keys(owner);
    for (;;) {
      const now = Date.now();
      const [outcome, ...rest] = await this.#redis.tlAdmit(
        active,
        bytes,
        due,
        threads,
        runId,
        size + recordBytes,
        now,
        now + this.#idleMs,
        maxRuns,
        maxBytes,
        lingerMs,
        isNew ? "1" : "0",
      );
      if (outcome === "in") {
        await this.#look(owner, rest);
        return;
      }
      if (outcome === "runs") {
        if (await this.#heal(owner, "runs")) continue;
        const message = `there are ${rest[0]} runs of yours that have not ended; ${maxRuns} is the limit: start again when one has`;
        throw new ProtocolError("rate_limited", message, { active: Number(rest[0]), maxRuns });
      }
      if (await this.#heal(owner, "bytes")) continue;
      throw tooMuch(rest, maxBytes);
    }
  }

  /**
   * Counts what is about to be written to a thread by hand. It stays counted for as long as the thread is there.
   *
   * @throws ProtocolError payload_too_large
   */
  async keep(owner: string, threadId: string, size: number): Promise<void> {
    const { maxBytes = 0 } = this.#limits;
    if (maxBytes === 0) return;
    const [, bytes, due, threads] = this.#keys(owner);
    for (;;) {
      const [outcome, ...rest] = await this.#redis.tlKeep(bytes, due, threads, threadId, size, maxBytes);
      if (outcome === "in") return;
      if (!(await this.#heal(owner, "bytes"))) throw tooMuch(rest, maxBytes);
    }
  }

  /** Counts so many bytes, and has them written. @throws ProtocolError payload_too_large; what `write` throws */
  async keeping<T>(owner: string, threadId: string, size: number, write: () => Promise<T>): Promise<T> {
    await this.keep(owner, threadId, size);
    try {
      return await write();
    } catch (error) {
      await this.giveBack(owner, threadId, size).catch(() => {});
      throw error;
    }
  }

  /** It was not written after all. */
  async giveBack(owner: string, threadId: string, size: number): Promise<void> {
    if (this.#limits.maxBytes === undefined) return;
    const [, bytes, due, threads] = this.#keys(owner);
    await this.#redis.tlKeep(bytes, due, threads, threadId, -size, 0);
  }

  /** A run has ended: it gives its place back, and is as large as its log has made it. */
  async ended(owner: string, runId: string): Promise<void> {
    const [active, bytes] = this.#keys(owner);
    const [, counted] = await Promise.all([
      this.#redis.zrem(active, runId),
      this.#redis.hexists(bytes, runId),
    ]);
    if (counted === 1) await this.#look(owner, [runId]);
  }

  /** A run that was counted is taken back: nothing is left of it. */
  async forget(owner: string, runId: string): Promise<void> {
    const { maxRuns = 0, maxBytes = 0 } = this.#limits;
    if (maxRuns > 0 || maxBytes > 0) await this.#correct(owner, [runId, "gone", 0, 0]);
  }

  /** Runs that are removed: nothing is left of them, in the counts and in the list of all runs. */
  async forgetAll(owner: string, runIds: readonly string[]): Promise<void> {
    if (runIds.length === 0) return;
    await this.#correct(
      owner,
      runIds.flatMap((runId) => [runId, "gone", 0, 0]),
    );
    await this.#redis.zrem(this.runsKey(owner), ...runIds);
  }

  /** A thread that is removed gives back what was written to it by hand. */
  async forgetThread(owner: string, threadId: string): Promise<void> {
    const [, bytes, due, threads] = this.#keys(owner);
    const size = await this.#redis.hget(threads, `thread:${threadId}`);
    if (size !== null) await this.#redis.tlKeep(bytes, due, threads, threadId, -Number(size), 0);
  }

  /** A run of this owner's is about to end: who is refused looks anew. */
  expectEnd(owner: string): void {
    this.#looked.delete(owner);
  }

  /** Gives back what is counted of runs that have ended or expired. Answers whether anything was. */
  async #heal(owner: string, what: "runs" | "bytes"): Promise<boolean> {
    const name = `${what} ${owner}`;
    let looking = this.#looking.get(name);
    if (looking === undefined) {
      if (!this.#mayLook(owner)) return false;
      looking = (what === "runs" ? this.#healRuns(owner) : this.#healBytes(owner)).finally(() =>
        this.#looking.delete(name),
      );
      this.#looking.set(name, looking);
    }
    const freed = await looking;
    if (!freed) this.#lookAgainAt(owner, performance.now() + lookAgainMs);
    return freed;
  }

  async #healRuns(owner: string): Promise<boolean> {
    const [active] = this.#keys(owner);
    for (let from = 0; ; from += pageSize) {
      const runIds = await this.#redis.zrange(active, from, `${from + pageSize - 1}`);
      if (runIds.length === 0) return false;
      const statuses = await this.#runs.statuses(runIds);
      const over = runIds.filter((_, i) => isOver(statuses[i]!));
      if ((await this.#look(owner, over)) > 0) return true;
      const queued = runIds.filter((_, i) => statuses[i] === "queued");
      if ((await this.#giveUp(owner, queued)) > 0) return true;
    }
  }

  /** Gives back the places of queued runs whose start was broken off before they came into line. Their bytes stay counted. */
  async #giveUp(owner: string, runIds: readonly string[]): Promise<number> {
    const [origins, [seconds]] = await Promise.all([this.#runs.origins(runIds), this.#redis.time()]);
    const before = Number(seconds) * 1000 - givenUpMs;
    const isInThread = await Promise.all(
      origins.map(async (origin, i) => {
        if (origin === null || origin.createdAt > before) return true;
        const runs = threadKey(this.#prefix, owner, origin.threadId, "runs");
        return (await this.#redis.zscore(runs, runIds[i]!)) !== null;
      }),
    );
    const strays = runIds.filter((_, i) => !isInThread[i]);
    return strays.length === 0 ? 0 : await this.#redis.zrem(this.#key(owner, "active"), ...strays);
  }

  async #healBytes(owner: string): Promise<boolean> {
    const [, , due] = this.#keys(owner);
    for (;;) {
      const runIds = await this.#redis.zrangebyscore(due, 0, Date.now(), "LIMIT", 0, pageSize);
      if (runIds.length === 0) return await this.#healThreads(owner);
      if ((await this.#look(owner, runIds)) > 0) return true;
    }
  }

  /** Gives back what was written to threads that are no more there. */
  async #healThreads(owner: string): Promise<boolean> {
    const name = `threads of ${owner}`;
    if (!this.#mayLook(name)) return false;
    this.#lookAgainAt(name, performance.now() + lookAtThreadsAgainMs);
    const [, bytes, due, threads] = this.#keys(owner);
    let freed = false;
    for (let cursor = "0"; ; ) {
      const [next, flat] = await this.#redis.hscan(threads, cursor, "COUNT", pageSize);
      const kept: { threadId: string; size: string }[] = [];
      for (let i = 0; i < flat.length; i += 2) {
        if (flat[i] !== "sum") kept.push({ threadId: flat[i]!.slice("thread:".length), size: flat[i + 1]! });
      }
      const there = await Promise.all(
        kept.map(({ threadId }) =>
          this.#redis.exists(
            threadKey(this.#prefix, owner, threadId, "thread"),
            threadKey(this.#prefix, owner, threadId, "checkpoints"),
          ),
        ),
      );
      for (const [i, { threadId, size }] of kept.entries()) {
        if (there[i]! > 0) continue;
        await this.#redis.tlKeep(bytes, due, threads, threadId, -Number(size), 0);
        freed = true;
      }
      if (next === "0") return freed;
      cursor = next;
    }
  }

  /** Puts right what is counted of these runs. Answers how many places and sizes were given back. */
  async #look(owner: string, runIds: readonly string[]): Promise<number> {
    if (runIds.length === 0) return 0;
    const sizes = await this.#runs.sizes(runIds);
    const now = Date.now();
    const states = runIds.flatMap((runId, i) => {
      const size = sizes[i]!;
      if (size === null) return [runId, "gone", 0, 0];
      // One that never expires, which ours do not, is not asked for again before a day is over.
      const expiresAt = now + (size.expiresInMs < 0 ? lingerMs : size.expiresInMs + 1);
      return [runId, isEnding(size.status) ? "ended" : "active", size.bytes, expiresAt];
    });
    return await this.#correct(owner, states);
  }

  async #correct(owner: string, states: readonly (string | number)[]): Promise<number> {
    const [active, bytes, due] = this.#keys(owner);
    return await this.#redis.tlCorrect(active, bytes, due, this.runsKey(owner), lingerMs, ...states);
  }

  #mayLook(name: string): boolean {
    return (this.#looked.get(name) ?? 0) <= performance.now();
  }

  #lookAgainAt(name: string, at: number): void {
    if (this.#looked.size >= 1_000) {
      for (const [each, until] of this.#looked) if (until <= performance.now()) this.#looked.delete(each);
    }
    this.#looked.set(name, at);
  }

  #keys(owner: string): [active: string, bytes: string, due: string, threads: string] {
    const key = (name: string) => this.#key(owner, name);
    return [key("active"), key("bytes"), key("due"), key("threads")];
  }

  #key(owner: string, name: string): string {
    return ownerKey(this.#prefix, owner, name);
  }
}

function isOver(status: RunStatus | null): boolean {
  return status === null || isEnding(status);
}

function tooMuch([stored = "0", next = ""]: string[], maxBytes: number): ProtocolError {
  const room =
    next === ""
      ? "room comes when threads are deleted"
      : `the next run expires at ${isoTime(next)}, and makes room`;
  const message = `${stored} bytes are stored of your runs and updates, and with this it would be more than ${maxBytes}, the limit: ${room}`;
  return new ProtocolError("payload_too_large", message, { stored: Number(stored), maxBytes });
}

function isoTime(ms: string): string {
  return new Date(Number(ms)).toISOString();
}
