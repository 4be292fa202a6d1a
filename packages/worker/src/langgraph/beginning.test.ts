/** What a run of a graph begins with: what it tells of its input, its first values, and from which state it goes on. */
import { AIMessage, type BaseMessage } from "@langchain/core/messages";
import {
  Annotation,
  entrypoint,
  interrupt,
  MessagesAnnotation,
  messagesStateReducer,
  Send,
  START,
  StateGraph,
} from "@langchain/langgraph";
import { createReactAgent } from "@langchain/langgraph/prebuilt";
import { readState } from "@throughline/checkpoint";
import type { FlatMessage, LifecycleData, Part } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ScriptedModel, saying, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";
import { type Graph, type GraphAgent, perRun } from "../agent.ts";

let shop: Workshop;

beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

type Messages = typeof MessagesAnnotation.State;

const asked = (story: readonly LifecycleData[]) => (story[0] as { messages?: FlatMessage[] }).messages;
const valuesOf = (parts: readonly Part[]) =>
  parts.flatMap((part) => (part.type === "values" ? [part.data as Record<string, unknown>] : []));
const textsOf = (messages: unknown) =>
  ((messages ?? []) as FlatMessage[]).map(({ type, content }) => `${type}:${content}`);

const answer =
  (...tokens: string[]) =>
  async ({ messages }: Messages) => ({
    messages: [await saying(...tokens).invoke(messages)],
  });
const chat = () =>
  new StateGraph(MessagesAnnotation).addNode("chat", answer("answer")).addEdge(START, "chat").compile();

/** A model that takes tools. */
function bound() {
  const model = saying("answer");
  return Object.assign(model, { bindTools: () => model });
}

/** Sends what it is given on to nodes of its own. */
const sending = () =>
  new StateGraph(MessagesAnnotation)
    .addNode("one", answer("answer"))
    .addConditionalEdges(START, (state) => [new Send("one", state)], ["one"])
    .compile();

/** Its messages are the graph's above it as well. */
const nested = () =>
  new StateGraph(MessagesAnnotation).addNode("inner", chat()).addEdge(START, "inner").compile();

/** Keeps the newest ten, as some do. */
const trimming = () => {
  const State = Annotation.Root({
    messages: Annotation<BaseMessage[]>({
      reducer: (before, more) => messagesStateReducer(before, more).slice(-10),
      default: () => [],
    }),
  });
  return new StateGraph(State)
    .addNode("chat", answer("answer") as never)
    .addEdge(START, "chat" as never)
    .compile();
};

