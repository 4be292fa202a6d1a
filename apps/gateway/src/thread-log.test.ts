/** A thread's log is followed as a run's is, by the same code: what differs, and what must not. */
import { ownerLogKeys, threadLogKeys } from "@throughline/dispatch";
import type { ThreadEventName } from "@throughline/protocol";
import { LiveSubscriber, LogReader } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Notebook } from "../../../test/support/notebook.ts";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { ScriptedThread } from "../../../test/support/scripted-thread.ts";
import { until } from "../../../test/support/until.ts";
import type { Batch } from "./batch.ts";
import { Feed, type FeedPage } from "./feed.ts";
import { passingEvents } from "./filter.ts";
import { ThreadLog } from "./followed-log.ts";
import { PageCache } from "./page-cache.ts";
import { Semaphore } from "./semaphore.ts";
import { type Asked, beginningOf, Subscription } from "./subscription.ts";

const owner = "alice";
const newNotebook = () => new Notebook(new Semaphore(2));
let redis: Redis;
let subscriber: Redis;
let live: LiveSubscriber;
let prefix: string;
let thread: ScriptedThread;
let opened: Subscription[];

beforeAll(() => {
  redis = new Redis(testRedisUrl());
  subscriber = new Redis(testRedisUrl());
  live = new LiveSubscriber(subscriber);
});
beforeEach(() => {
  prefix = testPrefix();
  thread = new ScriptedThread(redis, threadLogKeys(prefix, owner, "t"));
  opened = [];
});
afterEach(() => {
  for (const subscription of opened) subscription.close();
});
afterAll(() => {
  redis.disconnect();
  subscriber.disconnect();
});

function feedOf(log = new ThreadLog(prefix, owner, "t")): Feed {
  return new Feed(log, {
    reader: new LogReader(redis, prefix),
    live,
    reads: new Semaphore(4),
    cache: new PageCache<FeedPage>(100_000),
    options: { pageBytes: 1_000 },
    onIdle: () => {},
  });
}

/** A watch, begun as `thread.watch` does it. */
async function watch(
  feed: Feed,
  {
    after = "head",
    epoch,
    events,
    outlet = newNotebook(),
  }: Partial<Asked> & {
    events?: ThreadEventName[];
    outlet?: Notebook<Semaphore>;
  } = {},
) {
  await feed.acquire();
  const log = await feed.look();
  const told: (number | string)[] = [];
  const witness = {
    onSent: (batch: Batch, from: number) => void told.push(...batch.entries(from).map((_, i) => from + i)),
    onReset: () => void told.push("reset"),
  };
  const wants = { passes: passingEvents(events), witness };
  const subscription = new Subscription(feed, beginningOf(feed.log, { after, epoch }, log!), wants, outlet);
  opened.push(subscription);
  subscription.start();
  const sees = async (...seen: string[]) => {
    await until(() => outlet.seen.length >= seen.length, 5_000, `${seen.join()} (${outlet.seen.join()})`);
    expect(outlet.seen).toEqual(seen);
  };
  return { outlet, sees, told, head: log!.head };
}

describe("P1: a watch", () => {
  test("of a thread of which nothing was told yet is of an empty log, and hears the first event", async () => {
    const { sees, head } = await watch(feedOf());
    expect(head).toBe(0);
    await thread.tell("created", "metadata");
    await sees("1:created", "2:metadata");
  });

  test("goes on where its client was when nothing had been told, without a reset", async () => {
    await thread.tell("created");
    const { sees } = await watch(feedOf(), { after: 0, epoch: "" });
    await sees("1:created");
  });

  test("begins at the head, or after what its client has", async () => {
    await thread.tell("created", "head");
    const feed = feedOf();
    const [latest, all, rest] = [
      await watch(feed),
      await watch(feed, { after: 0 }),
      await watch(feed, { after: 1 }),
    ];
    await all.sees("1:created", "2:head");
    await rest.sees("2:head");
    await thread.tell("metadata");
    await latest.sees("3:metadata");
    await all.sees("1:created", "2:head", "3:metadata");
    expect([latest.told, all.told]).toEqual([[3], [1, 2, 3]]);
  });

  test("P2: reads the log where a message did not come", async () => {
    await thread.tell("created");
    const { sees } = await watch(feedOf(), { after: 0 });
    await sees("1:created");
    await thread.tellUnheard("head");
    await thread.tell("metadata");
    await sees("1:created", "2:head", "3:metadata");
  });

  test("P8: waits for a reader that is slow, and then has all that it missed", async () => {
    await thread.tell("created");
    const { sees, outlet } = await watch(feedOf(), { after: 0 });
    await sees("1:created");
    outlet.writable = false;
    await thread.tell("head", "metadata");
    await until(() => outlet.isWaitedFor);
    await sees("1:created");
    outlet.writable = true;
    await sees("1:created", "2:head", "3:metadata");
  });

  test("has null for the events that were not asked for, or their number; the last one always", async () => {
    await thread.tell("created", "head");
    const { sees, told } = await watch(feedOf(), { after: 0, events: ["metadata"] });
    await sees("1 skips 2");
    await thread.tell("head", "metadata", "deleted");
    await sees("1 skips 2", "3 skips 1", "4:metadata", "5:deleted", "unwatched deleted");
    // Who is to know of what was sent knows of what was left out as well.
    expect(told).toEqual([1, 2, 3, 4, 5]);
  });
});

