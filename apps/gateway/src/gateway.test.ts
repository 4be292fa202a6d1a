import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Dispatcher } from "@throughline/dispatch";
import {
  commands,
  Fold,
  type FoldSnapshot,
  type Part,
  ProtocolError,
  streamModes,
} from "@throughline/protocol";
import { RunStore } from "@throughline/runlog";
import fc from "fast-check";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type RefusedError, TestClient } from "../../../test/support/client.ts";
import { type Line, startLine } from "../../../test/support/line.ts";
import { startProxy } from "../../../test/support/proxy.ts";
import { type PrivateRedis, startPrivateRedis, testRedisUrl } from "../../../test/support/redis.ts";
import { ScriptedRun } from "../../../test/support/run.ts";
import { Transcript } from "../../../test/support/transcript.ts";
import { patienceMs, until, within } from "../../../test/support/until.ts";

const own = (data: unknown): Part => ({ type: "custom", ns: [], data: data as never });

async function get(line: Line, path: string, gateway = 0): Promise<{ status: number; body: unknown }> {
  const response = await fetch(`http://127.0.0.1:${line.gateways[gateway]!.port}${path}`);
  return { status: response.status, body: await response.json() };
}

describe("whatever a client sends", () => {
  let line: Line;
  let client: TestClient;
  let run: ScriptedRun;
  let followed: Transcript;

  beforeAll(async () => {
    line = await startLine({ workers: 0, env: { COMMANDS_PER_SECOND: "100000", MAX_FRAME_BYTES: "100000" } });
    client = await line.client();
    run = await ScriptedRun.open(line.redis, line.prefix, "followed");
    followed = await client.follow(run.runId);
  });
  afterAll(() => line.stop());

  /** The run that the same socket follows goes on. */
  async function expectUnharmed() {
    const from = followed.last;
    await run.append([own(from)]);
    await until(() => followed.last === from + 1);
    followed.check();
  }

  test("any params of any command: an answer or a named error, never internal", async () => {
    const ids = fc.constantFrom(
      "followed",
      "nobody",
      "",
      "{}",
      "a}b",
      "thread",
      "x".repeat(300),
      "\u0000",
      "*",
    );
    const value = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      ids,
      fc.integer(),
      fc.constantFrom(...streamModes, "head", "thread"),
    );
    const params = fc.oneof(
      fc.dictionary(fc.string(), value),
      fc.dictionary(
        fc.constantFrom(
          ...["runId", "threadId", "after", "epoch", "filter", "limit", "before", "keep", "status"],
          ...["values", "agent", "input", "modes", "checkpointId", "command", "token", "__proto__"],
        ),
        value,
      ),
      fc.record({ threadId: ids, values: fc.dictionary(fc.string(), value), checkpointId: ids }),
    );
    const method = fc.constantFrom(...Object.keys(commands), "nope", "toString", "__proto__", "");
    await fc.assert(
      fc.asyncProperty(method, params, async (name, given) => {
        // Ours must go on: it is not unsubscribed or cancelled, nor subscribed to again.
        const text = JSON.stringify(given);
        if (text.includes("followed") && name !== "run.get") return;
        try {
          await client.command(name, given);
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
          expect(error.code).not.toBe("internal");
          expect(error.message.length).toBeLessThan(2_000);
        }
      }),
      { numRuns: 400, endOnFailure: true },
    );
    await expectUnharmed();
    expect(client.strays).toEqual([]);
  });

  test("a list of what is wrong names ten of them, and one that is too long is not looked into", async () => {
    const refusal = async (method: string, params: object) => {
      const error = (await client
        .command(method, params as never)
        .catch((reason) => reason)) as ProtocolError;
      expect(error).toMatchObject({ code: "invalid_argument" });
      return error.details?.issues as { path: string }[];
    };
    const wrong = (count: number) => Array.from({ length: count }, () => 1);
    expect(await refusal("run.start", { agent: "a", config: { tags: wrong(100) } })).toHaveLength(10);
    const long = wrong(20_000);
    const tooLong: [string, string, object][] = [
      ["config.tags", "run.start", { agent: "a", config: { tags: long } }],
      ["config.tags", "run.start", { agent: "a", config: { tags: long.map(String) } }],
      ["modes", "run.start", { agent: "a", modes: long }],
      ["interruptBefore", "run.start", { agent: "a", interruptBefore: long }],
      ["command.goto", "run.start", { agent: "a", command: { goto: long } }],
      ["filter.ns", "run.subscribe", { runId: "followed", filter: { ns: long } }],
      ["filter.tags", "run.subscribe", { runId: "followed", filter: { tags: long } }],
      ["ns", "thread.get", { threadId: "t", ns: long }],
    ];
    for (const [path, method, params] of tooLong) {
      expect(await refusal(method, params)).toMatchObject([{ path }]);
    }
    await expectUnharmed();
  });

  test("a list of runs with much metadata comes in several answers", async () => {
    const runs = new RunStore(line.redis, { prefix: line.prefix });
    const dispatcher = new Dispatcher(line.redis, { prefix: line.prefix });
    const metadata = { pad: "x".repeat(1_000_000) };
    try {
      for (let i = 0; i < 6; i++) {
        const request = { queue: "none" };
        await dispatcher.start({ agent: "a", owner: "local", threadId: "large", request, metadata });
      }
    } finally {
      await dispatcher.close();
    }
    const first = await client.call("run.list", { threadId: "large" });
    expect(first.runs).toHaveLength(5);
    const second = await client.call("run.list", { threadId: "large", before: first.next! });
    expect(second.runs).toHaveLength(1);
    expect(second.next).toBeUndefined();
    for (const { runId } of [...first.runs, ...second.runs]) await runs.remove(runId);
  });

  test("what a run was asked, which may be large, is not read to look at the run", async () => {
    const own = await ScriptedRun.open(line.redis, line.prefix, "looked-at");
    const redis = new Redis(testRedisUrl());
    const seen: string[][] = [];
    const monitor = await redis.monitor();
    try {
      monitor.on("monitor", (_: string, args: string[]) => seen.push(args));
      await client.command("run.get", { runId: own.runId });
      await client.command("run.subscribe", { runId: own.runId });
      await client.command("run.unsubscribe", { runId: own.runId });
      const cancelled = client.command("run.cancel", { runId: own.runId });
      await own.finish();
      await cancelled;
      const mark = `mark-${own.runId}`;
      await redis.echo(mark);
      await until(() => seen.some((args) => args.includes(mark)));
    } finally {
      monitor.disconnect();
      redis.disconnect();
    }
    const reads = seen.filter((args) => args.some((arg) => arg.includes(`{${own.runId}}`)));
    expect(reads.length).toBeGreaterThan(3);
    expect(reads.filter(([name]) => name?.toLowerCase() === "hgetall")).toEqual([]);
    expect(reads.filter((args) => args.includes("request"))).toEqual([]);
  });

  test("a frame that is none is answered with what would be right, and costs nothing", async () => {
    const bad = ["", "{", "[]", "null", "5", '"x"', '{"id":1}', '{"id":-1,"method":"server.ping"}', "\u0000"];
    for (const frame of [...bad, Buffer.from([1, 2, 3]), Buffer.from('{"id":1,"method":"server.ping"}')]) {
      const before = client.strays.length;
      client.raw(frame);
      await until(() => client.strays.length === before + 1, patienceMs, `an answer to ${frame}`);
      expect(client.strays.at(-1)).toMatchObject({ error: "invalid_argument", retryable: false });
      expect(client.strays.at(-1)!.message).toContain('{"id":1,"method":"server.ping"');
      // A good frame in between: two bad ones in a row would close the socket.
      await client.call("server.ping", {});
    }
    await expectUnharmed();
  });

  test("a frame over the limit closes its own socket with 1009, and no other", async () => {
    const big = await line.client();
    big.raw(`{"id":1,"method":"server.ping","params":{"x":"${"x".repeat(100_000)}"}}`);
    expect((await within(big.closed)).code).toBe(1009);
    await expectUnharmed();
  });

  test("two bad frames in a row close the socket with 4400, after their answers", async () => {
    const bad = await line.client();
    bad.raw("{");
    bad.raw(Buffer.from([0]));
    bad.raw('{"id":7,"method":"server.ping"}');
    expect((await within(bad.closed)).code).toBe(4400);
    expect(bad.strays).toHaveLength(2);
    await expectUnharmed();
  });

  test("a socket that breaks the WebSocket protocol, or a request that is none, ends alone", async () => {
    const broken = await line.client();
    broken.socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff]));
    await within(broken.closed);
    for (const path of ["//", "/nowhere", "/v1/ws"]) {
      const response = await fetch(`http://127.0.0.1:${line.gateways[0]!.port}${path}`).catch(() => null);
      expect(response?.status ?? 404).toBe(path === "/v1/ws" ? 426 : 404);
    }
    await expect(TestClient.open(line.gateways[0]!.url.replace("/v1/ws", "/v2/ws"))).rejects.toThrow();
    await expectUnharmed();
  });

  test("P7: sockets that come and go leave nothing behind", async () => {
    const gateway = line.gateways[0]!;
    const before = [gateway.connections, gateway.runs];
    const others = await Promise.all(
      Array.from({ length: 20 }, (_, i) => ScriptedRun.open(line.redis, line.prefix, `r${i}`)),
    );
    for (let round = 0; round < 5; round++) {
      const clients = await Promise.all(Array.from({ length: 20 }, () => line.client()));
      await Promise.all(clients.map((each, i) => each.follow(others[i]!.runId)));
      expect(gateway.runs).toBe(before[1]! + 20);
      for (const [i, each] of clients.entries()) {
        // Some go in the middle of a command.
        if (i % 2 === 0) each.call("run.subscribe", { runId: others[(i + 1) % 20]!.runId }).catch(() => {});
        each.drop();
      }
      await Promise.all(clients.map((each) => each.closed));
    }
    await until(() => gateway.connections === before[0] && gateway.runs === before[1]);
    // Nor in Redis.
    await until(async () => {
      const channels = (await line.redis.pubsub("CHANNELS", `${line.prefix}:{r*`)) as string[];
      return channels.length === 0;
    });
  });
});

