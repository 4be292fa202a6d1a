import type { MultitaskStrategy } from "@throughline/protocol";
import { LogWriter } from "@throughline/runlog";
import { type Job, Worker } from "bullmq";
import fc from "fast-check";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { patienceMs, until } from "../../../test/support/until.ts";
import { Dispatcher, type StartRequest } from "./dispatcher.ts";
import { defaultQueue, queuePrefix, type RunJob } from "./queue.ts";
import { threadKey } from "./thread-keys.ts";

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

const start = (more: Partial<StartRequest> = {}, by = dispatcher) =>
  by.start({ agent: "a", owner: "alice", threadId: "t", request: { queue: defaultQueue }, ...more });
const isQueued = async (runId: string) =>
  (await redis.exists(`${queuePrefix(prefix)}:${defaultQueue}:${runId}`)) === 1;
const statusOf = async (runId: string) => (await dispatcher.runs.must(runId)).record.status;

/** Takes the run off its queue, as a worker that is done with it does, and ends it. */
async function runToEnd(runId: string) {
  const claimed = await log.claim(runId);
  if (claimed.outcome === "claimed") await claimed.writer.finish({ event: "completed" });
  await redis.del(`${queuePrefix(prefix)}:${defaultQueue}:${runId}`);
  await dispatcher.ended("alice", "t", runId);
}

describe("start", () => {
  test("records the run, queues it, and lists it", async () => {
    const started = await start({ metadata: { m: 1 }, request: { queue: defaultQueue, input: "hi" } });
    expect(started).toMatchObject({ threadId: "t", status: "queued", created: true });
    const run = await dispatcher.runs.must(started.runId);
    expect(run).toMatchObject({
      owner: "alice",
      record: { agent: "a", threadId: "t", epoch: started.epoch, metadata: { m: 1 } },
    });
    expect(JSON.parse(run.request)).toEqual({ queue: defaultQueue, input: "hi" });
    expect(await isQueued(started.runId)).toBe(true);
    expect((await dispatcher.list({ owner: "alice", limit: 5 })).runs).toHaveLength(1);
  });

  test("only the first in line is on the queue; the next when it has ended", async () => {
    const [a, b, c] = [await start(), await start(), await start()];
    expect(await Promise.all([a, b, c].map(({ runId }) => isQueued(runId)))).toEqual([true, false, false]);
    await runToEnd(a.runId);
    expect(await Promise.all([a, b, c].map(({ runId }) => isQueued(runId)))).toEqual([false, true, false]);
    await runToEnd(b.runId);
    expect(await isQueued(c.runId)).toBe(true);
  });

  test("another owner's thread of the same id is another thread", async () => {
    const mine = await start();
    const theirs = await start({ owner: "bob", multitaskStrategy: "reject" });
    for (const [owner, { runId }] of [
      ["alice", mine],
      ["bob", theirs],
    ] as const) {
      expect((await dispatcher.list({ owner, limit: 5 })).runs.map((run) => run.runId)).toEqual([runId]);
      expect((await dispatcher.list({ owner, threadId: "t", limit: 5 })).runs).toHaveLength(1);
    }
  });

  test("reject: thread_busy names the active run, leaves nothing, and frees the key", async () => {
    const active = await start();
    const reject = { multitaskStrategy: "reject", idempotencyKey: "k" } as const;
    await expect(start(reject)).rejects.toMatchObject({
      code: "thread_busy",
      details: { activeRunId: active.runId },
    });
    expect(await redis.keys(`${prefix}:{run_*}:run`)).toHaveLength(1);
    await runToEnd(active.runId);
    const started = await start(reject);
    expect(started.created).toBe(true);
    expect(await isQueued(started.runId)).toBe(true);
  });

  test("idempotencyKey: the first caller's ids, for that owner alone, whatever the state", async () => {
    const first = await start({ idempotencyKey: "k" });
    expect(await start({ idempotencyKey: "k", threadId: "elsewhere" })).toEqual({
      ...first,
      created: false,
    });
    const other = await start({ idempotencyKey: "k", owner: "bob", threadId: "bobs" });
    expect(other.runId).not.toBe(first.runId);
    await runToEnd(first.runId);
    expect(await start({ idempotencyKey: "k" })).toMatchObject({
      runId: first.runId,
      created: false,
      status: "completed",
    });
    expect(await dispatcher.threadsOf("alice").active("t")).toBeNull();
    expect(await isQueued(first.runId)).toBe(false);
  });

  test("idempotencyKey: two owners never come to the same run, whatever they write", async () => {
    const [first, second] = [
      await start({ owner: "a\nb", idempotencyKey: "c", threadId: "one" }),
      await start({ owner: "a", idempotencyKey: "b\nc", threadId: "two" }),
    ];
    expect(second.runId).not.toBe(first.runId);
  });

  test("idempotencyKey: a start that is repeated, and is not let in, takes nothing back", async () => {
    const first = await start({ idempotencyKey: "k" });
    await redis.del(threadKey(prefix, "alice", "t", "line"));
    const other = await start();
    const again = start({ idempotencyKey: "k", multitaskStrategy: "reject" });
    await expect(again).rejects.toMatchObject({ details: { activeRunId: other.runId } });
    expect((await dispatcher.runs.must(first.runId)).record.status).toBe("queued");
    await runToEnd(other.runId);
    expect(await start({ idempotencyKey: "k" })).toMatchObject({ runId: first.runId, created: false });
  });

  test("idempotencyKey: many at once are one run", async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, () => start({ idempotencyKey: "k" })));
    expect(new Set(answers.map(({ runId }) => runId)).size).toBe(1);
    expect(answers.filter(({ created }) => created)).toHaveLength(1);
    expect((await dispatcher.list({ owner: "alice", limit: 5 })).runs).toHaveLength(1);
    expect(await redis.llen(threadKey(prefix, "alice", "t", "line"))).toBe(1);
  });
});

