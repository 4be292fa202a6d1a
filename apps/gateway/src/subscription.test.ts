import { type Filter, lifecycle, type Part } from "@throughline/protocol";
import {
  LiveSubscriber,
  LogReader,
  LogWriter,
  type Page,
  type RunKeys,
  RunStore,
  type RunWriter,
  runKeys,
} from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { Notebook } from "../../../test/support/notebook.ts";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { until } from "../../../test/support/until.ts";
import { Feed, type FeedPage } from "./feed.ts";
import { passingParts } from "./filter.ts";
import { RunLog } from "./followed-log.ts";
import { PageCache } from "./page-cache.ts";
import { Semaphore } from "./semaphore.ts";
import { Subscription } from "./subscription.ts";

let redis: Redis;
let subscriber: Redis;
let live: LiveSubscriber;
let prefix: string;

beforeAll(() => {
  redis = new Redis(testRedisUrl());
  subscriber = new Redis(testRedisUrl());
  live = new LiveSubscriber(subscriber);
});
afterAll(() => {
  redis.disconnect();
  subscriber.disconnect();
});

/** A log, and what may become of it. */
class Run {
  readonly runId: string;
  readonly keys: RunKeys;
  writer!: RunWriter;
  readonly #log = new LogWriter(redis, { prefix });

  private constructor(runId: string) {
    this.runId = runId;
    this.keys = runKeys(prefix, runId);
  }

  static async open(runId = "run"): Promise<Run> {
    const run = new Run(runId);
    const record = { runId, threadId: "t", agent: "a", owner: "o", epoch: "e1", request: "{}" };
    await new RunStore(redis, { prefix }).open(record);
    await run.claim();
    return run;
  }

  async claim(): Promise<void> {
    const claimed = await this.#log.claim(this.runId);
    if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
    this.writer = claimed.writer;
  }

  /** Each in a batch of its own. */
  async write(...texts: string[]): Promise<void> {
    for (const text of texts) {
      void this.writer.write({ type: "custom", ns: [], data: text });
      await this.writer.flush();
    }
  }

  /** Writes a batch that the gateway is not told of. */
  async writeUnheard(text: string): Promise<void> {
    const head = Number(await redis.hget(this.keys.run, "head")) + 1;
    const part: Part = { type: "custom", ns: [], data: text };
    await redis.xadd(this.keys.log, `${head}-0`, "n", 1, "b", JSON.stringify([part]));
    await redis.hset(this.keys.run, "head", head);
    // Whoever writes on knows of it.
    await this.claim();
  }

  /** Redis loses the last batches, each of one part. */
  async lose(count: number): Promise<void> {
    const last = await redis.xrevrange(this.keys.log, "+", "-", "COUNT", count + 1);
    for (const [id] of last.slice(0, count)) await redis.xdel(this.keys.log, id);
    const [id] = last[count]!;
    await redis.call("XSETID", this.keys.log, id);
    await redis.hset(this.keys.run, "head", id.slice(0, -2));
  }

  /** Another log, which the gateway is not told of. */
  async replaceUnheard(epoch: string): Promise<void> {
    const [head, before] = await redis.hmget(this.keys.run, "head", "epoch");
    await redis.hset(this.keys.run, { epoch, earlier: `${head}:${before}` });
  }
}

const newNotebook = () => new Notebook(new Semaphore(2));

/** Answers what Redis has, when it is let, and as often as it may. */
class HeldReader extends LogReader {
  gate: Gate | undefined;
  snapshotGate: Gate | undefined;
  snapshots = 0;
  failures = 0;
  reads = 0;
  /** Pages that have been read, and may be kept back. */
  held = 0;

  override async page(runId: string, after: number, maxBytes: number): Promise<Page | null> {
    this.reads++;
    if (this.failures-- > 0) throw new Error("Connection is closed.");
    const page = await super.page(runId, after, maxBytes);
    this.held++;
    await this.gate?.passed;
    return page;
  }

  override async snapshotSlice(runId: string, from: number, count: number) {
    const slice = await super.snapshotSlice(runId, from, count);
    this.snapshots++;
    await this.snapshotGate?.passed;
    return slice;
  }
}

let reader: HeldReader;
let idle: number;
let opened: Subscription[];

