import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Dispatcher } from "./dispatcher.ts";
import { defaultQueue } from "./queue.ts";

let redis: Redis;
let dispatcher: Dispatcher;
beforeEach(() => {
  redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  dispatcher = new Dispatcher(redis, { prefix: testPrefix() });
});
afterEach(async () => {
  await dispatcher.close();
  redis.disconnect();
});

test("what has expired leaves no hole in a list, on whichever page it is found", async () => {
  const request = { queue: defaultQueue };
  const runIds: string[] = [];
  for (let i = 0; i < 130; i++) {
    const { runId } = await dispatcher.start({ agent: "a", owner: "alice", threadId: `t${i}`, request });
    runIds.push(runId);
  }
  const list = async (limit: number) =>
    (await dispatcher.list({ owner: "alice", limit })).runs.map(({ runId }) => runId);
  // Newest first; of those that came within a millisecond in the order of their ids.
  const before = await list(200);
  expect([...before].sort()).toEqual([...runIds].sort());
  const expired = new Set(before.filter((_, i) => i % 5 === 0 && i < 70));
  for (const runId of expired) await dispatcher.runs.remove(runId);
  const left = before.filter((runId) => !expired.has(runId));
  expect(await list(60)).toEqual(left.slice(0, 60));
  expect(await list(200)).toEqual(left);
});

test("a run is looked at without what it was asked", async () => {
  const request = { queue: defaultQueue, input: "large" };
  const { runId } = await dispatcher.start({ agent: "a", owner: "alice", request, metadata: { a: 1 } });
  const looked = await dispatcher.runs.look(runId);
  const { record, owner, earlier } = await dispatcher.runs.must(runId);
  expect(looked).toEqual({ record, owner, queue: defaultQueue, earlier });
  expect(await dispatcher.runs.look("nobody")).toBeNull();
});

test.each([undefined, "queued" as const])(
  "a list of large runs (status %s) is as large as it may be, and says where to go on",
  async (status) => {
    const request = { queue: defaultQueue };
    const metadata = { pad: "x".repeat(9_500) };
    for (let i = 0; i < 45; i++) {
      await dispatcher.start({ agent: "a", owner: "alice", threadId: `t${i}`, request, metadata });
    }
    const query = { owner: "alice", limit: 200, ...(status && { status }) };
    const all = (await dispatcher.list(query)).runs.map(({ runId }) => runId);
    expect(all).toHaveLength(45);
    const pages: string[][] = [];
    let before: string | undefined;
    do {
      const page = await dispatcher.list({ ...query, maxSize: 95_000, ...(before && { before }) });
      pages.push(page.runs.map(({ runId }) => runId));
      before = page.next;
    } while (before !== undefined);
    expect(pages.flat()).toEqual(all);
    expect(pages.map((page) => page.length)).toEqual([10, 10, 10, 10, 5]);
  },
);
