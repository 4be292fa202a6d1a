import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { AgentRegistry, offerEveryMs, offerTtlMs } from "./agents.ts";

let redis: Redis;
let prefix: string;
let agents: AgentRegistry;
const offer = (queue: string, ...names: string[]) => ({
  queue,
  agents: names.map((name) => ({ name, description: `${name}!`, modes: ["messages" as const] })),
});

beforeEach(() => {
  redis = new Redis(testRedisUrl());
  prefix = testPrefix();
  agents = new AgentRegistry(redis, prefix);
});
afterEach(() => redis.disconnect());

test("what live workers offer, by name, each once", async () => {
  expect(await agents.live()).toEqual([]);
  await agents.offer("w1", offer("q", "b", "a"));
  await agents.offer("w2", offer("q", "b", "c"));
  expect(await agents.live()).toEqual(offer("q", "a", "b", "c").agents);
  await agents.withdraw("w2");
  expect((await agents.live()).map(({ name }) => name)).toEqual(["a", "b"]);
});

test("a worker that no longer says anything is gone, and its agents are known all the same", async () => {
  expect(offerEveryMs).toBeLessThan(offerTtlMs / 2);
  await agents.offer("w1", offer("q1", "a"));
  const key = `${prefix}:{agents}:workers:w1`;
  const ttl = await redis.pttl(key);
  expect(ttl).toBeGreaterThan(offerEveryMs);
  expect(ttl).toBeLessThanOrEqual(offerTtlMs);
  await redis.del(key); // It ran out.
  expect(await agents.live()).toEqual([]);
  expect(await redis.smembers(`${prefix}:{agents}:workers`)).toEqual([]);
  expect(await agents.queueOf("a")).toBe("q1");
});

test("an agent that nobody has offered for a day is unknown", async () => {
  expect(await agents.queueOf("a")).toBeNull();
  await agents.offer("w1", offer("q1", "a"));
  const known = JSON.parse((await redis.hget(`${prefix}:{agents}:known`, "a"))!);
  known.seen -= 25 * 60 * 60 * 1000;
  await redis.hset(`${prefix}:{agents}:known`, "a", JSON.stringify(known));
  expect(await agents.queueOf("a")).toBeNull();
});

test("the newest offer says which queue an agent is on", async () => {
  await agents.offer("w1", offer("q1", "a"));
  await agents.offer("w2", offer("q2", "a"));
  expect(await agents.queueOf("a")).toBe("q2");
});
