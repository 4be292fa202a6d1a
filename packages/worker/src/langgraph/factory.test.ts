/** Graphs that are made for each run: `perRun`. */
import {
  type LangGraphRunnableConfig,
  MessagesAnnotation,
  Send,
  START,
  StateGraph,
} from "@langchain/langgraph";
import { RedisStore } from "@throughline/checkpoint";
import { type Graph, perRun } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ScriptedModel, saying, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

const answering = (model: ScriptedModel): Graph =>
  new StateGraph(MessagesAnnotation)
    .addNode("answer", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
    .addEdge(START, "answer")
    .compile();

describe("a graph that is made for a run", () => {
  test("is made with the run's config", async () => {
    const configs: LangGraphRunnableConfig[] = [];
    const graph = perRun((config) => {
      configs.push(config);
      return answering(saying("I am ", String(config.configurable?.name)));
    });
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const ids: string[] = [];
    for (const name of ["Ann", "Bob"]) {
      const config = { configurable: { name, thread_id: "another" }, tags: ["t"], metadata: { m: 1 } };
      const runId = await shop.start("graph", { input: "hi", config }, { threadId });
      await shop.ended(runId);
      ids.push(runId);
    }
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:I am Ann", "human:hi", "ai:I am Bob"]);
    expect(configs).toMatchObject(
      ids.map((run_id, i) => ({
        configurable: { name: ["Ann", "Bob"][i], thread_id: threadId },
        metadata: { m: 1, run_id },
        tags: ["t"],
        store: expect.any(RedisStore),
        signal: expect.any(AbortSignal),
      })),
    );
    const { record } = await shop.ended(
      await shop.start(
        "graph",
        { update: { values: { messages: { role: "user", content: "by hand" } } } },
        { threadId },
      ),
    );
    expect(record.status).toBe("completed");
    expect((await shop.messages(threadId)).at(-1)).toBe("human:by hand");
  });

  test("fails its run where it cannot be made, and the thread goes on", async () => {
    let fails = true;
    const graph = perRun(async () => {
      if (fails) throw new RangeError("no such plan");
      return answering(saying("here"));
    });
    await shop.serve({ graph, none: perRun(() => ({}) as Graph) });
    const threadId = shop.newThread();
    const failed = await shop.ended(await shop.start("graph", { input: "hi" }, { threadId }));
    expect(failed.record).toMatchObject({
      status: "failed",
      error: { name: "RangeError", message: "the agent failed; its worker's log says why" },
    });
    fails = false;
    await shop.ended(await shop.start("graph", { input: "again" }, { threadId }));
    expect(await shop.messages(threadId)).toContain("ai:here");
    const none = await shop.ended(await shop.start("none", { input: "hi" }));
    expect(none.record.error?.message).toBe(
      "the factory of agent none answers a value of type object, and no compiled graph",
    );
  });

  test("is not waited for by a Stop; what the user said is in the thread", async () => {
    let isCalled = false;
    const graph = perRun(() => {
      isCalled = true;
      return new Promise<Graph>(() => {});
    });
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi" }, { threadId });
    await until(() => isCalled);
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    const { record } = await shop.ended(runId);
    expect(record.status).toBe("cancelled");
    expect(await shop.messages(threadId)).toEqual(["human:hi"]);
  });

  test("is stopped as any other", async () => {
    await shop.serve({ graph: perRun(async () => answering(new ScriptedModel(stuckAfter("so far")))) });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi" }, { threadId });
    await shop.reached(runId, 2);
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.ended(runId);
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:so far"]);
    const { record } = await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(record.status).toBe("completed");
  });

  test("is made once more for another attempt; where that fails, what was streamed is kept aside", async () => {
    let made = 0;
    const make = () => {
      made += 1;
      if (made > 1) throw new Error("not twice");
      return answering(new ScriptedModel(stuckAfter("so far")));
    };
    const first = await shop.serve({ graph: perRun(make) });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi" }, { threadId });
    await shop.reached(runId, 2);
    await until(async () => (await shop.history(threadId)).length > 0);
    await first.close();
    await shop.serve({ graph: perRun(make) });
    const { record, lifecycle: told } = await shop.ended(runId);
    expect(told.map(({ event }) => event)).toEqual(["started", "rewound", "failed"]);
    expect(record.error).toEqual({ name: "Error", message: "the agent failed; its worker's log says why" });
    const aside = (await shop.history(threadId)).filter(({ metadata }) => metadata.partial === "taken-over");
    expect(aside.flatMap(({ values }) => values.messages)).toContainEqual(
      expect.objectContaining({ content: "so far" }),
    );
  });
});

test("a wide fan-out warns of nothing", async () => {
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on("warning", note);
  try {
    const inner = answering(saying("inner"));
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("one", async ({ messages }) => ({ messages: [await saying("one").invoke(messages)] }))
      .addNode("inner", inner)
      .addConditionalEdges(
        START,
        () => Array.from({ length: 60 }, (_, i) => new Send(i % 2 ? "one" : "inner", { messages: [] })),
        ["one", "inner"],
      )
      .compile();
    await shop.serve({ graph });
    const { record, parts } = await shop.ended(
      await shop.start("graph", { input: { messages: [] }, subgraphs: true }),
    );
    expect(record.status).toBe("completed");
    expect(parts.filter(({ type }) => type === "messages").length).toBeGreaterThanOrEqual(60);
    await new Promise((resolve) => setImmediate(resolve));
    expect(warnings).toEqual([]);
  } finally {
    process.off("warning", note);
  }
});