describe("started tells the messages that the input brings, and the thread has them so", () => {
  const input = { messages: [{ role: "system", content: "be kind" }, ["user", "hi"], "and you"] };
  const graphs: [string, () => Graph | GraphAgent][] = [
    ["MessagesAnnotation", chat],
    ["createReactAgent", () => createReactAgent({ llm: bound(), tools: [] })],
    ["Send", sending],
    ["a subgraph", nested],
    ["a reducer around LangGraph's", trimming],
    ["a factory", () => perRun(chat)],
  ];
  test.each(graphs)("%s", async (_, make) => {
    await shop.serve({ graph: make() });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input, modes: ["values"], subgraphs: true }, { threadId });
    const { lifecycle: story, parts, record } = await shop.ended(runId);
    expect(record.status).toBe("completed");
    const texts = ["system:be kind", "human:hi", "human:and you"];
    expect(textsOf(asked(story))).toEqual(texts);
    const ids = [0, 1, 2].map((i) => `${runId}-input-${i}`);
    expect(asked(story)?.map(({ id }) => id)).toEqual(ids);
    // What comes in the state is the same, in the log's first values as in the thread.
    const [begun] = valuesOf(parts);
    expect(begun?.messages).toEqual(asked(story));
    expect((await readState(shop.saver, { threadId }))?.values.messages).toMatchObject([
      ...asked(story)!,
      { type: "ai" },
    ]);
  });

  const State = <T>(reducer: (before: T[], more: T[]) => T[]) =>
    Annotation.Root({
      messages: Annotation<T[]>({ reducer, default: () => [] }),
      seen: Annotation<unknown>(),
    });
  const looking = <T>(reducer: (before: T[], more: T[]) => T[]) =>
    new StateGraph(State(reducer))
      .addNode("look", ({ messages }) => ({ seen: messages }))
      .addEdge(START, "look")
      .compile();

  test.each<[string, unknown, unknown]>([
    ["strings", ["a", "b"], undefined],
    ["a reducer that keeps what it is given", [{ role: "user", content: "hi" }], undefined],
    [
      "the same, with ids",
      [{ role: "user", content: "hi", id: "mine" }],
      [{ type: "human", id: "mine", content: "hi" }],
    ],
    ["anything else", [{ order: 1 }, 2], undefined],
  ])("a state whose messages are no such list gets them as they came: %s", async (_, messages, told) => {
    await shop.serve({ graph: looking<unknown>((before, more) => before.concat(more)) });
    const threadId = shop.newThread();
    const { lifecycle: story } = await shop.ended(
      await shop.start("graph", { input: { messages } }, { threadId }),
    );
    expect((await readState(shop.saver, { threadId }))?.values.seen).toEqual(messages);
    expect(asked(story)).toEqual(told);
  });

  test("a function of the functional API gets its input as it came", async () => {
    let got: unknown;
    const graph = entrypoint("graph", async (input: { messages: unknown }) => {
      got = input;
      return { said: 1 };
    });
    await shop.serve({ graph: graph as never });
    const given = { messages: [{ role: "user", content: "hi" }] };
    const { lifecycle: story } = await shop.ended(await shop.start("graph", { input: given }));
    expect([got, asked(story)]).toEqual([given, undefined]);
  });

  test("cancelled, and gone on: under the same ids", async () => {
    let asks = 0;
    const script = () => (asks++ === 0 ? stuckAfter("par") : stuckAfter());
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("chat", async ({ messages }) => ({
        messages: [await new ScriptedModel(script()).invoke(messages)],
      }))
      .addEdge(START, "chat")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: { messages: [["user", "hi"]] } }, { threadId });
    await shop.reached(runId, 2);
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    const { lifecycle: story } = await shop.ended(runId);
    const { messages } = (await readState(shop.saver, { threadId }))!.values as { messages: FlatMessage[] };
    expect(messages.slice(0, 1)).toEqual(asked(story));
  });
});

const asking = () =>
  new StateGraph(MessagesAnnotation)
    .addNode("ask", () => {
      const said = interrupt("Really?");
      return { messages: [new AIMessage({ id: "a", content: String(said) })] };
    })
    .addEdge(START, "ask")
    .compile();

describe("the first values of a run", () => {
  const modes = ["values"];

  test("of one that answers a question hold what the thread has", async () => {
    await shop.serve({ graph: asking() });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: "hi", modes }, { threadId }));
    const runId = await shop.start("graph", { command: { resume: "yes" }, modes }, { threadId });
    const { parts, lifecycle: story } = await shop.ended(runId);
    expect(textsOf(valuesOf(parts)[0]?.messages)).toEqual(["human:hi"]);
    expect(asked(story)).toBeUndefined();
  });

  test("of one from a checkpoint hold what that has, and the input", async () => {
    await shop.serve({ graph: chat() });
    const threadId = shop.newThread();
    const first = await shop.ended(await shop.start("graph", { input: "one" }, { threadId }));
    await shop.ended(await shop.start("graph", { input: "two" }, { threadId }));
    const { checkpointId } = first.record.checkpoint!;
    const runId = await shop.start("graph", { input: "three", checkpointId, modes }, { threadId });
    const { parts } = await shop.ended(runId);
    expect(textsOf(valuesOf(parts)[0]?.messages)).toEqual(["human:one", "ai:answer", "human:three"]);
  });

  test("of one that was taken over hold them too, told once", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("one", answer("one"))
      .addNode("two", stuckFirst())
      .addEdge(START, "one")
      .addEdge("one", "two")
      .compile();
    const lost = await shop.serve({ graph }, {}, { lockMs: 60_000 });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi", modes: ["values", "messages"] }, { threadId });
    await takenAway(runId, threadId, 5);
    await lost.close();
    await shop.serve({ graph });
    const { parts, lifecycle: story } = await shop.ended(runId);
    expect(textsOf(valuesOf(parts)[0]?.messages)).toEqual(["human:hi"]);
    expect(valuesOf(parts)[0]?.messages).toEqual(asked(story));
    expect(story.filter(({ event }) => event === "started")).toHaveLength(1);
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one", "ai:two"]);
  });
});

