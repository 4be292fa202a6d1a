/** Redis comes back without what it had acknowledged, and who wrote that is gone as well: nobody is left who knows. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Part } from "@throughline/protocol";
import { LogReader } from "@throughline/runlog";
import { expect, test } from "vitest";
import type { TestClient } from "../support/client.ts";
import { Flag } from "../support/flag.ts";
import { type Line, startLine } from "../support/line.ts";
import { lastingPort, type PrivateRedis, startPrivateRedis } from "../support/redis.ts";
import { Transcript } from "../support/transcript.ts";
import { patienceMs, until } from "../support/until.ts";
import { WorkerProcess } from "../support/worker-process.ts";

/** A Redis that keeps what it is told to save and nothing else, a gateway, and workers that can be killed. */
class Scene {
  readonly #dataDir = mkdtempSync(join(tmpdir(), "throughline-lost-writes-"));
  readonly #workers: WorkerProcess[] = [];
  readonly flag = new Flag();
  #redis!: PrivateRedis;
  line!: Line;
  client!: TestClient;

  static async play(play: (scene: Scene) => Promise<void>): Promise<void> {
    const scene = new Scene();
    try {
      scene.#redis = await scene.#startRedis(await lastingPort());
      scene.line = await startLine({ redisUrl: scene.#redis.url, workers: 0 });
      scene.client = await scene.line.client();
      await play(scene);
    } finally {
      await Promise.all(scene.#workers.map((worker) => worker.kill()));
      await scene.line.stop();
      await scene.#redis.stop();
      scene.flag.remove();
      rmSync(scene.#dataDir, { recursive: true, force: true });
    }
  }

  #startRedis(port: number): Promise<PrivateRedis> {
    return startPrivateRedis({ dataDir: this.#dataDir, args: ["--appendonly", "no"], port });
  }

  async addWorker(): Promise<WorkerProcess> {
    const worker = await WorkerProcess.start(this.line.redisUrl, this.line.prefix);
    this.#workers.push(worker);
    return worker;
  }

  /** A run that no worker has yet. */
  async queued(agent: string): Promise<Transcript> {
    // Its agent is known once a worker has been there.
    await (await this.addWorker()).kill();
    return await this.client.start({ agent, input: this.endless });
  }

  /** Input of a run that talks until the flag is raised. */
  get endless() {
    return { n: 1, ms: 20, until: this.flag.path };
  }

  async save(): Promise<void> {
    await this.line.redis.call("SAVE");
  }

  /** A crash: what Redis has from here on is what it last saved. */
  async losePower(): Promise<void> {
    const { pid, port } = this.#redis;
    process.kill(pid, "SIGKILL");
    await this.#redis.stop();
    // Whoever looks for a port of its own tries this one as well, for a moment, while nobody has it.
    this.#redis = await until(() => this.#startRedis(port).catch(nullIfTaken), patienceMs, "its port");
  }

  async logged(runId: string): Promise<Part[]> {
    const parts: Part[] = [];
    for await (const { part } of new LogReader(this.line.redis, this.line.prefix).parts(runId))
      parts.push(part);
    return parts;
  }
}

function nullIfTaken(error: Error): null {
  if (/Failed listening|in use/i.test(error.message)) return null;
  throw error;
}

const words = (reader: Transcript) => reader.text.trim().split(" ");

test.concurrent.each(["talk", "going"])(
  "P1: a log that lost its end together with its worker gets a new epoch: readers are told, and then the log (%s)",
  (agent) =>
    Scene.play(async (it) => {
      const first = await it.addWorker();
      const reader = await it.client.start({ agent, input: it.endless });
      const { runId } = reader;
      const { epoch } = await it.client.call("run.get", { runId });
      await until(() => reader.last > 10);
      await it.save();
      const { head: saved } = await it.client.call("run.get", { runId });
      await until(() => reader.last > saved + 15);
      await first.kill();
      const before = [...reader.delivered];
      await it.losePower();
      const record = await until(() => it.client.call("run.get", { runId }));
      expect(record.head).toBeLessThan(before.length);
      await it.addWorker();
      await until(() => reader.resets.length > 0 && reader.last > before.length);
      it.flag.raise();

      await reader.ended();
      const after = await it.logged(runId);
      expect(reader.parts).toEqual(after);
      expect(reader.offsets).toEqual(after.map((_, i) => i + 1));
      // It was about something: what was seen and what is now there differ.
      expect(after.slice(0, before.length)).not.toEqual(before.map(({ part }) => part));
      expect(reader.resets).toHaveLength(1);
      const { epoch: now } = await it.client.call("run.get", { runId });
      expect(now).not.toBe(epoch);
      expect(reader.resets[0]?.epoch).toBe(now);
      // One that was away meanwhile finds out as well.
      const late = await (await it.line.client()).follow(runId, { after: before.length, epoch });
      await late.ended();
      expect(late.parts).toEqual(after);
    }),
);

test.concurrent("P1, P3: a cancel that ends a run whose beginning was lost says so too", () =>
  Scene.play(async (it) => {
    const reader = await it.queued("talk");
    const { runId } = reader;
    await it.save();
    const worker = await it.addWorker();
    await until(() => reader.last > 5);
    await worker.kill();
    await it.losePower();
    const cancelled = await until(() => it.client.call("run.cancel", { runId }));
    expect(cancelled).toMatchObject({ status: "cancelled", offset: 1 });
    await until(() => reader.resets.length > 0);
    expect(await reader.ended()).toMatchObject({ event: "cancelled" });
    expect(reader.offsets).toEqual([1]);
  }));

test.concurrent(
  "P1, P3: a cancel that was answered and then lost: the run lives again, who follows is told, and can cancel it",
  () =>
    Scene.play(async (it) => {
      await it.addWorker();
      const reader = await it.client.start({ agent: "talk", input: { n: 2_000, ms: 20 } });
      const { runId } = reader;
      const { epoch } = await it.client.call("run.get", { runId });
      await until(() => reader.last > 10);
      await it.save();
      const saved = reader.last;
      await until(() => reader.last > saved + 15);
      expect(await it.client.call("run.cancel", { runId })).toMatchObject({ status: "cancelled" });
      expect(await reader.ended()).toMatchObject({ event: "cancelled" });
      const seen = reader.last;
      await it.losePower();

      // It had all but the ending when it lost its connection.
      const back = await until(async () =>
        (await it.line.client()).follow(runId, { after: seen - 1, epoch }),
      );
      await until(() => back.resets.length > 0, 20_000, "the reset");
      await until(() => back.last > saved, 30_000, "the run to live again");
      expect((await it.client.call("run.get", { runId })).status).toBe("running");
      expect(await it.client.call("run.cancel", { runId })).toMatchObject({ status: "cancelled" });
      expect(await back.ended()).toMatchObject({ event: "cancelled" });
      expect(back.parts).toEqual(await it.logged(runId));
    }),
  90_000,
);

test.concurrent("P4: a worker whose claim was lost writes nothing more, though Redis never heard of it", () =>
  Scene.play(async (it) => {
    const reader = await it.queued("deaf");
    const { runId } = reader;
    await it.save();
    const first = await it.addWorker();
    await until(() => reader.last > 5);
    first.freeze();
    await it.losePower();
    const second = await it.addWorker();
    await until(() => reader.resets.length > 0 && reader.last > 3);
    first.thaw();
    await until(() => first.told.some(({ event }) => event === "aborted"));
    it.flag.raise();
    await reader.ended();
    expect(reader.parts).toEqual(await it.logged(runId));
    expect(second.told).toMatchObject([{ event: "began" }]);
    expect(second.told).toMatchObject([{ attempt: first.told[0]?.attempt }]);
    expect(words(reader)).toEqual(words(reader).map((_, i) => `${second.pid}:${i}`));
  }));

test.concurrent("P1: where nothing was lost, a reader that has no more than what is left is not disturbed", () =>
  Scene.play(async (it) => {
    const first = await it.addWorker();
    const reader = await it.client.start({ agent: "talk", input: it.endless });
    const { runId } = reader;
    const { epoch } = await it.client.call("run.get", { runId });
    await until(() => reader.last > 10);
    await first.kill();
    const { head } = await it.client.call("run.get", { runId });
    await until(() => reader.last === head);
    await it.save();
    const away = reader.last;
    await it.losePower();
    await it.addWorker();
    await until(() => reader.last > away + 3);
    it.flag.raise();
    await reader.ended();
    expect(reader.resets).toEqual([]);
    expect(reader.parts).toEqual(await it.logged(runId));
    expect(reader.lifecycle.map(({ event }) => event)).toEqual(["started", "rewound", "completed"]);

    // One that was away goes on as well. What it may have from after that, under the old name, nobody knows.
    const back = new Transcript(runId, away);
    await (await it.line.client()).follow(runId, { epoch }, back);
    await back.ended();
    expect(back.resets).toEqual([]);
    expect(back.parts).toEqual(reader.parts.slice(away));
    const doubtful = await (await it.line.client()).follow(runId, { after: away + 1, epoch });
    await doubtful.ended();
    expect(doubtful.resets).toHaveLength(1);
    expect(doubtful.parts).toEqual(reader.parts);
  }));
