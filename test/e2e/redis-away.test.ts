/** Redis goes away, hangs, is full, takes no writes: sockets stay, commands are refused at once, no part is lost. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { gatewayConfig, startGateway } from "@throughline/gateway";
import { ProtocolError } from "@throughline/protocol";
import { LogReader } from "@throughline/runlog";
import { type AgentContext, agent } from "@throughline/worker";
import { Redis } from "ioredis";
import { type Logger, pino } from "pino";
import { expect, test } from "vitest";
import { countText, countToken, Gate } from "../support/agents.ts";
import { TestClient } from "../support/client.ts";
import { ScriptedModel } from "../support/graphs.ts";
import { type Line, startLine } from "../support/line.ts";
import { lastingPort, type PrivateRedis, startPrivateRedis } from "../support/redis.ts";
import type { Transcript } from "../support/transcript.ts";
import { patienceMs, until, within } from "../support/until.ts";

/** How long Redis is away in the longest of these, ms: well over the time that a job's lock holds. */
const absenceMs = Number(process.env.ABSENCE_MS ?? 7_000);

/** A Redis of its own that keeps what it is told, two gateways, two workers. */
class Scene {
  readonly #dataDir = mkdtempSync(join(tmpdir(), "throughline-redis-away-"));
  readonly gate = new Gate();
  redis!: PrivateRedis;
  line!: Line;
  /** How many tokens the agents have made, those included that no log has. */
  made = 0;

