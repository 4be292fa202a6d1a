import type { Part } from "@throughline/protocol";
import fc from "fast-check";
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { killConnections } from "../../../test/support/connections.ts";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { runKeys } from "./keys.ts";
import { LogWriter } from "./log-writer.ts";
import { LogReader } from "./reader.ts";
import { RunStore } from "./run.ts";
import type { RunWriter } from "./run-writer.ts";

const own = (i: unknown): Part => ({ type: "custom", ns: [], data: i as never });

let prefix: string;
let redis: Redis;
let writing: Redis;
let log: LogWriter;
let runs = 0;

beforeEach(() => {
  prefix = testPrefix();
  redis = new Redis(testRedisUrl());
  writing = new Redis(testRedisUrl(), {
    connectionName: prefix,
    maxRetriesPerRequest: null,
    retryStrategy: () => 1,
  });
  writing.on("error", () => {}); // It is cut on purpose.
  log = new LogWriter(writing, { prefix });
});
afterEach(() => {
  redis.disconnect();
  writing.disconnect();
});

async function claim(): Promise<RunWriter> {
  const runId = `run-${runs++}`;
  const request = "{}";
  const run = { runId, threadId: "t", agent: "a", owner: "o", epoch: "e", request };
  await new RunStore(redis, { prefix }).open(run);
  const claimed = await log.claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  return claimed.writer;
}

async function logged(runId: string): Promise<unknown[]> {
  const found: unknown[] = [];
  for await (const { offset, part } of new LogReader(redis, prefix).parts(runId)) {
    expect(offset).toBe(found.length + 1);
    found.push(part.type === "lifecycle" ? part.data.event : part.data);
  }
  return found;
}

test("P1: a connection that is killed in the middle of appends: every part once, in order", async () => {
  const writer = await claim();
  const expected: unknown[] = [];
  let kills = 0;
  let over = false;
  const killing = (async () => {
    while (!over) {
      kills += await killConnections(redis, prefix);
      await new Promise((resolve) => setTimeout(resolve, 3));
    }
  })();
  for (let i = 0; kills < 40; i++) {
    expected.push(i);
    const wait = writer.write(own(i));
    if (wait !== undefined) await wait;
    if (i % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await writer.finish({ event: "completed" });
  over = true;
  await killing;
  expect(await logged(writer.runId)).toEqual([...expected, "completed"]);
});

test("P1, P5: kills at chosen moments of appends, releases and ends, for several runs at once", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom("write", "write", "write", "kill", "turn", "flush"), {
        minLength: 5,
        maxLength: 40,
      }),
      fc.constantFrom("finish", "release"),
      async (steps, end) => {
        const writers = await Promise.all([claim(), claim(), claim()]);
        const kills: Promise<number>[] = [];
        const flushes: Promise<unknown>[] = [];
        let written = 0;
        for (const step of steps) {
          if (step === "write") {
            for (const writer of writers) void writer.write(own(written));
            written++;
          } else if (step === "kill") {
            kills.push(killConnections(redis, prefix));
          } else if (step === "turn") {
            await new Promise((resolve) => setImmediate(resolve));
          } else {
            flushes.push(...writers.map((writer) => writer.flush()));
          }
        }
        kills.push(killConnections(redis, prefix));
        if (end === "finish") {
          await Promise.all(writers.map((writer) => writer.finish({ event: "completed" })));
        } else {
          await Promise.all(
            writers.map(async (writer) => {
              await writer.flush();
              await writer.release();
            }),
          );
        }
        await Promise.all([...kills, ...flushes]);
        const expected = Array.from({ length: written }, (_, i) => i);
        for (const { runId } of writers) {
          expect(await logged(runId)).toEqual(end === "finish" ? [...expected, "completed"] : expected);
          const { record } = await new RunStore(redis, { prefix }).must(runId);
          expect(record.status).toBe(end === "finish" ? "completed" : "queued");
        }
      },
    ),
    { numRuns: 25, endOnFailure: true },
  );
});

test("P1: a batch whose answer was lost is sent again, and is there once", async () => {
  const writer = await claim();
  const keys = runKeys(prefix, writer.runId);
  void writer.write(own("once"));
  // The very command that the writer is about to send gets there before it: its answer is the one that was lost.
  const args = [writer.fence, 1, 1, JSON.stringify([own("once")]), 0, keys.live] as const;
  const first = redis as unknown as { tlAppend(...args: unknown[]): Promise<number[]> };
  expect(await first.tlAppend(2, keys.run, keys.log, ...args)).toEqual([1]);
  await writer.flush();
  void writer.write(own("next"));
  await writer.flush();
  expect(await logged(writer.runId)).toEqual(["once", "next"]);
});

test("one run's refusal costs the others in its command nothing", async () => {
  const [stale, good] = [await claim(), await claim()];
  await log.claim(stale.runId);
  void stale.write(own("never"));
  void good.write(own("always"));
  await expect(stale.flush()).rejects.toMatchObject({ code: "stale_attempt" });
  await good.flush();
  expect(await logged(good.runId)).toEqual(["always"]);
  expect(await logged(stale.runId)).toEqual([]);
});

test("a part that is no JSON is refused, and the offsets have no hole", async () => {
  const writer = await claim();
  const cycle: unknown[] = [];
  cycle.push(cycle);
  expect(() => writer.write(own(cycle))).toThrow(TypeError);
  expect(() => writer.write(own(1n))).toThrow(TypeError);
  void writer.write(own("fine"));
  await writer.flush();
  expect(await logged(writer.runId)).toEqual(["fine"]);
});
