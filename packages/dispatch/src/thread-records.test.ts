/** Threads as records: what is told of them, and what their owner's index has. */
import { type LifecycleData, type ThreadEvent, threadEvent, threadRecord } from "@throughline/protocol";
import { type EndingFields, LogWriter } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Dispatcher, type StartRequest } from "./dispatcher.ts";
import { defaultQueue } from "./queue.ts";
import { ownerKey, ownerLogKeys, threadKey, threadLogKeys } from "./thread-keys.ts";
import { Threads, threadRun } from "./threads.ts";

let redis: Redis;
let prefix: string;
let dispatcher: Dispatcher;
let log: LogWriter;

beforeEach(() => {
  redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  prefix = testPrefix();
  dispatcher = new Dispatcher(redis, { prefix });
  log = new LogWriter(redis, { prefix });
});
afterEach(async () => {
  await dispatcher.close();
  redis.disconnect();
});

const start = (more: Partial<StartRequest> = {}) =>
  dispatcher.start({ agent: "a", owner: "alice", threadId: "t", request: { queue: defaultQueue }, ...more });
const record = (threadId = "t") => dispatcher.threadRecord("alice", threadId);
const noCheckpoints = { deleteThread: async () => {} };

async function finish(runId: string, data: LifecycleData, fields: EndingFields = {}) {
  await (await claim(runId)).finish(data, fields);
  const { threadId } = (await dispatcher.runs.must(runId)).record;
  await dispatcher.ended("alice", threadId, runId);
}

async function claim(runId: string) {
  const claimed = await log.claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  return claimed.writer;
}

/** What a log tells, from its first event on: each offset once. */
async function told(keys = threadLogKeys(prefix, "alice", "t")): Promise<ThreadEvent[]> {
  const { first, head } = await redis.hgetall(keys.run);
  const entries = await redis.xrange(keys.log, "-", "+");
  const offsets = entries.map(([id]) => Number(id.slice(0, -2)));
  expect(offsets).toEqual(Array.from({ length: entries.length }, (_, i) => Number(first) + i));
  if (entries.length > 0) expect(offsets.at(-1)).toBe(Number(head));
  return entries.flatMap(([, [, count, , body]]) => {
    expect(count).toBe("1");
    return (JSON.parse(body!) as unknown[]).map((event) => threadEvent.parse(event));
  });
}
const ownersLog = () => told(ownerLogKeys(prefix, "alice"));
const brief = (events: ThreadEvent[]) =>
  events.map((each) => (each.event === "run" ? `${each.run.status} ${each.run.ordinal}` : each.event));

