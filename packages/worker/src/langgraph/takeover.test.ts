/** P1, P4, P6 with graphs: a lost worker's run goes on from its last checkpoint, and no reader sees anything twice. */
import { setTimeout as sleep } from "node:timers/promises";
import { AIMessage, type BaseMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { Annotation, entrypoint, MessagesAnnotation, START, StateGraph, task } from "@langchain/langgraph";
import { ToolNode } from "@langchain/langgraph/prebuilt";
import { RedisCheckpointSaver, readHistory, readState } from "@throughline/checkpoint";
import type { FlatMessage, Part } from "@throughline/protocol";
import type { Graph } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { type Script, ScriptedModel, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
let calls: string[];
beforeEach(() => {
  shop = new Workshop();
  calls = [];
});
afterEach(() => shop.stop());

type Messages = typeof MessagesAnnotation.State;

function llm(name: string, script: Script) {
  return async ({ messages }: Messages) => {
    calls.push(`${name}(${messages.map(({ content }) => content).join("|")})`);
    return { messages: [await new ScriptedModel(script).invoke(messages)] };
  };
}

/** Stuck the first time that it is asked. */
function stuckOnce(...tokens: string[]): Script {
  let asked = 0;
  return async function* (messages, signal) {
    if (asked++ === 0) yield* stuckAfter(...tokens)(messages, signal);
    else yield* ["two ", "whole"];
  };
}

const twoSteps = () =>
  new StateGraph(MessagesAnnotation)
    .addNode(
      "one",
      llm("one", async function* () {
        yield* ["one ", "whole"];
      }),
    )
    .addNode("two", llm("two", stuckOnce("two ", "par")))
    .addEdge(START, "one")
    .addEdge("one", "two")
    .compile();

/** Messages as their readers have them in the end: what a rewind took back is gone. */
function told(parts: readonly Part[]): { texts: string[]; kept: { offset: number; part: Part }[] } {
  let kept: { offset: number; part: Part }[] = [];
  for (const [i, part] of parts.entries()) {
    if (part.type === "lifecycle" && part.data.event === "rewound") {
      const { to } = part.data;
      kept = kept.filter((each) => each.part.type === "lifecycle" || each.offset <= to);
    }
    kept.push({ offset: i + 1, part });
  }
  const texts = new Map<string, string>();
  for (const { part } of kept) {
    if (part.type !== "messages") continue;
    const [{ id, content }] = part.data;
    texts.set(id!, `${texts.get(id!) ?? ""}${content}`);
  }
  return { texts: [...texts.values()], kept };
}

/** The worker of this run dies: its attempt loses its fence, and writes nothing any more. */
async function crash(runId: string, threadId: string): Promise<void> {
  const writer = await shop.claimAndDie(runId);
  await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.attempt);
}

/** Waits until the checkpoint of a step is stored: a graph does not wait for that. */
async function stored(threadId: string, step: number): Promise<void> {
  await until(async () => ((await readState(shop.saver, { threadId }))?.metadata.step as number) >= step);
}

describe.each(["values", "updates"] as const)(
  "a worker that was lost in the second step, with %s in the log",
  (mode) => {
    test.each(["crash", "hand-over"] as const)("by %s", async (how) => {
      const graph = twoSteps();
      const first = await shop.serve({ graph });
      const threadId = shop.newThread();
      const modes = ["messages", "custom", mode];
      const runId = await shop.start("graph", { input: "hi", modes }, { threadId });
      // started; [values of the input;] two tokens; what the step brought; [values]; two tokens of the next
      await shop.reached(runId, mode === "values" ? 7 : 6);
      await stored(threadId, 1);
      if (how === "hand-over") await first.close();
      else {
        await crash(runId, threadId);
        await first.close();
      }
      await shop.serve({ graph });
      const { parts, record } = await shop.ended(runId);
      expect(record.status).toBe("completed");
      expect(calls).toEqual(["one(hi)", "two(hi|one whole)", "two(hi|one whole)"]);
      expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one whole", "ai:two whole"]);

      const { texts, kept } = told(parts);
      expect(texts).toEqual(["one whole", "two whole"]);
      const rewound = parts.find((part) => part.type === "lifecycle" && part.data.event === "rewound");
      // All of the finished step, and nothing of the other: `values` of the step come with what goes on from it.
      expect(rewound?.data).toMatchObject({ to: 4 });
      expect(kept.filter(({ part }) => part.type === mode).map(({ part }) => part.data)).toEqual(
        mode === "updates"
          ? [{ one: expect.anything() }, { two: expect.anything() }]
          : [
              { messages: [expect.objectContaining({ content: "hi" })] },
              { messages: [expect.anything(), expect.objectContaining({ content: "one whole" })] },
              {
                messages: [
                  expect.anything(),
                  expect.anything(),
                  expect.objectContaining({ content: "two whole" }),
                ],
              },
            ],
      );

      const history = await readHistory(shop.saver, { threadId });
      const branch = history.find(({ metadata }) => metadata.partial === "taken-over");
      expect(await shop.messages(threadId, branch?.checkpointId)).toEqual([
        "human:hi",
        "ai:one whole",
        "ai:two par",
      ]);
    });
  },
);

test("the first step was not over: the user's message is in the thread once, and its tokens are told anew", async () => {
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("two", llm("two", stuckOnce("two ", "par")))
    .addEdge(START, "two")
    .compile();
  const first = await shop.serve({ graph });
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input: { messages: ["no id"] } }, { threadId });
  await shop.reached(runId, 3);
  await crash(runId, threadId);
  await first.close();
  await shop.serve({ graph });
  const { parts } = await shop.ended(runId);
  expect(told(parts).texts).toEqual(["two whole"]);
  expect(await shop.messages(threadId)).toEqual(["human:no id", "ai:two whole"]);
});

