/** What a run of a function agent begins with: what it tells of its input, and from which state it goes on. */
import { RedisCheckpointSaver, readState, writeState } from "@throughline/checkpoint";
import { ownerScope } from "@throughline/dispatch";
import { type FlatMessage, Fold, lifecycle, type Part } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { type AgentContext, agent, step, token, update } from "./agent.ts";

let shop: Workshop;
let told: AgentContext[];
let gate: Gate;

async function* teller(context: AgentContext) {
  told.push(context);
  yield update({ turns: ((context.checkpoint?.values.turns as number) ?? 0) + 1 });
  yield "answer";
}

async function* waiter(context: AgentContext) {
  told.push(context);
  yield "said ";
  await gate.passed;
}

beforeEach(() => {
  shop = new Workshop();
  told = [];
  gate = new Gate();
});
afterEach(async () => {
  gate.open();
  await shop.stop();
});

const valuesOf = (parts: readonly Part[]) =>
  parts.flatMap((part) => (part.type === "values" ? [part.data as Record<string, unknown>] : []));
const textsOf = (messages: unknown) =>
  (messages as FlatMessage[]).map(({ type, content }) => `${type}:${content}`);

describe("started tells the messages that the input brings", () => {
  const forms: [string, unknown, string[]][] = [
    ["a string", "hi", ["human:hi"]],
    ["one message", { messages: { role: "user", content: "hi" } }, ["human:hi"]],
    [
      "messages in every form",
      {
        messages: [
          "a",
          ["system", "b"],
          { role: "assistant", content: "c" },
          { type: "human", id: "mine", content: "d" },
          { type: "human", id: null, content: "e" },
        ],
      },
      ["human:a", "system:b", "ai:c", "human:d", "human:e"],
    ],
  ];
  test.each(forms)("%s: with the ids that they have in the thread", async (_, input, texts) => {
    await shop.serve({ teller });
    const threadId = shop.newThread();
    const runId = await shop.start("teller", { input }, { threadId });
    const { lifecycle: story } = await shop.ended(runId);
    const { messages = [] } = story[0] as { messages?: FlatMessage[] };
    expect(textsOf(messages)).toEqual(texts);
    const state = await readState(shop.saver, { threadId });
    expect((state?.values.messages as FlatMessage[] | undefined)?.slice(0, texts.length)).toEqual(messages);
    expect(told[0]?.messages).toEqual(messages);
    expect(messages.map(({ id }) => id)).toEqual(
      texts.map((text, i) => (text === "human:d" ? "mine" : `${runId}-input-${i}`)),
    );
  });

  test.each([
    ["null", { input: null }],
    ["nothing", {}],
    ["a command", { command: { resume: "yes" } }],
    ["data", { input: { text: "x" } }],
    ["no messages", { input: { messages: [] } }],
  ])("and none where it brings %s", async (_, request) => {
    await shop.serve({ teller });
    const { lifecycle: story } = await shop.ended(await shop.start("teller", request));
    expect(story[0]).toEqual({ event: "started", attempt: 1 });
  });

  test("once, at offset 1, whichever attempt began and whatever is taken back", async () => {
    const unbegun = await shop.start("teller", { input: "hi" });
    await shop.claimAndDie(unbegun);
    const begun = await shop.start("teller", { input: "hi" });
    const messages = [{ type: "human", content: "hi", id: `${begun}-input-0` }];
    await shop.claimAndDie(begun, [lifecycle({ event: "started", attempt: 1, messages }), token("lost")]);
    await shop.serve({ teller });
    for (const [runId, attempt] of [
      [unbegun, 2],
      [begun, 1],
    ] as const) {
      const { parts, lifecycle: story } = await shop.ended(runId);
      const asked = [{ type: "human", content: "hi", id: `${runId}-input-0` }];
      expect(parts[0]?.data).toEqual({ event: "started", attempt, messages: asked });
      expect(story.filter(({ event }) => event === "started")).toHaveLength(1);
      const fold = new Fold();
      for (const [i, part] of parts.entries()) fold.add(part, i + 1);
      expect(fold.asked).toEqual(asked);
    }
  });
});