describe("what is told", () => {
  test("a run: that its thread is made, that it comes, begins and ends; the owner's log has no beginnings", async () => {
    const { runId } = await start();
    const writer = await claim(runId);
    const run = (await dispatcher.runs.must(runId)).record;
    const begun = { ...threadRun(run), status: "running" } as const;
    const threads = dispatcher.threadsOf("alice");
    expect(await threads.fence("t", runId, writer.fence, begun)).toBe(true);
    expect(await threads.fence("t", runId, writer.fence, begun)).toBe(true);
    const checkpoint = { threadId: "t", checkpointId: "c" };
    await writer.finish({ event: "completed", checkpoint }, { checkpoint });
    await redis.hset(threadKey(prefix, "alice", "t", "head"), "", "c");
    await dispatcher.ended("alice", "t", runId, { messages: 2 });
    await dispatcher.ended("alice", "t", runId, { messages: 3 });
    const events = await told();
    expect(brief(events)).toEqual(["created", "queued 1", "running 1", "completed 1"]);
    expect(brief(await ownersLog())).toEqual(["created", "queued 1", "completed 1"]);
    const [created, queued, running, completed] = events as Extract<ThreadEvent, { thread: object }>[];
    expect(created!.thread).toMatchObject({ status: "idle", runs: 0, active: [], checkpointId: null });
    expect(created!.thread).not.toHaveProperty("agent");
    expect(queued!.thread).toMatchObject({ status: "busy", runs: 1, active: [runId], agent: "a" });
    expect(running).toMatchObject({ run: { runId, agent: "a" }, thread: { status: "busy" } });
    expect(completed).toMatchObject({ run: { runId, checkpoint }, thread: { checkpointId: "c" } });
    expect(completed!.thread).toEqual(await record());
    expect(await record()).toMatchObject({ status: "idle", messages: 2, runs: 1, active: [], metadata: {} });
    expect((await dispatcher.runs.must(runId)).record.ordinal).toBe(1);
  });

  test("a start that is repeated is told once, and has its number still", async () => {
    const first = await start({ idempotencyKey: "k" });
    await start();
    // As if the answer to `enter` had been lost.
    await redis.hdel(`${prefix}:{${first.runId}}:run`, "ordinal");
    await start({ idempotencyKey: "k" });
    expect(brief(await told())).toEqual(["created", "queued 1", "queued 2"]);
    expect((await dispatcher.runs.must(first.runId)).record.ordinal).toBe(1);
    expect((await record())?.runs).toBe(2);
  });

  test("a run does not come again behind its ending, whoever still takes it for one that goes on", async () => {
    const { runId } = await start({ idempotencyKey: "k" });
    const { statuses } = dispatcher.runs;
    const late = new Dispatcher(redis, { prefix });
    // Between its look at the record and its turn with the thread the run ends.
    const look = late.runs.look.bind(late.runs);
    late.runs.look = async (...all) => {
      const run = await look(...all);
      if ((await statuses.call(dispatcher.runs, [runId]))[0] === "queued") {
        await finish(runId, { event: "completed" });
      }
      return run;
    };
    const again = { agent: "a", owner: "alice", threadId: "t", request: { queue: defaultQueue } };
    expect(await late.start({ ...again, idempotencyKey: "k" })).toMatchObject({ runId, created: false });
    await late.close();
    expect(brief(await told())).toEqual(["created", "queued 1", "completed 1"]);
    expect(await record()).toMatchObject({ status: "idle", active: [], runs: 1 });
  });

  test("a run that lost its ending comes into line again", async () => {
    const { runId } = await start();
    await dispatcher.threadsOf("alice").leave("t", runId, null);
    await dispatcher.revive(runId);
    expect(await record()).toMatchObject({ status: "busy", active: [runId], runs: 1 });
  });

  const endings: [LifecycleData, EndingFields, string][] = [
    [{ event: "completed" }, {}, "idle"],
    [{ event: "interrupted", interrupts: [] }, { interrupts: [{ id: "i", value: 1 }] }, "interrupted"],
    [
      { event: "failed", error: { name: "E", message: "m" } },
      { error: { name: "E", message: "m" } },
      "failed",
    ],
  ];
  test.each(endings)("how a thread stands: %j", async (ending, fields, status) => {
    await finish((await start()).runId, ending, fields);
    expect((await record())?.status).toBe(status);
    // What is thrown away, or kept aside, changes nothing; nor does what no worker had, and said nothing: a question that
    // it was to answer is open still.
    for (const keep of ["discard", "branch", "thread"] as const) {
      await dispatcher.cancel((await start()).runId, { keep, owner: "alice" });
      expect((await record())?.status).toBe(status);
    }
    const last = (await told()).at(-1);
    expect(last).toMatchObject({ event: "run", run: { status: "cancelled", ordinal: 4 } });
    const ended = (await told()).find((each) => each.event === "run" && each.run.status === ending.event);
    expect(ended).toMatchObject({ run: fields });
  });

  test("a run that has expired leaves the line, and its thread stands as it did", async () => {
    const { runId } = await start();
    await dispatcher.runs.remove(runId);
    expect(await dispatcher.active("alice", "t")).toBeNull();
    expect((await told()).at(-1)).toMatchObject({
      run: { runId, agent: "a", status: "failed", ordinal: 1, error: { name: "RunExpiredError" } },
      thread: { status: "idle", active: [] },
    });
  });

  test("is published as it is stored, under the log's epoch", async () => {
    const live = threadLogKeys(prefix, "alice", "t").live;
    const listener = new Redis(testRedisUrl());
    const heard: string[] = [];
    listener.on("message", (_, message) => heard.push(message));
    await listener.subscribe(live, ownerLogKeys(prefix, "alice").live);
    await dispatcher.createThread("alice", { threadId: "t" });
    await dispatcher.deleteThread("alice", "t", noCheckpoints);
    const { epoch } = await redis.hgetall(ownerLogKeys(prefix, "alice").run);
    const entries = await redis.xrange(ownerLogKeys(prefix, "alice").log, "-", "+");
    await expect.poll(() => heard.length).toBe(4);
    // What was told of a thread goes with it.
    expect(entries.map(([id]) => id)).toEqual(["2-0"]);
    for (const [id, [, , , body]] of entries)
      expect(heard).toContain(`${id.split("-")[0]}:1:${epoch}\n${body}`);
    // Of the thread's log only the last message says that it ends.
    expect(heard.filter((each) => each.split("\n")[0]!.endsWith(":e"))).toHaveLength(1);
    expect(heard.find((each) => each.split("\n")[0]!.endsWith(":e"))).toContain(
      '{"event":"deleted","threadId":"t"}',
    );
    listener.disconnect();
  });

  test("the last 100 events stay", async () => {
    await dispatcher.createThread("alice", { threadId: "t" });
    for (let i = 0; i < 120; i++) await dispatcher.patchThread("alice", "t", { i });
    for (const keys of [threadLogKeys(prefix, "alice", "t"), ownerLogKeys(prefix, "alice")]) {
      const events = await told(keys);
      expect(events).toHaveLength(100);
      expect(await redis.hgetall(keys.run)).toMatchObject({ first: "22", head: "121" });
      expect(events.at(-1)).toMatchObject({ thread: { metadata: { i: 119 } } });
    }
  });

  test("another Redis, and a thread that comes back, get a new epoch", async () => {
    const keys = threadLogKeys(prefix, "alice", "t");
    await dispatcher.createThread("alice", { threadId: "t" });
    const { epoch } = await redis.hgetall(keys.run);
    await dispatcher.patchThread("alice", "t", { a: 1 });
    expect((await redis.hgetall(keys.run)).epoch).toBe(epoch);
    await redis.hset(keys.run, "incarnation", "another");
    const version = Number(await redis.hget(threadKey(prefix, "alice", "t", "thread"), "version"));
    await dispatcher.patchThread("alice", "t", { a: 2 });
    const renewed = await redis.hgetall(keys.run);
    expect(renewed).toMatchObject({ earlier: `2:${epoch}`, head: "3" });
    expect(renewed.epoch).not.toBe(epoch);
    // Versions that were lost are not given out again.
    expect(Number(await redis.hget(threadKey(prefix, "alice", "t", "thread"), "version"))).toBe(
      version + 1000,
    );
    await dispatcher.deleteThread("alice", "t", noCheckpoints);
    await dispatcher.createThread("alice", { threadId: "t" });
    const back = await redis.hgetall(keys.run);
    expect(back).toMatchObject({ head: "1", first: "1" });
    expect([epoch, renewed.epoch]).not.toContain(back.epoch);
    expect(back.earlier).toBeUndefined();
  });

  test("the owner's log goes by itself; a thread's does not", async () => {
    await dispatcher.createThread("alice", { threadId: "t" });
    const { run, log } = ownerLogKeys(prefix, "alice");
    for (const key of [run, log]) expect(await redis.pttl(key)).toBeGreaterThan(6 * 86_400_000);
    const own = threadLogKeys(prefix, "alice", "t");
    for (const key of [own.run, own.log]) expect(await redis.pttl(key)).toBe(-1);
    // Gone and back: from 1 on, in another epoch.
    const { epoch } = await redis.hgetall(run);
    await redis.del(run);
    await dispatcher.patchThread("alice", "t", { a: 1 });
    expect(brief(await ownersLog())).toEqual(["metadata"]);
    expect((await redis.hgetall(run)).epoch).not.toBe(epoch);
  });
});

