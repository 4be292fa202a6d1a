/** P2: published messages are hints. Whichever of them is lost, nobody has to reconnect to have every part. */
import { setTimeout as sleep } from "node:timers/promises";
import { runKeys } from "@throughline/runlog";
import { type AgentContext, custom } from "@throughline/worker";
import { expect, test } from "vitest";
import { count } from "../support/agents.ts";
import { killConnections } from "../support/connections.ts";
import { type Line, startLine } from "../support/line.ts";
import { startProxy } from "../support/proxy.ts";
import { startPrivateRedis, testRedisUrl } from "../support/redis.ts";
import { ScriptedRun } from "../support/run.ts";
import type { Transcript } from "../support/transcript.ts";
import { until } from "../support/until.ts";

async function* patient({ signal }: AgentContext) {
  yield "waiting";
  await sleep(60_000, undefined, { signal });
}

test.concurrent("an ending whose message is lost is found, though every connection is well", async () => {
  const line = await startLine({ workers: 0 });
  try {
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    const reader = await (await line.client()).follow(run.runId);
    await run.append([custom(1)]);
    await until(() => reader.last === 1);
    await run.appendUnheard([custom(2)]);
    await run.finishUnheard();
    await reader.ended();
    expect(reader.offsets).toEqual([1, 2, 3]);
  } finally {
    await line.stop();
  }
});

test.concurrent("a subscriber that is killed again and again costs no part", async () => {
  const redis = await startPrivateRedis();
  const line = await startLine({ agents: { count }, redisUrl: redis.url });
  try {
    const client = await line.client();
    const reader = await client.start({ agent: "count", input: { n: 400, ms: 5 } });
    for (let kills = 0; kills < 10; kills++) {
      const { last } = reader;
      await until(async () => (await killConnections(line.redis, "throughline-gateway:subscriber")) === 1);
      await until(() => reader.last > last + 5 || reader.ending !== undefined);
    }
    await reader.ended();
    expect(reader.offsets).toEqual(Array.from({ length: 402 }, (_, i) => i + 1));
  } finally {
    await line.stop();
    await redis.stop();
  }
});

/** Longer than any test takes. */
const never = 3_600_000;

/** What a worker's own times make of a cancel. */
async function withPatient(
  times: { tickMs?: number; proveMs?: number },
  play: (
    start: () => Promise<Transcript>,
    cancel: (run: Transcript) => Promise<void>,
    proxy: Awaited<ReturnType<typeof startProxy>>,
    line: Line,
  ) => Promise<void>,
): Promise<void> {
  const proxy = await startProxy(testRedisUrl());
  const line = await startLine({ workers: 0 });
  try {
    await line.addWorker({ agents: { patient }, redis: proxy.url }, times);
    const client = await line.client();
    const start = async () => {
      const run = await client.start({ agent: "patient" });
      await until(() => run.last === 2);
      return run;
    };
    const cancel = async (run: Transcript) => {
      await client.call("run.cancel", { runId: run.runId });
      expect(await run.ended()).toMatchObject({ event: "cancelled" });
    };
    await play(start, cancel, proxy, line);
  } finally {
    await line.stop();
    proxy.close();
  }
}

test.concurrent("P3: a cancel stops a worker that says nothing by its message alone", () =>
  withPatient({ tickMs: never, proveMs: never }, async (start, cancel) => await cancel(await start())));

test.concurrent("P3: a cancel whose message the worker cannot hear stops it at its next tick", () =>
  withPatient({ proveMs: never }, async (start, cancel, proxy) => {
    const run = await start();
    expect(proxy.mute("throughline-worker:subscriber")).toBe(1);
    await cancel(run);
  }));

test.concurrent("P3: a worker that hears nothing finds out, and gets a connection that brings it cancels again", () =>
  withPatient({ tickMs: never }, async (start, cancel, proxy, { redis, prefix }) => {
    const run = await start();
    expect(proxy.mute("throughline-worker:subscriber")).toBe(1);
    const { control } = runKeys(prefix, run.runId);
    await until(() => proxy.muted("throughline-worker:subscriber") === 0);
    await until(async () => Number(((await redis.call("PUBSUB", "NUMSUB", control)) as unknown[])[1]) === 1);
    await cancel(run);
  }));

test.concurrent("a worker whose connections are open and deliver nothing takes runs again", async () => {
  const proxy = await startProxy(testRedisUrl());
  const line = await startLine({ workers: 0 });
  try {
    await line.addWorker({ agents: { count }, redis: proxy.url });
    const client = await line.client();
    await (await client.start({ agent: "count", input: { n: 1 } })).ended();
    // All that it has: its own three, and the one that BullMQ blocks in.
    expect(proxy.mute("")).toBe(4);
    const reader = await client.start({ agent: "count", input: { n: 1 } });
    await reader.ended();
    expect(reader.text).toBe("0 ");
  } finally {
    await line.stop();
    proxy.close();
  }
});