beforeEach(() => {
  prefix = testPrefix();
  reader = new HeldReader(redis, prefix);
  idle = 0;
  opened = [];
});
afterEach(() => {
  for (const subscription of opened) subscription.close();
});

function feedOf({ runId }: Run): Feed {
  return new Feed(new RunLog(prefix, runId), {
    reader,
    live,
    reads: new Semaphore(4),
    cache: new PageCache<FeedPage>(100_000),
    options: { pageBytes: 1_000 },
    onIdle: () => idle++,
  });
}

/** A subscription, begun. `isLive`: it has come to where the log ends. */
async function follow(
  feed: Feed,
  {
    after = 0,
    epoch = "e1",
    filter,
    outlet = newNotebook(),
  }: {
    after?: number;
    epoch?: string;
    filter?: Filter;
    outlet?: Notebook<Semaphore>;
  } = {},
): Promise<{
  outlet: Notebook<Semaphore>;
  subscription: Subscription;
  sees: (...seen: string[]) => Promise<void>;
}> {
  await feed.acquire();
  const subscription = new Subscription(feed, { after, epoch }, { passes: passingParts(filter) }, outlet);
  opened.push(subscription);
  subscription.start();
  const sees = async (...seen: string[]) => {
    await until(
      () => outlet.seen.length >= seen.length,
      5_000,
      `${seen.join(", ")} (${outlet.seen.join(", ")})`,
    );
    expect(outlet.seen).toEqual(seen);
  };
  return { outlet, subscription, sees };
}

describe("P1: a subscription", () => {
  test("reads what there is, and then gets what comes, once each and in order", async () => {
    const run = await Run.open();
    await run.write("a", "b");
    const { sees, outlet } = await follow(feedOf(run));
    await sees("1:a", "2:b");
    const { reads } = reader;
    await run.write("c", "d");
    await sees("1:a", "2:b", "3:c", "4:d");
    // What came live was not read.
    expect(reader.reads).toBe(reads);
    expect(outlet.removed).toBe(0);
  });

  test("begins behind what its socket has, in the middle of a batch too", async () => {
    const run = await Run.open();
    for (const text of ["a", "b", "c"]) void run.writer.write({ type: "custom", ns: [], data: text });
    await run.writer.flush();
    const { sees } = await follow(feedOf(run), { after: 2 });
    await sees("3:c");
  });

  test("gets each part once where a page has brought what a message brings later", async () => {
    const run = await Run.open();
    await run.write("a");
    const feed = feedOf(run);
    const { sees, outlet } = await follow(feed);
    await sees("1:a");
    reader.gate = new Gate();
    outlet.writable = false;
    // Over its mark: it goes back to the log, whose page holds both.
    await run.write("b", "c");
    await until(() => outlet.isWaitedFor);
    outlet.writable = true;
    reader.gate.open();
    await sees("1:a", "2:b", "3:c");
    const again: Part[] = [{ type: "custom", ns: [], data: "b" }];
    const { reads } = reader;
    await redis.publish(run.keys.live, `2:1:e1\n${JSON.stringify(again)}`);
    await run.write("d");
    await sees("1:a", "2:b", "3:c", "4:d");
    // It was no news: nobody has to look.
    expect(reader.reads).toBe(reads);
  });

  test("P2: reads the log where a message did not come", async () => {
    const run = await Run.open();
    await run.write("a");
    const { sees } = await follow(feedOf(run));
    await sees("1:a");
    await run.writeUnheard("b");
    await run.write("c");
    await sees("1:a", "2:b", "3:c");
  });

  test("P2: is told by a look at the log where no message comes any more", async () => {
    const run = await Run.open();
    await run.write("a");
    const feed = feedOf(run);
    const { sees } = await follow(feed);
    await sees("1:a");
    await run.writeUnheard("b");
    await feed.refresh();
    await sees("1:a", "2:b");
  });

  test("reads again where Redis could not be read", async () => {
    const run = await Run.open();
    await run.write("a");
    reader.failures = 2;
    const { sees } = await follow(feedOf(run));
    await sees("1:a");
    expect(reader.reads).toBe(3);
  });

  test("ends with the run, once, and lets its feed go", async () => {
    const run = await Run.open();
    await run.write("a");
    const feed = feedOf(run);
    const { sees, outlet, subscription } = await follow(feed);
    await sees("1:a");
    await run.writer.finish({ event: "completed" });
    await sees("1:a", "2:completed", "unsubscribed ended");
    expect([outlet.removed, idle]).toEqual([1, 1]);
    subscription.close();
    expect([outlet.removed, idle]).toEqual([1, 1]);
    // One that comes after it gets it from the log.
    const late = await follow(feed, { after: 1 });
    await late.sees("2:completed", "unsubscribed ended");
  });

  test("of a run that has expired says so", async () => {
    const run = await Run.open();
    await run.write("a");
    const feed = feedOf(run);
    const { sees, outlet } = await follow(feed);
    await sees("1:a");
    await redis.del(run.keys.run, run.keys.log);
    await feed.refresh();
    await sees("1:a", "unsubscribed expired");
    expect([outlet.removed, idle]).toEqual([1, 1]);
  });
});

