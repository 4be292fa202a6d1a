import { Redis } from "ioredis";
import { expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Dispatcher } from "./dispatcher.ts";
import { defaultQueue } from "./queue.ts";

test("a thread takes so many runs in line; who is there already stays", async () => {
  const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const dispatcher = new Dispatcher(redis, { prefix: testPrefix(), maxInLine: 2 });
  const start = (idempotencyKey: string) =>
    dispatcher.start({
      agent: "a",
      owner: "alice",
      threadId: "t",
      idempotencyKey,
      request: { queue: defaultQueue },
    });
  const first = await start("one");
  const second = await start("two");
  const busy = { code: "thread_busy", details: { activeRunId: first.runId } };
  await expect(start("three")).rejects.toMatchObject(busy);
  expect(await start("two")).toMatchObject({ runId: second.runId, created: false });
  expect(await dispatcher.cancel(first.runId, { keep: "discard" })).toMatchObject({ outcome: "ended" });
  expect(await start("three")).toMatchObject({ created: true });
  await dispatcher.close();
  redis.disconnect();
});
