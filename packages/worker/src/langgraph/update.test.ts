/** `thread.update` of a graph's thread, as the run that it is for a worker. */
import { Annotation, START, StateGraph } from "@langchain/langgraph";
import { readState } from "@throughline/checkpoint";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Workshop } from "../../../../test/support/workers.ts";

const shop = new Workshop();
const State = Annotation.Root({
  log: Annotation<string[]>({ reducer: (a, b) => a.concat(b), default: () => [] }),
});
const graph = new StateGraph(State)
  .addNode("a", () => ({ log: ["a"] }))
  .addNode("b", () => ({ log: ["b"] }))
  .addEdge(START, "a")
  .addEdge("a", "b")
  .compile();

beforeAll(async () => {
  await shop.serve({ graph });
});
afterAll(() => shop.stop());

async function thread(): Promise<string> {
  const threadId = shop.newThread();
  await shop.ended(await shop.start("graph", { input: { log: ["in"] } }, { threadId }));
  return threadId;
}

const stateOf = async (threadId: string) => (await readState(shop.saver, { threadId }))!;

test("is one checkpoint, of the run and the agent; the ending names it", async () => {
  const threadId = await thread();
  const before = await stateOf(threadId);
  const runId = await shop.start("graph", { update: { values: { log: ["x"] }, asNode: "a" } }, { threadId });
  const { record, lifecycle, parts } = await shop.ended(runId);
  const state = await stateOf(threadId);
  expect(record).toMatchObject({
    status: "completed",
    checkpoint: { threadId, checkpointId: state.checkpointId },
  });
  expect(lifecycle.map(({ event }) => event)).toEqual(["started", "completed"]);
  expect(parts).toHaveLength(2);
  expect(state).toMatchObject({
    parentId: before.checkpointId,
    next: ["b"],
    values: { log: ["in", "a", "b", "x"] },
  });
  expect(state.metadata).toMatchObject({ source: "update", run_id: runId, agent: "graph" });
});

test("a node that is none fails it, and says which there are", async () => {
  const threadId = await thread();
  const before = await stateOf(threadId);
  const runId = await shop.start("graph", { update: { values: {}, asNode: "c" } }, { threadId });
  const { record } = await shop.ended(runId);
  expect(record).toMatchObject({
    status: "failed",
    error: { message: "there is no node c; there are a, b" },
  });
  expect(await stateOf(threadId)).toEqual(before);
});

test("P4: one who died after it was written did it: the next attempt writes it no second time", async () => {
  const threadId = await thread();
  // No worker of this queue: the first attempt is this test's.
  const runId = await shop.start(
    "graph",
    { queue: "later", update: { values: { log: ["x"] } } },
    { threadId },
  );
  const writer = await shop.claimAndDie(runId, [
    { type: "lifecycle", ns: [], data: { event: "started", attempt: 1 } },
  ]);
  await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.fence);
  const config = { configurable: { thread_id: threadId, checkpoint_ns: "" } };
  const copy = graph.withConfig({}) as unknown as typeof graph;
  copy.checkpointer = shop.saver.fenced({
    runId,
    fence: writer.fence,
    before: async () => ({ agent: "graph" }),
  });
  await copy.updateState(config, { log: ["x"] });
  const worker = await shop.serve({ graph }, { queue: "later" });
  const { record, lifecycle } = await shop.ended(runId);
  expect(record).toMatchObject({ status: "completed", attempt: 2 });
  expect(lifecycle.map(({ event }) => event)).toEqual(["started", "resumed", "completed"]);
  expect((await stateOf(threadId)).values.log).toEqual(["in", "a", "b", "x"]);
  await worker.close();
});