test.each([2, 3, 4, 5, 6])(
  "a worker that was lost after part %i, wherever its checkpoints were: every text is told once, and saved",
  async (head) => {
    const graph = twoSteps();
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi" }, { threadId });
    await shop.reached(runId, head);
    await crash(runId, threadId);
    await first.close();
    await shop.serve({ graph });
    const { parts } = await shop.ended(runId);
    expect(told(parts).texts).toEqual(["one whole", "two whole"]);
    const updates = told(parts).kept.filter(({ part }) => part.type === "updates");
    expect(updates.map(({ part }) => Object.keys(part.data as object)[0])).toEqual(["one", "two"]);
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one whole", "ai:two whole"]);
  },
);

const oneOfTwoStuck = () =>
  new StateGraph(MessagesAnnotation)
    .addNode(
      "a",
      llm("a", async function* () {
        yield* ["a ", "whole"];
      }),
    )
    .addNode("b", llm("b", stuckOnce("b ", "par")))
    .addEdge(START, "a")
    .addEdge(START, "b")
    .compile();

test("one of two parallel nodes had finished: it is not run again, and what it told is not lost", async () => {
  const graph = oneOfTwoStuck();
  const first = await shop.serve({ graph });
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input: "hi" }, { threadId });
  await shop.reached(runId, 6);
  await first.close();
  await shop.serve({ graph });
  const { parts } = await shop.ended(runId);
  expect(calls.sort()).toEqual(["a(hi)", "b(hi)", "b(hi)"]);
  expect(told(parts).texts.sort()).toEqual(["a whole", "two whole"]);
  expect((await shop.messages(threadId)).sort()).toEqual(["ai:a whole", "ai:two whole", "human:hi"]);
});

test("inside of a subgraph: its finished steps are not run again, and what they told is not lost", async () => {
  const inner = new StateGraph(MessagesAnnotation)
    .addNode(
      "one",
      llm("one", async function* () {
        yield* ["one ", "whole"];
      }),
    )
    .addNode("two", llm("two", stuckOnce("two ", "par")))
    .addEdge(START, "one")
    .addEdge("one", "two")
    .compile();
  const graph = new StateGraph(MessagesAnnotation).addNode("team", inner).addEdge(START, "team").compile();
  const first = await shop.serve({ graph });
  const threadId = shop.newThread();
  const runId = await shop.start(
    "graph",
    { input: "hi", subgraphs: true, modes: ["messages"] },
    { threadId },
  );
  await shop.reached(runId, 5);
  await first.close();
  await shop.serve({ graph });
  const { parts } = await shop.ended(runId);
  expect(calls).toEqual(["one(hi)", "two(hi|one whole)", "two(hi|one whole)"]);
  expect(told(parts).texts).toEqual(["one whole", "two whole"]);
  expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one whole", "ai:two whole"]);
});

