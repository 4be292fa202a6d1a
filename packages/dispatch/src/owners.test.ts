import type { MultitaskStrategy } from "@throughline/protocol";
import { LogWriter } from "@throughline/runlog";
import fc from "fast-check";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { until } from "../../../test/support/until.ts";
import { Dispatcher, type StartRequest } from "./dispatcher.ts";
import type { OwnerLimits } from "./owners.ts";
import { defaultQueue } from "./queue.ts";
import { threadKey } from "./thread-keys.ts";
import { Threads } from "./threads.ts";

let redis: Redis;
let prefix: string;
let log: LogWriter;
let opened: Dispatcher[];

beforeEach(() => {
  redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  prefix = testPrefix();
  log = new LogWriter(redis, { prefix });
  opened = [];
});
afterEach(async () => {
  for (const each of opened) await each.close();
  redis.disconnect();
});

/** What a gateway has; without limits, what a worker has. */
function dispatcher(limits?: OwnerLimits): Dispatcher {
  const made = new Dispatcher(redis, { prefix, ...(limits === undefined ? {} : { limits }) });
  opened.push(made);
  return made;
}

const start = (by: Dispatcher, more: Partial<StartRequest> = {}) =>
  by.start({ agent: "a", owner: "alice", request: { queue: defaultQueue }, ...more });
const startOf = (by: Dispatcher, bytes: number, more: Partial<StartRequest> = {}) =>
  start(by, { request: { queue: defaultQueue, input: "x".repeat(bytes) }, ...more });

/** What is counted, as it is stored: of the one owner that a test has. */
async function counted() {
  const tag = (await redis.keys(`${prefix}:{owner-*}:*`)).map((key) => key.slice(0, key.lastIndexOf(":")))[0];
  const { sum = "0", ...runs } = await redis.hgetall(`${tag}:bytes`);
  const { sum: kept = "0", ...threads } = await redis.hgetall(`${tag}:threads`);
  return {
    tag,
    active: (await redis.zrange(`${tag}:active`, 0, "-1")).sort(),
    due: (await redis.zrange(`${tag}:due`, 0, "-1")).sort(),
    runs: Object.fromEntries(Object.entries(runs).map(([runId, bytes]) => [runId, Number(bytes)])),
    sum: Number(sum),
    threads,
    kept: Number(kept),
  };
}

const total = (sizes: Record<string, number>) => Object.values(sizes).reduce((sum, size) => sum + size, 0);
const records = async () =>
  (await redis.keys(`${prefix}:{run_*}:run`)).map((key) => /\{(.*)\}/.exec(key)![1]!).sort();

/** Ends a run as a worker does, with so much in its log. `told`: its owner's count too. */
async function runToEnd(by: Dispatcher, runId: string, { told = true, bytes = 0 } = {}): Promise<void> {
  const claimed = await log.claim(runId);
  if (claimed.outcome === "claimed") {
    if (bytes > 0) await claimed.writer.write({ type: "custom", ns: [], data: "y".repeat(bytes) });
    await claimed.writer.flush();
    await claimed.writer.finish({ event: "completed" });
  }
  const run = await by.runs.get(runId);
  if (told && run !== null) await by.ended(run.owner, run.record.threadId, runId);
}

