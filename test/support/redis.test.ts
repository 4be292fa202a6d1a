import { Redis } from "ioredis";
import { expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "./redis.ts";

test("the run's Redis answers, and prefixes differ", async () => {
  const redis = new Redis(testRedisUrl());
  try {
    expect(await redis.ping()).toBe("PONG");
  } finally {
    redis.disconnect();
  }
  expect(testPrefix()).not.toBe(testPrefix());
});