/** Stuck the first time that it is asked. */
function stuckFirst() {
  let asks = 0;
  return async ({ messages }: Messages) => {
    const model = asks++ === 0 ? new ScriptedModel(stuckAfter("par")) : saying("two");
    return { messages: [await model.invoke(messages)] };
  };
}

/** Waits for a run to come so far, in its second step, and takes it from its worker. */
async function takenAway(runId: string, threadId: string, head: number): Promise<void> {
  await shop.reached(runId, head);
  const isStored = async () => {
    const state = await readState(shop.saver, { threadId });
    return state?.metadata.run_id === runId && (state.metadata.step as number) >= 1;
  };
  await until(isStored);
  const writer = await shop.claimAndDie(runId);
  await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.fence);
}

/** Counts how often it was called in its thread; and a graph that calls it. */
function counting() {
  const Inner = Annotation.Root({
    count: Annotation<number>({ reducer: (before, more) => before + more, default: () => 0 }),
    messages: MessagesAnnotation.spec.messages,
  });
  const inner = new StateGraph(Inner)
    .addNode("add", ({ count }) => ({ count: 1, messages: [new AIMessage(`count ${count + 1}`)] }))
    .addEdge(START, "add")
    .compile({ checkpointer: true });
  return new StateGraph(MessagesAnnotation)
    .addNode("inner", inner as never)
    .addNode("two", stuckOn("stuck") as never)
    .addEdge(START, "inner" as never)
    .addEdge("inner" as never, "two" as never)
    .compile();
}

/** Stuck where the newest message of a person's is this. */
function stuckOn(text: string) {
  return async ({ messages }: Messages) => {
    const last = messages.findLast((message) => message.getType() === "human");
    const model = last?.content === text ? new ScriptedModel(stuckAfter("par")) : saying("done");
    return { messages: [await model.invoke(messages)] };
  };
}

