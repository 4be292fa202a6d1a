/** Workers that stop without having been told to: frozen, blocked, killed by their own runs, all gone. */

import { RedisCheckpointSaver, readState } from "@throughline/checkpoint";
import { ownerScope } from "@throughline/dispatch";
import type { Part } from "@throughline/protocol";
import { LogReader } from "@throughline/runlog";
import { expect, test } from "vitest";
import type { TestClient } from "../support/client.ts";
import { Flag } from "../support/flag.ts";
import { type Line, startLine } from "../support/line.ts";
import type { Transcript } from "../support/transcript.ts";
import { patienceMs, until } from "../support/until.ts";
import { WorkerProcess } from "../support/worker-process.ts";

class Scene {
  readonly #workers: WorkerProcess[] = [];
  readonly flag = new Flag();
  line!: Line;
  client!: TestClient;

  static async play(play: (scene: Scene) => Promise<void>): Promise<void> {
    const scene = new Scene();
    try {
      scene.line = await startLine({ workers: 0 });
      scene.client = await scene.line.client();
      await play(scene);
    } finally {
      await Promise.all(scene.#workers.map((worker) => worker.kill()));
      await scene.line.stop();
      scene.flag.remove();
    }
  }

  async addWorker(): Promise<WorkerProcess> {
    const worker = await WorkerProcess.start(this.line.redisUrl, this.line.prefix);
    this.#workers.push(worker);
    return worker;
  }

  async logged(runId: string): Promise<Part[]> {
    const parts: Part[] = [];
    for await (const { part } of new LogReader(this.line.redis, this.line.prefix).parts(runId))
      parts.push(part);
    return parts;
  }

  /** The thread's messages as `type:content`. */
  async messages(threadId: string): Promise<string[]> {
    const saver = new RedisCheckpointSaver(this.line.redis, {
      prefix: this.line.prefix,
      scope: ownerScope("local"),
    });
    const state = await readState(saver, { threadId });
    const messages = (state?.values.messages ?? []) as { type: string; content: unknown }[];
    return messages.map(({ type, content }) => `${type}:${content}`);
  }
}

const events = (reader: Transcript) => reader.lifecycle.map(({ event }) => event);

test.concurrent("P4: a worker that was frozen past its lock adds nothing, notices at once, and serves other runs", () =>
  Scene.play(async (it) => {
    const first = await it.addWorker();
    const threadId = "t";
    const reader = await it.client.start({
      agent: "deaf",
      input: { n: 1, ms: 20, until: it.flag.path },
      threadId,
    });
    await until(() => reader.last > 5);
    first.freeze();
    const second = await it.addWorker();
    await until(() => second.told.length > 0, patienceMs, "the takeover");
    // The new attempt is in the middle of its work when the old one wakes, in the middle of its own.
    await until(() => events(reader).includes("rewound"));
    first.thaw();
    const [, aborted] = await until(() => first.told.length === 2 && first.told);
    expect(aborted).toEqual({ event: "aborted", runId: reader.runId, attempt: 1, code: "attempt_lost" });
    expect(reader.ending).toBeUndefined();

    it.flag.raise();
    await reader.ended();
    const count = reader.text.split(" ").length - 1;
    const said = Array.from({ length: count }, (_, i) => `${second.pid}:${i} `).join("");
    expect(reader.text).toBe(said);
    expect(reader.parts).toEqual(await it.logged(reader.runId));
    const rewound = reader.parts.findIndex(
      (part) => part.type === "lifecycle" && part.data.event === "rewound",
    );
    expect(JSON.stringify(reader.parts.slice(rewound))).not.toContain(`${first.pid}:`);
    expect(await it.messages(threadId)).toEqual([`ai:${said}`]);
    expect(second.told).toHaveLength(1);

    // It is as good as new: with the other one gone it takes what comes.
    await second.kill();
    const next = await it.client.start({ agent: "deaf", input: { n: 3, ms: 1 }, threadId });
    await next.ended();
    expect(next.text).toBe([0, 1, 2].map((i) => `${first.pid}:${i} `).join(""));
  }));

test.concurrent("P4: a worker whose event loop was blocked past its lock adds nothing when it goes on", () =>
  Scene.play(async (it) => {
    const first = await it.addWorker();
    const reader = await it.client.start({ agent: "block", input: { until: it.flag.path }, threadId: "t" });
    await until(() => reader.text !== "");
    await it.addWorker();
    await reader.ended();
    expect(events(reader)).toEqual(["started", "rewound", "completed"]);
    expect(reader.text).toBe("2:before 2:after 2:end");
    expect(first.told).toMatchObject([{ event: "began" }]);
    it.flag.raise();
    const aborted = await until(() => first.told.find(({ event }) => event === "aborted"));
    expect(aborted).toMatchObject({ attempt: 1, code: "attempt_lost" });
    expect(reader.parts).toEqual(await it.logged(reader.runId));
    expect(await it.messages("t")).toEqual(["ai:2:before 2:after 2:end"]);
  }));

test.concurrent("P5: a run that takes three workers down with it fails, in its log, with its last words kept", () =>
  Scene.play(async (it) => {
    let workers = 0;
    let last = await it.addWorker();
    const reader = await it.client.start({ agent: "deadly", threadId: "t" });
    while (reader.ending === undefined && workers < 5) {
      await until(() => last.gone || reader.ending !== undefined, patienceMs, "a worker's death");
      workers++;
      if (reader.ending === undefined) last = await it.addWorker();
    }
    expect(await reader.ended()).toMatchObject({ event: "failed", error: { name: "WorkerCrashedError" } });
    // Three that died, and the one that ended the run; it lives.
    expect(workers).toBe(4);
    expect(last.gone).toBe(false);
    expect(reader.parts).toEqual(await it.logged(reader.runId));
    const record = await it.client.call("run.get", { runId: reader.runId });
    expect(record).toMatchObject({ status: "failed", attempt: 4, head: reader.last });
    const next = await it.client.start({ agent: "talk", input: { n: 2, ms: 1 }, threadId: "t" });
    expect(await next.ended()).toMatchObject({ event: "completed" });
  }));

test.concurrent(
  "P5: a run that takes its workers down is tried alone, and nobody's run fails for it",
  () =>
    Scene.play(async (it) => {
      const workers = [await it.addWorker(), await it.addWorker()];
      const others = await Promise.all(
        Array.from({ length: 12 }, () => it.client.start({ agent: "going", input: { n: 40, ms: 50 } })),
      );
      const deadly = [await it.client.start({ agent: "deadly" }), await it.client.start({ agent: "deadly" })];
      const all = [...deadly, ...others];
      await until(
        async () => {
          for (const [i, worker] of workers.entries()) if (worker.gone) workers[i] = await it.addWorker();
          return all.every(({ ending }) => ending !== undefined);
        },
        3 * patienceMs,
        "the ends of all runs",
      );
      for (const reader of deadly) {
        expect(await reader.ended()).toMatchObject({
          event: "failed",
          error: { name: "WorkerCrashedError" },
        });
      }
      for (const reader of others) expect((await reader.ended()).event).toBe("completed");
    }),
  4 * patienceMs,
);

test.concurrent("P5, P6: with every worker gone runs wait, say so, and go on when one comes", () =>
  Scene.play(async (it) => {
    const only = await it.addWorker();
    const endless = { n: 1, ms: 20, until: it.flag.path };
    const begun = await it.client.start({ agent: "going", input: endless });
    await until(() => begun.last > 5);
    await only.kill();
    const fresh = await it.client.start({ agent: "talk", input: { n: 3, ms: 1 } });
    const status = async ({ runId }: Transcript) => (await it.client.call("run.get", { runId })).status;
    expect(await status(fresh)).toBe("queued");
    expect(await status(begun)).toBe("running");
    // Nobody renews its lock any more.
    await until(async () => (await status(begun)) === "queued");
    await it.addWorker();
    it.flag.raise();
    await begun.ended();
    await fresh.ended();
    expect(events(begun)).toEqual(["started", "resumed", "completed"]);
    expect(fresh.text).toBe("1:0 1:1 1:2 ");
  }));

test.concurrent("P3, P6: a cancel while the worker is dead is honoured by the next, with the partial kept", () =>
  Scene.play(async (it) => {
    const first = await it.addWorker();
    const reader = await it.client.start({
      agent: "talk",
      input: { n: 1, ms: 20, until: it.flag.path },
      threadId: "t",
    });
    const { runId } = reader;
    await until(() => reader.last > 5);
    await first.kill();
    const asked = it.client.call("run.cancel", { runId, keep: "thread", reason: "enough" });
    await until(async () => (await it.client.call("run.get", { runId })).status === "cancelling");
    const second = await it.addWorker();
    const answer = await asked;
    expect(await reader.ended()).toMatchObject({
      event: "cancelled",
      keep: "thread",
      reason: "enough",
    });
    if (answer.status !== "cancelling")
      expect(answer).toMatchObject({ status: "cancelled", offset: reader.last });
    expect(second.told).toEqual([]);
    expect(await it.messages("t")).toEqual([`ai:${reader.text}`]);
    expect(reader.text).toMatch(/^1:0 1:1 /);
  }));
