import type { Part } from "@throughline/protocol";
import { LiveSubscriber, LogReader } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { ScriptedRun } from "../../../test/support/run.ts";
import { Feed } from "./feed.ts";
import { Semaphore } from "./semaphore.ts";

const prefix = testPrefix();
const own = (text: string): Part => ({ type: "custom", ns: [], data: text });

let redis: Redis;
let subscriber: Redis;

beforeAll(() => {
  redis = new Redis(testRedisUrl());
  subscriber = new Redis(testRedisUrl());
});
afterAll(() => {
  redis.disconnect();
  subscriber.disconnect();
});

function feedOf(runId: string): Feed {
  return new Feed(runId, {
    reader: new LogReader(redis, prefix),
    live: new LiveSubscriber(subscriber),
    reads: new Semaphore(4),
    options: { prefix, pageBytes: 1_000, cacheBytes: 10_000 },
    onIdle: () => {},
  });
}

describe("a feed's pages", () => {
  test("are shared by those who are behind together, and let go with the last of them", async () => {
    const run = await ScriptedRun.open(redis, prefix, "shared");
    await run.append([own("a"), own("b")]);
    const feed = feedOf(run.runId);
    feed.enterBehind();
    feed.enterBehind();
    const page = await feed.page(0);
    expect(await feed.page(1)).toBe(page);
    feed.leaveBehind();
    expect(await feed.page(0)).toBe(page);
    feed.leaveBehind();
    expect(await feed.page(0)).not.toBe(page);
  });

  test("are not kept where they were read ahead for a reader that has gone", async () => {
    const run = await ScriptedRun.open(redis, prefix, "gone");
    await run.append([own("a")]);
    const feed = feedOf(run.runId);
    feed.enterBehind();
    feed.readAhead(0);
    feed.leaveBehind();
    // The same read, still under way.
    const page = await feed.page(0);
    expect(page?.batch?.last).toBe(1);
    expect(await feed.page(0)).not.toBe(page);
  });
});
