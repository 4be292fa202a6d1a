/** Runs that end when nobody reads them: who counts as a reader, on whichever gateway, and who no more. */
import { findFreePort } from "@throughline/local";
import { runKeys } from "@throughline/runlog";
import type { AgentContext } from "@throughline/worker";
import { Redis } from "ioredis";
import { afterEach, describe, expect, test } from "vitest";
import { TestClient } from "../support/client.ts";
import { GatewayProcess } from "../support/gateway-process.ts";
import { type Line, startLine } from "../support/line.ts";
import { patienceMs, until } from "../support/until.ts";

let line: Line;
let processes: GatewayProcess[] = [];

afterEach(async () => {
  for (const { process } of processes) process.kill("SIGKILL");
  await Promise.all(processes.map(({ exit }) => exit));
  processes = [];
  await line.stop();
});

/** Talks until it is stopped. */
async function* talker({ signal }: AgentContext) {
  for (let i = 0; !signal.aborted; i++) {
    yield `${i} `;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const grace = (ms: number) => ({ DISCONNECT_GRACE_MS: String(ms) });
const times = { tickMs: 50 };
const leaves = { agent: "talker", onDisconnect: "cancel" } as const;

const readersKey = (runId: string) => runKeys(line.prefix, runId).readers;
/** The gateways that somebody reads the run on, as far as their word still holds. */
const gatewaysOf = (runId: string) => line.redis.zrange(readersKey(runId), "0", "-1");

async function status(client: TestClient, runId: string): Promise<string> {
  return (await client.call("run.get", { runId })).status;
}

async function cancelled(client: TestClient, runId: string) {
  return await until(
    async () => {
      const record = await client.call("run.get", { runId });
      return record.status === "cancelled" ? record : null;
    },
    patienceMs,
    "the run's cancel",
  );
}

/** Nothing of a gateway that nobody reads on any more is left: its time is over, and another has said that it reads. */
async function forgotten(runId: string, gateway: string): Promise<void> {
  await until(async () => {
    const left = await gatewaysOf(runId);
    return left.length > 0 && !left.includes(gateway);
  });
}

describe("a run that ends when nobody reads it", () => {
  test("goes on as long as anybody reads it on any gateway, and is cancelled then", async () => {
    line = await startLine({ agents: { talker }, gateways: 2, env: grace(1_000), times });
    const [one, two, looker] = [await line.client(0), await line.client(1), await line.client(1)];
    const { runId, last } = await one.start(leaves);
    expect(last).toBe(0);
    const [first] = await until(async () => {
      const gateways = await gatewaysOf(runId);
      return gateways.length === 1 ? gateways : null;
    });
    await two.follow(runId);
    await until(async () => (await gatewaysOf(runId)).length === 2);
    one.drop();
    await forgotten(runId, first!);
    expect(await status(looker, runId)).toBe("running");

    const [second] = await gatewaysOf(runId);
    const believed = Number(await line.redis.zscore(readersKey(runId), second!));
    await two.call("run.unsubscribe", { runId });
    // It says at once that nobody reads there any more.
    await until(async () => {
      const left = await line.redis.zscore(readersKey(runId), second!);
      return left !== null && Number(left) < believed;
    });
    const record = await cancelled(looker, runId);
    expect(record.cancel).toMatchObject({ keep: "thread", reason: "nobody reads it any more" });
    const { values } = await looker.call("thread.get", { threadId: record.threadId });
    const [{ content }] = values.messages as [{ content: string }];
    expect(content.startsWith("0 1 2 ")).toBe(true);
    // Nothing of it is left for a run that has ended.
    await until(async () => (await line.redis.exists(readersKey(runId))) === 0);
  });

  test("a reader that is back within the grace, elsewhere: nothing happened", async () => {
    line = await startLine({ agents: { talker }, gateways: 2, env: grace(2_500), times });
    const one = await line.client(0);
    const before = await one.start(leaves);
    const { runId } = before;
    const [first] = await until(async () => {
      const gateways = await gatewaysOf(runId);
      return gateways.length === 1 ? gateways : null;
    });
    await until(() => before.last > 3);
    one.drop();
    const two = await line.client(1);
    const after = await two.follow(runId);
    await forgotten(runId, first!);
    expect(await status(two, runId)).toBe("running");
    const seen = after.last;
    await until(() => after.last > seen + 5);
    expect(after.text.startsWith("0 1 2 3 ")).toBe(true);
  });

  test("on a gateway that is killed: its word holds for a while, and runs out", async () => {
    line = await startLine({ agents: { talker }, env: grace(1_000), times });
    const env = { REDIS_URL: line.redisUrl, KEY_PREFIX: line.prefix, ...grace(1_000) };
    const gateway = await GatewayProcess.start(env, await findFreePort());
    processes.push(gateway);
    const lost = await TestClient.open(gateway.url);
    const [{ runId: unread }, { runId: read }] = [await lost.start(leaves), await lost.start(leaves)];
    const looker = await line.client();
    for (const runId of [unread, read]) await until(async () => (await gatewaysOf(runId)).length === 1);
    const [dead] = await gatewaysOf(read);
    gateway.process.kill("SIGKILL");
    await gateway.exit;
    expect(await status(looker, unread)).toBe("running");
    await looker.follow(read);
    await forgotten(read, dead!);
    await cancelled(looker, unread);
    expect(await status(looker, read)).toBe("running");
  });

  test("on a gateway that is told to go: its readers get longer than the grace to come back", async () => {
    line = await startLine({ agents: { talker }, gateways: 2, env: grace(1_000), times });
    const one = await line.client(0);
    const { runId } = await one.start(leaves);
    await until(async () => (await gatewaysOf(runId)).length === 1);
    const [gone] = await gatewaysOf(runId);
    await line.gateways[0]!.close();
    await one.closed;
    const two = await line.client(1);
    expect(await line.redis.pttl(readersKey(runId))).toBeGreaterThan(1_000);
    await two.follow(runId);
    await forgotten(runId, gone!);
    expect(await status(two, runId)).toBe("running");
  });

  test("that nobody ever read: not while it waits in line, and then after the grace", async () => {
    line = await startLine({ agents: { talker }, env: grace(1_000), times });
    const client = await line.client();
    const first = await client.start({ agent: "talker", threadId: "t" });
    const asks = { ...leaves, threadId: "t", subscribe: false };
    const { runId: second } = await client.call("run.start", asks);
    const { runId: third } = await client.call("run.start", asks);
    // A run of another thread that nobody reads has come to its end meanwhile: the time would have been enough.
    const { runId: other } = await client.call("run.start", { ...leaves, subscribe: false });
    const { startedAt, endedAt } = await cancelled(client, other);
    expect(Date.parse(endedAt!) - Date.parse(startedAt!)).toBeGreaterThanOrEqual(1_000);
    expect(await status(client, second)).toBe("queued");
    // Whoever comes in time saves it.
    await client.follow(third);
    await client.call("run.cancel", { runId: first.runId });
    const { attempt } = await cancelled(client, second);
    expect(attempt).toBe(1);
    await until(async () => (await client.call("run.get", { runId: third })).head > 100);
    expect(await status(client, third)).toBe("running");
  });

  test("is one of its next worker's as well", async () => {
    line = await startLine({ agents: { talker }, env: grace(1_000), times });
    const client = await line.client();
    const { runId } = await client.start(leaves);
    await until(async () => (await client.call("run.get", { runId })).head > 3);
    await line.workers[0]!.close();
    await client.call("run.unsubscribe", { runId });
    await until(async () => (await line.redis.exists(readersKey(runId))) === 0);
    // It waits for a worker, and is none's to cancel.
    expect(await status(client, runId)).toBe("queued");
    await line.addWorker();
    expect((await cancelled(client, runId)).attempt).toBe(2);
  });
});

test("any other run costs no command: of its readers nobody says or asks anything", async () => {
  line = await startLine({ agents: { talker }, gateways: 2, env: grace(50), times });
  const looker = new Redis(line.redisUrl);
  const monitor = await looker.monitor();
  const about = new Map<string, number>();
  monitor.on("monitor", (_: string, args: string[]) => {
    // Other tests use the same Redis.
    const ours = args.filter((arg) => arg.startsWith(line.prefix) && arg.endsWith(":readers"));
    for (const arg of ours) about.set(arg, (about.get(arg) ?? 0) + 1);
  });
  try {
    const [one, two] = [await line.client(0), await line.client(1)];
    const plain = await one.start({ agent: "talker" });
    const asked = await one.start({ agent: "talker", onDisconnect: "continue" });
    const unread = await one.start(leaves);
    for (const { runId } of [plain, asked]) {
      await two.follow(runId);
      await one.call("run.unsubscribe", { runId });
      await two.call("run.unsubscribe", { runId });
    }
    await one.call("run.unsubscribe", { runId: unread.runId });
    await cancelled(one, unread.runId);
    for (const { runId } of [plain, asked]) await one.call("run.cancel", { runId });
    await until(() => (about.get(readersKey(unread.runId)) ?? 0) > 2);
    expect([...about.keys()]).toEqual([readersKey(unread.runId)]);
  } finally {
    monitor.disconnect();
    looker.disconnect();
  }
});