describe("create, patch, headMoved", () => {
  test("a thread that is there stays as it is", async () => {
    const metadata = {
      title: 'Ünïcode \u2028 "/\\"',
      list: [],
      object: {},
      number: 1.2345678901234567,
      deep: [{ a: null }],
    };
    const made = await dispatcher.createThread("alice", { threadId: "t", metadata });
    expect(made).toMatchObject({ created: true, thread: { metadata, status: "idle" } });
    expect(threadRecord.parse(made.thread)).toEqual(made.thread);
    const again = await dispatcher.createThread("alice", { threadId: "t", metadata: { other: 1 } });
    expect(again).toEqual({ created: false, thread: made.thread });
    expect((await dispatcher.createThread("alice", {})).thread.threadId).toMatch(/^thread_/);
    expect(await dispatcher.threadRecord("bob", "t")).toBeNull();
    expect(brief(await told())).toEqual(["created"]);
  });

  test("a patch takes away what it has as null, and nothing else that is null", async () => {
    await dispatcher.createThread("alice", { threadId: "t", metadata: { a: null, b: null } });
    const patched = await dispatcher.patchThread("alice", "t", { b: null, c: 1 });
    expect(patched.metadata).toEqual({ a: null, c: 1 });
  });

  test("a patch: keys take the place of others, null takes away, and what is lost to others is tried again", async () => {
    await dispatcher.createThread("alice", { threadId: "t", metadata: { a: 1, b: { c: 1 }, d: 1 } });
    const patched = await dispatcher.patchThread("alice", "t", {
      b: { e: 2 },
      d: null,
      n: null,
      __proto__x: 1,
    });
    expect(patched.metadata).toEqual({ a: 1, b: { e: 2 }, __proto__x: 1 });
    await dispatcher.patchThread("alice", "t", JSON.parse('{"__proto__":{"x":1}}'));
    expect(Object.keys((await record())!.metadata)).toContain("__proto__");
    const other = new Dispatcher(redis, { prefix });
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        [dispatcher, other][i % 2]!.patchThread("alice", "t", { [`k${i}`]: i }),
      ),
    );
    expect(Object.keys((await record())!.metadata)).toHaveLength(24);
    const events = (await told()).length;
    await dispatcher.patchThread("alice", "t", { a: 1 });
    expect(await told()).toHaveLength(events);
    await other.close();
  });

  test("metadata have a bound, and no thread has none", async () => {
    const large = { x: "ü".repeat(8_000) };
    await dispatcher.createThread("alice", { threadId: "t", metadata: large });
    await expect(dispatcher.patchThread("alice", "t", { y: "x".repeat(500) })).rejects.toMatchObject({
      code: "payload_too_large",
    });
    await expect(
      dispatcher.createThread("alice", { metadata: { x: "ü".repeat(8_200) } }),
    ).rejects.toMatchObject({
      code: "payload_too_large",
    });
    expect((await record())?.metadata).toEqual(large);
    await expect(dispatcher.patchThread("alice", "none", {})).rejects.toMatchObject({
      code: "no_such_thread",
    });
    const moved = dispatcher.headMoved("alice", "none", { status: "idle", messages: 1 });
    await expect(moved).rejects.toMatchObject({ code: "no_such_thread" });
    await expect(dispatcher.deleteThread("alice", "none", noCheckpoints)).rejects.toMatchObject({
      code: "no_such_thread",
    });
    expect(await redis.keys(`${prefix}:*none*`)).toEqual([]);
  });

  test("what metadata take counts once, however often they are patched", async () => {
    const limited = new Dispatcher(redis, { prefix, limits: { maxBytes: 1_000 } });
    await limited.createThread("alice", { threadId: "t", metadata: { x: "x".repeat(300) } });
    for (let i = 0; i < 10; i++) await limited.patchThread("alice", "t", { x: `${i}`.repeat(300) });
    const counted = () => redis.hget(ownerKey(prefix, "alice", "threads"), "thread:t");
    expect(await counted()).toBe("308");
    await expect(limited.createThread("alice", { metadata: { x: "x".repeat(800) } })).rejects.toMatchObject({
      code: "payload_too_large",
    });
    await limited.deleteThread("alice", "t", noCheckpoints);
    expect(await counted()).toBeNull();
    await limited.createThread("alice", { metadata: { x: "x".repeat(800) } });
    await limited.close();
  });

  test("a head that moved without a run", async () => {
    await dispatcher.createThread("alice", { threadId: "t" });
    await redis.hset(threadKey(prefix, "alice", "t", "head"), "", "c");
    await dispatcher.headMoved("alice", "t", { status: "interrupted", messages: 3 });
    expect((await told()).at(-1)).toEqual({ event: "head", thread: await record() });
    expect(await record()).toMatchObject({ status: "interrupted", messages: 3, checkpointId: "c" });
  });

  test("the runs in line, as they are", async () => {
    const [first, second] = [await start({ metadata: { m: 1 } }), await start()];
    await claim(first.runId);
    expect(await dispatcher.activeRuns("alice", "t")).toEqual([
      { runId: first.runId, agent: "a", status: "queued", ordinal: 1, epoch: first.epoch },
      { runId: second.runId, agent: "a", status: "queued", ordinal: 2, epoch: second.epoch },
    ]);
    expect(await dispatcher.activeRuns("bob", "t")).toEqual([]);
  });
});