test("/healthz, /readyz, and what else there is", async () => {
  const line = await startLine({ workers: 0 });
  try {
    expect(await get(line, "/healthz")).toEqual({ status: 200, body: { status: "ok" } });
    expect(await get(line, "/readyz")).toEqual({ status: 200, body: { status: "ready" } });
    expect(await get(line, "/readyz?x=1")).toMatchObject({ status: 200 });
    expect(await get(line, "/")).toMatchObject({
      status: 404,
      body: { error: expect.stringContaining("/v1/ws") },
    });
  } finally {
    await line.stop();
  }
});

describe("Redis goes away", () => {
  let dir: string;
  let redis: PrivateRedis;
  let line: Line;

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), "throughline-gateway-"));
    redis = await startPrivateRedis({ dataDir: dir, args: ["--appendfsync", "always"] });
    line = await startLine({ workers: 0, redisUrl: redis.url });
  });
  afterEach(async () => {
    await line.stop();
    await redis.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  test("P2, P7: not ready, commands are refused as unavailable, sockets stay; all goes on when it is back", async () => {
    const client = await line.client();
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    await run.append([own(1)]);
    const followed = await client.follow(run.runId);
    await until(() => followed.last === 1);
    const { port } = redis;
    await redis.stop();
    await until(async () => (await get(line, "/readyz")).status === 503);
    expect((await get(line, "/readyz")).body).toMatchObject({
      reasons: expect.arrayContaining(["redis does not answer"]),
    });
    expect((await get(line, "/healthz")).status).toBe(200);
    for (const [method, params] of [
      ["run.get", { runId: "run" }],
      ["run.start", { agent: "a" }],
      ["run.subscribe", { runId: "run" }],
      ["run.cancel", { runId: "run" }],
      ["thread.get", { threadId: "t" }],
      ["agent.list", {}],
    ] as const) {
      expect(await client.refusal(method, params)).toMatchObject({ code: "unavailable", retryable: true });
    }
    expect(await client.call("server.ping", {})).toEqual({});
    redis = await startPrivateRedis({ dataDir: dir, port });
    await until(async () => (await get(line, "/readyz")).status === 200, patienceMs, "readiness");
    await run.append([own(2)]);
    const last = await run.finish();
    await followed.ended();
    expect(followed.offsets).toEqual([1, 2, 3]);
    expect(last).toBe(3);
  });

  test("P2: the subscriber connection is killed: it recovers by itself, and nothing is missed", async () => {
    const client = await line.client();
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    const followed = await client.follow(run.runId);
    for (let i = 0; i < 5; i++) {
      expect(Number(await line.redis.call("CLIENT", "KILL", "TYPE", "pubsub"))).toBeGreaterThan(0);
      await run.append([own(i)]);
      await until(() => followed.last === i + 1);
    }
    followed.check();
    expect((await get(line, "/readyz")).status).toBe(200);
  });
});