describe("runs that have not ended", () => {
  test("as many as the bound, whoever asks at once; the others are refused, and another owner is not", async () => {
    const gateways = Array.from({ length: 3 }, () => dispatcher({ maxRuns: 5 }));
    const answers = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) => start(gateways[i % 3]!, { idempotencyKey: `k${i}` })),
    );
    const started = answers.flatMap((each) => (each.status === "fulfilled" ? [each.value.runId] : []));
    expect(started).toHaveLength(5);
    for (const each of answers) {
      if (each.status === "rejected") {
        expect(each.reason).toMatchObject({ code: "rate_limited", retryable: true, details: { maxRuns: 5 } });
        expect(each.reason.message).toMatch(/5 is the limit/);
      }
    }
    // Who is refused leaves nothing, not even its key.
    expect(await records()).toEqual(started.toSorted());
    expect(await redis.keys(`${prefix}:*:idempotency`)).toHaveLength(5);
    expect((await counted()).active).toEqual(started.toSorted());
    expect(Object.keys((await counted()).runs).sort()).toEqual(started.toSorted());
    await start(gateways[0]!, { owner: "bob" });
  });

  test("a refused start goes through, with its key, when one has ended", async () => {
    const [gateway, worker] = [dispatcher({ maxRuns: 1 }), dispatcher()];
    const { runId } = await start(gateway);
    await expect(start(gateway, { idempotencyKey: "k" })).rejects.toMatchObject({ code: "rate_limited" });
    await runToEnd(worker, runId);
    expect((await start(gateway, { idempotencyKey: "k" })).created).toBe(true);
  });

  test("the same start again is the same run, and takes no second place, however it stands", async () => {
    const [gateway, worker] = [dispatcher({ maxRuns: 1 }), dispatcher()];
    const again = () => start(gateway, { idempotencyKey: "k" });
    const { runId } = await again();
    expect(await again()).toMatchObject({ runId, created: false });
    expect((await counted()).active).toEqual([runId]);
    await runToEnd(worker, runId);
    expect(await again()).toMatchObject({ runId, created: false });
    expect((await counted()).active).toEqual([]);
  });

  test("a cancel gives the place back at once: of a queued run, with or without what its input said", async () => {
    const gateway = dispatcher({ maxRuns: 1 });
    for (const input of [undefined, "hi"]) {
      const { runId } = await start(gateway, { threadId: "t", request: { queue: defaultQueue, input } });
      await gateway.cancel(runId, { owner: "alice", keep: "thread" });
    }
    expect((await counted()).active).toEqual([]);
  });

  test("who is not let into the thread takes no place", async () => {
    const gateway = dispatcher({ maxRuns: 2 });
    const { runId } = await start(gateway, { threadId: "t" });
    const reject = start(gateway, { threadId: "t", multitaskStrategy: "reject" });
    await expect(reject).rejects.toMatchObject({ code: "thread_busy" });
    const { active, runs, due } = await counted();
    expect([active, Object.keys(runs), due]).toEqual([[runId], [runId], [runId]]);
  });

  test("places that a crash left taken are found when there is no other, many pages of them", async () => {
    const gateway = dispatcher({ maxRuns: 2_500 });
    const { runId } = await start(gateway);
    const { tag } = await counted();
    const gone = Array.from({ length: 2_499 }, (_, i) => [i + 1, `run_gone${i}`]).flat();
    await redis.zadd(`${tag}:active`, ...(gone as [number, string]));
    expect((await start(gateway)).created).toBe(true);
    expect((await counted()).active).toContain(runId);
    expect((await counted()).active.length).toBeLessThan(2_000);
  });

  test("places of starts that were broken off before they came into line are found when there is no other", async () => {
    const gateway = dispatcher({ maxRuns: 3 });
    const waits = await start(gateway, { threadId: "t" });
    const enter = vi.spyOn(Threads.prototype, "enter").mockRejectedValue(new Error("Connection is closed."));
    for (const threadId of ["t", "u"]) await expect(start(gateway, { threadId })).rejects.toThrow();
    enter.mockRestore();
    // They may be under way still.
    await expect(start(gateway)).rejects.toMatchObject({ code: "rate_limited" });
    for (const runId of await records()) await redis.hset(`${prefix}:{${runId}}:run`, "created", 1);
    await until(async () => (await start(gateway).catch(() => null)) !== null);
    const { active } = await counted();
    expect(active).toHaveLength(2);
    expect(active).toContain(waits.runId);
  });

  test("refusals are cheap: nobody looks again at once", async () => {
    const gateway = dispatcher({ maxRuns: 3 });
    for (let i = 0; i < 3; i++) await start(gateway);
    const refused = () => expect(start(gateway)).rejects.toMatchObject({ code: "rate_limited" });
    await refused();
    const looked: string[][] = [];
    const { statuses } = gateway.runs;
    gateway.runs.statuses = async (runIds) => {
      looked.push([...runIds]);
      return await statuses.call(gateway.runs, runIds);
    };
    const from = Date.now();
    let rounds = 0;
    for (; rounds < 30; rounds++) await refused();
    // Once a second at most.
    expect(looked.length).toBeLessThanOrEqual(1 + Math.floor((Date.now() - from) / 1_000));
    expect(rounds).toBe(30);
  });
});