test("times are as JavaScript has them", async () => {
  const days = Array.from({ length: 3_000 }, (_, i) => i * 53 * 86_400_000 + i * 7_654_321);
  const around = [1970, 1972, 1999, 2000, 2024, 2026, 2100, 2400, 9999].flatMap((year) =>
    ["01-01", "02-28", "03-01", "12-31"].flatMap((day) =>
      [0, 86_399_999].map((ms) => Date.parse(`${year}-${day}T00:00:00Z`) + ms),
    ),
  );
  const times = [...days, ...around].filter((ms) => ms < Date.parse("9999-12-31T23:59:59.999Z"));
  const { readFileSync } = await import("node:fs");
  const lua = `${readFileSync(new URL("../lua/iso.lua", import.meta.url), "utf8")}
    local texts = {}
    for i, ms in ipairs(ARGV) do texts[i] = iso(tonumber(ms)) end
    return texts`;
  const texts = await redis.eval(lua, 0, ...times);
  expect(texts).toEqual(times.map((ms) => new Date(ms).toISOString()));
});

describe("a thread from before there were records", () => {
  const hash = () => threadKey(prefix, "alice", "t", "thread");

  test("is there, and gets what it lacks with the first change", async () => {
    await redis.hset(hash(), { owner: "alice", created: 86_400_000 });
    await redis.zadd(new Threads(redis, "alice", prefix).runsKey("t"), 1, "r1", 2, "r2");
    const at = "1970-01-02T00:00:00.000Z";
    expect(await record()).toEqual({
      threadId: "t",
      status: "idle",
      createdAt: at,
      updatedAt: at,
      metadata: {},
      checkpointId: null,
      messages: 0,
      runs: 2,
      active: [],
    });
    expect((await dispatcher.listThreads({ owner: "alice", limit: 5 })).threads).toEqual([await record()]);
    await start();
    expect(brief(await told())).toEqual(["queued 3"]);
    expect(await record()).toMatchObject({ createdAt: at, runs: 3 });
    expect((await dispatcher.listThreads({ owner: "alice", limit: 5 })).threads).toEqual([await record()]);
  });

  test("of version 0.1, too, and can be deleted", async () => {
    for (const ask of ["record", "create", "patch", "delete"]) {
      await redis.hset(`${prefix}:{v1}:thread`, { owner: "alice", created: 1 });
      await redis.hset(`${prefix}:{v1}:head`, "", "c");
      if (ask === "record") expect(await record("v1")).toMatchObject({ checkpointId: "c" });
      if (ask === "create") {
        expect(await dispatcher.createThread("alice", { threadId: "v1" })).toMatchObject({ created: false });
      }
      if (ask === "patch") {
        expect((await dispatcher.patchThread("alice", "v1", { a: 1 })).metadata).toEqual({ a: 1 });
      }
      await dispatcher.deleteThread("alice", "v1", noCheckpoints);
      expect(await redis.keys(`${prefix}:*v1*`)).toEqual([]);
    }
  });
});