test("P2: a subscriber connection that is open and delivers nothing is found out, replaced, and costs no part", async () => {
  const proxy = await startProxy(testRedisUrl());
  const line = await startLine({ workers: 0, redisUrl: proxy.url, times: { probeMs: 1_000 } });
  try {
    const client = await line.client();
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    const followed = await client.follow(run.runId);
    await run.append([own(1)]);
    await until(() => followed.last === 1);
    expect(proxy.mute("throughline-gateway:subscriber")).toBe(1);
    await run.append([own(2)]);
    await until(() => followed.last === 2, patienceMs, "the part whose message was swallowed");
    await run.append([own(3)]);
    await until(() => followed.last === 3);
    followed.check();
    expect((await get(line, "/readyz")).status).toBe(200);
  } finally {
    await line.stop();
    proxy.close();
  }
});

test("P8: while Redis takes its time over lists, states and histories, all else goes on", async () => {
  const proxy = await startProxy(testRedisUrl());
  const line = await startLine({ workers: 0, redisUrl: proxy.url });
  try {
    const client = await line.client();
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    const followed = await client.follow(run.runId);
    const release = proxy.hold("throughline-gateway-reads:commands");
    let listed = 0;
    const lists = Array.from({ length: 20 }, () => client.call("run.list", {}, () => listed++));
    await run.append([own(1)]);
    await until(() => followed.last === 1);
    expect((await client.call("run.get", { runId: run.runId })).head).toBe(1);
    const late = await (await line.client()).follow(run.runId);
    await until(() => late.last === 1);
    expect(listed).toBe(0);
    release();
    for (const list of lists) expect(await list).toEqual({ runs: [] });
  } finally {
    await line.stop();
    proxy.close();
  }
});
/** Quiet runs are not looked at: what comes, comes by the way that is tested. */
const never = 3_600_000;

