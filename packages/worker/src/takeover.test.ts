import { setTimeout as sleep } from "node:timers/promises";
import { RedisCheckpointSaver, writeState } from "@throughline/checkpoint";
import { lifecycle } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { type AgentContext, agent, token } from "./agent.ts";

let shop: Workshop;
let told: AgentContext[];

const started = lifecycle({ event: "started", attempt: 1 });
const word = (runId: string, text: string) => token(text, { id: `${runId}-answer`, node: "teller" });

async function* teller(context: AgentContext) {
  told.push(context);
  const before = context.partial?.messages[0]?.content ?? "";
  for (const text of ["one ", "two ", "three"]) {
    if (!before.includes(text as never)) yield text;
  }
}

async function* sleeper({ signal, attempt }: AgentContext) {
  yield `awake ${attempt} `;
  await sleep(60_000, undefined, { signal });
}

beforeEach(() => {
  shop = new Workshop();
  told = [];
});
afterEach(() => shop.stop());

describe("a worker that died", () => {
  test("P1, P6: restart: readers drop what it said, the agent begins again, and the partial is kept on a branch", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("teller", { input: "hi" }, { threadId });
    await shop.claimAndDie(runId, [started, word(runId, "one "), word(runId, "tw")]);
    await shop.serve({ teller });
    const { record, lifecycle: story, text, parts } = await shop.ended(runId);
    expect(story).toEqual([
      { event: "started", attempt: 1 },
      { event: "rewound", attempt: 2, to: 0 },
      { event: "completed", checkpoint: record.checkpoint },
    ]);
    expect(parts).toHaveLength(8);
    expect(text).toBe("one two three");
    expect(record).toMatchObject({ status: "completed", attempt: 2 });
    expect(told[0]).toMatchObject({ attempt: 2, partial: null, messages: [{ content: "hi" }] });
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one two three"]);
    const [head, branch] = await shop.history(threadId);
    expect(head?.checkpointId).toBe(record.checkpoint?.checkpointId);
    expect(await shop.messages(threadId, branch?.checkpointId)).toEqual(["human:hi", "ai:one tw"]);
    expect(branch?.metadata).toMatchObject({ partial: "taken-over", run_id: runId });
  });

  test("P1, P6: resume: the agent gets what was said, and goes on", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("teller", { input: "hi" }, { threadId });
    await shop.claimAndDie(runId, [started, word(runId, "one "), word(runId, "two ")]);
    await shop.serve({ teller: agent(teller, { takeover: "resume" }) });
    const { record, lifecycle: story, text } = await shop.ended(runId);
    expect(story.map(({ event }) => event)).toEqual(["started", "resumed", "completed"]);
    expect(text).toBe("one two three");
    expect(told[0]?.partial).toMatchObject({ messages: [{ content: "one two " }] });
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one two three"]);
    expect(record.attempt).toBe(2);
  });

  test("before its first part: the next one simply starts", async () => {
    const runId = await shop.start("teller");
    await shop.claimAndDie(runId);
    await shop.serve({ teller });
    const { lifecycle: story } = await shop.ended(runId);
    expect(story.map((each) => [each.event, "attempt" in each ? each.attempt : null])).toEqual([
      ["started", 2],
      ["completed", null],
    ]);
  });

  test("P4: and comes back: it can write nothing, neither in the log nor in the thread", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("sleeper", {}, { threadId });
    const dead = await shop.claimAndDie(runId, [started]);
    await shop.dispatcher.threadsOf("alice").fence(threadId, runId, dead.fence);
    await shop.serve({ sleeper });
    await shop.reached(runId, 3);
    void dead.write(token("late"));
    await expect(dead.flush()).rejects.toMatchObject({ code: "stale_attempt" });
    const update = { messages: [{ type: "ai", content: "late" }] };
    const late = writeState(shop.saver.fenced({ runId, fence: dead.fence }), {
      threadId,
      update,
      metadata: { source: "update" },
    });
    await expect(late).rejects.toMatchObject({ code: "stale_attempt" });
    expect(await shop.dispatcher.threadsOf("alice").fence(threadId, runId, dead.fence)).toBe(false);
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    const { text } = await shop.ended(runId);
    expect(text).toBe("awake 2 ");
    expect(await shop.messages(threadId)).toEqual(["ai:awake 2 "]);
  });

  test("P3, P6: while it was being cancelled: the run ends as cancelled, with what it had said", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("teller", { input: "hi" }, { threadId });
    await shop.claimAndDie(runId, [started, word(runId, "par"), word(runId, "tial")]);
    expect(await shop.dispatcher.cancel(runId, { keep: "thread", reason: "enough" })).toEqual({
      outcome: "requested",
    });
    await shop.serve({ teller });
    const { record, text, lifecycle: story } = await shop.ended(runId);
    expect(told).toEqual([]);
    expect(text).toBe("partial");
    expect(story.at(-1)).toMatchObject({ event: "cancelled", keep: "thread", reason: "enough" });
    expect(record.head).toBe(4);
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:partial"]);
  });

  test("P6: between saving the end and saying so: the next one does not take its answer for the thread's", async () => {
    const threadId = shop.newThread();
    const first = await shop.start("teller", { input: "first" }, { threadId });
    await shop.serve({ teller });
    await shop.ended(first);
    await shop.workers.pop()!.close();
    const runId = await shop.start("teller", { input: "second" }, { threadId });
    const dead = await shop.claimAndDie(runId, [started, word(runId, "one "), word(runId, "two three")]);
    await shop.dispatcher.threadsOf("alice").fence(threadId, runId, dead.fence);
    await writeState(shop.saver.fenced({ runId, fence: dead.fence }), {
      threadId,
      update: {
        messages: [
          { type: "human", id: `${runId}-input-0`, content: "second" },
          { type: "ai", id: `${runId}-answer`, content: "one two three" },
        ],
      },
      metadata: { source: "loop", run_id: runId },
    });
    await shop.serve({ teller });
    await shop.ended(runId);
    expect(told.at(-1)?.messages.map(({ content }) => content)).toEqual(["first", "one two three", "second"]);
    const expected = ["human:first", "ai:one two three", "human:second", "ai:one two three"];
    expect(await shop.messages(threadId)).toEqual(expected);
  });

  test("P3: the same, and the run is discarded: the thread is as it was", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("teller", { input: "hi" }, { threadId });
    const dead = await shop.claimAndDie(runId, [started, word(runId, "one")]);
    await shop.dispatcher.threadsOf("alice").fence(threadId, runId, dead.fence);
    await writeState(shop.saver.fenced({ runId, fence: dead.fence }), {
      threadId,
      update: { messages: [{ type: "ai", id: `${runId}-answer`, content: "one" }] },
      metadata: { source: "loop", run_id: runId },
    });
    await shop.dispatcher.cancel(runId, { keep: "discard" });
    await shop.serve({ teller });
    expect((await shop.ended(runId)).record).toMatchObject({ status: "cancelled", attempt: 2 });
    expect(await shop.history(threadId)).toEqual([]);
  });

  test("P5: again and again: the run fails, with its ending in the log and its last words on a branch", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("teller", { input: "hi" }, { threadId });
    for (let i = 1; i <= 3; i++) {
      const dead = await shop.claimAndDie(runId, [word(runId, `${i} `)]);
      if (i === 3) await dead.tried("alone");
    }
    await shop.serve({ teller }, { maxCrashes: 3 });
    const { record } = await shop.ended(runId);
    expect(told).toEqual([]);
    expect(record).toMatchObject({ status: "failed", error: { name: "WorkerCrashedError" } });
    expect(await shop.messages(threadId)).toEqual([]);
    expect(await shop.messages(threadId, record.checkpoint?.checkpointId)).toEqual(["human:hi", "ai:1 2 3 "]);
    // The thread goes on.
    await shop.ended(await shop.start("teller", {}, { threadId }));
  });

  test("P5: and was never alone: it is tried alone, the others go on elsewhere, and it passes", async () => {
    const gate = new Gate();
    const agents = {
      async *suspect() {
        yield "here";
        await gate.passed;
      },
      other: agent(
        async function* ({ partial }: AgentContext) {
          yield partial === null ? "one " : "two";
          if (partial === null) await new Promise(() => {});
        },
        { takeover: "resume" },
      ),
    };
    const first = await shop.serve(agents);
    const other = await shop.start("other");
    await shop.reached(other, 2);
    const runId = await shop.start("suspect", {}, { threadId: shop.newThread() });
    await shop.reached(runId, 2);
    for (let i = 0; i < 3; i++) await shop.claimAndDie(runId, []);
    await until(() => first.active === 1);
    expect((await shop.record(other)).status).toBe("running");
    // Its job is put back when its lock runs out: then this worker has nothing but it.
    await until(async () => (await shop.dispatcher.runs.must(runId)).trials === 1);
    expect(first.active).toBe(1);
    expect((await shop.record(other)).status).toBe("queued");
    gate.open();
    expect((await shop.ended(runId)).record.status).toBe("completed");
    expect((await shop.ended(other)).text).toBe("one two");
  });

  test("P5: by an error that its worker cannot get over: it is tried so often, and no more", async () => {
    const broken = vi.spyOn(RedisCheckpointSaver.prototype, "getTuple");
    let tries = 0;
    broken.mockImplementation(() => {
      tries++;
      return Promise.reject(new Error("no such luck"));
    });
    try {
      const runId = await shop.start("teller", { input: "hi" });
      await shop.serve({ teller }, { maxCrashes: 2 });
      const { record } = await shop.ended(runId);
      expect(record).toMatchObject({
        status: "failed",
        error: { name: "Error", message: "the run cannot go on; its worker's log says why" },
      });
      expect(tries).toBeLessThan(20);
    } finally {
      broken.mockRestore();
    }
  });

  test("P5: having ended the run, but not left its thread: the next look moves the thread on", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("teller", {}, { threadId });
    const dead = await shop.claimAndDie(runId, [started]);
    await dead.finish({ event: "completed" });
    const next = await shop.start("teller", {}, { threadId });
    await shop.serve({ teller });
    await shop.ended(next);
    await until(async () => (await shop.dispatcher.threadsOf("alice").active(threadId)) === null);
    expect(told).toHaveLength(1);
  });
});

