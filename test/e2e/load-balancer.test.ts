/** The real nginx and the real HAProxy, with the files of infra/, both in front of the same two gateway processes. */
import { type Connection, connect } from "@throughline/client";
import { defaultStory } from "@throughline/examples";
import { findFreePort } from "@throughline/local";
import type { Part } from "@throughline/protocol";
import { LogReader } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { TestClient } from "../support/client.ts";
import { Follower, toldByLog } from "../support/follower.ts";
import { GatewayProcess, startWorkerProcess } from "../support/gateway-process.ts";
import { type Balancer, balancerNames, startBalancer } from "../support/load-balancer.ts";
import type { Program } from "../support/program.ts";
import { testPrefix, testRedisUrl } from "../support/redis.ts";
import { ScriptedRun } from "../support/run.ts";
import { patienceMs, until, within } from "../support/until.ts";

/** Longer than any test takes, however slow the machine: a story is over when its test has it stopped. */
const text = defaultStory.repeat(100);
/** The balancers' patience with a quiet socket where that is what is tested: ten heartbeats. */
const quietS = 3;
const heartbeatMs = 300;
const prefix = testPrefix();
const shared = { REDIS_URL: testRedisUrl(), KEY_PREFIX: prefix, LOG_LEVEL: "info" };
const gatewayEnv = { ...shared, DRAIN_MS: "1000" };

let redis: Redis;
let reader: LogReader;
let gateways: GatewayProcess[];
let workers: Program[];
let balancers: Balancer[];
const connections: Connection[] = [];
const clients: TestClient[] = [];

beforeAll(async () => {
  redis = new Redis(testRedisUrl());
  reader = new LogReader(redis, prefix);
  gateways = await Promise.all(
    [1, 2].map(async () => GatewayProcess.start(gatewayEnv, await findFreePort())),
  );
  workers = await Promise.all([1, 2].map(() => startWorkerProcess(shared)));
  balancers = await startBalancers(gateways.map(({ port }) => port));
});

afterAll(async () => {
  for (const connection of connections) connection.close();
  for (const client of clients) client.drop();
  await Promise.all(balancers.map((balancer) => balancer.stop()));
  for (const program of [...gateways, ...workers]) program.process.kill("SIGTERM");
  await Promise.all([...gateways, ...workers].map(({ exit }) => exit));
  redis.disconnect();
});

function startBalancers(gateways: number[], quietTimeout?: string): Promise<Balancer[]> {
  const options = { gateways, ...(quietTimeout === undefined ? {} : { quietTimeout }) };
  return Promise.all(balancerNames.map((name) => startBalancer(name, options)));
}

function open(url: string): Connection {
  const connection = connect(url, { WebSocket: WebSocket as never });
  connections.push(connection);
  return connection;
}

async function startStories(count: number, tokensPerSecond: number): Promise<string[]> {
  const connection = open(balancers[0]!.url);
  const runs = await Promise.all(
    Array.from({ length: count }, () =>
      connection.start({ agent: "storyteller", input: { text, tokensPerSecond } }),
    ),
  );
  connection.close();
  return runs.map(({ runId }) => runId);
}

/** Followers of these runs in turn, through the balancers in turn; each has its socket, and its first parts. */
async function follow(runIds: string[], count: number): Promise<Follower[]> {
  const followers = Array.from(
    { length: count },
    (_, i) => new Follower(balancers[i % 2]!.url, runIds[i % runIds.length]!),
  );
  connections.push(...followers.map(({ connection }) => connection));
  await until(() => followers.every(({ offset }) => offset > 10), patienceMs, "the first parts");
  return followers;
}

/** Waits until every follower was told more than it has now. */
async function expectMore(followers: Follower[]): Promise<void> {
  const before = followers.map(({ offset }) => offset);
  await until(
    () => followers.every(({ offset }, i) => offset > before[i]! + 5),
    patienceMs,
    "more for everybody",
  );
}

/** Stops the stories, waits for their ends, and compares what each follower was told with its log (P1, P3). */
async function expectWholeStories(followers: Follower[]): Promise<void> {
  const runIds = [...new Set(followers.map(({ runId }) => runId))];
  const caller = open(balancers[0]!.url);
  await Promise.all(runIds.map((runId) => caller.attach(runId).cancel()));
  const told = await within(Promise.all(followers.map(({ done }) => done)), patienceMs, "all endings");
  const logs = new Map(
    await Promise.all(runIds.map(async (runId) => [runId, await toldByLog(reader, runId)] as const)),
  );
  for (const [i, follower] of followers.entries()) {
    expect(told[i]).toEqual(logs.get(follower.runId));
    expect(follower.text.length).toBeGreaterThan(0);
    expect(text.startsWith(follower.text)).toBe(true);
  }
}

const own = (data: unknown): Part => ({ type: "custom", ns: [], data: data as never });

async function restartGateways(): Promise<void> {
  for (const [i, gateway] of gateways.entries()) {
    gateway.process.kill("SIGTERM");
    await gateway.says("out", /shutting down/);
    // As long as it answers: it may be gone before this is asked.
    expect([503, "gone"]).toContain(await gateway.ready().catch(() => "gone"));
    expect(await within(gateway.exit, patienceMs, "the gateway's exit")).toBe(0);
    gateways[i] = await GatewayProcess.start(gatewayEnv, gateway.port);
  }
}