describe("bytes", () => {
  test("a thread that two delete at once gives back what it had once; so does one that is deleted under a patch", async () => {
    const [one, other] = [dispatcher({ maxBytes: 50_000 }), dispatcher({ maxBytes: 50_000 })];
    const metadata = { x: "x".repeat(100) };
    const checkpoints = { deleteThread: async () => {} };
    await one.createThread("alice", { threadId: "t", metadata });
    const hget = vi.spyOn(redis, "hget").mockResolvedValue("108");
    await Promise.allSettled([one, other].map((each) => each.deleteThread("alice", "t", checkpoints)));
    hget.mockRestore();
    expect(await counted()).toMatchObject({ kept: 0, threads: {} });
    expect((await redis.keys("*")).filter((key) => key.includes(prefix) && key.includes("/t}"))).toEqual([]);
    await one.createThread("alice", { threadId: "p", metadata });
    const record = (await one.threadRecord("alice", "p"))!;
    const patch = vi.spyOn(Threads.prototype, "patch").mockImplementation(async () => {
      await other.deleteThread("alice", "p", checkpoints);
      return { thread: record };
    });
    expect(await one.patchThread("alice", "p", { x: null })).toEqual(record);
    patch.mockRestore();
    expect(await counted()).toMatchObject({ kept: 0, threads: {} });
  });

  test("more than the bound is refused for good, says so, and leaves nothing", async () => {
    const gateway = dispatcher({ maxBytes: 50_000 });
    const { runId } = await startOf(gateway, 30_000);
    const refused = startOf(gateway, 30_000, { idempotencyKey: "k" });
    await expect(refused).rejects.toMatchObject({ code: "payload_too_large", retryable: false });
    await expect(refused).rejects.toThrow(/50000, the limit: the next run expires at 20\d\d-/);
    expect(await records()).toEqual([runId]);
    expect(await redis.keys(`${prefix}:*:idempotency`)).toEqual([]);
    expect((await startOf(gateway, 1_000, { idempotencyKey: "k" })).created).toBe(true);
    await startOf(gateway, 30_000, { owner: "bob" });
    expect(await records()).toHaveLength(3);
  });

  test("metadata count as input does", async () => {
    const gateway = dispatcher({ maxBytes: 50_000 });
    const large = { metadata: { m: "é".repeat(20_000) } };
    await start(gateway, large);
    await expect(start(gateway, large)).rejects.toMatchObject({ code: "payload_too_large" });
  });

  test("a run that has ended counts with its log, all attempts' of it", async () => {
    const [gateway, worker] = [dispatcher({ maxBytes: 1_000_000 }), dispatcher()];
    const { runId } = await start(gateway);
    const before = (await counted()).sum;
    // Its first worker is lost in the middle of it.
    const first = await log.claim(runId);
    if (first.outcome !== "claimed") throw new Error(first.outcome);
    await first.writer.write({ type: "custom", ns: [], data: "z".repeat(100_000) });
    await first.writer.flush();
    await runToEnd(worker, runId, { bytes: 200_000 });
    const { runs, sum } = await counted();
    expect(sum).toBe(runs[runId]);
    expect(sum - before).toBeGreaterThan(300_000);
    expect(sum - before).toBeLessThan(600_000);
    await worker.ended("alice", (await worker.runs.must(runId)).record.threadId, runId);
    expect((await counted()).sum).toBe(sum);
  });

  test("what has expired gives its bytes back: where somebody would be refused, and with each start", async () => {
    const [gateway, worker] = [dispatcher({ maxBytes: 60_000 }), dispatcher()];
    const expire = async (runId: string) => {
      await runToEnd(worker, runId);
      await redis.del(`${prefix}:{${runId}}:run`, `${prefix}:{${runId}}:log`);
      await redis.zadd(`${(await counted()).tag}:due`, "XX", Date.now() - 1, runId);
    };
    const first = await startOf(gateway, 40_000);
    await expire(first.runId);
    const second = await startOf(gateway, 40_000);
    expect(Object.keys((await counted()).runs)).toEqual([second.runId]);
    await expire(second.runId);
    const third = await start(gateway); // There is room for it.
    const { runs, due, sum, tag } = await counted();
    expect([Object.keys(runs), due]).toEqual([[third.runId], [third.runId]]);
    expect(sum).toBe(total(runs));
    expect(await redis.zrange(`${tag}:runs`, 0, "-1")).toEqual([third.runId]);
  });

  test("a run that lives longer than it seemed to stays counted", async () => {
    const gateway = dispatcher({ maxBytes: 60_000 });
    const { runId } = await startOf(gateway, 40_000);
    const { tag } = await counted();
    await redis.zadd(`${tag}:due`, "XX", 1, runId);
    await expect(startOf(gateway, 40_000)).rejects.toMatchObject({ code: "payload_too_large" });
    expect((await counted()).active).toEqual([runId]);
    expect(Number(await redis.zscore(`${tag}:due`, runId))).toBeGreaterThan(Date.now());
  });

  test("what is written to a thread by hand counts until the thread is deleted", async () => {
    const gateway = dispatcher({ maxBytes: 50_000 });
    const checkpoints = threadKey(prefix, "alice", "t", "checkpoints");
    await redis.hset(checkpoints, "c", "…");
    const keep = (bytes: number, by = gateway) => by.keeping("alice", "t", bytes, async () => "written");
    expect(await keep(20_000)).toBe("written");
    await keep(20_000);
    await expect(keep(20_000)).rejects.toMatchObject({ code: "payload_too_large" });
    await expect(startOf(gateway, 20_000)).rejects.toMatchObject({ code: "payload_too_large" });
    const fails = () =>
      gateway.keeping("alice", "t", 5_000, async () => {
        throw new Error("no");
      });
    await expect(fails()).rejects.toThrow("no");
    expect(await counted()).toMatchObject({ threads: { "thread:t": "40000" }, kept: 40_000 });
    expect(await redis.pttl(`${(await counted()).tag}:threads`)).toBe(-1);
    await redis.del(checkpoints);
    await keep(20_000, dispatcher({ maxBytes: 50_000 }));
    expect(await counted()).toMatchObject({ threads: { "thread:t": "20000" }, kept: 20_000 });
  });

  test("all that counts runs goes by itself when the last of them has", async () => {
    const gateway = dispatcher({ maxRuns: 5 });
    const { runId } = await start(gateway);
    const { tag } = await counted();
    const left = async () =>
      await Promise.all(["active", "bytes", "due"].map((name) => redis.pttl(`${tag}:${name}`)));
    for (const ms of await left()) expect(ms).toBeGreaterThan(7 * 86_400_000);
    await runToEnd(gateway, runId);
    expect(await redis.exists(`${tag}:active`)).toBe(0);
    for (const ms of (await left()).slice(1)) expect(ms).toBeGreaterThan(7 * 86_400_000);
  });
});