describe("a worker that is told to stop", () => {
  test("P6: hands its run over at once: another goes on with it, and nobody counts that as a crash", async () => {
    const runId = await shop.start("sleeper");
    const first = await shop.serve({ sleeper });
    await shop.reached(runId, 2);
    await shop.serve({ sleeper });
    await first.close();
    await shop.reached(runId, 4);
    expect(await shop.dispatcher.runs.must(runId)).toMatchObject({
      crashes: 0,
      record: { attempt: 2, status: "running" },
    });
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    const { lifecycle: story, text } = await shop.ended(runId);
    expect(story.map(({ event }) => event)).toEqual(["started", "rewound", "cancelled"]);
    expect(text).toBe("awake 2 ");
  });

  test("lets a run that ends in time end, and takes no new one", async () => {
    const gate = new Gate();
    async function* gated() {
      yield "a";
      await gate.passed;
      yield "b";
    }
    const worker = await shop.serve({ gated }, { drainMs: 5_000 });
    const runId = await shop.start("gated");
    await shop.reached(runId, 2);
    const closed = worker.close();
    const later = await shop.start("gated");
    gate.open();
    await closed;
    const { record, text } = await shop.ended(runId);
    expect(record).toMatchObject({ status: "completed", attempt: 1 });
    expect(text).toBe("ab");
    expect(await shop.record(later)).toMatchObject({ status: "queued", attempt: 0 });
    expect(worker.active).toBe(0);
  });

  test("hands over a run that it was just about to claim", async () => {
    for (let waitMs = 0; waitMs < 12; waitMs++) {
      const worker = await shop.serve({ sleeper });
      const runId = await shop.start("sleeper");
      await sleep(waitMs);
      await worker.close();
      expect((await shop.record(runId)).status).toBe("queued");
      await shop.dispatcher.cancel(runId, { keep: "discard" });
    }
  });

  test("hands over a run whose agent does not listen, and what that says later is not taken", async () => {
    const gate = new Gate();
    let late = 0;
    async function* deaf({ attempt }: AgentContext) {
      yield `by ${attempt} `;
      if (attempt > 1) return;
      await gate.passed;
      late++;
      yield "late";
    }
    const runId = await shop.start("deaf");
    const worker = await shop.serve({ deaf });
    await shop.reached(runId, 2);
    await worker.close();
    expect(await shop.record(runId)).toMatchObject({ status: "queued" });
    await shop.serve({ deaf });
    const ended = await shop.ended(runId);
    gate.open();
    await until(() => late === 1);
    expect(ended.text).toBe("by 2 ");
    expect((await shop.ended(runId)).parts).toEqual(ended.parts);
  });

  test("P3: with a cancel under way: the next worker ends the run as cancelled", async () => {
    const runId = await shop.start("sleeper");
    const worker = await shop.serve({ sleeper });
    await shop.reached(runId, 2);
    await worker.close();
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    expect((await shop.record(runId)).status).toBe("cancelling");
    await shop.serve({ sleeper });
    const { text, record } = await shop.ended(runId);
    expect(record).toMatchObject({ status: "cancelled", attempt: 2 });
    expect(text).toBe("awake 1 ");
  });

  test("twice is once, and it is no longer on offer", async () => {
    const worker = await shop.serve({ sleeper });
    expect(await shop.dispatcher.agents.live()).toHaveLength(1);
    await Promise.all([worker.close(), worker.close()]);
    expect(await shop.dispatcher.agents.live()).toEqual([]);
  });
});