describe("a crash between two steps", () => {
  const run = { threadId: "t", agent: "a", owner: "alice", epoch: "e" };
  const request = JSON.stringify({ queue: defaultQueue });

  test("after the thread's line, before the queue: the next one who touches the thread heals it", async () => {
    await dispatcher.runs.open({ ...run, runId: "lost", request });
    await dispatcher.threadsOf("alice").enter("t", { runId: "lost", agent: "a", status: "queued" });
    expect(await isQueued("lost")).toBe(false);
    await start();
    expect(await isQueued("lost")).toBe(true);
  });

  test("one who is refused because the thread is busy heals it too", async () => {
    await dispatcher.runs.open({ ...run, runId: "lost", request });
    await dispatcher.threadsOf("alice").enter("t", { runId: "lost", agent: "a", status: "queued" });
    await expect(start({ multitaskStrategy: "reject" })).rejects.toMatchObject({ code: "thread_busy" });
    expect(await isQueued("lost")).toBe(true);
  });

  test("with an idempotency key: the same start again completes it", async () => {
    const { runId } = await start({ idempotencyKey: "k" });
    // As if it had come no further than the record.
    await redis.del(
      threadKey(prefix, "alice", "t", "line"),
      `${queuePrefix(prefix)}:${defaultQueue}:${runId}`,
    );
    expect(await start({ idempotencyKey: "k" })).toMatchObject({ runId, created: false });
    expect(await isQueued(runId)).toBe(true);
    expect(await dispatcher.threadsOf("alice").active("t")).toBe(runId);
  });

  test("a run in line whose record has expired is passed over", async () => {
    const [a, b, c] = [await start(), await start(), await start()];
    await dispatcher.runs.remove(b.runId);
    await runToEnd(a.runId);
    expect(await isQueued(c.runId)).toBe(true);
    expect(await dispatcher.threadsOf("alice").active("t")).toBe(c.runId);
  });

  test("a cancelled run that never left the line leaves it with its worker's look", async () => {
    const [a, b] = [await start(), await start()];
    await dispatcher.runs.cancel(a.runId, { keep: "thread" }); // And then the gateway died.
    expect(await dispatcher.threadsOf("alice").active("t")).toBe(a.runId);
    expect((await log.claim(a.runId)).outcome).toBe("ended");
    await runToEnd(a.runId);
    expect(await isQueued(b.runId)).toBe(true);
  });

  test("a first in line whose record has expired does not block who comes next", async () => {
    const gone = await start();
    await dispatcher.runs.remove(gone.runId);
    await redis.del(`${queuePrefix(prefix)}:${defaultQueue}:${gone.runId}`);
    const next = await start();
    expect(await isQueued(next.runId)).toBe(true);
  });
});