describe("taken over again and again, far inside", () => {
  /** `one` → `two`, which is stuck the first three times that it is asked. */
  const row = (name = "one") => {
    let asked = 0;
    const stubborn: Script = async function* (messages, signal) {
      if (asked++ < 3) yield* stuckAfter("two ", "par")(messages, signal);
      else yield* ["two ", "whole"];
    };
    const one: Script = async function* () {
      yield* ["one ", "whole"];
    };
    return new StateGraph(MessagesAnnotation)
      .addNode(name, llm(name, one))
      .addNode("two", llm("two", stubborn))
      .addEdge(START, name)
      .addEdge(name, "two")
      .compile();
  };
  const around = (inner: unknown) =>
    new StateGraph(MessagesAnnotation)
      .addNode("inner", inner as never)
      .addEdge(START, "inner")
      .compile();
  const graphs: Record<string, () => Graph> = {
    "a subgraph": () => around(row()),
    "a subgraph of a subgraph": () => around(around(row())),
    "a graph that a node calls": () => {
      const inner = row();
      return around(async ({ messages }: Messages) => {
        const { messages: all } = await inner.invoke({ messages });
        return { messages: all.slice(messages.length) };
      });
    },
    "a graph that a functional graph calls": () => {
      const inner = row();
      const call = task(
        "call",
        async (messages: BaseMessage[]) => (await inner.invoke({ messages })).messages,
      );
      return entrypoint("flow", async (input: { messages: BaseMessage[] }) => ({
        messages: await call(input.messages),
      })) as unknown as Graph;
    },
  };

  test.each(Object.entries(graphs))("%s: each message is told once in the end", async (_, make) => {
    const graph = make();
    const threadId = shop.newThread();
    const input = { messages: [{ role: "user", content: "hi" }] };
    const runId = await shop.start(
      "graph",
      { input, subgraphs: true, modes: ["messages", "updates"] },
      { threadId },
    );
    for (let attempt = 1; attempt <= 3; attempt++) {
      const worker = await shop.serve({ graph });
      await until(async () => {
        const all: Part[] = [];
        for await (const { part } of shop.reader.parts(runId)) all.push(part);
        return JSON.stringify(all).split('"par"').length > attempt;
      });
      await worker.close();
    }
    await shop.serve({ graph });
    const { parts, record } = await shop.ended(runId);
    expect(record.status).toBe("completed");
    expect(calls.filter((each) => each.startsWith("one"))).toHaveLength(1);
    const { texts, kept } = told(parts);
    expect(texts).toEqual(["one whole", "two whole"]);
    // Each stands in the path of its graph, whoever told it.
    const paths = new Set(
      kept.filter(({ part }) => part.type === "messages").map(({ part }) => part.ns.join()),
    );
    expect(paths.size).toBe(1);
    expect([...paths][0]).toMatch(/^(inner|call|flow)/);
    const all = (await readState(shop.saver, { threadId }))!.values.messages as { content: string }[];
    expect(all.map(({ content }) => content)).toEqual(["hi", "one whole", "two whole"]);
  });
});

test("handed over while what a finished node wrote is on its way to the saver: it is not run again", async () => {
  const gate = new Gate();
  const { fenced } = RedisCheckpointSaver.prototype;
  const slow = vi.spyOn(RedisCheckpointSaver.prototype, "fenced").mockImplementation(function (
    this: RedisCheckpointSaver,
    { before, ...fence },
  ) {
    const slowly: typeof before = async (write) => {
      const marks = await before!(write);
      if (write.kind === "writes") await gate.passed;
      return marks;
    };
    return fenced.call(this, { ...fence, ...(before === undefined ? {} : { before: slowly }) });
  });
  try {
    const graph = oneOfTwoStuck();
    const first = await shop.serve({ graph });
    const runId = await shop.start("graph", { input: "hi" });
    await shop.reached(runId, 6);
    const closed = first.close();
    // Longer than a worker takes to close that waits for its agents only.
    await Promise.race([closed, sleep(300)]);
    gate.open();
    await closed;
    await shop.serve({ graph });
    const { parts } = await shop.ended(runId);
    expect(calls.sort()).toEqual(["a(hi)", "b(hi)", "b(hi)"]);
    expect(told(parts).texts.sort()).toEqual(["a whole", "two whole"]);
  } finally {
    slow.mockRestore();
  }
});