describe("a run that begins from nothing", () => {
  let threadId: string;
  let before: string | null;

  beforeEach(async () => {
    await shop.serve({ counting: counting(), asking: asking(), chat: chat() });
    threadId = shop.newThread();
    await shop.ended(await shop.start("counting", { input: "before" }, { threadId }));
    before = await shop.saver.head(threadId);
    expect(await shop.messages(threadId)).toEqual(["human:before", "ai:count 1", "ai:done"]);
  });

  /** The checkpoints that lead to this one, itself the first. */
  async function line(checkpointId: string | null) {
    const states = [];
    for (let id = checkpointId; id !== null; ) {
      const state = (await readState(shop.saver, { threadId, checkpointId: id }))!;
      states.push(state);
      id = state.parentId;
    }
    return states;
  }

  /** How often the lasting subgraph was called, as the next run of the thread finds it. */
  async function nextCount(): Promise<string | undefined> {
    await shop.ended(await shop.start("counting", { input: "next" }, { threadId }));
    return (await shop.messages(threadId)).filter((each) => each.startsWith("ai:count")).at(-1);
  }

  test("sees no checkpoint, a lasting subgraph's neither; the head follows", async () => {
    const runId = await shop.start("counting", { input: "anew", fromNothing: true }, { threadId });
    const { record } = await shop.ended(runId);
    expect([record.status, record.from]).toEqual(["completed", null]);
    expect(await shop.messages(threadId)).toEqual(["human:anew", "ai:count 1", "ai:done"]);
    const own = await line(await shop.saver.head(threadId));
    expect(own.every(({ metadata }) => metadata.run_id === runId)).toBe(true);
    expect(JSON.stringify(own)).not.toContain("heads_before");
    expect(await shop.messages(threadId, before!)).toEqual(["human:before", "ai:count 1", "ai:done"]);
    expect(await nextCount()).toBe("ai:count 2");
  });

  test.each(["thread", "branch", "discard"] as const)("and is cancelled: keep %s", async (keep) => {
    const runId = await shop.start("counting", { input: "stuck", fromNothing: true }, { threadId });
    await until(async () => (await shop.record(runId)).head >= 3);
    await until(async () => (await shop.saver.head(threadId)) !== before);
    await shop.dispatcher.cancel(runId, { keep });
    const { record } = await shop.ended(runId);
    const shown = ["human:stuck", "ai:count 1", "ai:par"];
    if (keep === "thread") {
      expect(await shop.messages(threadId)).toEqual(shown);
    } else {
      expect(await shop.saver.head(threadId)).toBe(before);
      if (keep === "branch")
        expect(await shop.messages(threadId, record.checkpoint?.checkpointId)).toEqual(shown);
      // The subgraph is where it was as well.
      expect(await nextCount()).toBe("ai:count 2");
      return;
    }
    const own = await line(await shop.saver.head(threadId));
    expect(own.every(({ metadata }) => metadata.run_id === runId)).toBe(true);
  });

  test("is cancelled before it began: its input is all that there is", async () => {
    const stuck = await shop.start("counting", { input: "stuck" }, { threadId });
    const runId = await shop.start("chat", { input: "anew", fromNothing: true }, { threadId });
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.reached(stuck, 3);
    await shop.dispatcher.cancel(stuck, { keep: "thread" });
    await until(async () => (await shop.messages(threadId)).join() === "human:anew");
    expect(await line(await shop.saver.head(threadId))).toHaveLength(1);
    // And who goes on without input begins with it.
    await shop.ended(await shop.start("chat", {}, { threadId }));
    expect(await shop.messages(threadId)).toEqual(["human:anew", "ai:answer"]);
  });

  test("is taken over: it goes on with its own checkpoints", async () => {
    const other = new StateGraph(MessagesAnnotation)
      .addNode("one", answer("one"))
      .addNode("two", stuckFirst())
      .addEdge(START, "one")
      .addEdge("one", "two")
      .compile();
    const lost = await shop.serve({ other }, { queue: "own" }, { lockMs: 60_000 });
    const request = { input: "anew", fromNothing: true as const, queue: "own" };
    const runId = await shop.start("other", request, { threadId });
    await takenAway(runId, threadId, 4);
    await lost.close();
    await shop.serve({ other }, { queue: "own" });
    const { record } = await shop.ended(runId);
    expect(record).toMatchObject({ status: "completed", from: null });
    expect(await shop.messages(threadId)).toEqual(["human:anew", "ai:one", "ai:two"]);
    const own = await line(await shop.saver.head(threadId));
    expect(own.every(({ metadata }) => metadata.run_id === runId)).toBe(true);
  });

  test("is taken over before its first checkpoint: it begins from nothing once more", async () => {
    const request = { input: "anew", fromNothing: true as const, queue: "late" };
    const runId = await shop.start("chat", request, { threadId });
    await shop.claimAndDie(runId, [{ type: "lifecycle", ns: [], data: { event: "started", attempt: 1 } }]);
    await shop.serve({ chat: chat() }, { queue: "late" });
    await shop.ended(runId);
    expect(await shop.messages(threadId)).toEqual(["human:anew", "ai:answer"]);
  });

  test("has no question of the thread's to answer", async () => {
    await shop.ended(await shop.start("asking", { input: "hi" }, { threadId }));
    const runId = await shop.start("asking", { command: { resume: "yes" }, fromNothing: true }, { threadId });
    const { record } = await shop.ended(runId);
    expect(record.error?.message).toMatch(/nothing waits for an answer/);
  });

  test("with a command that says where to go, goes there with an empty state", async () => {
    const goto = [{ node: "chat", input: { messages: [{ role: "user", content: "hi" }] } }];
    const runId = await shop.start("chat", { command: { goto }, fromNothing: true }, { threadId });
    const { record, lifecycle: story } = await shop.ended(runId);
    expect([record.status, asked(story)]).toEqual(["completed", undefined]);
    expect(await shop.messages(threadId)).toEqual(["ai:answer"]);
  });
});
