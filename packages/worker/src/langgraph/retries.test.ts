/** A node's own retry policy: what a failed try had streamed is taken back, and nothing of others with it. */
import { setTimeout as sleep } from "node:timers/promises";
import { MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import type { FlatMessage } from "@throughline/protocol";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { type Script, ScriptedModel, stuckAfter } from "../../../../test/support/graphs.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

type Messages = typeof MessagesAnnotation.State;
const retryPolicy = { maxAttempts: 3, initialInterval: 1, jitter: false, logWarning: false };
const llm =
  (script: Script) =>
  async ({ messages }: Messages) => ({
    messages: [await new ScriptedModel(script).invoke(messages)],
  });

/** Breaks off the first times. */
function breaking(times: number): Script {
  let tries = 0;
  return async function* () {
    yield* [`try ${++tries} `, "and "];
    if (tries <= times) throw new Error("the model went away");
    yield "done";
  };
}

test("a lone node: each failed try is rewound, and the text is the last one's", async () => {
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("llm", llm(breaking(2)), { retryPolicy })
    .addEdge(START, "llm")
    .compile();
  await shop.serve({ graph });
  const threadId = shop.newThread();
  const { record, text, lifecycle } = await shop.ended(
    await shop.start("graph", { input: "x" }, { threadId }),
  );
  expect(record).toMatchObject({ status: "completed", attempt: 1 });
  expect(lifecycle.map(({ event, ...rest }) => [event, "to" in rest ? rest.to : null])).toEqual([
    ["started", null],
    ["rewound", 1],
    ["rewound", 4],
    ["completed", null],
  ]);
  expect(text).toBe("try 3 and done");
  expect(await shop.messages(threadId)).toEqual(["human:x", "ai:try 3 and done"]);
});

test("beside another that streams: that one's tokens are told once more, in their order", async () => {
  const begun = new Gate();
  const failed = new Gate();
  let tries = 0;
  const graph = new StateGraph(MessagesAnnotation)
    .addNode(
      "broken",
      llm(async function* () {
        if (++tries === 1) {
          yield "lost ";
          begun.open();
          await failed.passed;
          throw new Error("the model went away");
        }
        yield "found";
      }),
      { retryPolicy },
    )
    .addNode(
      "steady",
      llm(async function* () {
        await begun.passed;
        yield* ["one ", "two "];
        // The other one fails behind these.
        await sleep(20);
        failed.open();
        await sleep(50);
        yield "three";
      }),
    )
    .addEdge(START, "broken")
    .addEdge(START, "steady")
    .compile();
  await shop.serve({ graph });
  const threadId = shop.newThread();
  const { text, lifecycle } = await shop.ended(await shop.start("graph", { input: "x" }, { threadId }));
  expect(lifecycle.map(({ event }) => event)).toEqual(["started", "rewound", "completed"]);
  expect(text.replace("found", "")).toBe("one two three");
  expect(text).toContain("found");
  expect((await shop.messages(threadId)).sort()).toEqual(["ai:found", "ai:one two three", "human:x"]);
});

test("cancelled in its second try: the partial is that try's", async () => {
  let tries = 0;
  const graph = new StateGraph(MessagesAnnotation)
    .addNode(
      "llm",
      llm(async function* (messages, signal) {
        if (++tries === 1) {
          yield "lost ";
          throw new Error("the model went away");
        }
        yield* stuckAfter("second")(messages, signal);
      }),
      { retryPolicy },
    )
    .addEdge(START, "llm")
    .compile();
  await shop.serve({ graph });
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input: "x" }, { threadId });
  await shop.reached(runId, 4);
  await shop.dispatcher.cancel(runId, { keep: "thread" });
  const { parts } = await shop.ended(runId);
  const told = parts.flatMap((part) =>
    part.type === "messages" ? [(part.data[0] as FlatMessage).content] : [],
  );
  expect(told).toEqual(["lost ", "second"]);
  expect(await shop.messages(threadId)).toEqual(["human:x", "ai:second"]);
});
