import { RedisCheckpointSaver, readHistory, writeState } from "@throughline/checkpoint";
import { Dispatcher } from "@throughline/dispatch";
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { testLogger } from "../../../test/support/logger.ts";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Hub } from "./hub.ts";
import { OneByOne } from "./one-by-one.ts";
import { type UpdateDeps, updateThread } from "./update-thread.ts";

let redis: Redis;
let subscriber: Redis;
let prefix: string;
let deps: UpdateDeps;

beforeEach(async () => {
  prefix = testPrefix();
  redis = new Redis(testRedisUrl());
  subscriber = new Redis(testRedisUrl());
  const dispatcher = new Dispatcher(redis, { prefix });
  const limits = { pageBytes: 1_000_000, cacheBytes: 1_000_000, maxReads: 4, probeMs: 5_000, quietMs: 5_000 };
  const hub = new Hub(
    redis,
    subscriber,
    { prefix, gatewayId: "g", ...limits, revive: (runId) => dispatcher.revive(runId) },
    testLogger,
  );
  deps = {
    dispatcher,
    hub,
    saver: new RedisCheckpointSaver(redis, { prefix }),
    inTurn: (work) => work(),
    updates: new OneByOne(),
    cancelWaitMs: 300,
  };
  await writtenByGraph();
});
afterEach(async () => {
  deps.hub.close();
  await deps.dispatcher.close();
  redis.disconnect();
  subscriber.disconnect();
});

/** A checkpoint of thread `t`, as a graph leaves one. */
async function writtenByGraph(): Promise<void> {
  const checkpoint = {
    v: 4,
    id: "1f000000-0000-6000-8000-000000000001",
    ts: new Date().toISOString(),
    channel_values: { topic: "x" },
    channel_versions: { topic: 1 },
    versions_seen: { __input__: {}, a: { topic: 1 } },
  };
  const metadata = { source: "loop" as const, step: 0, parents: {}, agent: "graph" };
  const config = { configurable: { thread_id: "t", checkpoint_ns: "" } };
  await deps.saver.put(config, checkpoint, metadata, checkpoint.channel_versions);
}

const update = () => updateThread(deps, "alice", { threadId: "t", values: { topic: "y" } });

test("a thread that was deleted while it was written to is refused, and nothing of it stays", async () => {
  await deps.dispatcher.createThread("alice", { threadId: "other" });
  const deleting = { deleteThread: async () => {} };
  deps.inTurn = async (work) => {
    await deps.dispatcher.deleteThread("alice", "other", deleting);
    return await work();
  };
  const write = updateThread(deps, "alice", { threadId: "other", values: { own: 1 } });
  await expect(write).rejects.toMatchObject({ code: "no_such_thread" });
  expect(await readHistory(deps.saver, { threadId: "other" })).toEqual([]);
});

test("no worker takes it up in time: it is given up, nothing is written, and the thread is free", async () => {
  await deps.dispatcher.agents.offer("w", {
    queue: "q",
    agents: [{ name: "graph", modes: ["values"], description: "" }],
  });
  await expect(update()).rejects.toMatchObject({ code: "unavailable", retryable: true });
  expect(await readHistory(deps.saver, { threadId: "t" })).toHaveLength(1);
  expect(await deps.dispatcher.active("alice", "t")).toBeNull();
  const { runs } = await deps.dispatcher.list({ owner: "alice", threadId: "t", limit: 5 });
  const [run] = runs;
  expect(run).toMatchObject({ status: "cancelled", metadata: { command: "thread.update" } });
});

test("nobody offers its agent any more: it is refused, and no run is left", async () => {
  await expect(update()).rejects.toMatchObject({ code: "no_such_agent" });
  expect(await deps.dispatcher.list({ owner: "alice", threadId: "t", limit: 5 })).toEqual({ runs: [] });
});

test("many updates of one thread at once are written one after the other, and none has to try again", async () => {
  let reads = 0;
  let turns = 0;
  const { saver } = deps;
  const getTuple = saver.getTuple.bind(saver);
  vi.spyOn(saver, "getTuple").mockImplementation(async (config) => {
    reads++;
    return await getTuple(config);
  });
  deps.inTurn = async (work) => {
    turns++;
    return await work();
  };
  await deps.dispatcher.createThread("alice", { threadId: "other" });
  const count = 30;
  const updates = Array.from({ length: count }, (_, i) =>
    updateThread(deps, "alice", { threadId: "other", values: { [`k${i}`]: i } }),
  );
  const written = await Promise.all(updates);
  const history = await readHistory(saver, { threadId: "other" });
  expect(history.map(({ checkpointId }) => checkpointId)).toEqual(written.toReversed());
  expect(Object.keys(history[0]!.values)).toHaveLength(count);
  // Once for whose it is, once for what to write on.
  expect([reads, turns]).toEqual([2 * count, count]);
});

test("others move the head again and again: it is given up as thread_busy, and the next may go", async () => {
  await deps.dispatcher.createThread("alice", { threadId: "other" });
  const { saver } = deps;
  const others = new RedisCheckpointSaver(redis, { prefix });
  const getTuple = saver.getTuple.bind(saver);
  const spy = vi.spyOn(saver, "getTuple").mockImplementation(async (config) => {
    const tuple = await getTuple(config);
    await writeState(others, { threadId: "other", update: { theirs: 1 }, metadata: { source: "update" } });
    return tuple;
  });
  const update = () => updateThread(deps, "alice", { threadId: "other", values: { own: 1 } });
  await expect(update()).rejects.toMatchObject({ code: "thread_busy", retryable: true });
  spy.mockRestore();
  const written = await update();
  expect((await readHistory(saver, { threadId: "other" }))[0]?.checkpointId).toBe(written);
});
