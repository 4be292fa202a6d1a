/** The list of an owner's threads: which, in which order, and that it follows the records whatever happens. */
import { type ThreadEvent, type ThreadStatus, threadEvent } from "@throughline/protocol";
import { LogWriter } from "@throughline/runlog";
import fc from "fast-check";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Dispatcher, type StartRequest } from "./dispatcher.ts";
import { defaultQueue } from "./queue.ts";
import { type LogKeys, ownerKey, ownerLogKeys, threadKey, threadLogKeys } from "./thread-keys.ts";
import { Threads } from "./threads.ts";

let redis: Redis;
let prefix: string;
let dispatcher: Dispatcher;

beforeEach(() => {
  redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  prefix = testPrefix();
  dispatcher = new Dispatcher(redis, { prefix });
});
afterEach(async () => {
  await dispatcher.close();
  redis.disconnect();
});

const noCheckpoints = { deleteThread: async () => {} };
type Query = Omit<Parameters<Dispatcher["listThreads"]>[0], "owner" | "limit"> & { limit?: number };
const list = async (query: Query = {}) =>
  await dispatcher.listThreads({ owner: "alice", limit: 200, ...query });
const ids = async (query: Query = {}) => (await list(query)).threads.map(({ threadId }) => threadId);
const create = (threadId: string, metadata = {}) => dispatcher.createThread("alice", { threadId, metadata });
const start = (threadId: string, agent = "a", more: Partial<StartRequest> = {}) =>
  dispatcher.start({ agent, owner: "alice", threadId, request: { queue: defaultQueue }, ...more });
const stand = (threadId: string, status: Exclude<ThreadStatus, "busy">) =>
  dispatcher.headMoved("alice", threadId, { status, messages: 1 });
const hash = (threadId: string) => threadKey(prefix, "alice", threadId, "thread");

/** All pages, one after the other. */
async function pages(query: Query): Promise<string[][]> {
  const all: string[][] = [];
  for (let before: string | undefined; ; ) {
    const { threads, next } = await list({ ...query, ...(before && { before }) });
    all.push(threads.map(({ threadId }) => threadId));
    if (next === undefined) return all;
    before = next;
  }
}

/** What the index has, by what is asked of it. */
async function indexed(): Promise<Record<string, string[]>> {
  const of: Record<string, string[]> = {};
  for (const member of await redis.zrange(ownerKey(prefix, "alice", "listed"), 0, "-1")) {
    const [status, agent, , threadId] = member.split("\0");
    const what = `${status}/${agent}`;
    of[what] = [...(of[what] ?? []), threadId!].sort();
  }
  return of;
}

test("newest activity first, whatever came within a millisecond; a change brings a thread to the front", async () => {
  const names = Array.from({ length: 30 }, (_, i) => `t${(i * 7) % 30}`);
  for (const name of names) await create(name);
  expect(await ids()).toEqual(names.toReversed());
  await dispatcher.patchThread("alice", names[3]!, { a: 1 });
  await start(names[5]!);
  expect((await ids()).slice(0, 3)).toEqual([names[5], names[3], names.at(-1)]);
  expect(await dispatcher.listThreads({ owner: "bob", limit: 5 })).toEqual({ threads: [] });
});

test("by status, by agent, by both, and by metadata", async () => {
  await create("idle", { of: "x", deep: { list: [1, { b: null }] } });
  await create("waits", { of: "x" });
  await stand("waits", "interrupted");
  await create("failed", { of: 1 });
  await stand("failed", "failed");
  await start("busy", "b");
  const { runId } = await start("was", "b");
  await dispatcher.cancel(runId, { keep: "discard" });
  await start("also", 'a\0\u{1F600}/"');
  expect(await ids({ status: "idle" })).toEqual(["was", "idle"]);
  expect(await ids({ status: "interrupted" })).toEqual(["waits"]);
  expect(await ids({ status: "failed" })).toEqual(["failed"]);
  expect(await ids({ status: "busy" })).toEqual(["also", "busy"]);
  expect(await ids({ agent: "b" })).toEqual(["was", "busy"]);
  expect(await ids({ agent: "b", status: "busy" })).toEqual(["busy"]);
  expect(await ids({ agent: 'a\0\u{1F600}/"' })).toEqual(["also"]);
  expect(await ids({ agent: 'a\u{1F600}/"' })).toEqual([]);
  expect(await ids({ agent: "none" })).toEqual([]);
  expect(await ids({ metadata: { of: "x" } })).toEqual(["waits", "idle"]);
  expect(await ids({ metadata: { deep: { list: [1, { b: null }] } } })).toEqual(["idle"]);
  expect(await ids({ metadata: { deep: { list: [1] } } })).toEqual([]);
  expect(await ids({ metadata: { of: "x" }, status: "idle" })).toEqual(["idle"]);
  expect(await ids({ metadata: JSON.parse('{"__proto__":{}}') })).toEqual([]);
});