test("it was being cancelled: the run ends as cancelled, with what the dead worker had streamed", async () => {
  const graph = twoSteps();
  const first = await shop.serve({ graph });
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input: "hi" }, { threadId });
  await shop.reached(runId, 6);
  await crash(runId, threadId);
  await first.close();
  await shop.dispatcher.cancel(runId, { keep: "thread" });
  await shop.serve({ graph });
  const { record } = await shop.ended(runId);
  expect(record.status).toBe("cancelled");
  expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one whole", "ai:two par"]);
  expect(calls).toHaveLength(2);
});

describe("it was being cancelled when its worker died", () => {
  const whole: Script = async function* () {
    yield* ["one ", "whole"];
  };
  const speaks = (name: string, script: Script) => async () => {
    calls.push(name);
    return await new ScriptedModel(script).invoke([]);
  };

  test.each([
    { place: "in its last checkpoint's step", isAhead: false },
    { place: "ahead of its last checkpoint", isAhead: true },
  ])(
    "readers had been told what a node answered that is not stored, $place: the thread has it",
    async ({ isAhead }) => {
      const { fenced } = RedisCheckpointSaver.prototype;
      const stuck = vi.spyOn(RedisCheckpointSaver.prototype, "fenced").mockImplementation(function (
        this: RedisCheckpointSaver,
        { before, ...fence },
      ) {
        const inTime: typeof before = async (write) => {
          const isStored = isAhead ? write.kind === "checkpoint" && write.step! < 0 : calls.length === 0;
          return isStored ? await before!(write) : null;
        };
        return fenced.call(this, { ...fence, ...(before === undefined ? {} : { before: inTime }) });
      });
      const State = Annotation.Root({
        ...MessagesAnnotation.spec,
        topic: Annotation<string>,
        topics: Annotation<string[]>({ reducer: (a, b) => a.concat(b), default: () => [] }),
      });
      const one = speaks("one", whole);
      const after = speaks("after", stuckAfter());
      let topicThen: unknown;
      const graph = new StateGraph(State)
        .addNode("one", async () => {
          if (!isAhead) await until(async () => (await shop.history(threadId)).length === 2);
          return { messages: [await one()], topic: "tea", topics: ["tea"] };
        })
        .addNode("after", async ({ topic }) => {
          topicThen = topic;
          return { messages: [await after()] };
        })
        .addEdge(START, "one")
        .addEdge("one", "after")
        .compile();
      const threadId = shop.newThread();
      const first = await shop.serve({ graph });
      const runId = await shop.start("graph", { input: "hi", modes: ["updates"] }, { threadId });
      try {
        await shop.reached(runId, 2);
        await crash(runId, threadId);
        await first.close();
      } finally {
        stuck.mockRestore();
      }
      await shop.dispatcher.cancel(runId, { keep: "thread" });
      await shop.serve({ graph });
      expect((await shop.ended(runId)).record.status).toBe("cancelled");
      const { values } = (await readState(shop.saver, { threadId }))!;
      expect([values.topic, values.topics]).toEqual(["tea", ["tea"]]);
      expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one whole"]);
      calls = [];
      const next = await shop.start("graph", {}, { threadId });
      await until(() => calls.includes("after"));
      await shop.dispatcher.cancel(next, { keep: "discard" });
      expect([calls, topicThen]).toEqual([isAhead ? ["one", "after"] : ["after"], "tea"]);
    },
  );

  test("its last checkpoint was far behind: what the thread shows stays, and is gone on behind", async () => {
    const { fenced } = RedisCheckpointSaver.prototype;
    const late = vi.spyOn(RedisCheckpointSaver.prototype, "fenced").mockImplementation(function (
      this: RedisCheckpointSaver,
      { before, ...fence },
    ) {
      const early: typeof before = async (write) => {
        const isEarly = write.kind === "checkpoint" ? write.step! < 0 : calls.length === 0;
        return isEarly ? await before!(write) : null;
      };
      return fenced.call(this, { ...fence, ...(before === undefined ? {} : { before: early }) });
    });
    const [one, two] = [speaks("one", whole), speaks("two", stuckOnce("two ", "par"))];
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("one", async () => ({ messages: [await one()] }))
      .addNode("two", async () => ({ messages: [await two()] }))
      .addEdge(START, "one")
      .addEdge("one", "two")
      .compile();
    const threadId = shop.newThread();
    const first = await shop.serve({ graph });
    const runId = await shop.start("graph", { input: "hi", modes: ["messages"] }, { threadId });
    try {
      await shop.reached(runId, 5);
      await crash(runId, threadId);
      await first.close();
    } finally {
      late.mockRestore();
    }
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.serve({ graph });
    await shop.ended(runId);
    const shown = ["human:hi", "ai:one whole", "ai:two par"];
    expect(await shop.messages(threadId)).toEqual(shown);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(await shop.messages(threadId)).toEqual([...shown, "ai:one whole", "ai:two whole"]);
  });

  test("inside of a tool, and taken over: what its node says then is a message", async () => {
    const script = stuckOnce("so ", "far");
    const consult = tool(() => new ScriptedModel(script).invoke([]), {
      name: "consult",
      schema: { type: "object", properties: {} },
    });
    const after = speaks("after", stuckAfter("my ", "view"));
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("both", async () => {
        await consult.invoke({ type: "tool_call", id: "call", name: "consult", args: {} });
        return { messages: [await after()] };
      })
      .addEdge(START, "both")
      .compile();
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi", modes: ["messages"] }, { threadId });
    await shop.reached(runId, 3);
    await first.close();
    await shop.serve({ graph });
    await until(async () => {
      const parts: Part[] = [];
      for await (const { part } of shop.reader.parts(runId)) parts.push(part);
      return JSON.stringify(parts).includes('"view"');
    });
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.ended(runId);
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:my view"]);
  });

  test("a task had finished: what it had said is whole", async () => {
    const script = stuckAfter("two ", "par");
    const [opening, ending] = [
      task("opening", speaks("opening", whole)),
      task("ending", speaks("ending", script)),
    ];
    const graph = entrypoint("flow", async () => [await opening(), await ending()]) as unknown as Graph;
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi", modes: ["messages"] }, { threadId });
    await shop.reached(runId, 5);
    await until(async () => {
      const tuple = await shop.saver.getTuple({ configurable: { thread_id: threadId } });
      return (tuple?.pendingWrites ?? []).length > 0;
    });
    await crash(runId, threadId);
    await first.close();
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.serve({ graph });
    await shop.ended(runId);
    const { messages } = (await readState(shop.saver, { threadId }))!.values as { messages: FlatMessage[] };
    expect(messages.map(({ additional_kwargs = {} }) => additional_kwargs)).toEqual([
      {},
      {},
      { cancelled: true },
    ]);
  });

  const inFlow = (opening: () => Promise<BaseMessage>, ending: () => Promise<BaseMessage>) => {
    const [first, last] = [task("opening", opening), task("ending", ending)];
    return entrypoint("flow", async () => [await first(), await last()]) as unknown as Graph;
  };
  const inNode = (opening: () => Promise<BaseMessage>, ending: () => Promise<BaseMessage>) => {
    const [first, last] = [task("opening", opening), task("ending", ending)];
    return new StateGraph(MessagesAnnotation)
      .addNode("tell", async () => ({ messages: [await first(), await last()] }))
      .addEdge(START, "tell")
      .compile();
  };
  test.each(Object.entries({ inFlow, inNode }))(
    "a task had finished in the attempt before: what it said is shown as well (%s)",
    async (_, make) => {
      const graph = make(speaks("opening", whole), speaks("ending", stuckAfter("two ", "par")));
      const threadId = shop.newThread();
      const first = await shop.serve({ graph });
      const runId = await shop.start(
        "graph",
        { input: { messages: ["hi"] }, modes: ["messages"] },
        { threadId },
      );
      await shop.reached(runId, 5);
      await first.close();
      await shop.serve({ graph });
      await until(() => calls.length === 3);
      await until(async () => {
        const parts: Part[] = [];
        for await (const { part } of shop.reader.parts(runId)) parts.push(part);
        return told(parts).texts.join().endsWith("par") && JSON.stringify(parts).split('"par"').length > 2;
      });
      await shop.dispatcher.cancel(runId, { keep: "thread" });
      expect((await shop.ended(runId)).record.status).toBe("cancelled");
      expect(calls).toEqual(["opening", "ending", "ending"]);
      expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one whole", "ai:two par"]);
    },
  );
});

