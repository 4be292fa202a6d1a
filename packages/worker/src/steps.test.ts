/** P1, P3, P6 with steps: what an agent did is not done again, whoever dies when. */
import { setTimeout as sleep } from "node:timers/promises";
import { Fold, lifecycle, type Part } from "@throughline/protocol";
import { runKeys } from "@throughline/runlog";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { patienceMs, until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { type AgentContext, agent, step, token } from "./agent.ts";

let shop: Workshop;

beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

const events = (parts: readonly Part[]) =>
  parts.flatMap((part) => {
    if (part.type !== "lifecycle") return [];
    return [part.data.event === "rewound" ? `rewound ${part.data.to}` : part.data.event];
  });

/** Takes the run from the worker that has it, as one that took over in the meantime does, and dies. */
async function takeAway(runId: string, parts: readonly Part[] = []): Promise<void> {
  const writer = await shop.claimAndDie(runId, parts);
  const { threadId } = await shop.record(runId);
  await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.fence);
}

describe("a step that is done", () => {
  test("a worker that died: readers keep what came before it, and the agent goes on behind it", async () => {
    const told: AgentContext[] = [];
    const gate = new Gate();
    async function* stepper(context: AgentContext) {
      told.push(context);
      if (context.step === null) {
        yield "one ";
        yield step({ found: 1 });
      }
      yield "two ";
      if (context.attempt === 1) await gate.passed;
      yield "three";
    }
    const threadId = shop.newThread();
    const lost = await shop.serve({ stepper }, {}, { lockMs: 60_000 });
    const runId = await shop.start("stepper", { input: "hi" }, { threadId });
    await shop.reached(runId, 4);
    await takeAway(runId);
    gate.open();
    await lost.close();
    await shop.serve({ stepper });
    const { parts, text, record } = await shop.ended(runId);
    expect(events(parts)).toEqual(["started", "stepped", "rewound 3", "completed"]);
    expect(text).toBe("one two three");
    expect(told[1]).toMatchObject({
      step: { found: 1 },
      partial: { messages: [{ content: "one ", id: `${runId}-answer` }] },
    });
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one two three"]);
    expect(JSON.stringify([parts, record])).not.toContain("found");
    // It is of no use to anybody any more.
    const { run } = runKeys(shop.prefix, runId);
    expect(await shop.redis.hmget(run, "step", "stepBefore")).toEqual([null, null]);
  });

  test("a state that was kept, and whose step was never told, is nobody's", async () => {
    const told: AgentContext[] = [];
    async function* stepper(context: AgentContext) {
      told.push(context);
      yield "end";
    }
    const runId = await shop.start("stepper");
    const dead = await shop.claimAndDie(runId, [lifecycle({ event: "started", attempt: 1 })]);
    await dead.keepStep(JSON.stringify("first"), 0);
    void dead.write(lifecycle({ event: "stepped", attempt: 1 }));
    await dead.flush();
    await dead.keepStep(JSON.stringify("second"), 2);
    await dead.keepStep(JSON.stringify("second"), 2);
    await shop.serve({ stepper });
    const { parts } = await shop.ended(runId);
    expect(told[0]?.step).toBe("first");
    // There was nothing behind the step to be taken back.
    expect(events(parts)).toEqual(["started", "stepped", "resumed", "completed"]);
  });

  test("an agent that takes over with resume gets its state too", async () => {
    const told: AgentContext[] = [];
    async function* stepper(context: AgentContext) {
      told.push(context);
      yield "!";
    }
    const runId = await shop.start("stepper");
    const dead = await shop.claimAndDie(runId, [lifecycle({ event: "started", attempt: 1 })]);
    await dead.keepStep("[1]", 0);
    void dead.write(lifecycle({ event: "stepped", attempt: 1 }));
    void dead.write(token("said", { id: `${runId}-answer` }));
    await dead.flush();
    await shop.serve({ stepper: agent(stepper, { takeover: "resume" }) });
    const { parts, text } = await shop.ended(runId);
    expect(events(parts)).toEqual(["started", "stepped", "resumed", "completed"]);
    expect([told[0]?.step, text]).toEqual([[1], "said!"]);
    expect(told[0]?.partial?.messages).toMatchObject([{ content: "said" }]);
  });

  test("is in the log before the agent goes on", async () => {
    let head = 0;
    await shop.serve({
      stepper: async function* ({ runId }: AgentContext) {
        yield "one ";
        yield step(1);
        ({ head } = await shop.record(runId));
      },
    });
    await shop.ended(await shop.start("stepper"));
    expect(head).toBe(3);
  });

  test("is in the log as long as it is the last, however long that gets", async () => {
    const tickMs = 5;
    const [goesOn, ends] = [new Gate(), new Gate()];
    const told: AgentContext[] = [];
    const words = Array.from({ length: 30 }, (_, i) => `${i} ${"x".repeat(400)} `);
    async function* stepper(context: AgentContext) {
      told.push(context);
      if (context.step === null) {
        yield* words;
        yield step({ n: 1 });
      }
      await goesOn.passed;
      yield* words;
      await ends.passed;
    }
    const lost = await shop.serve({ stepper }, { maxLog: 3_000 }, { tickMs, lockMs: 60_000 });
    const threadId = shop.newThread();
    const runId = await shop.start("stepper", { input: "hi" }, { threadId });
    const stepAt = 1 + words.length + 1;
    await shop.reached(runId, stepAt);
    // Many ticks: the log is to be cut, and the place for that is behind the step.
    await sleep(40 * tickMs);
    goesOn.open();
    await shop.reached(runId, stepAt + words.length);
    await sleep(40 * tickMs);
    expect((await shop.record(runId)).first).toBeLessThanOrEqual(stepAt);
    await takeAway(runId);
    ends.open();
    await lost.close();
    await shop.serve({ stepper });
    const { record } = await until(async () => {
      const run = await shop.dispatcher.runs.must(runId);
      return run.record.status === "completed" ? run : null;
    }, patienceMs);
    expect(told[1]?.step).toEqual({ n: 1 });
    expect(told[1]?.partial?.messages.map(({ content }) => content)).toEqual([words.join("")]);
    expect(record.attempt).toBeGreaterThan(1);
    expect((await shop.messages(threadId))[1]).toBe(`ai:${words.join("")}${words.join("")}`);
  });

  test("a state that is too large, or that JSON does not hold, ends the run with an error that says so", async () => {
    await shop.serve({
      large: async function* () {
        yield step("x".repeat(2 ** 20));
      },
      round: async function* () {
        const round: Record<string, unknown> = { text: "a" };
        round.itself = round;
        yield step(round);
        yield "after";
      },
    });
    const { record } = await shop.ended(await shop.start("large"));
    expect(record.error?.name).toBe("InvalidArgumentError");
    const { text } = await shop.ended(await shop.start("round"));
    expect(text).toBe("after");
  });
});

