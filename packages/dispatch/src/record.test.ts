/** What a run's record tells of what it was asked, and what is kept of who reads it. */
import { LogWriter, runKeys } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Dispatcher } from "./dispatcher.ts";

let redis: Redis;
let prefix: string;
let dispatcher: Dispatcher;

beforeEach(() => {
  redis = new Redis(testRedisUrl());
  prefix = testPrefix();
  dispatcher = new Dispatcher(redis, { prefix });
});
afterEach(async () => {
  await dispatcher.close();
  redis.disconnect();
});

async function start(request: object): Promise<string> {
  const asked = { agent: "a", owner: "alice", threadId: "t", request: { queue: "q", ...request } };
  return (await dispatcher.start(asked)).runId;
}

test("records and lists tell it, and lists load no request for it", async () => {
  const asked = { input: { a: 1 }, modes: ["values"], onDisconnect: "cancel", subgraphs: true };
  const runId = await start({ ...asked, fromNothing: true, disconnectGraceMs: 7, config: { secret: 1 } });
  const { run } = runKeys(prefix, runId);
  const { record } = await dispatcher.runs.must(runId);
  expect(record).toMatchObject({ ...asked, from: null });
  expect(JSON.stringify(record)).not.toMatch(/secret|disconnectGraceMs/);
  await redis.hset(run, "request", "no JSON");
  expect((await dispatcher.runs.look(runId))?.record).toEqual(record);
  expect((await dispatcher.list({ owner: "alice", limit: 1 })).runs).toEqual([record]);
});

test("a run from before records told it is read as ever", async () => {
  const runId = await start({ input: "hi" });
  await redis.hdel(runKeys(prefix, runId).run, "brief");
  const { record } = await dispatcher.runs.must(runId);
  expect([record.status, record.input]).toEqual(["queued", undefined]);
  expect((await dispatcher.runs.look(runId))?.record).toEqual(record);
});

test("who reads a run is kept as long as anybody's word holds, and no longer than the run", async () => {
  const runId = await start({ onDisconnect: "cancel" });
  const { readers } = runKeys(prefix, runId);
  const { runs } = dispatcher;
  expect(await runs.isRead(runId)).toBe(false);
  expect(await runs.lease(runId, "one", 60_000)).toBe(true);
  expect(await runs.lease(runId, "two", 30_000)).toBe(true);
  expect(await redis.pttl(readers)).toBeGreaterThan(30_000);
  // One that has fewer readers says so: the longest that is left holds.
  await runs.lease(runId, "one", 20_000);
  expect(await redis.pttl(readers)).toBeLessThanOrEqual(30_000);
  expect(await runs.isRead(runId)).toBe(true);
  const claimed = await new LogWriter(redis, { prefix }).claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  await claimed.writer.finish({ event: "completed" });
  expect(await runs.lease(runId, "one", 60_000)).toBe(false);
  expect(await redis.exists(readers)).toBe(0);

  const gone = await start({});
  await runs.lease(gone, "one", 60_000);
  await runs.remove(gone);
  expect(await redis.keys(`${prefix}:{${gone}}:*`)).toEqual([]);
  expect(await runs.lease(gone, "one", 60_000)).toBe(false);
});
