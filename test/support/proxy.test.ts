import { Redis } from "ioredis";
import { expect, test } from "vitest";
import { startProxy } from "./proxy.ts";
import { testPrefix, testRedisUrl } from "./redis.ts";
import { until } from "./until.ts";

test("published messages are lost one by one, and the connection is none the worse for it", async () => {
  const proxy = await startProxy(testRedisUrl());
  const publisher = new Redis(testRedisUrl());
  const subscriber = new Redis(proxy.url, { connectionName: "listener" });
  try {
    const channel = `${testPrefix()}:live`;
    const heard: string[] = [];
    subscriber.on("message", (_, text) => heard.push(text));
    await subscriber.subscribe(channel);
    let count = 0;
    const stop = proxy.lose("listener", () => ++count % 2 === 0);
    for (let i = 1; i <= 6; i++) await publisher.publish(channel, `${i}`.padEnd(2_000, "."));
    await until(() => count === 6);
    stop();
    await publisher.publish(channel, "7");
    await until(() => heard.at(-1) === "7");
    expect(heard.map((text) => text.replaceAll(".", ""))).toEqual(["1", "3", "5", "7"]);
  } finally {
    subscriber.disconnect();
    publisher.disconnect();
    proxy.close();
  }
});
