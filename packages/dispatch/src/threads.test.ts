import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Dispatcher } from "./dispatcher.ts";
import { threadKey } from "./thread-keys.ts";
import { Threads } from "./threads.ts";

let redis: Redis;
let prefix: string;
let threads: Threads;
const coming = (runId: string) => ({ runId, agent: "a", status: "queued" as const });
const enter = (runId: string, onlyIfIdle = false) => threads.enter("t", coming(runId), { onlyIfIdle });
const leave = async (runId: string) => (await threads.leave("t", runId, null)).first;

beforeEach(() => {
  redis = new Redis(testRedisUrl());
  prefix = testPrefix();
  threads = new Threads(redis, "alice", prefix);
});
afterEach(() => redis.disconnect());

test("the line is in the order of entering, and a run that is in it keeps its place", async () => {
  expect(await threads.active("t")).toBeNull();
  expect(await enter("a")).toMatchObject({ outcome: "in", before: [] });
  expect(await enter("b")).toMatchObject({ outcome: "in", before: ["a"] });
  expect(await enter("c")).toMatchObject({ outcome: "in", before: ["a", "b"] });
  expect(await enter("a")).toMatchObject({ outcome: "in", before: [] });
  expect(await enter("b", true)).toMatchObject({ outcome: "in", before: ["a"] });
  expect(await threads.active("t")).toBe("a");
});

test("the list of all runs is in the order of entering, though Redis' clock was set back", async () => {
  const hour = 60 * 60 * 1_000;
  await redis.zadd(threads.runsKey("t"), String(Date.now() + hour), "of an hour ahead");
  const runIds = Array.from({ length: 9 }, (_, i) => `run ${9 - i}`);
  for (const runId of runIds) await enter(runId);
  await enter(runIds[0]!);
  expect(await redis.zrange(threads.runsKey("t"), 0, "-1")).toEqual(["of an hour ahead", ...runIds]);
});

test("only if idle: in where nobody is, else busy with the first in line", async () => {
  expect(await enter("a", true)).toMatchObject({ outcome: "in", before: [] });
  expect(await enter("b", true)).toEqual({ outcome: "busy", activeRunId: "a" });
  await leave("a");
  expect(await enter("b", true)).toMatchObject({ outcome: "in", before: [] });
});

test("two owners may both have a thread of one name, and never notice", async () => {
  const bobs = new Threads(redis, "bob", prefix);
  await enter("a");
  expect(await bobs.has("t")).toBe(false);
  expect(await bobs.enter("t", coming("b"), { onlyIfIdle: true })).toMatchObject({
    outcome: "in",
    before: [],
  });
  expect(await threads.fence("t", "b", 1)).toBe(false);
  expect(await bobs.fence("t", "b", 1)).toBe(true);
  expect(await leave("b")).toBe("a");
  expect([await threads.active("t"), await bobs.active("t")]).toEqual(["a", "b"]);
  expect([await redis.zcard(threads.runsKey("t")), await redis.zcard(bobs.runsKey("t"))]).toEqual([1, 1]);
});

test("no name of a thread makes it another owner's, nor an index of theirs", async () => {
  await enter("a");
  const alices = threadKey(prefix, "alice", "t", "line");
  const inside = /\{(.*)\}/.exec(alices)![1]!;
  const mallorys = new Threads(redis, "mallory", prefix);
  for (const threadId of [inside, `../${inside}`, "owner-x"]) {
    expect(await mallorys.has(threadId)).toBe(false);
    await mallorys.enter(threadId, coming("m"));
  }
  expect(await redis.lrange(alices, 0, -1)).toEqual(["a"]);
  const dispatcher = new Dispatcher(redis, { prefix });
  expect((await dispatcher.list({ owner: "alice", limit: 10 })).runs).toEqual([]);
  await dispatcher.close();
});

