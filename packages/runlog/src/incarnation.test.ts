/** Redis is another than it was: what its scripts ask of its replication id. */
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { until } from "../../../test/support/until.ts";
import { type RunKeys, runKeys } from "./keys.ts";
import { LiveSubscriber } from "./live.ts";
import { LogWriter } from "./log-writer.ts";
import { LogReader } from "./reader.ts";
import { RunStore } from "./run.ts";
import type { RunWriter } from "./run-writer.ts";

let redis: Redis;
let subscriber: Redis;
let prefix: string;
let store: RunStore;
let keys: RunKeys;
let live: string[];

beforeEach(async () => {
  redis = new Redis(testRedisUrl());
  subscriber = new Redis(testRedisUrl());
  prefix = testPrefix();
  store = new RunStore(redis, { prefix });
  keys = runKeys(prefix, "run");
  live = [];
  await store.open({ runId: "run", threadId: "t", agent: "a", owner: "o", epoch: "e1", request: "{}" });
  await new LiveSubscriber(subscriber).subscribe(keys.live, (message) => live.push(message.toString()));
});
afterEach(() => {
  redis.disconnect();
  subscriber.disconnect();
});

/** As if the run had been written to in another Redis, of which this one has what was left. */
const move = () => redis.hset(keys.run, "incarnation", "another");

/** As another process does. */
async function claim(): Promise<RunWriter> {
  const claimed = await new LogWriter(redis, { prefix }).claim("run");
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  return claimed.writer;
}

test("a run remembers which Redis it was opened in, and which it was last claimed in", async () => {
  const [, id] = /master_replid:(\w+)/.exec(await redis.info("replication"))!;
  expect(await redis.hget(keys.run, "incarnation")).toBe(id);
  await move();
  await claim();
  expect(await redis.hget(keys.run, "incarnation")).toBe(id);
});

test("the next claim gives the log a new epoch, once, and tells everyone", async () => {
  const first = await claim();
  void first.write({ type: "custom", ns: [], data: 1 });
  await first.flush();
  await move();
  const second = await claim();
  const page = await new LogReader(redis, prefix).page("run", 0, 1);
  expect(page).toMatchObject({ head: 1, earlier: { epoch: "e1", upTo: 1 } });
  expect(page?.epoch).not.toBe("e1");
  await until(() => live.length === 2);
  expect(live[1]).toBe(`0:0:${page?.epoch}\n`);
  const third = await claim();
  expect((await store.must("run")).record.epoch).toBe(page?.epoch);
  void third.write({ type: "custom", ns: [], data: 2 });
  await third.flush();
  await until(() => live.length === 3);
  expect(live[2]).toMatch(`2:1:${page?.epoch}\n`);
  expect(second.attempt).toBe(2);
});

test("P4: no fence is given out that a worker may have whose claim was lost", async () => {
  const fences = [await claim(), await claim()].map(({ fence }) => fence);
  expect(fences).toEqual([1, 2]);
  // Up to 99 claims may be lost with a Redis.
  await move();
  expect((await claim()).fence).toBe(102);
  expect((await claim()).fence).toBe(103);
});

test("a worker that was lost with a Redis is not counted as one that the run took down", async () => {
  await claim();
  await move();
  await claim();
  expect(await store.must("run")).toMatchObject({ crashes: 0, blamed: false });
  await claim();
  expect(await store.must("run")).toMatchObject({ crashes: 1 });
});

test("how long a run has taken is counted from its first claim to its last", async () => {
  await claim();
  expect((await store.must("run")).elapsedMs).toBe(0);
  const started = Number(await redis.hget(keys.run, "started"));
  await redis.hset(keys.run, "started", started - 60_000);
  await claim();
  expect((await store.must("run")).elapsedMs).toBeGreaterThanOrEqual(60_000);
  expect(await redis.hget(keys.run, "started")).toBe(String(started - 60_000));
});

test("a cancel that ends a run does so in the new epoch", async () => {
  await move();
  await store.cancel("run", { keep: "thread" });
  const { epoch } = (await store.must("run")).record;
  expect(epoch).not.toBe("e1");
  await until(() => live.length === 2);
  expect(live[0]).toBe(`0:0:${epoch}\n`);
  expect(live[1]).toMatch(`1:1:${epoch}:e\n`);
});
