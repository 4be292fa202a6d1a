import { expect, test } from "vitest";
import { testRedisUrl } from "../support/redis.ts";
import { type StormOptions, storm } from "./storm.ts";

/** Short forms of what docs/reliability.md has the figures of. */
const play = (options: Partial<StormOptions>) =>
  storm({ clients: 300, parts: 500, runs: 40, redisUrl: testRedisUrl(), ...options });

test("P1, P7: clients that come back at once, each of them 500 parts behind, get all of it, and nobody is closed", async () => {
  const { violations, closes } = await play({});
  expect(violations).toEqual([]);
  expect([...closes]).toEqual([]);
});

test("P7, P8: those that stop reading are closed in the end; they keep nobody waiting, and their memory is bounded", async () => {
  const { violations, closes } = await play({
    ...{ clients: 200, paused: 0.1, pausedMs: 7_000 },
    gateway: { SLOW_SOCKET_MS: "2000", HEARTBEAT_MS: "2000" },
  });
  expect(violations).toEqual([]);
  expect([...closes.keys()]).toEqual([4408]);
  expect(closes.get(4408)).toBeGreaterThan(10);
});

test("P7: with more at once than the gateway takes in, the rest hears 1013, backs off, and gets in later", async () => {
  const { violations, closes } = await play({
    clients: 80,
    runs: 4,
    parts: 100,
    gateway: { CONNECTIONS_PER_SECOND: "40" },
  });
  expect(violations).toEqual([]);
  expect([...closes.keys()]).toEqual([1013]);
  expect(closes.get(1013)).toBeGreaterThan(10);
});
