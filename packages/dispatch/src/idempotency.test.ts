import { Redis } from "ioredis";
import { expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Dispatcher } from "./dispatcher.ts";
import { defaultQueue } from "./queue.ts";

test("an idempotency key is kept for a day, and no longer for being used again", async () => {
  const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const prefix = testPrefix();
  const dispatcher = new Dispatcher(redis, { prefix });
  const request = { queue: defaultQueue };
  const start = () => dispatcher.start({ agent: "a", owner: "alice", idempotencyKey: "k", request });
  const { runId } = await start();
  const [key] = await redis.keys(`${prefix}:*:idempotency`);
  const hour = 60 * 60;
  const left = await redis.ttl(key!);
  expect(left).toBeGreaterThan(23 * hour);
  expect(left).toBeLessThanOrEqual(24 * hour);
  await redis.expire(key!, hour);
  expect(await start()).toMatchObject({ runId, created: false });
  expect(await redis.ttl(key!)).toBeLessThanOrEqual(hour);
  await dispatcher.close();
  redis.disconnect();
});
