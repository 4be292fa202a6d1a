import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { killConnections } from "../../../test/support/connections.ts";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { patienceMs, until } from "../../../test/support/until.ts";
import { LiveSubscriber } from "./live.ts";

let prefix: string;
let redis: Redis;
let subscriber: Redis;
let gaps: number;
let live: LiveSubscriber;

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
  await new Promise((resolve) => subscriber.once("ready", resolve));
  gaps = 0;
  live = new LiveSubscriber(subscriber, { onGap: () => gaps++ });
});
afterEach(() => {
  redis.disconnect();
  subscriber.disconnect();
});

function heard(channel: string): { messages: string[]; subscribed: Promise<void> } {
  const messages: string[] = [];
  return { messages, subscribed: live.subscribe(channel, (message) => messages.push(message.toString())) };
}

test("what is published once `subscribe` has resolved arrives, on its own channel only", async () => {
  const all = Array.from({ length: 1_200 }, (_, i) => heard(`${prefix}:${i}`));
  await Promise.all(all.map(({ subscribed }) => subscribed));
  expect(live.size).toBe(1_200);
  for (const i of [0, 511, 512, 1_199]) expect(await redis.publish(`${prefix}:${i}`, `to ${i}`)).toBe(1);
  await until(() => all[1_199]!.messages.length === 1);
  expect(all.flatMap(({ messages }) => messages)).toEqual(["to 0", "to 511", "to 512", "to 1199"]);
  expect(gaps).toBe(0);
});

test("P2: a killed connection is subscribed again, and only then the gap is told", async () => {
  const channels = Array.from({ length: 600 }, (_, i) => `${prefix}:${i}`);
  const all = channels.map(heard);
  await Promise.all(all.map(({ subscribed }) => subscribed));
  for (let round = 1; round <= 3; round++) {
    expect(await killConnections(redis, prefix)).toBe(1);
    await until(() => gaps === round);
    // Whoever reads the log now misses nothing: the subscriptions are there again.
    const counts = (await redis.pubsub("NUMSUB", ...channels)) as (string | number)[];
    expect(counts.filter((_, i) => i % 2 === 1)).toEqual(channels.map(() => 1));
  }
  await redis.publish(channels[599]!, "again");
  await until(() => all[599]!.messages.length === 1);
});

test("P2: a kill while someone subscribes: it resolves, and what is published then arrives", async () => {
  for (let round = 0; round < 20; round++) {
    const one = heard(`${prefix}:${round}`);
    const killing = killConnections(redis, prefix);
    await one.subscribed;
    await killing;
    // Either this message arrives, or a gap is told: never neither.
    const before = gaps;
    await redis.publish(`${prefix}:${round}`, "hello");
    await until(() => one.messages.length > 0 || gaps > before, patienceMs, `round ${round}`);
  }
});

test("an unsubscribed listener hears nothing; a later one of the same channel stays", async () => {
  const channel = `${prefix}:c`;
  const messages: string[] = [];
  const first = () => messages.push("first");
  const second = () => messages.push("second");
  await live.subscribe(channel, first);
  await live.subscribe(channel, second);
  live.unsubscribe(channel, first);
  await redis.publish(channel, "x");
  await until(() => messages.length === 1);
  expect(messages).toEqual(["second"]);
  live.unsubscribe(channel, second);
  expect(live.size).toBe(0);
  await until(async () => ((await redis.pubsub("NUMSUB", channel)) as unknown[])[1] === 0);
  // Nor does it come back with a reconnect.
  await killConnections(redis, prefix);
  await until(() => gaps === 1);
  expect(((await redis.pubsub("NUMSUB", channel)) as unknown[])[1]).toBe(0);
});

test("unsubscribing and subscribing at once leaves the channel subscribed", async () => {
  const channel = `${prefix}:c`;
  const listener = () => {};
  await live.subscribe(channel, listener);
  const messages: string[] = [];
  live.unsubscribe(channel, listener);
  await live.subscribe(channel, (message) => messages.push(message.toString()));
  await redis.publish(channel, "x");
  await until(() => messages.length === 1);
});

test("P2: a connection that delivers proves it; one that does not is replaced", async () => {
  const probe = `${prefix}:probe`;
  expect(
    await live.prove(
      () => probe,
      (channel) => redis.publish(channel, "alive"),
      60_000,
    ),
  ).toBe(true);
  const { messages, subscribed } = heard(`${prefix}:c`);
  await subscribed;
  const before = await subscriber.client("ID");
  // Nothing is published: to us, it looks like a connection that swallows messages.
  expect(
    await live.prove(
      () => probe,
      async () => {},
      50,
    ),
  ).toBe(false);
  await until(() => gaps === 1);
  expect(await subscriber.client("ID")).not.toBe(before);
  expect(
    await live.prove(
      () => probe,
      (channel) => redis.publish(channel, "alive"),
      60_000,
    ),
  ).toBe(true);
  await redis.publish(`${prefix}:c`, "x");
  await until(() => messages.length === 1);
});

test("a channel that is left while the connection is away is not subscribed to when it is back", async () => {
  await killConnections(redis, prefix);
  await until(() => subscriber.status !== "ready");
  const listener = () => {};
  const subscribed = live.subscribe(`${prefix}:left`, listener);
  // The command is on its way, and waits for the connection.
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
  expect(subscriber.status).not.toBe("ready");
  live.unsubscribe(`${prefix}:left`, listener);
  await subscribed;
  await until(async () => ((await redis.pubsub("CHANNELS", `${prefix}:*`)) as string[]).length === 0);
});