  static async play(play: (scene: Scene) => Promise<void>): Promise<void> {
    const scene = new Scene();
    try {
      scene.redis = await scene.#newRedis(await lastingPort());
      const agents = {
        steady: agent(scene.#steady, { takeover: "resume" }),
        flood: agent(scene.#flood, { takeover: "resume" }),
        graph: scene.#graph(),
      };
      scene.line = await startLine({ redisUrl: scene.redis.url, agents, gateways: 2, workers: 2 });
      await play(scene);
    } finally {
      await scene.line.stop();
      await scene.redis.stop();
      rmSync(scene.#dataDir, { recursive: true, force: true });
    }
  }

  /** Counts until the gate is open, and goes on where an earlier attempt was. */
  readonly #steady = async function* (this: Scene, { signal, partial }: AgentContext) {
    const said = String(partial?.messages[0]?.content ?? "");
    for (let i = said.split(" ").length - 1; !this.gate.isOpen; i++) {
      await sleep(10, undefined, { signal });
      yield countToken(i);
      this.made++;
    }
  }.bind(this);

  /** As fast as it is let. */
  readonly #flood = async function* (this: Scene, { signal, partial }: AgentContext) {
    const said = String(partial?.messages[0]?.content ?? "").length / floodPad;
    for (let i = said; !this.gate.isOpen && !signal.aborted; i++) {
      yield countToken(i, floodPad);
      this.made++;
      if (i % 20 === 0) await sleep(1);
    }
  }.bind(this);

  /** A graph whose model does the same. */
  #graph() {
    const { gate } = this;
    const model = new ScriptedModel(
      async function* (this: Scene) {
        for (let i = 0; !gate.isOpen; i++) {
          yield countToken(i, floodPad);
          this.made++;
          if (i % 20 === 0) await sleep(1);
        }
      }.bind(this),
    );
    return new StateGraph(MessagesAnnotation)
      .addNode("llm", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
      .addEdge(START, "llm")
      .compile();
  }

  async stopRedis(): Promise<void> {
    process.kill(this.redis.pid, "SIGKILL");
    await this.redis.stop();
  }

  async startRedis(): Promise<void> {
    this.redis = await this.#newRedis(this.redis.port);
  }

  /** Its writes are the kernel's before they are answered: `everysec` would put some off while the disk is busy. */
  #newRedis(port: number): Promise<PrivateRedis> {
    return startPrivateRedis({ dataDir: this.#dataDir, port, args: ["--appendfsync", "no"] });
  }

  /** Every token that the agent made is in the log once, in order, and the reader was told exactly that. */
  async checkStory(reader: Transcript, pad = 0): Promise<void> {
    expect(await reader.ended()).toMatchObject({ event: "completed" });
    const log = new LogReader(this.line.redis, this.line.prefix);
    const logged = [];
    for await (const { part } of log.parts(reader.runId)) logged.push(part);
    expect(reader.parts).toEqual(logged);
    expect(reader.resets).toEqual([]);
    // What a rewind took back is in the log, and not in the text.
    const tokens = pad === 0 ? reader.text.split(" ").length - 1 : reader.text.length / pad;
    expect(reader.text === countText(tokens, pad), `the text of ${tokens} tokens`).toBe(true);
  }
}

const floodPad = 1_000;

interface Trouble {
  /** Makes Redis fail; what it answers ends that. */
  begin(scene: Scene): Promise<() => Promise<void>>;
  lasts: number;
  /** A command that is refused meanwhile. */
  refused: "run.get" | "run.start";
}

/** Over a connection of its own: the others may be stuck. */
async function tell(scene: Scene, ...command: [string, ...string[]]): Promise<void> {
  const redis = new Redis(scene.redis.url, { maxRetriesPerRequest: null });
  await redis.call(...command);
  redis.disconnect();
}

const troubles: Record<string, Trouble> = {
  "is restarted with its append-only file": {
    begin: async (scene) => {
      await scene.stopRedis();
      return () => scene.startRedis();
    },
    lasts: 1_000,
    refused: "run.get",
  },
  "is away for longer than a worker may keep its run": {
    begin: async (scene) => {
      await scene.stopRedis();
      return () => scene.startRedis();
    },
    lasts: absenceMs,
    refused: "run.get",
  },
  "holds its breath": {
    begin: async (scene) => {
      process.kill(scene.redis.pid, "SIGSTOP");
      return async () => {
        process.kill(scene.redis.pid, "SIGCONT");
      };
    },
    lasts: 8_000,
    refused: "run.get",
  },
  "lets its clients wait": {
    begin: async (scene) => {
      // Who would end that early would have to wait as well.
      await tell(scene, "CLIENT", "PAUSE", "9000", "ALL");
      return async () => {};
    },
    // It ends by itself: nobody asks any more by then.
    lasts: 3_000,
    refused: "run.get",
  },
  "is full": {
    begin: async (scene) => {
      await tell(scene, "CONFIG", "SET", "maxmemory", "1mb");
      return () => tell(scene, "CONFIG", "SET", "maxmemory", "0");
    },
    lasts: 7_000,
    refused: "run.start",
  },
  "is a replica that takes no writes": {
    begin: async (scene) => {
      await tell(scene, "REPLICAOF", "127.0.0.1", "1");
      return () => tell(scene, "REPLICAOF", "NO", "ONE");
    },
    lasts: 7_000,
    refused: "run.start",
  },
};

test.concurrent.each(Object.entries(troubles))("P1, P2, P5: Redis %s", (_, trouble) =>
  Scene.play(async (it) => {
    const clients = [await it.line.client(0), await it.line.client(1)];
    const [client] = clients as [(typeof clients)[0]];
    const reader = await client.start({ agent: "steady" });
    const { runId } = reader;
    const other = await clients[1]!.follow(runId);
    await until(() => reader.last > 20 && other.last > 20);

    const end = await trouble.begin(it);
    const began = performance.now();
    const elapsed = () => performance.now() - began;
    const refuse = async () => {
      const params = trouble.refused === "run.get" ? { runId } : { agent: "steady" };
      const refusal = await client.refusal(trouble.refused, params);
      expect(refusal).toBeInstanceOf(ProtocolError);
      expect(refusal).toMatchObject({ code: "unavailable", retryable: true });
    };
    let last: number;
    try {
      // One that finds out, and those that need not any more: all while Redis is in its trouble.
      await refuse();
      await refuse();
      while (elapsed() < trouble.lasts) {
        await refuse();
        await sleep(500);
      }
      last = reader.last;
    } finally {
      await end();
    }

    await until(() => reader.last > last + 50 && other.last > last + 50, patienceMs, "the run's going on");
    it.gate.open();
    await it.checkStory(reader);
    await it.checkStory(other);
    // The same sockets, and workers that take runs as before.
    const next = await until(() => startAgain(client), patienceMs, "a start that is not refused");
    await next.ended();
  }),
);

test.concurrent.for(["flood", "graph"])(
  "P7: while Redis is away an agent runs only so far ahead of its log, and loses nothing (%s)",
  (name) =>
    Scene.play(async (it) => {
      const client = await it.line.client();
      const reader = await client.start({ agent: name, input: { messages: [] } });
      await until(() => reader.last > 100);
      await it.stopRedis();
      // It makes some more, until what is unacknowledged is 256 Ki characters and it has to wait.
      let made = -1;
      await until(async () => {
        if (it.made === made) return true;
        made = it.made;
        await sleep(300);
        return false;
      });
      await until(() => reader.last > 0);
      const ahead = it.made - reader.last;
      expect(ahead).toBeGreaterThan(50);
      expect(ahead).toBeLessThan((256 * 1024) / floodPad + 2);
      await it.startRedis();
      await until(() => reader.last > made, patienceMs, "what had waited");
      it.gate.open();
      await it.checkStory(reader, floodPad);
    }),
);

test.concurrent("workers that are told to stop while Redis is away do", () =>
  Scene.play(async (it) => {
    it.gate.open();
    for (let i = 0; i < 3; i++) await it.line.addWorker();
    await it.stopRedis();
    // Some will be between two tries to connect, some in the middle of one.
    await sleep(1_000);
    const closed = Promise.all(it.line.workers.map((worker) => worker.close()));
    await within(closed, patienceMs, "the end of the workers");
    await it.startRedis();
  }));

test.concurrent("what Redis may lose by its settings is warned of once by a gateway, and once by a worker", () =>
  Scene.play(async (it) => {
    it.gate.open();
    await tell(it, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
    await tell(it, "CONFIG", "SET", "appendonly", "no");
    const expected = [
      expect.stringMatching(/^maxmemory-policy is allkeys-lru/),
      expect.stringMatching(/^nothing is persisted/),
    ];
    const { redisUrl, prefix } = it.line;
    const byWorker: string[] = [];
    await it.line.addWorker({ logger: hearing(byWorker) });
    expect(byWorker).toEqual(expected);
    const byGateway: string[] = [];
    const config = gatewayConfig({ REDIS_URL: redisUrl, KEY_PREFIX: prefix, PORT: "0", DRAIN_MS: "0" });
    await (await startGateway(config, hearing(byGateway))).close();
    expect(byGateway).toEqual(expected);
  }));

test.concurrent("what Redis refuses is in the logs of gateway and worker, in its own words, and clients are told", () =>
  Scene.play(async (it) => {
    const { redisUrl, prefix } = it.line;
    const byWorker: string[] = [];
    const loud = async function* ({ signal }: AgentContext) {
      for (let i = 0; !it.gate.isOpen; i++) {
        await sleep(10, undefined, { signal });
        yield countToken(i);
      }
    };
    await it.line.addWorker({ agents: { loud }, queue: "loud", logger: hearing(byWorker) });
    const byGateway: string[] = [];
    const config = gatewayConfig({ REDIS_URL: redisUrl, KEY_PREFIX: prefix, PORT: "0", DRAIN_MS: "0" });
    const gateway = await startGateway(config, hearing(byGateway));
    const client = await TestClient.open(gateway.url);
    try {
      const reader = await client.start({ agent: "loud" });
      await until(() => reader.last > 5);
      await tell(it, "CONFIG", "SET", "maxmemory", "1mb");
      const refusal = await client.refusal("run.start", { agent: "loud", input: { secret: "hunter2" } });
      expect(refusal).toMatchObject({ code: "unavailable" });
      expect((refusal as ProtocolError).message).toMatch(/^Redis refuses writes for now; /);
      await until(() => byWorker.length > 0, patienceMs, "the worker's warning");
      expect(byWorker[0]).toMatch(/^Redis refuses commands for now, .*: .*OOM command not allowed/);
      expect(byGateway[0]).toMatch(/^Redis refuses commands for now, .*: .*OOM command not allowed/);
      expect(byGateway.join()).not.toContain("hunter2");
      expect((await fetch(`http://127.0.0.1:${gateway.port}/readyz`)).status).toBe(200);
      await tell(it, "CONFIG", "SET", "maxmemory", "0");
      it.gate.open();
      expect(await reader.ended()).toMatchObject({ event: "completed" });
    } finally {
      client.drop();
      await gateway.close();
    }
  }));

/** Starts a run; null where Redis has only just come back, and a connection of the gateway is still on its way to it. */
async function startAgain(client: TestClient): Promise<Transcript | null> {
  try {
    return await client.start({ agent: "steady" });
  } catch (error) {
    if ((error as ProtocolError).retryable) return null;
    throw error;
  }
}

/** A logger that puts its warnings into `warnings`. */
function hearing(warnings: string[]): Logger {
  return pino(
    { level: "warn" },
    { write: (line) => warnings.push((JSON.parse(line) as { msg: string }).msg) },
  );
}