describe("cancel", () => {
  test("of a queued run takes it off the queue and moves its thread on", async () => {
    const [a, b] = [await start(), await start()];
    const cancelled = await dispatcher.cancel(a.runId, { owner: "alice", keep: "thread" });
    expect(cancelled).toMatchObject({ outcome: "ended", now: true, offset: 1 });
    expect(await isQueued(a.runId)).toBe(false);
    expect(await isQueued(b.runId)).toBe(true);
    expect(await dispatcher.cancel(a.runId, { keep: "thread" })).toMatchObject({ now: false });
  });

  test("in the middle of the line leaves the first one alone", async () => {
    const [a, b, c] = [await start(), await start(), await start()];
    await dispatcher.cancel(b.runId, { keep: "thread" });
    expect(await dispatcher.threadsOf("alice").active("t")).toBe(a.runId);
    expect(await isQueued(c.runId)).toBe(false);
    await runToEnd(a.runId);
    expect(await isQueued(c.runId)).toBe(true);
  });

  test("interrupt and rollback cancel all that is before, with their keep and a reason", async () => {
    const [a, b] = [await start(), await start()];
    await log.claim(a.runId);
    const c = await start({ multitaskStrategy: "rollback" });
    const { record } = await dispatcher.runs.must(a.runId);
    expect(record).toMatchObject({
      status: "cancelling",
      cancel: { keep: "discard", reason: `rollback by run ${c.runId}` },
    });
    expect(await statusOf(b.runId)).toBe("cancelled");
    expect(await statusOf(c.runId)).toBe("queued");
    await log.claim(c.runId);
    await start({ multitaskStrategy: "interrupt" });
    expect((await dispatcher.runs.must(c.runId)).record.cancel).toMatchObject({ keep: "thread" });
  });
});

test("list: newest first, page by page, by status, without what has expired or is another's", async () => {
  const runIds: string[] = [];
  for (let i = 0; i < 130; i++) {
    const { runId } = await start({ threadId: `t${i % 2}` });
    runIds.unshift(runId);
    // The index is by the millisecond.
    const then = Date.now();
    await until(() => Date.now() > then);
  }
  const ids = async (query: Partial<Parameters<Dispatcher["list"]>[0]>) =>
    (await dispatcher.list({ owner: "alice", limit: 200, ...query })).runs.map(({ runId }) => runId);
  expect(await ids({})).toEqual(runIds);
  const paged: string[] = [];
  for (let before: string | undefined; ; before = paged.at(-1)) {
    const page = await ids({ limit: 17, ...(before === undefined ? {} : { before }) });
    paged.push(...page);
    if (page.length < 17) break;
  }
  expect(paged).toEqual(runIds);
  expect(await ids({ threadId: "t1" })).toEqual(runIds.filter((_, i) => i % 2 === 0));
  for (const i of [0, 60, 129]) await dispatcher.cancel(runIds[i]!, { keep: "thread" });
  expect(await ids({ status: "cancelled" })).toEqual([runIds[0], runIds[60], runIds[129]]);
  expect(await ids({ status: "cancelled", limit: 2 })).toEqual([runIds[0], runIds[60]]);
  for (const i of [1, 2, 3, 70]) await dispatcher.runs.remove(runIds[i]!);
  const left = runIds.filter((_, i) => ![1, 2, 3, 70].includes(i));
  expect(await ids({})).toEqual(left);
  expect(await ids({ limit: 3 })).toEqual(left.slice(0, 3));
  // Of one whose worker is gone the record says something else.
  await log.claim(left[10]!);
  expect(await ids({ status: "running" })).toEqual([]);
  expect(await ids({ status: "queued" })).toEqual(
    left.filter((id) => ![runIds[0], runIds[60], runIds[129]].includes(id)),
  );
  expect(await ids({ before: "nobody" })).toEqual([]);
  expect(await ids({ owner: "mallory" })).toEqual([]);
  expect(await ids({ owner: "mallory", threadId: "t1" })).toEqual([]);
});