test("P2: the end that one reader's page brings is the others' end too, though its message never comes", async () => {
  const proxy = await startProxy(testRedisUrl());
  const line = await startLine({ workers: 0, redisUrl: proxy.url, times: { probeMs: never } });
  try {
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    await run.append([own(1)]);
    const waiting = await (await line.client()).follow(run.runId);
    await until(() => waiting.last === 1);
    expect(proxy.mute("throughline-gateway:subscriber")).toBe(1);
    await run.append([own(2)]);
    await run.finish();
    const late = await (await line.client()).follow(run.runId);
    await late.ended();
    await waiting.ended();
    expect(waiting.offsets).toEqual([1, 2, 3]);
    expect(waiting.unsubscribed).toEqual(["ended"]);
  } finally {
    await line.stop();
    proxy.close();
  }
});

test("P2: a page that is ahead of the messages keeps them from nobody", async () => {
  const proxy = await startProxy(testRedisUrl());
  const line = await startLine({ workers: 0, redisUrl: proxy.url, times: { probeMs: never } });
  try {
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    await run.append([own(1)]);
    const live = await (await line.client()).follow(run.runId);
    await until(() => live.last === 1);
    const release = proxy.hold("throughline-gateway:subscriber");
    await run.append([own(2)]);
    // The page comes before the message.
    const late = await (await line.client()).follow(run.runId);
    await until(() => late.last === 2);
    expect(live.last).toBe(1);
    release();
    await until(() => live.last === 2);
    for (const { offsets } of [live, late]) expect(offsets).toEqual([1, 2]);
    live.check();
    late.check();
  } finally {
    await line.stop();
    proxy.close();
  }
});

test("a snapshot says which messages are whole, and which calls are being streamed: it can be gone on from", async () => {
  const line = await startLine({ workers: 0 });
  try {
    const run = await ScriptedRun.open(line.redis, line.prefix, "run");
    const call = (id: string, piece: object): Part => {
      const chunk = { type: "AIMessageChunk", id, content: "", tool_call_chunks: [piece] };
      return { type: "messages", ns: [], data: [chunk as never, {}] };
    };
    const answer = { type: "ai", id: "whole", content: "all of it" };
    const parts: Part[] = [
      { type: "updates", ns: [], data: { node: { messages: [answer] } } },
      call("open", { index: 0, id: "t", name: "search", args: '{"q":' }),
      call("open", { index: 0, args: '"cats' }),
    ];
    const fold = new Fold();
    for (const [i, part] of parts.entries()) {
      if (i === 2) await run.writer.trim(2, JSON.stringify(fold.snapshot()));
      await run.append([part]);
      fold.add(part, i + 1);
    }
    const late = await (await line.client()).follow(run.runId);
    await until(() => late.last === 3);
    const again = Fold.from(late.snapshots[0] as FoldSnapshot);
    for (const { offset, part } of late.delivered) again.add(part!, offset);
    const seen = fold.messages().map(({ message, complete, calls }) => ({ message, complete, calls }));
    expect(again.messages()).toMatchObject(seen);
    expect(seen).toMatchObject([{ complete: true }, { calls: [{ name: "search", args: '{"q":"cats' }] }]);
  } finally {
    await line.stop();
  }
});