describe("several workers", () => {
  test("each run is taken once, and all end", async () => {
    await Promise.all([1, 2, 3].map(() => shop.serve({ teller }, { concurrency: 5 })));
    const runIds = await Promise.all(Array.from({ length: 60 }, () => shop.start("teller")));
    for (const runId of runIds) {
      const { record, text } = await shop.ended(runId);
      expect(record).toMatchObject({ status: "completed", attempt: 1 });
      expect(text).toBe("one two three");
    }
    expect(told).toHaveLength(60);
  });

  test("a run waits for a worker that knows its agent, and one that does not gives it back", async () => {
    const older = await shop.serve({ teller });
    const runId = await shop.start("sleeper");
    await until(async () => (await shop.record(runId)).attempt > 1);
    await shop.serve({ sleeper, teller });
    await older.close();
    await shop.reached(runId, 2);
    expect((await shop.dispatcher.runs.must(runId)).crashes).toBe(0);
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.ended(runId);
  });

  test("P3: a cancel while no worker is there ends a run that none has had, and waits with one that somebody had", async () => {
    const fresh = await shop.start("teller");
    expect(await shop.dispatcher.cancel(fresh, { keep: "thread" })).toMatchObject({
      outcome: "ended",
      now: true,
    });
    expect((await shop.ended(fresh)).lifecycle).toEqual([{ event: "cancelled", keep: "thread" }]);
    const begun = await shop.start("teller");
    await shop.claimAndDie(begun, [started]);
    expect(await shop.dispatcher.cancel(begun, { keep: "thread" })).toEqual({ outcome: "requested" });
    expect((await shop.record(begun)).status).toBe("cancelling");
  });
});