describe("a thread from before owners' threads were apart", () => {
  const old = (name: string) => `${prefix}:{t}:${name}`;
  beforeEach(async () => {
    await redis.hset(old("thread"), { owner: "alice", created: 1 });
    await redis.rpush(old("line"), "waiting");
    await redis.zadd(old("runs"), 1, "ended", 2, "waiting");
    await redis.hset(old("head"), "", "checkpoint");
    await redis.hset(old("blobs"), Buffer.from("\0messages\x001"), Buffer.from([0, 255, 10]));
  });

  test("is brought to where its owner's are, by whatever asks for it first", async () => {
    const asks: (() => Promise<unknown>)[] = [
      async () => expect(await threads.has("t")).toBe(true),
      async () => expect(await enter("next")).toMatchObject({ outcome: "in", before: ["waiting"] }),
      async () => expect(await threads.fence("t", "waiting", 1)).toBe(true),
    ];
    const dumps = await Promise.all(
      ["thread", "line", "runs", "head", "blobs"].map((name) => redis.dumpBuffer(old(name))),
    );
    for (const ask of asks) {
      await ask();
      expect(await redis.keys(`${prefix}:{t}:*`)).toEqual([]);
      expect(await redis.zrange(threads.runsKey("t"), "0", "1")).toEqual(["ended", "waiting"]);
      const blobs = threadKey(prefix, "alice", "t", "blobs");
      expect(await redis.hgetallBuffer(blobs)).toEqual({ "\0messages\x001": Buffer.from([0, 255, 10]) });
      expect(await redis.hget(threadKey(prefix, "alice", "t", "head"), "")).toBe("checkpoint");
      await redis.del(...(await redis.keys(`${prefix}:*`)));
      for (const [i, name] of ["thread", "line", "runs", "head", "blobs"].entries()) {
        await redis.restore(old(name), 0, dumps[i]!);
      }
    }
  });

  test("is nobody else's, and takes no other's place", async () => {
    const bobs = new Threads(redis, "bob", prefix);
    expect(await bobs.has("t")).toBe(false);
    expect(await bobs.enter("t", coming("b"))).toMatchObject({ outcome: "in", before: [] });
    expect(await redis.llen(old("line"))).toBe(1);
    await Promise.all([threads.has("t"), enter("n"), threads.has("t")]);
    expect(await redis.lrange(threadKey(prefix, "alice", "t", "line"), 0, -1)).toEqual(["waiting", "n"]);
  });
});

test("many enter at once: one line, everybody in it once", async () => {
  const runIds = Array.from({ length: 50 }, (_, i) => `r${i}`);
  const entered = await Promise.all(runIds.map((runId) => enter(runId)));
  const lengths = entered.map((each) => (each.outcome === "in" ? each.before.length : -1));
  expect([...lengths].sort((a, b) => a - b)).toEqual(runIds.map((_, i) => i));
});

test("leave moves the line on, from wherever the run was in it, and twice is once", async () => {
  for (const runId of ["a", "b", "c"]) await enter(runId);
  expect(await leave("b")).toBe("a");
  expect(await leave("a")).toBe("c");
  expect(await leave("a")).toBe("c");
  expect(await leave("c")).toBeNull();
});

test("P4: the fence is given to attempts of the first in line alone, and never goes back", async () => {
  await enter("a");
  await enter("b");
  const fence = () => redis.get(threadKey(prefix, "alice", "t", "fence"));
  expect(await threads.fence("t", "b", 1)).toBe(false);
  expect(await fence()).toBeNull();
  expect(await threads.fence("t", "a", 2)).toBe(true);
  expect(await threads.fence("t", "a", 1)).toBe(false);
  expect(await fence()).toBe("a:2");
  expect(await threads.fence("t", "a", 2)).toBe(true);
  // Attempts are numbers, not text.
  expect(await threads.fence("t", "a", 10)).toBe(true);
  expect(await threads.fence("t", "a", 9)).toBe(false);
  expect(await fence()).toBe("a:10");
  await leave("b");
  expect(await fence()).toBe("a:10");
  // With the run its right to write goes, and nobody has it until it is asked for.
  await leave("a");
  expect(await fence()).toBeNull();
  expect(await threads.fence("t", "a", 11)).toBe(false);
  await enter("c");
  expect(await threads.fence("t", "c", 1)).toBe(true);
});

test("P4: a run whose id begins like another's does not take its fence away", async () => {
  await enter("run");
  await threads.fence("t", "run", 1);
  await leave("ru");
  await leave("run:1");
  await enter("next");
  expect(await threads.fence("t", "run", 1)).toBe(true);
});