test("it was being cancelled inside of a tool: what a model had said there is the call's answer, and no message", async () => {
  const consult = tool(() => new ScriptedModel(stuckOnce("so ", "far")).invoke([]), {
    name: "consult",
    schema: { type: "object", properties: {} },
  });
  const ask = new AIMessage({ content: "I ask", tool_calls: [{ id: "call", name: "consult", args: {} }] });
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("ask", () => ({ messages: [ask] }))
    .addNode("tools", new ToolNode([consult]))
    .addEdge(START, "ask")
    .addEdge("ask", "tools")
    .compile();
  const first = await shop.serve({ graph });
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input: "hi", modes: ["messages"] }, { threadId });
  await shop.reached(runId, 4);
  await crash(runId, threadId);
  await first.close();
  await shop.dispatcher.cancel(runId, { keep: "thread" });
  await shop.serve({ graph });
  const { record, parts } = await shop.ended(runId);
  expect(record.status).toBe("cancelled");
  expect(told(parts).texts).toEqual(["I ask", "so far"]);
  const messages = await shop.messages(threadId);
  expect(messages).toEqual(["human:hi", "ai:I ask", "tool:cancelled; so far it had said: so far"]);
});

test.each(["sync", "async", "exit"] as const)(
  "durability %s: as many checkpoints as it asks for",
  async (durability) => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode(
        "one",
        llm("one", async function* () {
          yield "1";
        }),
      )
      .addNode(
        "two",
        llm("two", async function* () {
          yield "2";
        }),
      )
      .addEdge(START, "one")
      .addEdge("one", "two")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { record } = await shop.ended(
      await shop.start("graph", { input: "hi", config: { durability } }, { threadId }),
    );
    expect(record.status).toBe("completed");
    expect(await shop.history(threadId)).toHaveLength(durability === "exit" ? 1 : 4);
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:1", "ai:2"]);
  },
);