describe("a watch is reset", () => {
  test("where its client is ahead of the log, or has another", async () => {
    await thread.tell("created", "head");
    const feed = feedOf();
    const ahead = await watch(feed, { after: 3, epoch: "e1" });
    const stale = await watch(feed, { after: 1, epoch: "e0" });
    await thread.tell("metadata");
    // It goes on behind the head: what was told before is in the record.
    await ahead.sees("reset e1", "3:metadata");
    await stale.sees("reset e1", "3:metadata");
    expect(stale.told).toEqual(["reset", 3]);
  });

  test("where the log has another epoch meanwhile", async () => {
    await thread.tell("created", "head");
    const { sees } = await watch(feedOf(), { after: 0 });
    await sees("1:created", "2:head");
    await thread.replace("e2");
    await sees("1:created", "2:head", "reset e2");
    await thread.tell("metadata");
    await sees("1:created", "2:head", "reset e2", "2:metadata");
  });

  test("where the log no longer has what comes next", async () => {
    for (let i = 0; i < 102; i++) await thread.tell("head");
    const { sees } = await watch(feedOf(), { after: 1 });
    await sees("reset e1");
    await thread.tell("metadata");
    await sees("reset e1", "103:metadata");
    const within = await watch(feedOf(), { after: 101 });
    await within.sees("102:head", "103:metadata");
  });
});

describe("a watch ends", () => {
  test("when its thread was deleted", async () => {
    await thread.tell("created");
    const { sees, outlet } = await watch(feedOf(), { after: 0 });
    await sees("1:created");
    await thread.tell("deleted");
    await sees("1:created", "2:deleted", "unwatched deleted");
    expect(outlet.removed).toBe(1);
  });

  test("P2: also where the message of that is lost", async () => {
    await thread.tell("created");
    const feed = feedOf();
    const { sees } = await watch(feed, { after: 0 });
    await sees("1:created");
    await thread.tellUnheard("deleted");
    await feed.refresh();
    await sees("1:created", "2:deleted", "unwatched deleted");
  });

  test("P2: also where nobody told it, and its log is gone", async () => {
    await thread.tell("created");
    const feed = feedOf();
    const { sees } = await watch(feed, { after: 0 });
    await sees("1:created");
    await thread.remove();
    await feed.refresh();
    await sees("1:created", "unwatched deleted");
  });

  test("but not where its log has not begun", async () => {
    const feed = feedOf();
    const { sees, outlet } = await watch(feed);
    await feed.refresh();
    await thread.tell("created");
    await sees("1:created");
    expect(outlet.removed).toBe(0);
  });
});

describe("of all of an owner's threads", () => {
  test("a watch hears of each, and begins anew where its log is gone: nothing had happened for long", async () => {
    const all = new ScriptedThread(redis, ownerLogKeys(prefix, owner));
    const feed = feedOf(new ThreadLog(prefix, owner, undefined));
    const { sees } = await watch(feed);
    await all.tell("created");
    await sees("1:created");
    await all.remove();
    await feed.refresh();
    await sees("1:created", "reset ");
    all.head = 0;
    all.epoch = "e2";
    await all.tell("head");
    await sees("1:created", "reset ", "1:head");
  });
});

test("an id is quoted in frames whatever is in it", async () => {
  const threadId = 'a"\\é漢🧵';
  const named = new ScriptedThread(redis, threadLogKeys(prefix, owner, threadId), threadId);
  await named.tell("created");
  const seen: string[] = [];
  const outlet = newNotebook();
  outlet.send = (frame) =>
    void seen.push(JSON.parse(frame.toString("utf8", frame[1]! < 126 ? 2 : 4)).params.threadId);
  await watch(feedOf(new ThreadLog(prefix, owner, threadId)), { after: 0, outlet });
  await watch(feedOf(new ThreadLog(prefix, owner, threadId)), { after: 0, events: ["head"], outlet });
  await until(() => seen.length === 2);
  expect(seen).toEqual([threadId, threadId]);
});
