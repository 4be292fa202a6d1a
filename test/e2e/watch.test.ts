/** Who watches a thread is told one story, whatever happens to gateways, workers and Redis connections. */
import type { Part } from "@throughline/protocol";
import { expect, test } from "vitest";
import { Socket } from "../conformance/client.ts";
import { count, countText, Gate } from "../support/agents.ts";
import { killConnections } from "../support/connections.ts";
import { Flag } from "../support/flag.ts";
import { startLine } from "../support/line.ts";
import { startPrivateRedis } from "../support/redis.ts";
import { patienceMs, until } from "../support/until.ts";
import { WorkerProcess } from "../support/worker-process.ts";

/** What a watcher was told of a thread, in words: each offset once and in order, or `told` throws. */
const story = (watcher: Socket, threadId?: string) =>
  watcher.told(threadId).map(({ offset, event }) => {
    if (event === null) return `${offset} -`;
    return event.event === "run"
      ? `${offset} ${event.run.runId} ${event.run.status}`
      : `${offset} ${event.event}`;
  });

const lifecycles = (parts: readonly (Part | null)[]) =>
  parts.flatMap((part) => (part?.type === "lifecycle" ? [part.data.event] : []));

test("P1, P2: watchers on two gateways have the same events and every part once, though the worker and connections are killed", async () => {
  const redis = await startPrivateRedis();
  const line = await startLine({ redisUrl: redis.url, workers: 0, gateways: 2 });
  const flag = new Flag();
  const watchers = line.gateways.map(({ url }) => new Socket(url));
  const processes = [await WorkerProcess.start(redis.url, line.prefix)];
  try {
    const client = await line.client();
    const { threadId } = (await client.call("thread.create", {})).thread;
    for (const watcher of watchers) await watcher.call("thread.watch", { threadId, after: 0, runs: {} });
    const talk = { agent: "talk", threadId, input: { n: 5, ms: 5, until: flag.path }, subscribe: false };
    const first = await client.call("run.start", talk);
    const second = await client.call("run.start", { ...talk, input: { n: 5, ms: 1 } });
    const grown = async (by: number) => {
      const before = watchers.map((watcher) => watcher.parts(first.runId).length);
      await until(() => watchers.every((each, i) => each.parts(first.runId).length >= before[i]! + by));
    };
    await grown(10);
    for (const name of ["throughline-gateway:subscriber", "throughline-gateway:commands"]) {
      await until(async () => (await killConnections(line.redis, name)) === 2, patienceMs, name);
      await grown(5);
    }
    await processes[0]!.kill();
    await until(async () => (await killConnections(line.redis, "throughline-gateway:subscriber")) === 2);
    processes.push(await WorkerProcess.start(redis.url, line.prefix));
    // It is taken over, and told of as that.
    await until(() => lifecycles(watchers[0]!.parts(first.runId).map(({ part }) => part)).length > 1);
    await client.call("thread.patch", { threadId, metadata: { seen: true } });
    flag.raise();
    for (const watcher of watchers) {
      for (const { runId } of [first, second]) await watcher.ended(runId);
      await watcher.until("the end", () =>
        story(watcher, threadId).at(-1)?.endsWith(`${second.runId} completed`),
      );
    }
    const [one, other] = watchers.map((watcher) => story(watcher, threadId)) as [string[], string[]];
    expect(one).toEqual(other);
    expect(one.map((each) => Number(each.split(" ")[0]))).toEqual(one.map((_, i) => i + 1));
    const of = (runId: string) =>
      one.filter((each) => each.includes(runId)).map((each) => each.split(" ")[2]);
    expect(of(first.runId)).toEqual(["queued", "running", "running", "completed"]);
    expect(of(second.runId)).toEqual(["queued", "running", "completed"]);
    expect(one.filter((each) => /created|metadata/.test(each))).toHaveLength(2);
    for (const { runId } of [first, second]) {
      const [here, there] = watchers.map((watcher) => watcher.parts(runId)) as [never[], never[]];
      expect(here).toEqual(there);
      expect(here.map(({ offset }) => offset)).toEqual(here.map((_, i) => i + 1));
    }
  } finally {
    flag.raise();
    for (const watcher of watchers) watcher.close();
    for (const each of processes) if (!each.gone) await each.kill();
    await line.stop();
    await redis.stop();
    flag.remove();
  }
});

test("a watcher of which the line is longer than is named is given each run when its turn comes", async () => {
  const gate = new Gate();
  async function* gated() {
    await gate.passed;
    yield "done";
  }
  const env = { COMMANDS_PER_SECOND: "10000" };
  const line = await startLine({ agents: { gated }, env });
  const watcher = new Socket(line.gateways[0]!.url);
  try {
    const client = await line.client();
    const { threadId } = (await client.call("thread.create", {})).thread;
    const runIds: string[] = [];
    for (let i = 0; i < 103; i++) {
      runIds.push((await client.call("run.start", { agent: "gated", threadId, subscribe: false })).runId);
    }
    const { runs, thread } = await watcher.call("thread.watch", { threadId, runs: {} });
    expect(runs?.map(({ runId }) => runId)).toEqual(runIds.slice(0, 100));
    expect(thread).toMatchObject({ status: "busy", runs: 103, active: runIds.slice(0, 100) });
    gate.open();
    for (const runId of runIds) {
      await watcher.ended(runId);
      expect(watcher.parts(runId).map(({ offset }) => offset)).toEqual([1, 2, 3]);
    }
  } finally {
    gate.open();
    watcher.close();
    await line.stop();
  }
});

test("a watcher that comes back has what it missed: events after its last, and the rest of the runs that it knew", async () => {
  const line = await startLine({ agents: { count }, gateways: 2 });
  const sockets = line.gateways.map(({ url }) => new Socket(url)) as [Socket, Socket];
  try {
    const client = await line.client();
    const { threadId } = (await client.call("thread.create", {})).thread;
    const { epoch } = await sockets[0].call("thread.watch", { threadId, runs: {} });
    const start = () =>
      client.call("run.start", { agent: "count", threadId, input: { n: 50, ms: 5 }, subscribe: false });
    const first = await start();
    await sockets[0].until("some parts", () => sockets[0].parts(first.runId).length > 5);
    const last = sockets[0].told(threadId).at(-1)!.offset;
    const had = sockets[0].parts(first.runId);
    sockets[0].close();
    // It ends, and another comes and ends, while nobody watches.
    const second = await start();
    await (await client.follow(second.runId)).ended();
    await until(async () => (await client.call("thread.get", { threadId })).thread?.status === "idle");
    const known = { [first.runId]: { after: had.at(-1)!.offset } };
    await sockets[1].call("thread.watch", { threadId, after: last, epoch, runs: { known } });
    const rest = await sockets[1].ended(first.runId);
    expect([...had, ...rest].map(({ offset }) => offset)).toEqual([...had, ...rest].map((_, i) => i + 1));
    const text = [...had, ...rest].flatMap(({ part }) =>
      part?.type === "messages" ? [part.data[0].content] : [],
    );
    expect(text.join("")).toBe(countText(50));
    expect((await sockets[1].ended(second.runId))[0]!.offset).toBe(1);
    expect(sockets[1].told(threadId)[0]!.offset).toBe(last + 1);
  } finally {
    for (const socket of sockets) socket.close();
    await line.stop();
  }
});
