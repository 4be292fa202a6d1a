/** A run whose job is gone, or whose thread's line names a run that is: whoever watches it puts that back. */
import { Dispatcher, queuePrefix, threadKey } from "@throughline/dispatch";
import { LogWriter, runKeys } from "@throughline/runlog";
import { Queue } from "bullmq";
import { expect, test } from "vitest";
import { count } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import { until } from "../support/until.ts";

interface Scene {
  line: Line;
  client: TestClient;
  dispatcher: Dispatcher;
  /** What a gateway leaves that dies before the last step of a start, or a failover that loses it. */
  loseJob(runId: string): Promise<void>;
  /** Ends a run as a worker does that dies before it has left the thread. */
  endAndDie(runId: string): Promise<void>;
}

/** A gateway, and no worker: one has been there, so that its agent is known. */
async function play(play: (scene: Scene) => Promise<void>): Promise<void> {
  const line = await startLine({ agents: { count }, times: { probeMs: 1_000, cancelWaitMs: 200 } });
  await line.workers.pop()!.close();
  const queue = new Queue("default", { connection: line.redis, prefix: queuePrefix(line.prefix) });
  try {
    await play({
      line,
      client: await line.client(),
      dispatcher: new Dispatcher(line.redis, { prefix: line.prefix }),
      async loseJob(runId) {
        expect(await queue.remove(runId)).toBe(1);
      },
      async endAndDie(runId) {
        const claimed = await new LogWriter(line.redis, { prefix: line.prefix }).claim(runId);
        if (claimed.outcome !== "claimed") throw new Error(`the run is ${claimed.outcome}`);
        await claimed.writer.finish({ event: "completed" });
      },
    });
  } finally {
    await queue.close();
    await line.stop();
  }
}

const agent = "count";
const input = { n: 3 };
// A gateway looks at a run that has been quiet for three seconds.

test.concurrent("P5: a run without a job goes on while somebody watches it", () =>
  play(async ({ line, client, loseJob }) => {
    const run = await client.start({ agent, input });
    await loseJob(run.runId);
    await line.addWorker();
    expect(await run.ended()).toMatchObject({ event: "completed" });
  }));

test.concurrent("P5: a run that lost its place in the thread's line gets one", () =>
  play(async ({ line, client, loseJob }) => {
    const run = await client.start({ agent, input, threadId: "t" });
    await loseJob(run.runId);
    expect(await line.redis.del(threadKey(line.prefix, "local", "t", "line"))).toBe(1);
    await line.addWorker();
    await run.ended();
  }));

test.concurrent("P5: a run does not wait for ever behind one that has ended, or is no more, without leaving", () =>
  play(async ({ line, client, loseJob, endAndDie, dispatcher }) => {
    const threadId = "t";
    const [gone, ended] = [
      await client.start({ agent, input, threadId, subscribe: false }),
      await client.start({ agent, input, threadId, subscribe: false }),
    ];
    const waiting = await client.start({ agent, input, threadId });
    await loseJob(gone.runId);
    await endAndDie(ended.runId);
    const { run, log } = runKeys(line.prefix, gone.runId);
    await line.redis.del(run, log);
    await line.addWorker();
    await waiting.ended();
    await until(async () => (await dispatcher.threadsOf("local").active(threadId)) === null);
  }));

test.concurrent("P3: a cancel of a run that lost its worker and its job is carried out by the next worker", () =>
  play(async ({ line, client, loseJob }) => {
    const run = await client.start({ agent, input });
    const log = new LogWriter(line.redis, { prefix: line.prefix });
    expect(await log.claim(run.runId)).toMatchObject({ outcome: "claimed" });
    await loseJob(run.runId);
    expect(await client.call("run.cancel", { runId: run.runId })).toEqual({
      runId: run.runId,
      status: "cancelling",
    });
    await line.addWorker();
    expect(await run.ended()).toMatchObject({ event: "cancelled" });
  }));

test.concurrent("a thread whose line names a run that has ended is not busy", () =>
  play(async ({ client, endAndDie }) => {
    const threadId = "t";
    const start = () => client.start({ agent, input, threadId, multitaskStrategy: "reject" });
    await endAndDie((await start()).runId);
    expect(await client.call("thread.update", { threadId, values: { a: 1 } })).toMatchObject({ threadId });
    await endAndDie((await start()).runId);
    const third = await start();
    expect(
      await client.refusal("run.start", { agent, input, threadId, multitaskStrategy: "reject" }),
    ).toMatchObject({
      code: "thread_busy",
      details: { activeRunId: third.runId },
    });
  }));

test.concurrent("a run whose worker died says that it is queued, until another has it", () =>
  play(async ({ line, client }) => {
    const run = await client.start({ agent, input: { n: 1_000, ms: 50 }, threadId: "t" });
    const { runId } = run;
    const status = async () => (await client.call("run.get", { runId })).status;
    const listed = async (status: "running" | "queued") =>
      (await client.call("run.list", { threadId: "t", status })).runs.map((each) => each.runId);
    expect(await status()).toBe("queued");
    // As one does that died a lock's time ago.
    await new LogWriter(line.redis, { prefix: line.prefix }).claim(runId);
    expect(await status()).toBe("queued");
    expect(await listed("queued")).toEqual([runId]);
    expect(await listed("running")).toEqual([]);
    await line.addWorker();
    await until(() => run.last > 1);
    expect(await status()).toBe("running");
    expect(await listed("running")).toEqual([runId]);
  }));