describe("P8: a socket that takes no more", () => {
  test("is sent nothing until it does, and then what it missed", async () => {
    const run = await Run.open();
    await run.write("a");
    const { sees, outlet } = await follow(feedOf(run));
    await sees("1:a");
    outlet.writable = false;
    await run.write("b", "c");
    await until(() => outlet.isWaitedFor);
    await sees("1:a");
    outlet.writable = true;
    await sees("1:a", "2:b", "3:c");
    await run.write("d");
    await sees("1:a", "2:b", "3:c", "4:d");
  });

  test("and goes meanwhile is sent nothing any more, and gives its turn back", async () => {
    const run = await Run.open();
    await run.write("a", "b");
    const outlet = newNotebook();
    outlet.writable = false;
    const { subscription } = await follow(feedOf(run), { outlet });
    await until(() => outlet.isWaitedFor);
    subscription.close();
    outlet.closed = outlet.writable = true;
    // Both of its turns.
    await outlet.turns.acquire();
    await outlet.turns.acquire();
    expect(outlet.seen).toEqual([]);
    expect(idle).toBe(1);
  });
});

describe("P1: a log that is replaced", () => {
  test("is told before any part of the new one comes, and is read from its beginning", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    const feed = feedOf(run);
    const { sees } = await follow(feed);
    await sees("1:a", "2:b", "3:c");
    await run.lose(2);
    await run.writer.renew("e2");
    await sees("1:a", "2:b", "3:c", "reset e2", "1:a");
    await run.claim();
    await run.write("B", "C", "D");
    await sees("1:a", "2:b", "3:c", "reset e2", "1:a", "2:B", "3:C", "4:D");
    expect(feed).toMatchObject({ epoch: "e2", head: 4 });
  });

  test("also where nothing told of it but a batch that fits", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    const { sees } = await follow(feedOf(run));
    await sees("1:a", "2:b", "3:c");
    await run.lose(2);
    await run.replaceUnheard("e2");
    await run.writeUnheard("B");
    await run.writeUnheard("C");
    await run.write("D");
    await sees("1:a", "2:b", "3:c", "reset e2", "1:a", "2:B", "3:C", "4:D");
  });

  test("also where nothing told of it but a look at the log, which is shorter", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    const feed = feedOf(run);
    const { sees } = await follow(feed);
    await sees("1:a", "2:b", "3:c");
    feed.nudge();
    await run.lose(2);
    await run.replaceUnheard("e2");
    await feed.refresh();
    await sees("1:a", "2:b", "3:c", "reset e2", "1:a");
    // The head is the new log's: who has all of that is live.
    expect(feed.head).toBe(1);
    const { reads } = reader;
    feed.nudge();
    await run.claim();
    await run.write("B");
    await sees("1:a", "2:b", "3:c", "reset e2", "1:a", "2:B");
    expect(reader.reads).toBe(reads);
  });

  test("is gone on in by who has nothing that is not in it", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    const feed = feedOf(run);
    const behind = newNotebook();
    behind.writable = false;
    const { sees } = await follow(feed, { after: 1, outlet: behind });
    await until(() => behind.isWaitedFor);
    const ahead = await follow(feed, { after: 2 });
    await ahead.sees("3:c");
    await run.lose(2);
    await run.writer.renew("e2");
    await run.claim();
    await run.write("B");
    behind.writable = true;
    await sees("2:B");
    await ahead.sees("3:c", "reset e2", "1:a", "2:B");
    await run.write("C");
    await sees("2:B", "3:C");
  });

  test("after its ending: it is followed again", async () => {
    const run = await Run.open();
    await run.write("a", "b");
    const feed = feedOf(run);
    const outlet = newNotebook();
    const { sees } = await follow(feed, { outlet });
    await sees("1:a", "2:b");
    outlet.writable = false;
    // Its ending is known, and not taken yet, when Redis loses it.
    await run.writer.finish({ event: "completed" });
    await until(() => feed.ended && outlet.isWaitedFor);
    await run.lose(1);
    await redis.hset(run.keys.run, "status", "running");
    await run.replaceUnheard("e2");
    outlet.writable = true;
    // It has nothing that is not in the new log.
    await until(() => feed.epoch === "e2" && !feed.ended);
    await run.claim();
    await run.write("c");
    await sees("1:a", "2:b", "3:c");
    await run.write("d");
    await sees("1:a", "2:b", "3:c", "4:d");
  });
});