test("a list that is late does not take out a thread that has come back by its id", async () => {
  await create("t");
  const late = new Dispatcher(redis, { prefix });
  const look = vi.spyOn(Threads.prototype, "look").mockImplementationOnce(async (threadId) => {
    await dispatcher.deleteThread("alice", threadId, noCheckpoints);
    return await Promise.resolve(null).finally(() => create(threadId));
  });
  expect(await late.listThreads({ owner: "alice", limit: 5 })).toEqual({ threads: [] });
  look.mockRestore();
  await late.close();
  expect(await ids()).toEqual(["t"]);
});

test("pages go on where they ended, though threads move meanwhile", async () => {
  const names = Array.from({ length: 130 }, (_, i) => `t${i}`);
  for (const name of names) await create(name, { odd: Number(name.slice(1)) % 2 });
  const all = names.toReversed();
  for (const limit of [1, 7, 50, 130, 131]) {
    const found = await pages({ limit });
    expect(found.flat()).toEqual(all);
    for (const page of found) expect(page.length).toBeLessThanOrEqual(limit);
  }
  expect((await pages({ limit: 10, metadata: { odd: 1 } })).flat()).toEqual(
    all.filter((_, i) => i % 2 === 0),
  );
  const first = await list({ limit: 10 });
  // One that was told of moves up, one that was not as well, and one goes.
  await dispatcher.patchThread("alice", all[2]!, { moved: 1 });
  await dispatcher.patchThread("alice", all[15]!, { moved: 1 });
  await dispatcher.deleteThread("alice", all[9]!, noCheckpoints);
  const second = await ids({ limit: 10, before: first.next! });
  expect(second).toEqual([...all.slice(10, 15), ...all.slice(16, 21)]);
  expect(await ids({ limit: 2 })).toEqual([all[15], all[2]]);
  for (const before of ["x", `${first.next}x`, "t1"]) {
    await expect(list({ before })).rejects.toMatchObject({ code: "invalid_argument" });
  }
});

test("an answer is as large as it may be, or by one thread larger", async () => {
  for (let i = 0; i < 45; i++) await create(`t${i}`, { pad: "x".repeat(9_500) });
  const found = await pages({ maxSize: 95_000 });
  expect(found.map((page) => page.length)).toEqual([10, 10, 10, 10, 5]);
});

test("with metadata at most 1,000 threads are looked at", async () => {
  await create("wanted", { a: 1 });
  for (let i = 0; i < 1_100; i += 100) {
    await Promise.all(Array.from({ length: 100 }, (_, j) => create(`t${i + j}`)));
  }
  const first = await list({ metadata: { a: 1 } });
  expect(first.threads).toEqual([]);
  expect(first.next).toBeDefined();
  expect(await ids({ metadata: { a: 1 }, before: first.next! })).toEqual(["wanted"]);
});

test("a page costs what it answers, however many threads there are, of whichever status", async () => {
  let commands = 0;
  const send = redis.sendCommand.bind(redis);
  redis.sendCommand = ((...all: Parameters<Redis["sendCommand"]>) => {
    commands++;
    return send(...all);
  }) as Redis["sendCommand"];
  const cost = async (query: Query) => {
    const times: number[] = [];
    const before = commands;
    for (let i = 0; i < 30; i++) {
      const start = performance.now();
      expect(await ids({ limit: 10, ...query })).toHaveLength(10);
      times.push(performance.now() - start);
    }
    return { ms: Math.min(...times), commands: (commands - before) / 30 };
  };
  const queries: Query[] = [{}, { status: "failed" }, { agent: "b" }, { agent: "b", status: "busy" }];
  for (let i = 0; i < 10; i++) {
    await create(`failed ${i}`.replace(" ", "-"));
    await stand(`failed-${i}`, "failed");
    await start(`b${i}`, "b");
  }
  const few = [];
  for (const query of queries) few.push(await cost(query));
  for (let i = 0; i < 3_000; i += 100) {
    await Promise.all(Array.from({ length: 100 }, (_, j) => create(`t${i + j}`)));
  }
  for (const [i, query] of queries.entries()) {
    const many = await cost(query);
    expect(many.commands).toBe(few[i]!.commands);
    expect(many.commands).toBe(11);
    // 150 times as many threads.
    expect(many.ms / few[i]!.ms).toBeLessThan(10);
  }
});

