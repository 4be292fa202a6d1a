/** A Redis that is full takes no writes, but for those that make room: deleting a thread, and stopping its runs. */
import { LogWriter } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type PrivateRedis, startPrivateRedis } from "../../../test/support/redis.ts";
import { Dispatcher } from "./dispatcher.ts";
import { defaultQueue } from "./queue.ts";

let server: PrivateRedis;
beforeAll(async () => {
  server = await startPrivateRedis();
});
afterAll(() => server.stop());

test("a thread is deleted while Redis is full, with runs that have ended and that wait", async () => {
  const redis = new Redis(server.url, { maxRetriesPerRequest: null });
  const limits = { maxRuns: 10, maxBytes: 1e6 };
  const dispatcher = new Dispatcher(redis, { prefix: "full", limits });
  const log = new LogWriter(redis, { prefix: "full" });
  const request = { queue: defaultQueue };
  const start = () => dispatcher.start({ agent: "a", owner: "alice", threadId: "t", request });
  const ended = await start();
  for (let i = 0; i < 3; i++) await start();
  const first = await log.claim(ended.runId);
  if (first.outcome === "claimed") await first.writer.finish({ event: "completed" });
  await dispatcher.ended("alice", "t", ended.runId);
  await dispatcher.patchThread("alice", "t", { title: "x".repeat(1_000) });
  await redis.config("SET", "maxmemory", "1mb");
  await expect(start()).rejects.toThrow(/OOM/);
  await dispatcher.deleteThread("alice", "t", { deleteThread: async () => {} });
  expect(await dispatcher.threadRecord("alice", "t")).toBeNull();
  const left = await redis.keys("full:*");
  expect(left.filter((key) => key.includes("}:") && /run_|\/t\}/.test(key))).toEqual([]);
  await redis.config("SET", "maxmemory", "0");
  await dispatcher.close();
  redis.disconnect();
});
