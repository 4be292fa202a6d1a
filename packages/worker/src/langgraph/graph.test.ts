import { END, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
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

test("streams, ends completed, and the thread has it", async () => {
  const threadId = shop.newThread();
  const runId = await shop.start("chat", { input: "Tell me a story" }, { threadId });
  const { record, text } = await shop.ended(runId);
  expect(record.status).toBe("completed");
  expect(text).toBe("Once upon a time");
  expect(await shop.messages(threadId)).toEqual(["human:Tell me a story", "ai:Once upon a time"]);
});
