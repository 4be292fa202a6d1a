/** P3 for runs that no worker had yet: what the user said is in the thread, in its place. */
import {
  Annotation,
  DeltaChannel,
  MessagesAnnotation,
  messagesDeltaReducer,
  START,
  StateGraph,
} from "@langchain/langgraph";
import { ForkView } from "@throughline/checkpoint";
import type { Keep } from "@throughline/protocol";
import { type AgentContext, type Graph, type ServeOptions, token } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ScriptedModel, stuckAfter } from "../../../test/support/graphs.ts";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";

let shop: Workshop;
beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

/** Each says "so far", and then nothing until it is stopped; where the last message is `go` it says "done". */
async function* talker({ messages, signal }: AgentContext) {
  if (messages.at(-1)?.content === "go") {
    yield token("done");
    return;
  }
  yield token("so far");
  await new Promise((resolve) => signal.addEventListener("abort", resolve));
}

const graphOf = (state: typeof MessagesAnnotation): Graph =>
  new StateGraph(state)
    .addNode("talk", async ({ messages }) => {
      const script = async function* () {
        yield "done";
      };
      const model = new ScriptedModel(messages.at(-1)?.content === "go" ? script : stuckAfter("so far"));
      return { messages: [await model.invoke(messages)] };
    })
    .addEdge(START, "talk")
    .compile();

const Delta = Annotation.Root({ messages: new DeltaChannel(messagesDeltaReducer as never) });
const agents: Record<string, ServeOptions["agents"][string]> = {
  function: talker,
  graph: graphOf(MessagesAnnotation),
  "graph with a delta channel": graphOf(Delta as never),
};

describe.each(Object.entries(agents))("a %s", (name, talk) => {
  /** A delta channel's value is what its graph makes of what was written to it. */
  const messages = async (threadId: string): Promise<string[]> => {
    if (!name.includes("delta")) return await shop.messages(threadId);
    const graph = (talk as Graph).withConfig({}) as Graph;
    graph.checkpointer = new ForkView(shop.saver);
    const { values } = await graph.getState({ configurable: { thread_id: threadId } });
    const all = (values.messages ?? []) as { getType(): string; content: string }[];
    return all.map((message) => `${message.getType()}:${message.content}`);
  };

  const start = async (threadId: string, input: string | undefined, more: object = {}) =>
    await shop.start("talk", input === undefined ? {} : { input }, { threadId, ...more });

  test("interrupt over runs that wait: all that the user said is there, in its order", async () => {
    await shop.serve({ talk });
    const threadId = shop.newThread();
    const first = await start(threadId, "one");
    await shop.reached(first, 2);
    const waiting = [await start(threadId, "two"), await start(threadId, "three")];
    const last = await start(threadId, "go", { multitaskStrategy: "interrupt" });
    for (const runId of [first, ...waiting]) {
      expect((await shop.ended(runId)).record.status).toBe("cancelled");
    }
    expect((await shop.ended(last)).record.status).toBe("completed");
    const said = ["human:one", "ai:so far", "human:two", "human:three", "human:go", "ai:done"];
    expect(await messages(threadId)).toEqual(said);
    expect(await shop.dispatcher.active("alice", threadId)).toBeNull();
  });

  test.each<[Keep, string[]]>([
    ["thread", ["human:one"]],
    ["discard", []],
    ["branch", []],
  ])("cancelled before there is a worker, keep %s", async (keep, kept) => {
    const threadId = shop.newThread();
    const runId = await start(threadId, "one");
    const cancelled = await shop.dispatcher.cancel(runId, { keep });
    expect(cancelled).toMatchObject({ outcome: "ended", status: "cancelled" });
    const next = await start(threadId, "go");
    await shop.serve({ talk });
    expect((await shop.ended(next)).record.status).toBe("completed");
    expect(await messages(threadId)).toEqual([...kept, "human:go", "ai:done"]);
    const all = JSON.stringify((await shop.history(threadId)).map(({ values }) => values.messages));
    expect(all.includes('"one"')).toBe(keep !== "discard");
  });

  test("cancelled while it waits, its thread is free when it is in the thread", async () => {
    await shop.serve({ talk });
    const threadId = shop.newThread();
    const first = await start(threadId, "one");
    await shop.reached(first, 2);
    const waits = await start(threadId, "two");
    await shop.dispatcher.cancel(waits, { keep: "thread" });
    await shop.dispatcher.cancel(first, { keep: "thread" });
    await shop.ended(first);
    await until(async () => (await shop.dispatcher.active("alice", threadId)) === null);
    expect(await messages(threadId)).toEqual(["human:one", "ai:so far", "human:two"]);
    const next = await start(threadId, "go", { multitaskStrategy: "reject" });
    expect((await shop.ended(next)).record.status).toBe("completed");
  });

  test("a thread is not busy with a run that was cancelled in its line", async () => {
    await shop.serve({ talk });
    const threadId = shop.newThread();
    for (let i = 0; i < 10; i++) {
      const runId = await start(threadId, `${i}`);
      await shop.dispatcher.cancel(runId, { keep: "thread" });
      if ((await shop.record(runId)).attempt > 0) await shop.ended(runId);
      const next = await start(threadId, "go", { multitaskStrategy: "reject" });
      expect((await shop.ended(next)).record.status).toBe("completed");
    }
    const said = (await messages(threadId)).filter((each) => each.startsWith("human"));
    expect(said).toEqual(Array.from({ length: 10 }, (_, i) => [`human:${i}`, "human:go"]).flat());
  });
});

test("a graph takes the input of a run that was cancelled before it began when it goes on", async () => {
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("echo", ({ messages }) => ({
      messages: [{ role: "assistant", content: `you said ${messages.at(-1)?.content}` }],
    }))
    .addEdge(START, "echo")
    .compile();
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input: "hello" }, { threadId });
  await shop.dispatcher.cancel(runId, { keep: "thread" });
  await shop.serve({ graph });
  await until(async () => (await shop.messages(threadId)).length === 1);
  await shop.ended(await shop.start("graph", {}, { threadId }));
  expect(await shop.messages(threadId)).toEqual(["human:hello", "ai:you said hello"]);
});

test("an agent that nobody offers any more keeps no thread busy", async () => {
  const threadId = shop.newThread();
  const runId = await shop.start("gone", { input: "one" }, { threadId });
  await shop.dispatcher.cancel(runId, { keep: "thread" });
  await shop.serve({ talker });
  const next = await shop.start("talker", { input: "go" }, { threadId });
  expect((await shop.ended(next)).record.status).toBe("completed");
  expect(await shop.messages(threadId)).toEqual(["human:go", "ai:done"]);
});