describe("heartbeat", () => {
  test("a socket that answers no ping is closed; one that does, or that talks, stays", async () => {
    const line = await startLine({ workers: 0, env: { HEARTBEAT_MS: "200" } });
    try {
      const dead = await line.client(0, { autoPong: false });
      const quiet = await line.client();
      const talking = await line.client(0, { autoPong: false });
      expect(dead.hello.heartbeatMs).toBe(200);
      let pings = 0;
      quiet.ws.on("ping", () => pings++);
      let over = false;
      void dead.closed.then(() => {
        over = true;
      });
      while (!over || pings < 5) {
        await talking.call("server.ping", {});
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      expect(await quiet.call("server.ping", {})).toEqual({});
      expect(line.gateways[0]!.connections).toBe(2);
    } finally {
      await line.stop();
    }
  });
});

describe("draining", () => {
  test("P7: every socket is told, closed with 1012, and goes on at another gateway", async () => {
    const line = await startLine({ workers: 0, gateways: 2, env: { DRAIN_MS: "200" } });
    try {
      const run = await ScriptedRun.open(line.redis, line.prefix, "run");
      await run.append([own(1), own(2)]);
      const clients = await Promise.all(Array.from({ length: 20 }, () => line.client(0)));
      const followed = await Promise.all(clients.map((client) => client.follow(run.runId)));
      await until(() => followed.every(({ last }) => last === 2));
      const [going] = line.gateways;
      const closed = Promise.all([going!.close(), going!.close()]);
      await until(() =>
        clients.every((client) => client.events.some(({ method }) => method === "server.draining")),
      );
      // No new ones in the meantime; what is there is served until its close.
      await expect(TestClient.open(going!.url)).rejects.toThrow();
      await run.append([own(3)]);
      for (const client of clients) expect((await within(client.closed)).code).toBe(1012);
      await closed;
      expect(going!.connections).toBe(0);
      const again = await line.client(1);
      for (const transcript of followed) {
        const on = new Transcript(run.runId, transcript.last);
        transcript.check();
        await again.follow(run.runId, {}, on);
        await until(() => on.last === 3);
        expect([...transcript.offsets, ...on.offsets]).toEqual([1, 2, 3]);
      }
    } finally {
      await line.stop();
    }
  });

  test("retryInMs is within DRAIN_MS, and not the same for all", async () => {
    const line = await startLine({ workers: 0, env: { DRAIN_MS: "300" } });
    try {
      const clients = await Promise.all(Array.from({ length: 30 }, () => line.client()));
      await line.gateways[0]!.close();
      const delays = clients.map((client) => {
        const event = client.events.find(({ method }) => method === "server.draining");
        return (event!.params as { retryInMs: number }).retryInMs;
      });
      expect(Math.max(...delays)).toBeLessThanOrEqual(300);
      expect(new Set(delays).size).toBeGreaterThan(5);
    } finally {
      await line.stop();
    }
  });
});

describe("limits", () => {
  test("subscriptions, commands a second, connections a second", async () => {
    const line = await startLine({
      workers: 0,
      env: { MAX_SUBSCRIPTIONS: "3", COMMANDS_PER_SECOND: "20", CONNECTIONS_PER_SECOND: "8" },
    });
    try {
      const client = await line.client();
      const runs = await Promise.all(
        Array.from({ length: 6 }, (_, i) => ScriptedRun.open(line.redis, line.prefix, `r${i}`)),
      );
      const tries = await Promise.allSettled(runs.map(({ runId }) => client.follow(runId)));
      const refused = tries.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
      expect(refused).toHaveLength(3);
      for (const error of refused) expect(error).toMatchObject({ code: "too_many_subscriptions" });
      // One that has ended, or was given up, makes room.
      const held = runs[tries.findIndex(({ status }) => status === "fulfilled")]!;
      await held.finish();
      await client.transcript(held.runId).ended();
      const other = runs[tries.findIndex(({ status }) => status === "rejected")]!;
      await until(async () => {
        await client.follow(other.runId);
        return true;
      });
      const answers = await Promise.allSettled(
        Array.from({ length: 190 }, () => client.call("server.ping", {})),
      );
      // Five seconds' worth may come at once; and more comes in, the longer the machine takes for them.
      const limited = answers.filter(({ status }) => status === "rejected");
      expect(limited.length).toBeGreaterThan(0);
      for (const each of limited) {
        expect((each as PromiseRejectedResult).reason).toMatchObject({
          code: "rate_limited",
          retryable: true,
        });
      }
      const opened = await Promise.allSettled(Array.from({ length: 40 }, () => line.client()));
      const codes = opened.flatMap((each) =>
        each.status === "rejected" ? [each.reason as RefusedError] : [],
      );
      expect(codes.length).toBeGreaterThan(0);
      for (const { code } of codes) expect(code).toBe(1013);
    } finally {
      await line.stop();
    }
  });
});