describe("the mode values", () => {
  const modes = ["messages", "updates", "values"];

  test("its first part holds the thread's messages and the input's, and the checkpoint has each once", async () => {
    await shop.serve({ teller });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("teller", { input: "first" }, { threadId }));
    const runId = await shop.start("teller", { input: "second", modes }, { threadId });
    const { parts } = await shop.ended(runId);
    expect(parts[1]?.type).toBe("values");
    const [begun, ...more] = valuesOf(parts);
    expect(more).toEqual([]);
    expect(begun?.turns).toBe(1);
    expect(textsOf(begun?.messages)).toEqual(["human:first", "ai:answer", "human:second"]);
    expect((begun?.messages as FlatMessage[] | undefined)?.[2]?.id).toBe(`${runId}-input-0`);
    expect(await shop.messages(threadId)).toEqual(["human:first", "ai:answer", "human:second", "ai:answer"]);
    expect((await readState(shop.saver, { threadId }))?.values.turns).toBe(2);
  });

  test("without changes of its own a run leaves no more in the thread than its input", async () => {
    await shop.serve({
      mute: async function* () {
        // It says nothing.
      },
    });
    const threadId = shop.newThread();
    await writeState(shop.saver, {
      threadId,
      update: { note: { deep: [1] }, messages: [{ type: "human", id: "h", content: "before" }] },
      metadata: { source: "update" },
    });
    await shop.ended(await shop.start("mute", { input: "hi", modes }, { threadId }));
    expect(await shop.messages(threadId)).toEqual(["human:before", "human:hi"]);
    const head = await shop.saver.head(threadId);
    await shop.ended(await shop.start("mute", { modes }, { threadId }));
    expect(await shop.saver.head(threadId)).toBe(head);
  });

  test.each(["restart", "resume"] as const)(
    "%s: told again only where it was taken back",
    async (takeover) => {
      const serve = () => shop.serve({ waiter: agent(waiter, { takeover }) }, {}, { lockMs: 60_000 });
      const lost = await serve();
      const threadId = shop.newThread();
      const runId = await shop.start("waiter", { input: "hi", modes }, { threadId });
      await shop.reached(runId, 3);
      const writer = await shop.claimAndDie(runId);
      await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.fence);
      await until(() => told[0]?.signal.aborted === true);
      gate.open();
      await lost.close();
      await serve();
      const { parts } = await shop.ended(runId);
      expect(valuesOf(parts)).toHaveLength(takeover === "restart" ? 2 : 1);
      expect(told[1]?.partial?.messages.map(({ content }) => content)).toEqual(
        takeover === "restart" ? undefined : ["said "],
      );
      const said = takeover === "restart" ? "said " : "said said ";
      expect(await shop.messages(threadId)).toEqual(["human:hi", `ai:${said}`]);
    },
  );

  test("behind a step it stands, and is not told again", async () => {
    async function* stepper(context: AgentContext) {
      told.push(context);
      if (context.step === null) {
        yield "one ";
        yield step(1);
      }
      yield "two";
      if (context.attempt === 1) await gate.passed;
    }
    const lost = await shop.serve({ stepper }, {}, { lockMs: 60_000 });
    const threadId = shop.newThread();
    const runId = await shop.start("stepper", { input: "hi", modes }, { threadId });
    await shop.reached(runId, 5);
    const writer = await shop.claimAndDie(runId);
    await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.fence);
    await until(() => told[0]?.signal.aborted === true);
    gate.open();
    await lost.close();
    await shop.serve({ stepper });
    const { parts } = await shop.ended(runId);
    expect(valuesOf(parts)).toHaveLength(1);
    expect(told[1]?.partial).toEqual({
      messages: [{ type: "ai", id: `${runId}-answer`, content: "one " }],
      values: {},
    });
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one two"]);
  });
});