describe("an index that is behind its threads", () => {
  test("a crash before the index was told: whoever touches the thread, or lists it, tells what was not", async () => {
    await create("t");
    const threads = dispatcher.threadsOf("alice");
    for (const heal of ["touch", "look", "list"]) {
      // The script ran, and nobody went on.
      const entered = await threads.enter("t", { runId: `lost ${heal}`, agent: heal, status: "queued" });
      expect(entered.outcome).toBe("in");
      expect(await indexed()).not.toHaveProperty(`busy/${heal}`);
      if (heal === "touch") await dispatcher.patchThread("alice", "t", { a: 1 });
      if (heal === "look") await dispatcher.threadRecord("alice", "t");
      if (heal === "list") await list();
      expect((await indexed())[`/${heal}`]).toEqual(["t"]);
    }
    const events = await told(ownerLogKeys(prefix, "alice"));
    expect(events.map((each) => (each.event === "run" ? each.run.runId : each.event))).toEqual([
      "created",
      "lost touch",
      "metadata",
      "lost look",
      "lost list",
    ]);
  });

  test("what it has and is not known to have is not told again", async () => {
    await create("t");
    await redis.hdel(hash("t"), "shown");
    await dispatcher.patchThread("alice", "t", { a: 1 });
    await redis.hset(hash("t"), "shown", 0);
    await list();
    await dispatcher.threadRecord("alice", "t");
    const events = await told(ownerLogKeys(prefix, "alice"));
    expect(events.map(({ event }) => event)).toEqual(["created", "metadata"]);
  });

  test("what does not match any more is passed over and put right, what has gone is taken out", async () => {
    for (const name of ["a", "b", "c"]) await create(name);
    // As after a failover of either slot: the record went on, went back, is gone.
    await redis.hincrby(hash("a"), "version", 1);
    await redis.hset(hash("a"), "status", "failed");
    await redis.hincrby(hash("b"), "version", -1);
    await redis.hset(hash("b"), { status: "interrupted", shown: 0 });
    await redis.del(hash("c"));
    expect(await ids({ status: "idle" })).toEqual([]);
    expect(await indexed()).toEqual({ "/": ["a", "b"], "failed/": ["a"], "interrupted/": ["b"] });
    expect(await ids({ status: "failed" })).toEqual(["a"]);
    expect(await ids({ status: "interrupted" })).toEqual(["b"]);
  });

  test("two that come in the other order: the events in theirs, and the later state", async () => {
    const threads = dispatcher.threadsOf("alice");
    const run = (runId: string) => ({ runId, agent: "a", status: "queued" as const });
    const [first, second] = [await threads.enter("t", run("r1")), await threads.enter("t", run("r2"))];
    if (first.outcome !== "in" || second.outcome !== "in") throw new Error("not in");
    for (const { state } of [second, first, second]) await threads.index.show("t", state);
    const events = await told(ownerLogKeys(prefix, "alice"));
    expect(events.map((each) => (each.event === "run" ? each.run.runId : each.event))).toEqual([
      "created",
      "r1",
      "r2",
    ]);
    await dispatcher.deleteThread("alice", "t", noCheckpoints);
    // Later still: nothing comes back.
    await threads.index.show("t", second.state);
    expect(await indexed()).toEqual({});
    expect(await redis.exists(hash("t"))).toBe(0);
    expect((await told(ownerLogKeys(prefix, "alice"))).at(-1)).toEqual({ event: "deleted", threadId: "t" });
  });
});

/** What a log tells: each offset once. */
async function told({ run, log }: LogKeys): Promise<ThreadEvent[]> {
  const { first = "1", head = "0" } = await redis.hgetall(run);
  const entries = await redis.xrange(log, "-", "+");
  expect(entries.map(([id]) => id)).toEqual(entries.map((_, i) => `${Number(first) + i}-0`));
  expect(Number(first) + entries.length - 1).toBe(Number(head));
  return entries.map(([, [, , , body]]) => threadEvent.parse(JSON.parse(body!)[0]));
}