describe("P1: what a feed knows is of one log", () => {
  const lost = async (run: Run) => {
    await run.lose(2);
    await run.writer.renew("e2");
  };

  test("a record of another one is no news of it", async () => {
    const run = await Run.open();
    const feed = feedOf(run);
    feed.learn({ epoch: "e2", head: 1, status: "running" });
    feed.learn({ epoch: "e1", head: 9, status: "completed" });
    expect(feed).toMatchObject({ epoch: "e2", head: 1, ended: false });
    feed.learn({ epoch: "e2", head: 3, status: "completed" });
    expect(feed).toMatchObject({ epoch: "e2", head: 3, ended: true });
  });

  test("its pages are not read any more when it is replaced", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    const feed = feedOf(run);
    await feed.acquire();
    feed.enterBehind();
    expect(await feed.page(0)).toMatchObject({ epoch: "e1", head: 3 });
    await lost(run);
    await until(() => feed.epoch === "e2");
    expect(await feed.page(0)).toMatchObject({ epoch: "e2", head: 1, batch: { first: 1, last: 1 } });
    feed.leaveBehind();
    feed.release();
  });

  test("nor is one that was on its way", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    const feed = feedOf(run);
    await feed.acquire();
    feed.learn({ epoch: "e1", head: 3, status: "running" });
    reader.gate = new Gate();
    const page = feed.page(0);
    await until(() => reader.held === 1);
    await lost(run);
    await until(() => feed.epoch === "e2");
    reader.gate.open();
    expect(await page).toMatchObject({ epoch: "e2", head: 1 });
    expect(feed).toMatchObject({ epoch: "e2", head: 1 });
    feed.release();
  });
});

describe("P1: a log that was trimmed", () => {
  test("what it added up to comes in its place", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    await run.writer.trim(2, JSON.stringify({ offset: 2, messages: [], values: {} }));
    const { sees } = await follow(feedOf(run));
    await sees("snapshot 2", "3:c");
    await run.write("d");
    await sees("snapshot 2", "3:c", "4:d");
  });

  test("but not to a socket that has gone while it was read", async () => {
    const run = await Run.open();
    await run.write("a", "b", "c");
    await run.writer.trim(2, JSON.stringify({ offset: 2, messages: [], values: {} }));
    reader.snapshotGate = new Gate();
    const { outlet, subscription } = await follow(feedOf(run));
    await until(() => reader.snapshots === 1);
    subscription.close();
    reader.snapshotGate.open();
    await outlet.turns.acquire();
    await outlet.turns.acquire();
    expect(outlet.seen).toEqual([]);
  });
});

test("a filter leaves out what it leaves out, and says so", async () => {
  const run = await Run.open();
  await run.write("a");
  const { sees } = await follow(feedOf(run), { filter: { modes: ["messages"] } });
  await sees("1 skips 1");
  void run.writer.write(lifecycle({ event: "started", attempt: 1 }));
  await run.writer.flush();
  await sees("1 skips 1", "2:started");
});
