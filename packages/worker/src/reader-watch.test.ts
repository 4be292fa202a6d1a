/** What a worker decides of readers where time and Redis are the test's. The rest is in test/e2e/unread.test.ts. */
import { Fold } from "@throughline/protocol";
import { LogWriter, RunStore } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { Attempt, RunCancelledError } from "./attempt.ts";
import { ReaderWatch } from "./reader-watch.ts";

const graceMs = 2_000;
let redis: Redis;
let attempt: Attempt;
let isRead: () => Promise<boolean>;
let cancels: number;

beforeEach(async () => {
  redis = new Redis(testRedisUrl());
  const prefix = testPrefix();
  const run = { runId: "run", threadId: "t", agent: "a", owner: "o", epoch: "e", request: "{}" };
  await new RunStore(redis, { prefix }).open(run);
  const claimed = await new LogWriter(redis, { prefix }).claim("run");
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  attempt = new Attempt(claimed.writer, new Fold());
  isRead = async () => false;
  cancels = 0;
  vi.useFakeTimers({ toFake: ["performance"] });
});
afterEach(() => {
  vi.useRealTimers();
  redis.disconnect();
});

const watch = () =>
  new ReaderWatch(attempt, graceMs, {
    isRead: () => isRead(),
    cancel: async () => {
      cancels++;
    },
  });

test("it gives the first reader its grace, and then cancels", async () => {
  const readers = watch();
  await readers.look();
  vi.advanceTimersByTime(graceMs - 1);
  await readers.look();
  expect(cancels).toBe(0);
  vi.advanceTimersByTime(1);
  isRead = async () => true;
  await readers.look();
  expect(cancels).toBe(0);
  isRead = async () => false;
  await readers.look();
  expect(cancels).toBe(1);
});

test.each([
  [
    "cannot be asked",
    async () => {
      throw new Error("away");
    },
  ],
  [
    "takes long to answer",
    async () => {
      vi.advanceTimersByTime(5_000);
      return false;
    },
  ],
])("where Redis %s, gateways get the time to say again that somebody reads", async (_, away) => {
  const readers = watch();
  vi.advanceTimersByTime(10 * graceMs);
  isRead = away;
  await readers.look();
  isRead = async () => false;
  vi.advanceTimersByTime(3_500);
  await readers.look();
  expect(cancels).toBe(0);
  vi.advanceTimersByTime(1_000);
  await readers.look();
  expect(cancels).toBe(1);
});

test("a cancel that fails is tried again; an attempt that was stopped asks nothing", async () => {
  let fails = true;
  const readers = new ReaderWatch(attempt, 0, {
    isRead: () => isRead(),
    cancel: async () => {
      cancels++;
      if (fails) throw new Error("away");
    },
  });
  await readers.look();
  fails = false;
  vi.advanceTimersByTime(5_000);
  await readers.look();
  expect(cancels).toBe(2);
  attempt.stop(new RunCancelledError());
  isRead = async () => {
    throw new Error("asked");
  };
  await readers.look();
  expect(cancels).toBe(2);
});
