import type { Part } from "@throughline/protocol";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type PrivateRedis, startPrivateRedis, testPrefix } from "../../../test/support/redis.ts";
import { until, within } from "../../../test/support/until.ts";
import { runKeys } from "./keys.ts";
import { LogWriter } from "./log-writer.ts";
import { LogReader } from "./reader.ts";
import { RunStore } from "./run.ts";
import type { RunWriter } from "./run-writer.ts";

const own = (i: unknown): Part => ({ type: "custom", ns: [], data: i as never });

/** One of our own, for it is filled up. */
let server: PrivateRedis;
let redis: Redis;
let prefix: string;

beforeAll(async () => {
  server = await startPrivateRedis();
});
afterAll(() => server.stop());
beforeEach(() => {
  redis = new Redis(server.url);
  prefix = testPrefix();
});
afterEach(async () => {
  await redis.config("SET", "maxmemory", "0");
  redis.disconnect();
});

async function claim(log: LogWriter, runId: string): Promise<RunWriter> {
  const run = { runId, threadId: "t", agent: "a", owner: "o", epoch: "e", request: "{}" };
  await new RunStore(redis, { prefix }).open(run);
  const claimed = await log.claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  return claimed.writer;
}

async function logged(runId: string): Promise<unknown[]> {
  const found: unknown[] = [];
  for await (const { offset, part } of new LogReader(redis, prefix).parts(runId)) {
    expect(offset).toBe(found.length + 1);
    found.push(part.data);
  }
  return found;
}

/** From here on Redis takes no command that writes. */
async function fill(): Promise<void> {
  await redis.config("RESETSTAT");
  await redis.config("SET", "maxmemory", "1");
}

/** How many commands it has refused for that. */
async function refused(): Promise<number> {
  const [, count] = /errorstat_OOM:count=(\d+)/.exec(await redis.info("errorstats")) ?? [];
  return Number(count ?? 0);
}

test("P1: what Redis has no room for is sent again, and what comes meanwhile waits behind it", async () => {
  const log = new LogWriter(redis, { prefix });
  const writers = [await claim(log, "a"), await claim(log, "b")];
  for (const writer of writers) void writer.write(own(1));
  await Promise.all(writers.map((writer) => writer.flush()));
  await fill();
  for (const writer of writers) void writer.write(own(2));
  await until(async () => (await refused()) >= 4);
  for (const writer of writers) void writer.write(own(3));
  const seen = await refused();
  await until(async () => (await refused()) > seen);
  expect(writers.map(({ acknowledged, failure }) => [acknowledged, failure])).toEqual([
    [1, undefined],
    [1, undefined],
  ]);
  await redis.config("SET", "maxmemory", "0");
  for (const writer of writers) {
    await within(writer.flush());
    expect(await logged(writer.runId)).toEqual([1, 2, 3]);
    // The batch that was refused is the batch that is there.
    const entries = await redis.xrange(runKeys(prefix, writer.runId).log, "-", "+");
    expect(entries.map(([id]) => id)).toEqual(["1-0", "2-0", "3-0"]);
  }
});

test("P4: an agent that waits for room learns that its attempt has lost the run", async () => {
  const log = new LogWriter(redis, { prefix, highWater: 10 });
  const writer = await claim(log, "w");
  await log.claim("w");
  const wait = writer.write(own("more than ten characters"));
  await expect(within(wait!)).rejects.toMatchObject({ code: "stale_attempt" });
  // Nor does anybody wait behind it.
  expect(() => writer.write(own("more"))).toThrow(/no longer has run/);
  await expect(writer.flush()).rejects.toMatchObject({ code: "stale_attempt" });
});
