import type { Part } from "@throughline/protocol";
import { Redis } from "ioredis";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { killConnections } from "../../../test/support/connections.ts";
import { testLogger } from "../../../test/support/logger.ts";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { ScriptedRun } from "../../../test/support/run.ts";
import { until } from "../../../test/support/until.ts";
import { Hub } from "./hub.ts";

const own = (text: string): Part => ({ type: "custom", ns: [], data: text });

const hubOptions = () => ({
  prefix,
  gatewayId: "g",
  pageBytes: 1_000,
  cacheBytes: 10_000,
  maxReads: 4,
  // No probe comes to its aid.
  probeMs: 3_600_000,
  revive: async () => {},
});

let prefix: string;
let redis: Redis;
let subscriber: Redis;
let hub: Hub;

beforeEach(async () => {
  prefix = testPrefix();
  redis = new Redis(testRedisUrl());
  subscriber = new Redis(testRedisUrl(), {
    connectionName: prefix,
    autoResubscribe: false,
    maxRetriesPerRequest: null,
    retryStrategy: () => 10,
  });
  subscriber.on("error", () => {}); // It is cut on purpose.
  await until(() => subscriber.status === "ready");
  hub = new Hub(redis, subscriber, hubOptions(), testLogger);
});
afterEach(() => {
  hub.close();
  redis.disconnect();
  subscriber.disconnect();
});

test("P2: when its subscriptions were lost, and are there again, it looks at the log", async () => {
  const run = await ScriptedRun.open(redis, prefix, "run");
  const feed = hub.feed(run.runId);
  const told: number[] = [];
  feed.join({ onBatch: ({ last }) => told.push(last), onHead: (head) => told.push(head), onWake: () => {} });
  await feed.acquire();
  await run.append([own("heard")]);
  await until(() => told.length === 1);
  await run.appendUnheard([own("lost")]);
  expect(feed.head).toBe(1);
  expect(await killConnections(redis, prefix)).toBe(1);
  await until(() => told.length === 2);
  expect(told).toEqual([1, 2]);
  await run.append([own("heard again")]);
  await until(() => told.length === 3);
  expect(told).toEqual([1, 2, 3]);
  feed.release();
  expect(hub.size).toBe(0);
});

test("however long its subscriber does not deliver, that is one warning, and one line when it does again", async () => {
  const lines: { level: number; msg: string }[] = [];
  const logger = pino({ level: "info" }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const dead = new Redis({
    port: 1,
    autoResubscribe: false,
    maxRetriesPerRequest: null,
    retryStrategy: () => 10,
  });
  dead.on("error", () => {}); // Nothing listens there.
  const watched = new Hub(redis, dead, { ...hubOptions(), probeMs: 400 }, logger);
  watched.close(); // It probes when the test says so.
  for (let i = 0; i < 3; i++) await watched.probe();
  expect(lines.map(({ level }) => level)).toEqual([40]);
  dead.options.port = subscriber.options.port!;
  await until(async () => {
    await watched.probe();
    return lines.length > 1;
  });
  expect(lines.map(({ level }) => level)).toEqual([40, 30]);
  expect(lines[1]!.msg).toMatch(/delivers again after \d+\.\d s$/);
  dead.disconnect();
});
