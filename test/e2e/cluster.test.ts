import { setTimeout as sleep } from "node:timers/promises";

import { Dispatcher, ownerLogKeys, threadLogKeys } from "@throughline/dispatch";
import { checkRedis, connectRedis, type RedisConnection } from "@throughline/kit";
import { LiveSubscriber, LogReader, LogWriter, publish, slotOf } from "@throughline/runlog";
import type { AgentContext } from "@throughline/worker";
import type { Cluster } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Socket } from "../conformance/client.ts";
import { redisRunLog } from "../conformance/redis-run-log.ts";
import { describeRunLog } from "../conformance/run-log.ts";
import { count, countText, countToken, Gate } from "../support/agents.ts";
import { cutReplicaOff, moveSlot, startCluster, type TestCluster } from "../support/cluster.ts";
import { killConnections } from "../support/connections.ts";
import { type Line, startLine } from "../support/line.ts";
import { testPrefix, testRedisUrl } from "../support/redis.ts";
import type { Transcript } from "../support/transcript.ts";
import { patienceMs, until } from "../support/until.ts";

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await startCluster();
});
afterAll(() => cluster.stop());

describeRunLog("on a Cluster", () => redisRunLog(cluster.url));

test("a node of a Cluster is no single Redis, and the other way round", async () => {
  const single = connectRedis(`redis://127.0.0.1:${cluster.nodes[0]!.port}`, "commands");
  await expect(checkRedis(single)).rejects.toThrow(/is a node of a Cluster: .* redis\+cluster:\/\//);
  single.disconnect();
  const none = connectRedis(testRedisUrl().replace("redis:", "redis+cluster:"), "commands");
  await expect(checkRedis(none, { timeoutMs: 500 })).rejects.toThrow(/it is no Cluster; say redis:\/\//);
  none.disconnect();
});

test("the check looks at every master", async () => {
  const redis = connectRedis(cluster.url, "commands");
  const { redis: last } = await cluster.master(16_383);
  await last.config("SET", "maxmemory-policy", "allkeys-lru");
  const { version, warnings } = await checkRedis(redis);
  await last.config("SET", "maxmemory-policy", "noeviction");
  expect(version).toMatch(/^\d+\./);
  expect(warnings.sort()).toEqual([
    expect.stringMatching(/^maxmemory-policy is allkeys-lru/),
    expect.stringMatching(/^nothing is persisted/),
  ]);
  redis.disconnect();
});

test("threads are made, told of, listed, copied and deleted, in as many slots as they have", async () => {
  const [redis, prefix] = [connectRedis(cluster.url, "worker"), testPrefix()];
  const dispatcher = new Dispatcher(redis, { prefix, deleteWaitMs: 100 });
  const subscriber = connectRedis(cluster.url, "subscriber");
  const live = new LiveSubscriber(subscriber);
  const heard: string[] = [];
  const keys = [threadLogKeys(prefix, "o", "t0"), ownerLogKeys(prefix, "o")];
  await Promise.all(
    keys.map(({ live: channel }) => live.subscribe(channel, (each) => heard.push(`${each}`))),
  );
  const names = Array.from({ length: 12 }, (_, i) => `t${i}`);
  for (const threadId of names) {
    await dispatcher.createThread("o", { threadId, metadata: { threadId } });
    await dispatcher.start({
      agent: "a",
      owner: "o",
      threadId,
      request: { queue: "q" },
      idempotencyKey: threadId,
    });
  }
  const slots = new Set(names.map((name) => slotOf(threadLogKeys(prefix, "o", name).run)));
  expect(slots.size).toBeGreaterThan(1);
  const list = async (query = {}) =>
    (await dispatcher.listThreads({ owner: "o", limit: 50, ...query })).threads.map(
      ({ threadId }) => threadId,
    );
  expect((await list({ status: "busy", agent: "a" })).sort()).toEqual(names.toSorted());
  const [newest] = await list();
  await dispatcher.patchThread("o", newest!, { a: 1 });
  expect((await list())[0]).toBe(newest);
  const checkpoints = {
    deleteThread: async () => {},
    copyThread: async () => {},
    size: async () => 0,
    head: async () => ({ messages: 0, asks: false }),
  };
  await dispatcher.deleteThread("o", "t0", checkpoints);
  await dispatcher.createThread("o", { threadId: "original", metadata: { b: 2 } });
  const copy = await dispatcher.copyThread("o", "original", {}, checkpoints);
  expect(copy).toMatchObject({ metadata: { b: 2 } });
  await until(() => heard.some((each) => each.includes('"deleted"') && /^\d+:1:[^\n]*:e\n/.test(each)));
  await until(() => heard.some((each) => each.includes('"deleted"') && !/^\d+:1:[^\n]*:e\n/.test(each)));
  for (const threadId of await list()) await dispatcher.deleteThread("o", threadId, checkpoints);
  const left: string[] = [];
  for (const { redis: node } of await cluster.masters()) left.push(...(await node.keys(`*${prefix}*`)));
  expect(left.filter((key) => !key.includes("owner-") && !key.includes(":q:"))).toEqual([]);
  await dispatcher.close();
  subscriber.disconnect();
  redis.disconnect();
});

test("an owner's share is counted in one slot, and what has ended is found in the others", async () => {
  const [redis, prefix] = [connectRedis(cluster.url, "worker"), testPrefix()];
  const dispatcher = new Dispatcher(redis, { prefix, limits: { maxRuns: 3, maxBytes: 100_000 } });
  const log = new LogWriter(redis, { prefix });
  const start = (input = "") => dispatcher.start({ agent: "a", owner: "o", request: { queue: "q", input } });
  const runs = [await start(), await start(), await start()];
  await expect(start()).rejects.toMatchObject({ code: "rate_limited" });
  const end = async ({ runId, threadId }: { runId: string; threadId: string }, told: boolean) => {
    const claimed = await log.claim(runId);
    if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
    await claimed.writer.write({ type: "custom", ns: [], data: "x".repeat(10_000) });
    await claimed.writer.finish({ event: "completed" });
    if (told) await dispatcher.ended("o", threadId, runId);
  };
  await end(runs[0]!, true);
  await start();
  await end(runs[1]!, false);
  await end(runs[2]!, false);
  // Another gateway: nobody has looked there yet.
  const other = new Dispatcher(redis, { prefix, limits: { maxRuns: 3, maxBytes: 100_000 } });
  await other.start({ agent: "a", owner: "o", request: { queue: "q" } });
  await expect(start("x".repeat(80_000))).rejects.toMatchObject({ code: "payload_too_large" });
  await dispatcher.close();
  await other.close();
  redis.disconnect();
});

describe("live messages", () => {
  let prefix: string;
  let redis: RedisConnection;
  let subscriber: Cluster;
  let live: LiveSubscriber;
  let gaps: string[];

  beforeEach(() => {
    prefix = testPrefix();
    redis = connectRedis(cluster.url, "worker");
    subscriber = connectRedis(cluster.url, "subscriber", { name: prefix }) as Cluster;
    gaps = [];
    live = new LiveSubscriber(subscriber, { onGap: (channels) => gaps.push(...channels) });
  });
  afterEach(() => {
    redis.disconnect();
    subscriber.disconnect();
  });

  /** Channels in as many slots, and what is heard on each. */
  async function listen(n: number): Promise<Map<string, string[]>> {
    const heard = new Map(Array.from({ length: n }, (_, i) => [`${prefix}:{${i}}:c`, [] as string[]]));
    await Promise.all(
      [...heard].map(([channel, messages]) => live.subscribe(channel, (m) => messages.push(m.toString()))),
    );
    return heard;
  }
  /** What is published now arrives. */
  async function expectHeard(heard: Map<string, string[]>, message: string): Promise<void> {
    await Promise.all([...heard.keys()].map((channel) => publish(redis, channel, message)));
    await until(() => [...heard.values()].every((messages) => messages.at(-1) === message), 5_000, message);
  }
  const at = async (port: number, channels: Iterable<string>) => {
    const found: string[] = [];
    for (const channel of channels) {
      if ((await cluster.master(slotOf(channel))).port === port) found.push(channel);
    }
    return found.sort();
  };

  test("stay on their shard, and arrive from all of them", async () => {
    const heard = await listen(300);
    await expectHeard(heard, "hello");
    for (const { redis: node } of cluster.nodes) {
      // A message to all nodes would have come here without a subscription.
      const shards = (await node.call("PUBSUB", "SHARDCHANNELS", `${prefix}:*`)) as string[];
      expect(shards.length === 0 || shards.length > 50).toBe(true);
      expect(await node.call("PUBSUB", "CHANNELS", `${prefix}:*`)).toEqual([]);
    }
    expect([...heard.values()].every((messages) => messages.length === 1)).toBe(true);
    expect(gaps).toEqual([]);
    for (const channel of heard.keys()) live.unsubscribe(channel, () => {});
    expect(live.size).toBe(300);
  });

  test("P2: a killed connection's channels are subscribed again, and only their gap is told", async () => {
    const heard = await listen(90);
    for (let round = 1; round <= 3; round++) {
      const { port, redis: node } = await cluster.master(round * 4_000);
      gaps = [];
      expect(await killConnections(node, `${prefix}:subscriber`)).toBe(1);
      const lost = await at(port, heard.keys());
      await until(() => gaps.length >= lost.length);
      expect([...gaps].sort()).toEqual(lost);
      await expectHeard(heard, `round ${round}`);
    }
  });

  test("P2: a moved slot's channels are subscribed again where it went, and only their gap is told", async () => {
    const heard = await listen(90);
    const moved = `${prefix}:{0}:c`;
    await moveSlot(cluster, slotOf(moved));
    await until(() => gaps.length > 0);
    await expectHeard(heard, "moved");
    expect(gaps).toEqual([moved]);
    // There and back, with hardly a breath between: the slots look as before.
    gaps = [];
    await moveSlot(cluster, slotOf(moved));
    await until(() => gaps.length > 0);
    await expectHeard(heard, "moved back");
  });

  test("P2: a connection that delivers nothing is found, and replaced; the others stay", async () => {
    const heard = await listen(90);
    const deaf = await cluster.master(0);
    const channelOf = (tag: string) => `${prefix}:{probe-${tag}}:probe`;
    const probed: string[] = [];
    const all = await live.prove(
      channelOf,
      (channel) => {
        probed.push(channel);
        return publish(redis, channel, "alive");
      },
      60_000,
    );
    expect(all).toBe(true);
    expect(
      new Set(await Promise.all(probed.map(async (each) => (await cluster.master(slotOf(each))).port))).size,
    ).toBe(3);
    const publishUnlessDeaf = async (channel: string) => {
      if ((await cluster.master(slotOf(channel))).port !== deaf.port) await publish(redis, channel, "alive");
    };
    // All of it is waited for, since one never answers: the others have it for their answers.
    expect(await live.prove(channelOf, publishUnlessDeaf, 4_000)).toBe(false);
    const lost = await at(deaf.port, heard.keys());
    await until(() => gaps.length >= lost.length);
    expect([...gaps].sort()).toEqual(lost);
    await expectHeard(heard, "again");
    expect(live.size).toBe(90);
  });

  test("P2: a planned failover: the channels follow the new master", async () => {
    const heard = await listen(90);
    const old = await cluster.master(0);
    const lost = await at(old.port, heard.keys());
    await (await cluster.replica(old)).redis.cluster("FAILOVER");
    await until(async () => (await cluster.master(0)).port !== old.port);
    await until(() => new Set(gaps).size >= lost.length, patienceMs, "the gap");
    expect([...new Set(gaps)].sort()).toEqual(lost);
    await cluster.whole();
    await expectHeard(heard, "after");
  });
});

describe("the whole line", () => {
  let line: Line;
  /** Opened once the runs of a test may end. */
  let gate: Gate;
  beforeEach(() => {
    gate = new Gate();
  });
  async function* endless({ signal }: AgentContext) {
    for (let i = 0; !gate.isOpen || i < 100; i++) {
      await sleep(5, undefined, { signal });
      yield countToken(i);
    }
  }
  /** How many tokens its text is, and no others. */
  const expectCounted = ({ text }: Transcript) => expect(text).toBe(countText(text.split(" ").length - 1));

  beforeAll(async () => {
    line = await startLine({ agents: { count, endless }, gateways: 2, workers: 2, redisUrl: cluster.url });
  });
  afterAll(() => line.stop());

  const slotOfRun = (runId: string) => slotOf(`${line.prefix}:{${runId}}:run`);
  async function expectLog(transcript: Transcript): Promise<void> {
    transcript.check();
    const logged = [];
    for await (const { part } of new LogReader(line.redis, line.prefix).parts(transcript.runId))
      logged.push(part);
    expect(transcript.parts).toEqual(logged);
  }

  test("a gateway is ready as soon as it is up", async () => {
    for (const { url } of line.gateways) {
      expect((await fetch(url.replace("ws:", "http:").replace("/v1/ws", "/readyz"))).status).toBe(200);
    }
  });

  test("start, follow, resume, cancel, list", async () => {
    const one = await line.client(0);
    const other = await line.client(1);
    const runs = await Promise.all(
      Array.from({ length: 20 }, () => one.start({ agent: "count", input: { n: 50, ms: 1 } })),
    );
    await until(() => runs[0]!.last > 20);
    const half = await other.follow(runs[0]!.runId, { after: 20 });
    for (const run of runs) {
      expect(await run.ended()).toMatchObject({ event: "completed" });
      expect(run.text).toBe(countText(50));
      await expectLog(run);
    }
    await half.ended();
    expect(half.offsets[0]).toBe(21);
    const long = await one.start({
      agent: "count",
      threadId: "cluster-thread",
      input: { n: 100_000, ms: 1 },
    });
    await until(() => long.last > 10);
    const { status, offset, checkpoint } = await other.call("run.cancel", {
      runId: long.runId,
      keep: "thread",
    });
    expect(status).toBe("cancelled");
    expect(await long.ended()).toMatchObject({ event: "cancelled" });
    expect(long.last).toBe(offset);
    const { checkpointId } = await other.call("thread.get", { threadId: "cluster-thread" });
    expect(checkpointId).toBe(checkpoint?.checkpointId);
    const listed = await other.call("run.list", { limit: 100 });
    expect(new Set(listed.runs.map(({ runId }) => runId))).toEqual(
      new Set([...runs, long].map(({ runId }) => runId)),
    );
    expect((await other.call("agent.list", {})).agents.map(({ name }) => name).sort()).toEqual([
      "count",
      "endless",
    ]);
  });

  test("P1, P2: threads are made, watched on two gateways though their slot moves, copied, listed and deleted", async () => {
    const client = await line.client(0);
    const watchers = line.gateways.map(({ url }) => new Socket(url)) as [Socket, Socket];
    try {
      const { threadId } = (await client.call("thread.create", { metadata: { a: 1 } })).thread;
      for (const watcher of watchers) {
        await watcher.call("thread.watch", { threadId, after: 0, runs: {} });
        await watcher.call("thread.watch");
      }
      const { runId } = await client.start({ agent: "count", threadId, input: { n: 50, ms: 1 } });
      const patch = async () => {
        for (let i = 0; i < 5; i++) await client.call("thread.patch", { threadId, metadata: { i } });
      };
      await patch();
      await until(async () => (await client.call("thread.get", { threadId })).thread?.status === "idle");
      // While it moves its scripts are refused: some of its keys are there, and some are not.
      await moveSlot(cluster, slotOf(threadLogKeys(line.prefix, "local", threadId).live));
      await patch();
      for (const watcher of watchers) {
        expect((await watcher.ended(runId)).map(({ offset }) => offset)).toHaveLength(52);
        const told = await watcher.until("all events", () => {
          const all = watcher.told(threadId);
          return all.length >= 14 && all;
        });
        expect(told.map(({ offset }) => offset)).toEqual(Array.from({ length: 14 }, (_, i) => i + 1));
      }
      const copy = await client.call("thread.copy", { threadId });
      const listed = await client.call("thread.list", { metadata: { a: 1 } });
      expect(listed.threads.map((each) => each.threadId)).toEqual([copy.threadId, threadId]);
      await client.call("thread.delete", { threadId });
      for (const watcher of watchers) {
        expect(await watcher.event("thread.unwatched")).toEqual({ threadId, reason: "deleted" });
        await watcher.until("the owner's word of it", () =>
          watcher.told().some(({ event }) => event?.event === "deleted" && event.threadId === threadId),
        );
      }
    } finally {
      for (const watcher of watchers) watcher.close();
    }
  });

  test("P1, P2: a slot that moves during its run costs no part, and delivery stays live", async () => {
    const run = await (await line.client(0)).start({ agent: "endless" });
    const { runId } = run;
    const follower = await (await line.client(1)).follow(runId);
    await until(() => run.last > 20);
    const head = async () => Number(await line.redis.hget(`${line.prefix}:{${runId}}:run`, "head"));
    const goesOn = async () => {
      const before = await head();
      await until(async () => (await head()) > before + 5, patienceMs, "the run going on");
    };
    await moveSlot(cluster, slotOfRun(runId), { beforeKeys: goesOn, afterKeys: goesOn });
    const moved = await head();
    await until(() => run.last > moved + 20 && follower.last > moved + 20, patienceMs, "live delivery");
    // Not by looking up the head of a run that has been quiet for three seconds, which brings hundreds at once.
    expect((await head()) - Math.min(run.last, follower.last)).toBeLessThan(300);
    gate.open();
    expect(await run.ended()).toMatchObject({ event: "completed" });
    await follower.ended();
    expectCounted(run);
    for (const each of [run, follower]) {
      await expectLog(each);
      expect(each.resets).toEqual([]);
    }
  });

  test("P1, P5: a master dies, BullMQ's own: its replica takes over, and every run goes on to its end", async () => {
    const clients = [await line.client(0), await line.client(1)] as const;
    const runs = await Promise.all(
      Array.from({ length: 24 }, (_, i) => clients[i % 2]!.start({ agent: "endless" })),
    );
    await until(() => runs.every((run) => run.last > 10));
    const doomed = await cluster.master(slotOf(`{${line.prefix}:jobs}`));
    const commands = connectRedis(cluster.url, "commands");
    const worker = connectRedis(cluster.url, "worker");
    await checkRedis(commands);
    let elsewhere = "";
    for (let i = 0; elsewhere === ""; i++) {
      if ((await cluster.master(slotOf(`{${i}}`))) !== doomed) elsewhere = `{${i}}`;
    }
    // It is not replaced before it was missed.
    const heir = await cluster.replica(doomed);
    heir.pause();
    doomed.kill();
    // Who asks is told at once, who can wait waits; and what is on the other masters is there all the while.
    const gone = `{${line.prefix}:jobs}:x`;
    await until(() =>
      commands.get(gone).then(
        () => false,
        () => true,
      ),
    );
    await expect(commands.get(gone)).rejects.toThrow();
    expect(await commands.get(elsewhere)).toBeNull();
    const waiting = worker.incr(gone);
    heir.resume();
    gate.open();
    // The others never notice.
    for (const run of runs) {
      expect(await run.ended()).toMatchObject({ event: "completed" });
      expectCounted(run);
      await expectLog(run);
    }
    expect(await waiting).toBe(1);
    commands.disconnect();
    worker.disconnect();
    for (const { url } of line.gateways) {
      expect((await fetch(url.replace("ws:", "http:").replace("/v1/ws", "/readyz"))).status).toBe(200);
    }
    await cluster.whole(2);
    const after = await clients[0].start({ agent: "count", input: { n: 5 } });
    expect(await after.ended()).toMatchObject({ event: "completed" });
  });

  test("P1: a master dies with parts that its replica never had: readers are told, and see what is left", async () => {
    const client = await line.client(0);
    const jobs = (await cluster.master(slotOf(`{${line.prefix}:jobs}`))).port;
    let run: Transcript;
    let doomed: Awaited<ReturnType<TestCluster["master"]>>;
    // Any run whose master has a replica left, and is not the queue's.
    for (;;) {
      run = await client.start({ agent: "endless" });
      doomed = await cluster.master(slotOfRun(run.runId));
      const replicas = (await doomed.redis.info("replication")).includes("connected_slaves:1");
      if (doomed.port !== jobs && replicas) break;
      await client.call("run.cancel", { runId: run.runId, keep: "discard" });
    }
    await until(() => run.last > 20);
    const { epoch } = await client.call("run.get", { runId: run.runId });
    await cutReplicaOff(cluster, doomed);
    const kept = run.last;
    await until(() => run.last > kept + 30);
    doomed.kill();
    await until(() => run.resets.length > 0);
    gate.open();
    expect(await run.ended()).toMatchObject({ event: "completed" });
    expect(run.resets).toHaveLength(1);
    expect(run.resets[0]?.epoch).not.toBe(epoch);
    expectCounted(run);
    await expectLog(run);
  });
});
