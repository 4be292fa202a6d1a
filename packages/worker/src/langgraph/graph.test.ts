import { setTimeout as sleep } from "node:timers/promises";
import type { CallbackHandlerMethods } from "@langchain/core/callbacks/base";
import {
  END,
  entrypoint,
  MemorySaver,
  MessagesAnnotation,
  START,
  StateGraph,
  task,
} from "@langchain/langgraph";
import { afterAll, beforeAll, expect, test } from "vitest";
import { saying } from "../../../../test/support/graphs.ts";
import { Workshop } from "../../../../test/support/workers.ts";

const shop = new Workshop();

const chat = new StateGraph(MessagesAnnotation)
  .addNode("llm", async ({ messages }) => ({
    messages: [await saying("Once ", "upon ", "a time").invoke(messages)],
  }))
  .addEdge(START, "llm")
  .addEdge("llm", END)
  .compile();

beforeAll(async () => {
  await shop.serve({ chat });
});
afterAll(() => shop.stop());

test("the graph that was handed in stays as it is: runs beside each other have a copy each", async () => {
  const own = new MemorySaver();
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("llm", async ({ messages }) => ({ messages: [await saying("a", "b").invoke(messages)] }))
    .addEdge(START, "llm")
    .compile({ checkpointer: own });
  const other = new Workshop();
  await other.serve({ graph });
  const threads = Array.from({ length: 20 }, () => other.newThread());
  const runs = await Promise.all(
    threads.map((threadId) => other.start("graph", { input: threadId }, { threadId })),
  );
  for (const [i, runId] of runs.entries()) {
    const { record, text } = await other.ended(runId);
    expect(record).toMatchObject({ status: "completed", threadId: threads[i] });
    expect(text).toBe("ab");
    expect(await other.messages(threads[i]!)).toEqual([`human:${threads[i]}`, "ai:ab"]);
  }
  expect(graph.checkpointer).toBe(own);
  expect(own.storage).toEqual({});
  await other.stop();
});

test("a workflow of the functional API", async () => {
  const double = task("double", async (n: number) => 2 * n);
  const flow = entrypoint("flow", async (n: number) => (await double(n)) + (await double(n)));
  const other = new Workshop();
  await other.serve({ flow });
  const { record, parts } = await other.ended(await other.start("flow", { input: 5, modes: ["updates"] }));
  expect(record.status).toBe("completed");
  expect(parts.slice(1, -1).map(({ data }) => data)).toEqual([{ double: 10 }, { double: 10 }, { flow: 20 }]);
  await other.stop();
});

test("streams, ends completed, and the thread has it", async () => {
  const threadId = shop.newThread();
  const runId = await shop.start("chat", { input: "Tell me a story" }, { threadId });
  const { record, text } = await shop.ended(runId);
  expect(record.status).toBe("completed");
  expect(text).toBe("Once upon a time");
  expect(await shop.messages(threadId)).toEqual(["human:Tell me a story", "ai:Once upon a time"]);
});

test("a slow callback handler of one graph costs no run its tokens, and they come before what they became", async () => {
  const telling = (handlers: CallbackHandlerMethods[]) => {
    const model = saying("Once ", "upon ", "a time");
    model.callbacks = handlers;
    return new StateGraph(MessagesAnnotation)
      .addNode("llm", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
      .addEdge(START, "llm")
      .compile();
  };
  const slowly = async () => {
    await sleep(20);
  };
  const other = new Workshop();
  await other.serve({ slow: telling([{ handleLLMNewToken: slowly }]), plain: telling([]) });
  const agents = ["slow", "slow", "slow", "plain"];
  const runs = await Promise.all(agents.map((agent) => other.start(agent, { input: "x" })));
  for (const runId of runs) {
    const { parts } = await other.ended(runId);
    expect(parts.map(({ type }) => type)).toEqual([
      "lifecycle",
      ...["messages", "messages", "messages"],
      "updates",
      "lifecycle",
    ]);
  }
  await other.stop();
});
