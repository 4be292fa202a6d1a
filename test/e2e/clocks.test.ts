/** Processes whose wall clocks are wrong: what is decided between them goes by none of these clocks. */
import { findFreePort } from "@throughline/local";
import { describe, expect, test } from "vitest";
import { TestClient } from "../support/client.ts";
import { shiftedClock } from "../support/clock.ts";
import { GatewayProcess } from "../support/gateway-process.ts";
import { testRedisUrl } from "../support/redis.ts";
import { until } from "../support/until.ts";
import { WorkerProcess } from "../support/worker-process.ts";
import { Workshop } from "../support/workers.ts";

const hour = 60 * 60 * 1_000;
const day = 24 * hour;
/** Longer than any test takes. */
const long = { n: 100_000, ms: 20 };
const short = { n: 3, ms: 10 };

class Scene {
  readonly shop = new Workshop();
  readonly #workers: WorkerProcess[] = [];
  readonly #gateways: GatewayProcess[] = [];
  readonly #clients: TestClient[] = [];

  static async play(play: (scene: Scene) => Promise<void>): Promise<void> {
    const scene = new Scene();
    try {
      await play(scene);
    } finally {
      for (const client of scene.#clients) client.drop();
      await Promise.all(scene.#workers.map((worker) => worker.kill()));
      for (const gateway of scene.#gateways) gateway.process.kill("SIGTERM");
      await Promise.all(scene.#gateways.map(({ exit }) => exit));
      await scene.shop.stop();
    }
  }

  async addWorker(clockMs: number, ...agents: string[]): Promise<WorkerProcess> {
    const env = { ...shiftedClock(clockMs), AGENTS: agents.join(",") };
    const worker = await WorkerProcess.start(testRedisUrl(), this.shop.prefix, env);
    this.#workers.push(worker);
    return worker;
  }

  /** A socket on a new gateway. */
  async clientOf(clockMs: number): Promise<TestClient> {
    const env = { REDIS_URL: testRedisUrl(), KEY_PREFIX: this.shop.prefix, ...shiftedClock(clockMs) };
    const gateway = await GatewayProcess.start(env, await findFreePort());
    this.#gateways.push(gateway);
    const client = await TestClient.open(gateway.url);
    this.#clients.push(client);
    return client;
  }

  /** Waits until a worker has had the run and given it back. */
  async givenBack(runId: string): Promise<void> {
    await until(async () => {
      const { attempt, status } = await this.shop.record(runId);
      return attempt > 0 && status === "queued";
    });
  }
}

describe.each([
  ["ahead", hour],
  ["behind", -hour],
])("a worker whose clock is an hour %s", (_, shift) => {
  test("gives back a run of an agent that it does not know: another has it", () =>
    Scene.play(async (it) => {
      await it.addWorker(shift, "deaf");
      const runId = await it.shop.start("talk", { input: short });
      await it.givenBack(runId);
      await it.addWorker(0, "talk");
      expect((await it.shop.ended(runId)).record.status).toBe("completed");
    }));

  test("has what another gave back", () =>
    Scene.play(async (it) => {
      await it.addWorker(0, "deaf");
      const runId = await it.shop.start("talk", { input: short });
      await it.givenBack(runId);
      await it.addWorker(shift, "talk");
      expect((await it.shop.ended(runId)).record.status).toBe("completed");
    }));

  test("P3: gives back two runs, and is killed: another has them, the cancel of one too", () =>
    Scene.play(async (it) => {
      const off = await it.addWorker(shift, "deaf");
      const runId = await it.shop.start("talk", { input: short });
      const cancelled = await it.shop.start("talk", { input: long });
      await it.givenBack(runId);
      await it.givenBack(cancelled);
      await off.kill();
      await it.shop.dispatcher.cancel(cancelled, { keep: "thread" });
      await it.addWorker(0, "talk");
      expect((await it.shop.ended(runId)).record.status).toBe("completed");
      expect((await it.shop.ended(cancelled)).record.status).toBe("cancelled");
    }));

  test("P3: cancels a run that it gave back, and one that it has", () =>
    Scene.play(async (it) => {
      await it.addWorker(shift, "deaf");
      const [back, held] = [await it.shop.start("talk"), await it.shop.start("deaf", { input: long })];
      await it.givenBack(back);
      await it.shop.reached(held, 2);
      for (const runId of [back, held]) {
        expect(await it.shop.dispatcher.cancel(runId, { keep: "thread" })).toEqual({ outcome: "requested" });
        expect((await it.shop.ended(runId)).record.status).toBe("cancelled");
      }
    }));

  test("P6: hands over what it has at SIGTERM", () =>
    Scene.play(async (it) => {
      const off = await it.addWorker(shift, "talk");
      const runId = await it.shop.start("talk", { input: long });
      await it.shop.reached(runId, 3);
      await it.addWorker(0, "talk");
      await off.terminate();
      await it.shop.reached(runId, (await it.shop.record(runId)).head + 5);
      await it.shop.dispatcher.cancel(runId, { keep: "thread" });
      const { record, lifecycle } = await it.shop.ended(runId);
      expect(record).toMatchObject({ status: "cancelled", attempt: 2 });
      expect(lifecycle.map(({ event }) => event)).toEqual(["started", "rewound", "cancelled"]);
    }));

  test("P5: tries a suspect alone, and then goes on with its others", () =>
    Scene.play(async (it) => {
      await it.addWorker(shift, "talk", "going");
      const other = await it.shop.start("going", { input: { n: 200, ms: 20 } });
      await it.shop.reached(other, 2);
      const suspect = await it.shop.dispatcher.runs.open({
        runId: "suspect",
        threadId: "of-suspect",
        agent: "talk",
        owner: "alice",
        epoch: "e",
        request: JSON.stringify({ queue: "default", input: { n: 200, ms: 20 } }),
      });
      expect(suspect).toEqual({ created: true });
      for (let i = 0; i < 3; i++) await it.shop.claimAndDie("suspect");
      await it.shop.dispatcher.revive("suspect");
      await until(async () => (await it.shop.dispatcher.runs.must("suspect")).trials === 1);
      expect((await it.shop.record(other)).status).toBe("queued");
      const [tried, gone] = [await it.shop.ended("suspect"), await it.shop.ended(other)];
      expect([tried.record.status, gone.record.status]).toEqual(["completed", "completed"]);
      expect(gone.record.attempt).toBe(2);
    }));
});

test("gateways of different clocks list an owner's runs, and a thread's, in the order in which they came", () =>
  Scene.play(async (it) => {
    // That nobody has seen this worker's clock for two days is no reason not to know its agents.
    await it.addWorker(-2 * day, "talk");
    const clients = await Promise.all([hour, 0, -hour].map((shift) => it.clientOf(shift)));
    const started: string[] = [];
    for (let i = 0; i < 9; i++) {
      const params = { agent: "talk", input: { n: 0, ms: 0 }, threadId: "t" };
      started.unshift((await clients[i % 3]!.call("run.start", params)).runId);
    }
    for (const client of clients) {
      for (const of of [{}, { threadId: "t" }]) {
        const { runs } = await client.call("run.list", of);
        expect(runs.map(({ runId }) => runId)).toEqual(started);
        const times = runs.map(({ createdAt }) => Date.parse(createdAt));
        expect(times).toEqual([...times].sort((a, b) => b - a));
      }
    }
    for (const runId of started) {
      const { record } = await it.shop.ended(runId);
      const { createdAt, startedAt, endedAt } = record as Required<typeof record>;
      expect([createdAt, startedAt, endedAt]).toEqual([createdAt, startedAt, endedAt].sort());
    }
  }));
