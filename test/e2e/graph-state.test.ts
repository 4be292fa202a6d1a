/** The state of a graph's thread, read and written by hand, over any gateway. */
import { Annotation, interrupt, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import type { FlatMessage, ThreadState } from "@throughline/protocol";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Gate } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import { until } from "../support/until.ts";

const State = Annotation.Root({
  ...MessagesAnnotation.spec,
  log: Annotation<string[]>({ reducer: (a, b) => a.concat(b), default: () => [] }),
  topic: Annotation<string>,
});

const gate = new Gate();
const graph = new StateGraph(State)
  .addNode("draft", () => ({ log: ["draft"] }))
  .addNode("review", ({ topic }) => ({ log: [`review of ${topic}: ${interrupt("fine?")}`] }))
  .addNode("publish", async ({ topic }) => {
    if (topic === "slow") await gate.passed;
    return { log: ["publish"] };
  })
  .addEdge(START, "draft")
  .addEdge("draft", "review")
  .addEdge("review", "publish")
  .compile();

let line: Line;
let client: TestClient;
let other: TestClient;
let threads = 0;

beforeAll(async () => {
  line = await startLine({ agents: { graph }, gateways: 2 });
  client = await line.client();
  other = await line.client(1);
});
afterAll(() => line.stop());

/** A thread that waits for its review. */
async function asked(topic = "cats"): Promise<ThreadState> {
  const threadId = `thread-${threads++}`;
  const run = await client.start({ agent: "graph", threadId, input: { topic } });
  expect(await run.ended()).toMatchObject({ event: "interrupted" });
  const state = await other.state(threadId);
  expect(state).toMatchObject({
    next: ["review"],
    interrupts: [{ value: "fine?" }],
    values: { log: ["draft"] },
  });
  return state;
}

async function goOn(threadId: string, more: object = {}): Promise<ThreadState> {
  const run = await client.start({ agent: "graph", threadId, ...more });
  await run.ended();
  return await other.state(threadId);
}

test("thread.update as a node: its reducers hold, and what its edges say is next", async () => {
  const { threadId, checkpointId } = await asked();
  const values = { log: ["by hand"], messages: [{ role: "user", content: "skip it" }] };
  const written = await other.call("thread.update", { threadId, values, asNode: "review" });
  const state = await client.call("thread.get", { threadId });
  expect(state).toMatchObject({
    checkpointId: written.checkpointId,
    parentId: checkpointId,
    next: ["publish"],
    interrupts: [],
  });
  expect(state.values.log).toEqual(["draft", "by hand"]);
  expect((state.values.messages as FlatMessage[])[0]).toMatchObject({ type: "human", content: "skip it" });
  expect(state.metadata).toMatchObject({ source: "update" });
  expect((await goOn(threadId)).values.log).toEqual(["draft", "by hand", "publish"]);
});

test("without a node it is the last that wrote: the question is asked anew, of what was changed", async () => {
  const { threadId } = await asked();
  await client.call("thread.update", { threadId, values: { topic: "dogs" } });
  expect(await client.call("thread.get", { threadId })).toMatchObject({
    next: ["review"],
    values: { topic: "dogs" },
  });
  expect((await goOn(threadId)).interrupts).toHaveLength(1);
  const { values } = await goOn(threadId, { command: { resume: "yes" } });
  expect(values.log).toEqual(["draft", "review of dogs: yes", "publish"]);
});

test("from an earlier checkpoint it is a branch, and the thread's head follows it; the other line stays", async () => {
  const { threadId, checkpointId } = await asked();
  const done = await goOn(threadId, { command: { resume: "yes" } });
  await client.call("thread.update", {
    threadId,
    checkpointId,
    values: { log: ["instead"] },
    asNode: "review",
  });
  expect((await goOn(threadId)).values.log).toEqual(["draft", "instead", "publish"]);
  expect(await client.state(threadId, done.checkpointId)).toEqual(done);
  const { checkpoints } = await client.call("thread.history", { threadId, limit: 200 });
  expect(checkpoints.filter(({ parentId }) => parentId === checkpointId)).toHaveLength(2);
  const tips = checkpoints.filter(
    (each) => !checkpoints.some(({ parentId }) => parentId === each.checkpointId),
  );
  expect(tips.map(({ values }) => (values.log as string[]).join()).sort()).toEqual([
    "draft,instead,publish",
    "draft,review of cats: yes,publish",
  ]);
});

test("it is refused where there is no such node or checkpoint, and nothing is written", async () => {
  const before = await asked();
  const { threadId } = before;
  const refusal = async (more: object) =>
    await client.refusal("thread.update", { threadId, values: {}, ...more });
  expect(await refusal({ asNode: "nobody" })).toMatchObject({
    code: "invalid_argument",
    message: "agent graph refuses the update: there is no node nobody; there are draft, review, publish",
  });
  expect(await refusal({ checkpointId: "1ef00000-none" })).toMatchObject({ code: "no_such_checkpoint" });
  const lc = { lc: 1, type: "constructor", id: ["langchain_core", "messages", "AIMessage"], kwargs: {} };
  expect(await refusal({ values: { topic: lc } })).toMatchObject({ code: "invalid_argument" });
  expect(await client.state(threadId)).toEqual(before);
});

test("it waits for nobody: a busy thread refuses it, also when two come at once", async () => {
  const { threadId } = await asked("slow");
  const updates = await Promise.allSettled(
    Array.from({ length: 6 }, (_, i) =>
      [client, other][i % 2]!.call("thread.update", { threadId, values: { log: [`${i}`] }, asNode: "draft" }),
    ),
  );
  const written = updates.filter(({ status }) => status === "fulfilled");
  expect(written.length).toBeGreaterThan(0);
  for (const each of updates)
    if (each.status === "rejected") expect(each.reason).toMatchObject({ code: "thread_busy" });
  const { values } = await client.call("thread.get", { threadId });
  expect(values.log).toHaveLength(1 + written.length);

  const run = await client.start({ agent: "graph", threadId });
  await run.ended();
  const slow = await client.start({ agent: "graph", threadId, command: { resume: "yes" } });
  await until(async () => (await client.call("run.get", { runId: slow.runId })).status === "running");
  expect(await other.refusal("thread.update", { threadId, values: {} })).toMatchObject({
    code: "thread_busy",
  });
  gate.open();
  await slow.ended();
});

test("what would come out of a checkpoint as an object of LangChain's is taken from no client", async () => {
  const lc = {
    lc: 1,
    type: "constructor",
    id: ["langchain_core", "messages", "AIMessage"],
    kwargs: { content: "x" },
  };
  for (const params of [
    { input: { topic: [{ deep: lc }] } },
    { command: { update: { topic: lc } } },
    { config: { context: lc } },
  ]) {
    expect(await client.refusal("run.start", { agent: "graph", ...params })).toMatchObject({
      code: "invalid_argument",
    });
  }
});
