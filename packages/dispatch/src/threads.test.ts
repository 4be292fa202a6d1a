import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Threads } from "./threads.ts";

let redis: Redis;
let threads: Threads;
const enter = (runId: string, owner = "alice", onlyIfIdle = false) =>
  threads.enter("t", runId, owner, onlyIfIdle);

beforeEach(() => {
  redis = new Redis(testRedisUrl());
  threads = new Threads(redis, testPrefix());
});
afterEach(() => redis.disconnect());

test("the line is in the order of entering, and a run that is in it keeps its place", async () => {
  expect(await threads.active("t")).toBeNull();
  expect(await enter("a")).toEqual({ outcome: "in", before: [] });
  expect(await enter("b")).toEqual({ outcome: "in", before: ["a"] });
  expect(await enter("c")).toEqual({ outcome: "in", before: ["a", "b"] });
  expect(await enter("a")).toEqual({ outcome: "in", before: [] });
  expect(await enter("b", "alice", true)).toEqual({ outcome: "in", before: ["a"] });
  expect(await threads.active("t")).toBe("a");
});

test("only if idle: in where nobody is, else busy with the first in line", async () => {
  expect(await enter("a", "alice", true)).toEqual({ outcome: "in", before: [] });
  expect(await enter("b", "alice", true)).toEqual({ outcome: "busy", activeRunId: "a" });
  await threads.leave("t", "a");
  expect(await enter("b", "alice", true)).toEqual({ outcome: "in", before: [] });
});

test("another owner does not get in, whatever is in line, and changes nothing", async () => {
  await enter("a");
  expect(await enter("m", "mallory")).toEqual({ outcome: "foreign" });
  expect(await threads.leave("t", "a")).toBeNull();
  expect(await enter("m", "mallory")).toEqual({ outcome: "foreign" });
  expect(await threads.active("t")).toBeNull();
  expect(await threads.owner("t")).toBe("alice");
  expect(await threads.owner("u")).toBeNull();
  expect(await redis.zcard(threads.runsKey("t"))).toBe(1);
});

test("many enter at once: one line, everybody in it once, one owner", async () => {
  const runIds = Array.from({ length: 50 }, (_, i) => `r${i}`);
  const entered = await Promise.all(runIds.map((runId) => enter(runId)));
  const lengths = entered.map((each) => (each.outcome === "in" ? each.before.length : -1));
  expect([...lengths].sort((a, b) => a - b)).toEqual(runIds.map((_, i) => i));
  const owners = await Promise.all(
    ["alice", "bob", "carol"].map((owner) => threads.enter("fresh", `of-${owner}`, owner, false)),
  );
  expect(owners.filter(({ outcome }) => outcome === "in")).toHaveLength(1);
});

test("leave moves the line on, from wherever the run was in it, and twice is once", async () => {
  for (const runId of ["a", "b", "c"]) await enter(runId);
  expect(await threads.leave("t", "b")).toBe("a");
  expect(await threads.leave("t", "a")).toBe("c");
  expect(await threads.leave("t", "a")).toBe("c");
  expect(await threads.leave("t", "c")).toBeNull();
});

test("P4: the fence is given to attempts of the first in line alone, and never goes back", async () => {
  const prefix = testPrefix();
  threads = new Threads(redis, prefix);
  await enter("a");
  await enter("b");
  const fence = () => redis.get(`${prefix}:{t}:fence`);
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
  await threads.leave("t", "b");
  expect(await fence()).toBe("a:10");
  // With the run its right to write goes, and nobody has it until it is asked for.
  await threads.leave("t", "a");
  expect(await fence()).toBeNull();
  expect(await threads.fence("t", "a", 11)).toBe(false);
  await enter("c");
  expect(await threads.fence("t", "c", 1)).toBe(true);
});

test("P4: a run whose id begins like another's does not take its fence away", async () => {
  await enter("run");
  await threads.fence("t", "run", 1);
  await threads.leave("t", "ru");
  await threads.leave("t", "run:1");
  await enter("next");
  expect(await threads.fence("t", "run", 1)).toBe(true);
});