test("list: looks at so many at a time, whatever they are, and says where it stopped", async () => {
  const runIds = Array.from({ length: 1_200 }, (_, i) => `run-${String(i).padStart(4, "0")}`);
  await Promise.all(
    runIds.map((runId) =>
      dispatcher.runs.open({
        runId,
        threadId: "t",
        agent: "a",
        owner: "alice",
        epoch: "e",
        request: "{}",
        queue: "q",
      }),
    ),
  );
  const { runId } = await start();
  const [index] = await redis.keys(`${prefix}:{owner-*}:runs`);
  for (const [i, id] of runIds.entries()) await redis.zadd(index!, i, id);
  const first = await dispatcher.list({ owner: "alice", limit: 5, status: "failed" });
  expect(first).toEqual({ runs: [], next: "run-0201" });
  expect(await dispatcher.list({ owner: "alice", limit: 5, status: "failed", before: first.next! })).toEqual({
    runs: [],
  });
  const { runs, next } = await dispatcher.list({ owner: "alice", limit: 200 });
  expect([runs.length, runs[0]!.runId, next]).toEqual([200, runId, undefined]);
});

test("P3, P5: strategies from several dispatchers at once: never two active on a thread, every run ends once", async () => {
  const others = Array.from({ length: 3 }, () => {
    const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
    return { connection, dispatcher: new Dispatcher(connection, { prefix }) };
  });
  const blocking = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const active = new Map<string, string>();
  const overlaps: string[] = [];
  let worked = 0;
  const worker = new Worker<RunJob>(
    defaultQueue,
    async ({ data: { runId, threadId } }: Job<RunJob>) => {
      const claimed = await log.claim(runId);
      if (claimed.outcome === "claimed") {
        const before = active.get(threadId);
        if (before !== undefined) overlaps.push(`${before} and ${runId}`);
        active.set(threadId, runId);
        worked++;
        let cancelled = claimed.run.record.cancel !== undefined;
        claimed.writer.onCancel = () => {
          cancelled = true;
        };
        for (let i = 0; i < 3 && !cancelled; i++) {
          void claimed.writer.write({ type: "custom", ns: [], data: i });
          await claimed.writer.flush();
        }
        active.delete(threadId);
        await claimed.writer.finish(
          cancelled ? { event: "cancelled", keep: "thread" } : { event: "completed" },
        );
      }
      await dispatcher.ended("alice", threadId, runId);
    },
    { connection: blocking, prefix: queuePrefix(prefix), concurrency: 20 },
  );
  worker.on("error", () => {});
  try {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            by: fc.integer({ min: 0, max: 2 }),
            thread: fc.constantFrom("t0", "t1"),
            strategy: fc.constantFrom<MultitaskStrategy>("reject", "enqueue", "interrupt", "rollback"),
            awaited: fc.boolean(),
          }),
          { minLength: 4, maxLength: 25 },
        ),
        async (starts) => {
          const answers: Promise<string | null>[] = [];
          for (const { by, thread, strategy, awaited } of starts) {
            const answer = start(
              { threadId: thread, multitaskStrategy: strategy },
              others[by]!.dispatcher,
            ).then(
              ({ runId }) => runId,
              (error) => {
                expect(error).toMatchObject({ code: "thread_busy" });
                return null;
              },
            );
            answers.push(answer);
            if (awaited) await answer;
          }
          const runIds = (await Promise.all(answers)).filter((runId) => runId !== null);
          await until(
            async () => {
              const statuses = await Promise.all(runIds.map(statusOf));
              return statuses.every((status) => status === "completed" || status === "cancelled");
            },
            patienceMs,
            "the end of every run",
          );
          await until(
            async () =>
              (await dispatcher.threadsOf("alice").active("t0")) === null &&
              (await dispatcher.threadsOf("alice").active("t1")) === null,
            patienceMs,
            "empty lines",
          );
          expect(overlaps).toEqual([]);
        },
      ),
      { numRuns: 20, endOnFailure: true },
    );
    expect(worked).toBeGreaterThan(20);
  } finally {
    await worker.close();
    blocking.disconnect();
    for (const other of others) {
      await other.dispatcher.close();
      other.connection.disconnect();
    }
  }
});