describe("a run that begins from nothing", () => {
  let threadId: string;
  let before: string | null;

  beforeEach(async () => {
    const worker = await shop.serve({ teller });
    threadId = shop.newThread();
    await shop.ended(await shop.start("teller", { input: "before" }, { threadId }));
    before = await shop.saver.head(threadId);
    told = [];
    await worker.close();
  });

  test("knows nothing of the thread, whose head follows; its record says so", async () => {
    await shop.serve({ teller });
    const runId = await shop.start("teller", { input: "anew", fromNothing: true }, { threadId });
    const { record } = await shop.ended(runId);
    expect(record.from).toBeNull();
    expect(told[0]).toMatchObject({ checkpoint: null, messages: [{ content: "anew" }] });
    const state = await readState(shop.saver, { threadId });
    expect(state?.parentId).toBeNull();
    expect(state?.values.turns).toBe(1);
    expect(await shop.messages(threadId)).toEqual(["human:anew", "ai:answer"]);
    expect(await shop.messages(threadId, before!)).toEqual(["human:before", "ai:answer"]);
  });

  test.each(["thread", "branch", "discard"] as const)("and is cancelled: keep %s", async (keep) => {
    await shop.serve({ waiter });
    const runId = await shop.start("waiter", { input: "anew", fromNothing: true }, { threadId });
    await shop.reached(runId, 2);
    await shop.dispatcher.cancel(runId, { keep });
    const { record } = await shop.ended(runId);
    const head = await shop.saver.head(threadId);
    if (keep === "thread") expect(await shop.messages(threadId)).toEqual(["human:anew", "ai:said "]);
    else expect(head).toBe(before);
    if (keep === "discard") {
      expect(record.checkpoint).toBeUndefined();
      return;
    }
    const state = await readState(shop.saver, { threadId, ...record.checkpoint });
    expect([state?.parentId, textsOf(state?.values.messages)]).toEqual([null, ["human:anew", "ai:said "]]);
  });

  test("fails: the thread is as it was, and the partial stands by itself", async () => {
    await shop.serve({
      failing: async function* () {
        yield "said";
        throw new Error("no");
      },
    });
    const runId = await shop.start("failing", { input: "anew", fromNothing: true }, { threadId });
    const { record } = await shop.ended(runId);
    expect(await shop.saver.head(threadId)).toBe(before);
    const state = await readState(shop.saver, { threadId, ...record.checkpoint });
    expect([state?.parentId, textsOf(state?.values.messages)]).toEqual([null, ["human:anew", "ai:said"]]);
  });

  test("is cancelled before it began: its input is all that there is", async () => {
    const runId = await shop.start("teller", { input: "anew", fromNothing: true }, { threadId });
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.serve({ teller });
    await until(async () => (await shop.saver.head(threadId)) !== before);
    expect(await shop.messages(threadId)).toEqual(["human:anew"]);
    expect((await shop.ended(runId)).lifecycle).toHaveLength(1);
    expect(await shop.record(runId)).toMatchObject({ input: "anew", from: null });
  });

  // Its worker died between saving its end and saying so: the head is the run's own.
  test.each([
    ["from nothing", true],
    ["from an older checkpoint", false],
  ])("discarded behind its own head, the thread is as it was: %s", async (_, fromNothing) => {
    let from = {};
    if (fromNothing) from = { fromNothing: true };
    else {
      const worker = await shop.serve({ teller });
      await shop.ended(await shop.start("teller", { input: "later" }, { threadId }));
      await worker.close();
      from = { checkpointId: before };
    }
    const headBefore = await shop.saver.head(threadId);
    const request: { input: string; fromNothing?: true; checkpointId?: string } = { input: "anew", ...from };
    const runId = await shop.start("teller", request, { threadId });
    const dead = await shop.claimAndDie(runId, [lifecycle({ event: "started", attempt: 1 })]);
    await shop.dispatcher.threadsOf("alice").fence(threadId, runId, dead.fence);
    const { saveOutcome, readBase, inputMessages } = await import("./state.ts");
    const base = await readBase(shop.saver, runId, threadId, request);
    const saver = new RedisCheckpointSaver(shop.redis, { prefix: shop.prefix, scope: ownerScope("alice") });
    const run = { runId, attempt: 1, fence: dead.fence, agent: "teller" };
    const folded = { messages: [], values: {} };
    await saveOutcome(saver, run, base, inputMessages("anew", runId), folded, "completed");
    expect(await shop.saver.head(threadId)).not.toBe(headBefore);
    await shop.dispatcher.cancel(runId, { keep: "discard" });
    await shop.serve({ teller });
    await shop.ended(runId);
    expect(await shop.saver.head(threadId)).toBe(headBefore);
  });

  test("is taken over: the next attempt knows as little", async () => {
    const runId = await shop.start("teller", { input: "anew", fromNothing: true }, { threadId });
    await shop.claimAndDie(runId, [lifecycle({ event: "started", attempt: 1 }), token("lost")]);
    await shop.serve({ teller });
    await shop.ended(runId);
    expect(told[0]).toMatchObject({ attempt: 2, checkpoint: null, messages: [{ content: "anew" }] });
    expect(await shop.messages(threadId)).toEqual(["human:anew", "ai:answer"]);
    expect((await readState(shop.saver, { threadId }))?.parentId).toBeNull();
  });
});