test("anything in any order, from two dispatchers: the index has what the records have, and so have the logs", async () => {
  const threadId = fc.constantFrom("t0", "t1", "t2");
  const by = fc.constantFrom(0, 1);
  const step = fc.record({
    do: fc.constantFrom(
      "create",
      "start",
      "start",
      "begin",
      "end",
      "end",
      "patch",
      "head",
      "delete",
      "cancel",
      "list",
    ),
    threadId,
    by,
    n: fc.nat(20),
  });
  type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;
  const other = new Dispatcher(redis, { prefix, deleteWaitMs: 20 });
  const one = new Dispatcher(redis, { prefix, deleteWaitMs: 20 });
  const log = new LogWriter(redis, { prefix });
  const endings = ["completed", "interrupted", "failed"] as const;

  async function take(owner: string, { do: what, threadId, by, n }: Step) {
    const dispatcher = [one, other][by]!;
    const first = async () => await dispatcher.threadsOf(owner).active(threadId);
    if (what === "create") await dispatcher.createThread(owner, { threadId, metadata: { n } });
    if (what === "start") {
      const agent = `agent ${n % 3}`;
      await dispatcher.start({ agent, owner, threadId, request: { queue: defaultQueue } });
    }
    if (what === "list") await dispatcher.listThreads({ owner, limit: 10, status: "busy" });
    if (what === "patch") await dispatcher.patchThread(owner, threadId, { [`k${n % 3}`]: n % 2 ? n : null });
    if (what === "head") await dispatcher.headMoved(owner, threadId, { status: "interrupted", messages: n });
    if (what === "delete") await dispatcher.deleteThread(owner, threadId, noCheckpoints);
    const runId = await first();
    if (runId === null) return;
    if (what === "cancel") await dispatcher.cancel(runId, { owner, keep: n % 2 ? "thread" : "discard" });
    if (what === "begin") {
      const run = { runId, agent: "x", status: "running" as const };
      await dispatcher.threadsOf(owner).fence(threadId, runId, n + 1, run);
    }
    if (what === "end") {
      const claimed = await log.claim(runId);
      const event = endings[n % 3]!;
      if (claimed.outcome === "claimed") await claimed.writer.finish({ event } as { event: "completed" });
      await dispatcher.ended(owner, threadId, runId, n % 2 ? { messages: n } : {});
    }
  }

  const expected = ["no_such_thread", "thread_busy"];
  let round = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(step, { minLength: 1, maxLength: 4 }), { maxLength: 25 }),
      async (waves) => {
        const owner = `owner ${round++}`;
        for (const wave of waves) {
          // Those of a wave at once.
          const results = await Promise.allSettled(wave.map((each) => take(owner, each)));
          for (const result of results) {
            if (
              result.status === "rejected" &&
              !expected.includes(result.reason.code) &&
              result.reason.name !== "StaleAttemptError"
            ) {
              throw result.reason;
            }
          }
        }
        const records = new Map<string, unknown>();
        const all = (await told(ownerLogKeys(prefix, owner))).toReversed();
        for (const id of ["t0", "t1", "t2"]) {
          const record = await one.threadRecord(owner, id);
          const events = await told(threadLogKeys(prefix, owner, id));
          const last = all.find(
            (each) => (each.event === "deleted" ? each.threadId : each.thread.threadId) === id,
          );
          if (record === null) {
            expect(
              await redis
                .keys(`${prefix}:{*${id}}:*`)
                .then((keys) =>
                  keys.filter(
                    (key) => key === threadKey(prefix, owner, id, key.slice(key.lastIndexOf(":") + 1)),
                  ),
                ),
            ).toEqual([]);
            expect([undefined, "deleted"]).toContain(last?.event);
            continue;
          }
          records.set(id, record);
          expect(events.at(-1)).toMatchObject({ thread: record });
          // Beginnings are not told to the owner: what is, is the thread's last event that is not one.
          const loud = events.filter((each) => each.event !== "run" || each.run.status !== "running");
          // What was told before another thread was deleted is no more in the owner's log.
          expect([undefined, loud.at(-1)]).toContainEqual(last);
          expect(events.filter(({ event }) => event === "created").length).toBeLessThanOrEqual(1);
        }
        const shown = await redis.zrange(ownerKey(prefix, owner, "listed"), 0, "-1");
        const wanted = [...records.values()].flatMap((record) => {
          const { threadId, status, agent, updatedAt } = record as Record<string, string>;
          const place = `${Date.parse(updatedAt!)}`.padStart(15, "0");
          const agents = agent === undefined ? [""] : ["", agent];
          return ["", status].flatMap((s) => agents.map((a) => [s, a, place, threadId].join("\0")));
        });
        expect(shown.map((member) => member.replace(/\.\d+\0/, "\0")).sort()).toEqual(wanted.sort());
      },
    ),
    { numRuns: 150 },
  );
  await one.close();
  await other.close();
}, 120_000);
