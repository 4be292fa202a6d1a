import { randomBytes, randomInt } from "node:crypto";
import { createServer } from "node:net";

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

/**
 * A free port for a server that is to be stopped and started again: below those that systems give to outgoing
 * connections, one of which may otherwise take it meanwhile.
 */
export async function lastingPort(): Promise<number> {
  for (;;) {
    const port = randomInt(15_000, 32_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false)).listen(port, "127.0.0.1", () => resolve(true));
    });
    await new Promise((resolve) => server.close(resolve));
    if (isFree) return port;
  }
}
