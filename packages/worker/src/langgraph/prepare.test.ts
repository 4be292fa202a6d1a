/** What `serve` sets in its process for graphs. LangChain is imported before that, as in a program with graphs. */
import { MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { ScriptedModel } from "../../../../test/support/graphs.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

/** A graph that says two words, whose model tells `onToken` of each. */
function speaker(onToken: () => unknown) {
  const model = new ScriptedModel(async function* () {
    yield* ["one ", "two"];
  });
  model.callbacks = [{ handleLLMNewToken: onToken }];
  return new StateGraph(MessagesAnnotation)
    .addNode("llm", async ({ messages }) => ({
      messages: [await model.invoke(messages)],
    }))
    .addEdge(START, "llm")
    .compile();
}

test("imports write nothing to the environment; a handler that waits holds back no other run's tokens", async () => {
  const heard = new Gate();
  const gate = new Gate();
  const slow = speaker(async () => {
    heard.open();
    await gate.passed;
  });
  await import("./graph-session.ts");
  expect(process.env.LANGCHAIN_CALLBACKS_BACKGROUND).toBeUndefined();
  await shop.serve({ slow, quick: speaker(() => {}) });
  expect(process.env.LANGCHAIN_CALLBACKS_BACKGROUND).toBe("false");
  const waiting = await shop.start("slow", { input: "x" });
  await heard.passed;
  const quick = await shop.ended(await shop.start("quick", { input: "x" }));
  expect(quick.text).toBe("one two");
  gate.open();
  expect((await shop.ended(waiting)).text).toBe("one two");
});
