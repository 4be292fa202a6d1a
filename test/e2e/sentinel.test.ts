import { checkRedis, connectRedis } from "@throughline/kit";
import { LogReader } from "@throughline/runlog";
import { afterAll, beforeAll, expect, test } from "vitest";
import { count, countText } from "../support/agents.ts";
import { type Line, startLine } from "../support/line.ts";
import { startSentinels, type TestSentinels } from "../support/sentinel.ts";
import { until } from "../support/until.ts";

let sentinels: TestSentinels;
let line: Line;
beforeAll(async () => {
  sentinels = await startSentinels();
  line = await startLine({ agents: { count }, gateways: 2, workers: 2, redisUrl: sentinels.url });
});
afterAll(async () => {
  await line?.stop();
  await sentinels?.stop();
});

test("a master that the Sentinels do not know is said to be none of theirs", async () => {
  const redis = connectRedis(sentinels.url.replace("mymaster", "yourmaster"), "commands");
  const failure = await checkRedis(redis, { timeoutMs: 500 }).catch((error: unknown) => error);
  redis.disconnect();
  expect((failure as Error).message).toMatch(
    /^Redis at yourmaster of the Sentinels 127\.0\.0\.1:\d+,.* is not available: /,
  );
  expect((failure as Error).message).toContain("All sentinels are unreachable");
});

test("P1, P5: the master dies during runs: its replica takes over, and they go on to their ends", async () => {
  const clients = [await line.client(0), await line.client(1)] as const;
  const runs = await Promise.all(
    Array.from({ length: 12 }, (_, i) =>
      clients[i % 2]!.start({ agent: "count", input: { n: 300, ms: 10 } }),
    ),
  );
  await until(() => runs.every((run) => run.last > 10));
  const commands = connectRedis(sentinels.url, "commands");
  const worker = connectRedis(sentinels.url, "worker");
  await checkRedis(commands);
  await checkRedis(worker);

  sentinels.killMaster();
  await until(() => commands.status !== "ready" && worker.status !== "ready");
  // In the same turn of the event loop: no replica has come to this connection meanwhile.
  await expect(commands.get("x")).rejects.toThrow();
  const waiting = worker.incr(`${line.prefix}:{x}`);

  for (const run of runs) {
    expect(await run.ended()).toMatchObject({ event: "completed" });
    expect(run.text).toBe(countText(300));
    const logged = [];
    for await (const { part } of new LogReader(line.redis, line.prefix).parts(run.runId)) logged.push(part);
    expect(run.parts).toEqual(logged);
  }
  expect(await waiting).toBe(1);
  const after = await clients[0].start({ agent: "count", input: { n: 5 } });
  expect(await after.ended()).toMatchObject({ event: "completed" });
  commands.disconnect();
  worker.disconnect();
});