const short = (text: string) => text.replaceAll("x".repeat(400), "x");

/** In each of them a tool is called. */
const stepsOfRun = 6;

describe("whatever dies when", () => {
  let trimmed = 0;
  test.each([
    [1, 3_000],
    [2, 3_000],
    [3, 3_000],
    [4, 1_000_000],
    [5, 1_000_000],
  ])(
    "P1, P3: no tool is called again whose step was told, and the checkpoint's text is the log's: %i, with a log of %i",
    async (seed, maxLog) => {
      let random = seed * 7_919;
      const next = (below: number) => {
        random = (random * 1_103_515_245 + 12_345) % 2_147_483_648;
        return random % below;
      };
      const calls: { i: number; attempt: number }[] = [];
      let done: { i: number; attempt: number }[] = [];
      async function* worker({ step: last, signal, attempt }: AgentContext) {
        ({ done } = (last ?? { done: [] }) as { done: typeof calls });
        for (let i = done.length; i <= stepsOfRun; i++) {
          // What follows a step is said again by who goes on there.
          for (let word = 0; word < 5 && i > 0; word++) {
            yield `after ${i - 1}.${word} `;
            await sleep(1, undefined, { signal });
          }
          if (i === stepsOfRun) return;
          for (let word = 0; word < 5; word++) yield `${i}.${word} ${"x".repeat(400)} `;
          calls.push({ i, attempt });
          done = [...done, { i, attempt }];
          yield step({ done });
        }
      }
      const serve = () =>
        shop.serve({ worker }, { maxLog, maxCrashes: 1_000 }, { tickMs: 5, lockMs: 60_000 });
      const threadId = shop.newThread();
      let host = await serve();
      const runId = await shop.start("worker", { input: "go" }, { threadId });
      for (let kill = 0; kill < 5; kill++) {
        const { head } = await shop.record(runId);
        const at = head + 1 + next(25);
        const over = await until(
          async () => {
            const { head: now, status } = await shop.record(runId);
            return status === "completed" ? "ended" : now >= at ? "reached" : null;
          },
          patienceMs,
          `head ${at}`,
        );
        if (over === "ended") break;
        await takeAway(runId).catch(() => {}); // It may have ended since.
        await host.close();
        host = await serve();
      }
      await until(async () => (await shop.record(runId)).status === "completed", patienceMs, "the end");

      const fold = new Fold();
      const snapshot = await shop.reader.snapshot(runId);
      if (snapshot !== null) fold.restore(snapshot);
      let stepped = 0;
      const story: Part[] = [];
      for await (const { offset, part } of shop.reader.parts(runId, fold.offset)) {
        fold.add(part, offset);
        story.push(part);
        if (part.type !== "lifecycle") continue;
        if (part.data.event === "stepped") stepped = offset;
        if (part.data.event === "rewound") expect(part.data.to).toBeGreaterThanOrEqual(stepped);
      }
      const words = (name: string, long: boolean) =>
        Array.from({ length: 5 }, (_, word) => `${name}.${word} ${long ? `${"x".repeat(400)} ` : ""}`).join(
          "",
        );
      const whole = Array.from(
        { length: stepsOfRun },
        (_, i) => words(`${i}`, true) + words(`after ${i}`, false),
      ).join("");
      expect(short(fold.text())).toBe(short(whole));
      expect((await shop.messages(threadId)).map(short)).toEqual(["human:go", `ai:${short(whole)}`]);
      // Every step is done once; its tool is not called by any attempt after the one that told of the step.
      expect(done.map(({ i }) => i)).toEqual(Array.from({ length: stepsOfRun }, (_, i) => i));
      for (const { i, attempt } of done) {
        expect(calls.filter((call) => call.i === i && call.attempt > attempt)).toEqual([]);
        expect(calls.filter((call) => call.i === i && call.attempt === attempt)).toHaveLength(1);
      }
      const told = events(story).filter((event) => event === "stepped").length;
      if (snapshot === null) expect(told).toBe(stepsOfRun);
      if (snapshot !== null) trimmed++;
    },
  );

  test("and some of these logs had been trimmed meanwhile", () => expect(trimmed).toBeGreaterThan(0));
});
