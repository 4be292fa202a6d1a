import type { Part } from "@throughline/protocol";
import { LiveSubscriber, LogReader, type Page, runKeys } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { ScriptedRun } from "../../../test/support/run.ts";
import { Feed, type FeedDeps, type FeedPage } from "./feed.ts";
import { RunLog } from "./followed-log.ts";
import { PageCache } from "./page-cache.ts";
import { Semaphore } from "./semaphore.ts";

const prefix = testPrefix();
const own = (text: string): Part => ({ type: "custom", ns: [], data: text });

let redis: Redis;
let subscriber: Redis;
let live: LiveSubscriber;

beforeAll(() => {
  redis = new Redis(testRedisUrl());
  subscriber = new Redis(testRedisUrl());
  live = new LiveSubscriber(subscriber);
});
afterAll(() => {
  redis.disconnect();
  subscriber.disconnect();
});

function feedOf(runId: string, deps: Partial<FeedDeps> = {}): Feed {
  return new Feed(new RunLog(prefix, runId), {
    reader: new LogReader(redis, prefix),
    live,
    reads: new Semaphore(4),
    cache: new PageCache<FeedPage>(100_000),
    options: { pageBytes: 1_000 },
    onIdle: () => {},
    ...deps,
  });
}

class CountingReader extends LogReader {
  reads = 0;
  mostAtOnce = 0;
  #now = 0;

  override async page(runId: string, after: number, maxBytes: number): Promise<Page | null> {
    this.reads += 1;
    this.#now += 1;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.#now);
    try {
      return await super.page(runId, after, maxBytes);
    } finally {
      this.#now -= 1;
    }
  }
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

  test("P7: of all feeds together are bounded: the oldest make room", async () => {
    const cache = new PageCache<FeedPage>(2_500);
    const feeds: Feed[] = [];
    const pages = [];
    for (let i = 0; i < 20; i++) {
      const run = await ScriptedRun.open(redis, prefix, `many-${i}`);
      await run.append([own("x".repeat(900))]);
      const feed = feedOf(run.runId, { cache });
      feed.enterBehind();
      feeds.push(feed);
      pages.push(await feed.page(0));
      expect(cache.bytes).toBeLessThanOrEqual(2_500);
    }
    expect(cache.bytes).toBeGreaterThan(900);
    expect(await feeds[19]!.page(0)).toBe(pages[19]);
    // It can be read all the same.
    const again = await feeds[0]!.page(0);
    expect(again).not.toBe(pages[0]);
    expect(again?.batch?.last).toBe(1);
    for (const feed of feeds) feed.leaveBehind();
    expect(cache.bytes).toBe(0);
  });

  test("P7: are each read once for all who catch up together, and no more at a time than may be", async () => {
    const runs = await Promise.all([0, 1, 2, 3].map((i) => ScriptedRun.open(redis, prefix, `read-${i}`)));
    for (const run of runs) {
      for (let i = 0; i < 30; i++) await run.append([own("x".repeat(900))]);
    }
    const reader = new CountingReader(redis, prefix);
    const shared = { reader, reads: new Semaphore(3), cache: new PageCache<FeedPage>(200_000) };
    const feeds = runs.map(({ runId }) => feedOf(runId, shared));
    const catchUp = async (feed: Feed) => {
      feed.enterBehind();
      for (let after = 0; after < 30; ) after = (await feed.page(after))!.batch!.last;
    };
    await Promise.all(feeds.flatMap((feed) => Array.from({ length: 100 }, () => catchUp(feed))));
    // Two of these batches fill a page.
    expect(reader.reads).toBe(runs.length * 15);
    expect(reader.mostAtOnce).toBe(3);
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

test("a look at the log wakes those who are behind it, or whose log it is no more, and lets the others be", async () => {
  const run = await ScriptedRun.open(redis, prefix, "looked-at");
  await run.append([own("a"), own("b")]);
  const feed = feedOf(run.runId);
  const told: (number | "wake")[] = [];
  feed.join({
    onBatch: () => {},
    onHead: (offset) => told.push(offset),
    onWake: () => told.push("wake"),
  });
  await feed.refresh();
  expect(told).toEqual([2]);
  await redis.del(runKeys(prefix, run.runId).run);
  await feed.refresh();
  expect(told).toEqual([2, "wake"]);
});