test("without limits nothing is counted", async () => {
  const gateway = dispatcher();
  const { runId } = await start(gateway);
  await runToEnd(gateway, runId);
  await gateway.keeping("alice", "t", 5, async () => {});
  const names = (await redis.keys(`${prefix}:{owner-*}:*`)).map((key) => key.slice(key.lastIndexOf(":")));
  expect(names.sort()).toEqual([":events", ":listed", ":runs", ":shown", ":told"]);
});

test("starts, ends, cancels, lost workers and crashes in any order: what is counted is what there is", async () => {
  const thread = fc.constantFrom("t0", "t1", "t2");
  const which = fc.nat(30);
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant("start" as const),
        thread,
        strategy: fc.constantFrom<MultitaskStrategy>("enqueue", "reject", "interrupt", "rollback"),
        input: fc.nat(3_000),
        key: fc.option(fc.constantFrom("k0", "k1", "k2"), { nil: undefined }),
      }),
    },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("end" as const), which, log: fc.nat(3_000) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("claim" as const), which }) },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant("cancel" as const),
        which,
        keep: fc.constantFrom("thread", "discard"),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("expire" as const), which }) },
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constantFrom(
          "end and crash" as const,
          "cancel and crash" as const,
          "start and crash" as const,
        ),
        which,
        thread,
      }),
    },
  );
  let refusals = 0;
  let healed = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 5, maxLength: 40, size: "max" }),
      fc.boolean(),
      fc.boolean(),
      async (steps, awaited, isTight) => {
        prefix = testPrefix();
        log = new LogWriter(redis, { prefix });
        // Where there is room for all, nothing is looked for before the end.
        const limits = isTight ? { maxRuns: 2, maxBytes: 15_000 } : { maxRuns: 100, maxBytes: 1_000_000 };
        const [gateway, worker] = [dispatcher(limits), dispatcher()];
        const runIds: string[] = [];
        let crashed = false;
        let crash = 0;
        const take = async (each: (typeof steps)[number]): Promise<void> => {
          const runId = "which" in each ? runIds[each.which % Math.max(runIds.length, 1)] : undefined;
          if (each.do === "start") {
            const { thread: threadId, strategy: multitaskStrategy, key } = each;
            const more = {
              threadId,
              multitaskStrategy,
              ...(key === undefined ? {} : { idempotencyKey: key }),
            };
            const started = await startOf(gateway, each.input, more).catch((error) => {
              expect(["rate_limited", "payload_too_large", "thread_busy"]).toContain(error.code);
              if (error.code !== "thread_busy") refusals++;
            });
            if (started) runIds.push(started.runId);
          } else if (each.do === "start and crash") {
            // It came as far as its owner's count, with its record or without.
            crashed = true;
            const id = `run_crash${crash++}`;
            const { tag } = await counted();
            const owner = tag ?? `${prefix}:{none}`;
            if (tag === undefined) return;
            if (each.which % 2 === 0) {
              const run = { runId: id, threadId: each.thread, agent: "a", owner: "alice", epoch: "e" };
              await gateway.runs.open({ ...run, request: JSON.stringify({ queue: defaultQueue }) });
            }
            await redis
              .multi()
              .zadd(`${owner}:active`, Date.now(), id)
              .hset(`${owner}:bytes`, id, 10)
              .hincrby(`${owner}:bytes`, "sum", 10)
              .zadd(`${owner}:due`, Date.now(), id)
              .exec();
          } else if (runId === undefined) return;
          else if (each.do === "end") await runToEnd(worker, runId, { bytes: each.log });
          else if (each.do === "claim") await log.claim(runId);
          else if (each.do === "cancel") {
            await gateway.cancel(runId, { owner: "alice", keep: each.keep as "thread" });
          } else if (each.do === "expire") {
            const { tag } = await counted();
            await worker.runs.remove(runId);
            await redis.zadd(`${tag}:due`, "XX", 1, runId);
            crashed = true;
          } else {
            crashed = true;
            if (each.do === "end and crash") await runToEnd(worker, runId, { told: false });
            else await worker.runs.cancel(runId, { keep: "discard" });
          }
        };
        const running: Promise<void>[] = [];
        for (const each of steps) {
          const done = take(each);
          running.push(done);
          if (awaited) await done;
        }
        await Promise.all(running);
        const unfinished = async () => {
          const ids = await records();
          const statuses = await gateway.runs.statuses(ids);
          return ids.filter((_, i) => ["queued", "running", "cancelling"].includes(statuses[i]!));
        };
        const before = await counted();
        if (before.tag === undefined) return;
        if (!crashed && awaited) expect(before.active).toEqual(await unfinished());
        expect(before.active.length).toBeLessThanOrEqual(limits.maxRuns + crash);
        // Who finds everything taken looks.
        for (const tightest of [{ maxRuns: 1 }, { maxBytes: 1 }]) {
          await start(dispatcher(tightest)).then(
            ({ runId }) => gateway.cancel(runId, { keep: "discard" }),
            () => {},
          );
        }
        const { active, runs, due, sum } = await counted();
        expect(active).toEqual(await unfinished());
        expect(sum).toBe(total(runs));
        expect(Object.keys(runs).sort()).toEqual(due);
        expect(due).toEqual(await records());
        healed += before.active.length - active.length;
      },
    ),
    { numRuns: 60, endOnFailure: true },
  );
  expect(refusals).toBeGreaterThan(0);
  expect(healed).toBeGreaterThan(0);
}, 120_000);