test.each(["sync", "exit"] as const)("durability %s, handed over in the second step", async (durability) => {
  const graph = twoSteps();
  const first = await shop.serve({ graph });
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input: "hi", config: { durability } }, { threadId });
  await shop.reached(runId, 6);
  await first.close();
  await shop.serve({ graph });
  const { parts } = await shop.ended(runId);
  expect(calls).toEqual(["one(hi)", "two(hi|one whole)", "two(hi|one whole)"]);
  expect(told(parts).texts).toEqual(["one whole", "two whole"]);
  expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one whole", "ai:two whole"]);
});

test("a node that fails: the run has its error, the finished steps stay, and without input the node is tried again", async () => {
  let broken = true;
  const graph = new StateGraph(MessagesAnnotation)
    .addNode(
      "one",
      llm("one", async function* () {
        yield "1";
      }),
    )
    .addNode("two", async () => {
      if (broken) throw new TypeError("no such luck");
      return { messages: [{ role: "ai", content: "2" }] };
    })
    .addEdge(START, "one")
    .addEdge("one", "two")
    .compile();
  await shop.serve({ graph });
  const threadId = shop.newThread();
  const { record, lifecycle } = await shop.ended(await shop.start("graph", { input: "hi" }, { threadId }));
  const error = { name: "TypeError", message: "the agent failed; its worker's log says why" };
  expect(record).toMatchObject({ status: "failed", error });
  expect(lifecycle.at(-1)).toMatchObject({ event: "failed", error, checkpoint: { threadId } });
  expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:1"]);
  broken = false;
  await shop.ended(await shop.start("graph", {}, { threadId }));
  expect(calls).toEqual(["one(hi)"]);
  expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:1", "ai:2"]);
});

test("the recursion limit, as the config sets it", async () => {
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("again", async () => ({}))
    .addEdge(START, "again")
    .addEdge("again", "again")
    .compile();
  await shop.serve({ graph });
  const { record } = await shop.ended(
    await shop.start("graph", { input: "x", config: { recursion_limit: 3 } }),
  );
  expect(record.error).toMatchObject({ name: "GraphRecursionError" });
  expect(record.error?.message).toContain("limit of 3");
});

test("an input that the graph cannot begin with fails the run", async () => {
  await shop.serve({ graph: twoSteps() });
  const { record } = await shop.ended(await shop.start("graph", {}));
  expect(record).toMatchObject({ status: "failed", error: { name: "EmptyInputError" } });
  expect(await readState(shop.saver, { threadId: record.threadId })).toBeNull();
});
