import { randomBytes } from "node:crypto";

export { type PrivateRedis, type PrivateRedisOptions, startPrivateRedis } from "@throughline/local";

/** The Redis that the whole test run shares; keep to a `testPrefix()` in it. */
export function testRedisUrl(): string {
  const url = process.env.TEST_REDIS_URL;
  if (url === undefined)
    throw new Error("TEST_REDIS_URL is not set: the test run starts Redis in global-setup.ts");
  return url;
}

/** A key prefix that no other test has. */
export function testPrefix(): string {
  return `test-${randomBytes(6).toString("hex")}`;
}