async function restartWorkers(): Promise<void> {
  for (const [i, worker] of workers.entries()) {
    workers[i] = await startWorkerProcess(shared);
    worker.process.kill("SIGTERM");
    expect(await within(worker.exit, patienceMs, "the worker's exit")).toBe(0);
  }
}

describe("behind nginx and HAProxy", () => {
  test("P1, P7: a gateway that is killed under load costs its clients their socket, and nobody a part", async () => {
    const followers = await follow(await startStories(6, 150), 40);
    const hit = new Set<Follower>();
    for (const follower of followers) {
      follower.connection.onState(({ status }) => {
        if (status !== "open") hit.add(follower);
      });
    }
    const [first] = gateways;
    first!.process.kill("SIGKILL");
    await first!.exit;
    await until(() => hit.size > 0);
    // With one gateway left: who lost the socket goes on, and who did not was not held up.
    await expectMore(followers);
    gateways[0] = await GatewayProcess.start(gatewayEnv, first!.port);
    await expectWholeStories(followers);
    // The least connections: about half of them were there, from either balancer.
    expect(hit.size).toBeGreaterThan(10);
    expect(hit.size).toBeLessThan(30);
  });

  test("P1, P6, P7: a restart of every gateway and worker under load is not seen in any transcript", async () => {
    const followers = await follow(await startStories(6, 60), 24);
    const caller = open(balancers[1]!.url);
    const started: Promise<string>[] = [];
    const starting = setInterval(() => {
      const n = started.length;
      const input = { text: `number ${n}`, tokensPerSecond: 0 };
      started.push(
        caller.start({ agent: "storyteller", threadId: `${prefix}-${n}`, input }).then(({ runId }) => runId),
      );
    }, 50);
    try {
      await Promise.all([restartGateways(), restartWorkers()]);
      // All of it happened in the middle of the stories, and everybody goes on.
      await expectMore(followers);
      await until(() => started.length > 10);
    } finally {
      clearInterval(starting);
    }
    await expectWholeStories(followers);
    const attempts = await Promise.all(
      [...new Set(followers.map(({ runId }) => runId))].map(
        async (runId) => (await caller.getRun(runId)).attempt,
      ),
    );
    expect(Math.max(...attempts)).toBeGreaterThan(1);
    // Every command was answered, those that were under way when a gateway went, too; and each was done once.
    const runIds = await within(Promise.all(started), patienceMs, "the answers to all starts");
    expect(runIds.length).toBeGreaterThan(10);
    for (const [n, runId] of runIds.entries()) {
      const runs = await caller.runs({ threadId: `${prefix}-${n}` });
      expect(runs.map((run) => run.runId)).toEqual([runId]);
    }
  });

  test("a silent run's socket outlives the balancer's patience by its heartbeats alone", async () => {
    const run = await ScriptedRun.open(redis, prefix, "silent");
    await run.append([own("before")]);
    const start = async (ms: number) =>
      GatewayProcess.start({ ...gatewayEnv, HEARTBEAT_MS: String(ms) }, await findFreePort());
    const [lively, mute] = await Promise.all([start(heartbeatMs), start(60_000)]);
    const quiet = `${quietS}s`;
    const [kept, cut] = await Promise.all(
      [lively, mute].map(({ port }) => startBalancers([port, port], quiet)),
    );
    try {
      const sockets = await Promise.all(kept!.map(({ url }) => TestClient.open(url)));
      clients.push(...sockets);
      const followed = await Promise.all(sockets.map((client) => client.follow(run.runId)));
      // Without heartbeats the balancers cut a socket off, twice in a row here: their patience is the clock of this test.
      for (let i = 0; i < 2; i++) {
        const doomed = await Promise.all(cut!.map(({ url }) => TestClient.open(url)));
        clients.push(...doomed);
        for (const { closed } of doomed) expect((await within(closed)).code).toBe(1006);
      }
      await run.append([own("after")]);
      await run.finish();
      for (const transcript of followed) {
        await transcript.ended();
        expect(transcript.offsets).toEqual([1, 2, 3]);
      }
    } finally {
      await Promise.all([...kept!, ...cut!].map((balancer) => balancer.stop()));
      for (const gateway of [lively, mute]) gateway.process.kill("SIGTERM");
      await Promise.all([lively.exit, mute.exit]);
    }
  });

  test("big frames and many sockets go through as they are", async () => {
    const big = await ScriptedRun.open(redis, prefix, "big");
    const small = await ScriptedRun.open(redis, prefix, "small");
    const followers = Array.from(
      { length: 400 },
      (_, i) => new Follower(balancers[i % 2]!.url, i < 12 ? big.runId : small.runId),
    );
    connections.push(...followers.map(({ connection }) => connection));
    await small.append([own("first")]);
    await until(() => followers.slice(12).every(({ offset }) => offset === 1), patienceMs, "all sockets");
    for (let i = 0; i < 6; i++) await big.append([own(`${i}`.padEnd(900_000, "x"))]);
    await small.append([own("second")]);
    await Promise.all([big.finish(), small.finish()]);
    const told = await within(Promise.all(followers.map(({ done }) => done)), patienceMs, "all endings");
    const logs = { big: await toldByLog(reader, big.runId), small: await toldByLog(reader, small.runId) };
    for (const [i, each] of told.entries()) expect(each).toEqual(i < 12 ? logs.big : logs.small);
    expect(logs.big.last).toBe(7);
  });
});
