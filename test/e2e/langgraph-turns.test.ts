/** What people do with a graph over a socket: stop it and go on, answer its questions, go back in time. */
import {
  Annotation,
  interrupt,
  type LangGraphRunnableConfig,
  MessagesAnnotation,
  Send,
  START,
  StateGraph,
} from "@langchain/langgraph";
import type { FlatMessage } from "@throughline/protocol";
import type { Graph } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { TestClient } from "../support/client.ts";
import { type Script, ScriptedModel, stuckAfter } from "../support/graphs.ts";
import { type Line, startLine } from "../support/line.ts";
import type { Transcript } from "../support/transcript.ts";
import { until } from "../support/until.ts";

let line: Line;
let asked: string[];
beforeEach(() => {
  asked = [];
});
afterEach(() => line.stop());

const ended = async (run: Transcript) => {
  await until(() => run.ending !== undefined);
  expect(run.problems).toEqual([]);
  return run.ending!;
};

/** Tells a story; the first time it is stuck in the middle. */
function story(): Graph {
  let calls = 0;
  const script: Script = async function* (messages, signal) {
    asked.push(messages.map(({ content }) => content).join(" | "));
    if (calls++ === 0) yield* stuckAfter("Once upon ", "a time ")(messages, signal);
    else yield* ["there was ", "a cat."];
  };
  return new StateGraph(MessagesAnnotation)
    .addNode("llm", async ({ messages }) => ({
      messages: [await new ScriptedModel(script).invoke(messages)],
    }))
    .addEdge(START, "llm")
    .compile();
}

async function texts(client: TestClient, threadId: string, checkpointId?: string): Promise<string[]> {
  const { values } = await client.call("thread.get", {
    threadId,
    ...(checkpointId === undefined ? {} : { checkpointId }),
  });
  return (values.messages as FlatMessage[]).map(({ type, content }) => `${type}: ${content}`);
}

describe("P3: the partial output of a stopped run", () => {
  test("continue the story", async () => {
    line = await startLine({ agents: { story: story() }, gateways: 2 });
    const client = await line.client();
    const run = await client.start({ agent: "story", input: "Tell me a story", threadId: "forum" });
    await until(() => run.text === "Once upon a time ");
    const answer = await client.call("run.cancel", { runId: run.runId });
    expect(answer).toMatchObject({ status: "cancelled", offset: 4 });
    await ended(run);

    const other = await line.client(1);
    expect(await texts(other, "forum")).toEqual(["human: Tell me a story", "ai: Once upon a time "]);
    const next = await other.start({ agent: "story", input: "please continue the story", threadId: "forum" });
    expect((await ended(next)).event).toBe("completed");
    expect(asked.at(-1)).toBe("Tell me a story | Once upon a time  | please continue the story");
    expect(next.text).toBe("there was a cat.");
  });

  test("continue it on a branch", async () => {
    line = await startLine({ agents: { story: story() } });
    const client = await line.client();
    const run = await client.start({ agent: "story", input: "Tell me a story", threadId: "forum" });
    await until(() => run.text === "Once upon a time ");
    const { checkpoint } = await client.call("run.cancel", { runId: run.runId, keep: "branch" });
    const { checkpointId } = checkpoint!;
    expect(await client.call("thread.get", { threadId: "forum" })).toMatchObject({ checkpointId: null });
    const input = "please continue the story";
    const next = await client.start({ agent: "story", input, threadId: "forum", checkpointId });
    await ended(next);
    const whole = [
      "human: Tell me a story",
      "ai: Once upon a time ",
      `human: ${input}`,
      "ai: there was a cat.",
    ];
    expect(await texts(client, "forum")).toEqual(whole);
    const { checkpoints } = await client.call("thread.history", { threadId: "forum" });
    expect(checkpoints.some((each) => each.checkpointId === checkpointId)).toBe(true);
  });
});

const Approval = Annotation.Root({
  topic: Annotation<string>,
  approved: Annotation<unknown>,
  log: Annotation<string[]>({ reducer: (a, b) => [...a, ...b], default: () => [] }),
});

describe("a graph that asks", () => {
  const approval = () =>
    new StateGraph(Approval)
      .addNode("plan", () => ({ log: ["plan"] }))
      .addNode("ask", ({ topic }) => ({
        approved: interrupt({ question: `Write about ${topic}?` }),
        log: ["asked"],
      }))
      .addNode("write", ({ approved }) => ({ log: [`write ${approved}`] }))
      .addEdge(START, "plan")
      .addEdge("plan", "ask")
      .addEdge("ask", "write")
      .compile();

  test("ends as interrupted, and goes on with the answer: over another gateway, by another worker", async () => {
    const agents = { approval: approval() };
    line = await startLine({ agents });
    const client = await line.client();
    const run = await client.start({ agent: "approval", input: { topic: "cats" }, threadId: "a" });
    const ending = await ended(run);
    const value = { question: "Write about cats?" };
    expect(ending).toMatchObject({ event: "interrupted", interrupts: [{ id: expect.any(String), value }] });
    const { interrupts } = ending as { interrupts: { id: string }[] };
    expect(await client.call("run.get", { runId: run.runId })).toMatchObject({
      status: "interrupted",
      interrupts,
    });
    const state = await client.call("thread.get", { threadId: "a" });
    expect(state).toMatchObject({ interrupts, next: ["ask"], values: { log: ["plan"] } });

    await line.workers[0]!.close();
    await line.gateways[0]!.close();
    await line.addWorker({ agents: { approval: approval() } });
    await line.addGateway();
    const later = await line.client(1);
    const next = await later.start({ agent: "approval", command: { resume: "yes" }, threadId: "a" });
    expect((await ended(next)).event).toBe("completed");
    const after = await later.call("thread.get", { threadId: "a" });
    expect(after).toMatchObject({
      interrupts: [],
      next: [],
      values: { approved: "yes", log: ["plan", "asked", "write yes"] },
    });
  });

  test("a copy up to a question that was answered since waits for an answer of its own; so does who cancels one in line", async () => {
    line = await startLine({ agents: { approval: approval() } });
    const client = await line.client();
    await ended(await client.start({ agent: "approval", input: { topic: "cats" }, threadId: "a" }));
    const stands = async (threadId: string) => {
      const { thread, interrupts } = await client.call("thread.get", { threadId });
      return { status: thread!.status, asks: interrupts.length };
    };
    await until(async () => (await stands("a")).status === "interrupted");
    const { checkpointId } = await client.call("thread.get", { threadId: "a" });
    await ended(await client.start({ agent: "approval", command: { resume: "yes" }, threadId: "a" }));
    await until(async () => (await stands("a")).status === "idle");
    const copy = { threadId: "a", checkpointId: checkpointId!, to: "b" };
    expect(await client.call("thread.copy", copy)).toMatchObject({ status: "interrupted", checkpointId });
    expect(await stands("b")).toEqual({ status: "interrupted", asks: 1 });
    await line.workers.pop()!.close();
    const { runId } = await client.call("run.start", {
      agent: "approval",
      command: { resume: "no" },
      threadId: "b",
    });
    await client.call("run.cancel", { runId });
    expect(await stands("b")).toEqual({ status: "interrupted", asks: 1 });
  });

  test.each([false, 0, "", null])("an answer may be %j", async (resume) => {
    const heard: unknown[] = [];
    const ask = new StateGraph(Approval)
      .addNode("ask", () => {
        heard.push(interrupt("well?"));
        return {};
      })
      .addEdge(START, "ask")
      .compile();
    line = await startLine({ agents: { ask } });
    const client = await line.client();
    await ended(await client.start({ agent: "ask", input: { topic: "x" }, threadId: "t" }));
    const run = await client.start({ agent: "ask", command: { resume }, threadId: "t" });
    expect(await ended(run)).toMatchObject({ event: "completed" });
    expect(heard).toEqual([resume]);
  });

  test("resume with an update, and with goto", async () => {
    line = await startLine({ agents: { approval: approval() } });
    const client = await line.client();
    await ended(await client.start({ agent: "approval", input: { topic: "cats" }, threadId: "a" }));
    const command = { resume: "yes", update: { log: ["changed"] } };
    await ended(await client.start({ agent: "approval", command, threadId: "a" }));
    expect((await client.call("thread.get", { threadId: "a" })).values.log).toEqual(
      expect.arrayContaining(["plan", "changed", "asked", "write yes"]),
    );
    const again = await client.start({ agent: "approval", command: { goto: "write" }, threadId: "a" });
    expect((await ended(again)).event).toBe("completed");
    const { values } = await client.call("thread.get", { threadId: "a" });
    expect((values.log as string[]).filter((each) => each === "write yes")).toHaveLength(2);
  });

  test("several at once: answered one by one, by id", async () => {
    const graph = new StateGraph(Approval)
      .addNode("ask", ({ topic: q }) => ({ log: [`${q}: ${interrupt(q)}`] }))
      .addNode("done", ({ log }) => ({ topic: `${log.length} answers` }))
      .addConditionalEdges(START, () => ["one", "two"].map((q) => new Send("ask", { topic: q })))
      .addEdge("ask", "done")
      .compile();
    line = await startLine({ agents: { graph } });
    const client = await line.client();
    const first = await ended(await client.start({ agent: "graph", input: {}, threadId: "a" }));
    const { interrupts } = first as { interrupts: { id: string; value: string }[] };
    expect(interrupts.map(({ value }) => value).sort()).toEqual(["one", "two"]);
    const [one, two] = ["one", "two"].map((value) => interrupts.find((each) => each.value === value)!);

    const some = { resume: { [one!.id]: "1" } };
    const second = await ended(await client.start({ agent: "graph", command: some, threadId: "a" }));
    expect(second).toMatchObject({ event: "interrupted", interrupts: [{ id: two!.id, value: "two" }] });
    const rest = { resume: { [two!.id]: "2" } };
    expect((await ended(await client.start({ agent: "graph", command: rest, threadId: "a" }))).event).toBe(
      "completed",
    );
    const { values } = await client.call("thread.get", { threadId: "a" });
    expect((values.log as string[]).sort()).toEqual(["one: 1", "two: 2"]);
    expect(values.topic).toBe("2 answers");
  });
});

test("time travel: a run from an earlier checkpoint is a new line, and the old one stays", async () => {
  const count = new StateGraph(Approval)
    .addNode("a", () => ({ log: ["a"] }))
    .addNode("b", ({ topic }) => ({ log: [`b ${topic}`] }))
    .addEdge(START, "a")
    .addEdge("a", "b")
    .compile();
  line = await startLine({ agents: { count } });
  const client = await line.client();
  const first = await ended(await client.start({ agent: "count", input: { topic: "x" }, threadId: "t" }));
  const { checkpoints } = await client.call("thread.history", { threadId: "t" });
  const afterA = checkpoints.find(({ values }) => (values.log as string[] | undefined)?.length === 1)!;
  expect(afterA.next).toEqual(["b"]);
  const again = await client.start({ agent: "count", threadId: "t", checkpointId: afterA.checkpointId });
  const second = await ended(again);
  expect(
    again.parts.flatMap((part) => (part.type === "updates" ? Object.keys(part.data as object) : [])),
  ).toEqual(["b"]);
  const { checkpointId } = await client.call("thread.get", { threadId: "t" });
  expect(checkpointId).toBe((second as { checkpoint: { checkpointId: string } }).checkpoint.checkpointId);
  const old = (first as { checkpoint: { checkpointId: string } }).checkpoint.checkpointId;
  expect(old).not.toBe(checkpointId);
  expect((await client.call("thread.get", { threadId: "t", checkpointId: old })).values.log).toEqual([
    "a",
    "b x",
  ]);
});

test("configurable, context and tags reach the nodes; what names a place in a thread does not", async () => {
  const seen: unknown[] = [];
  const graph = new StateGraph(Approval, Annotation.Root({ who: Annotation<string> }))
    .addNode("look", (_, config: LangGraphRunnableConfig) => {
      const { who, thread_id } = config.configurable as Record<string, unknown>;
      seen.push(who, thread_id, config.tags?.includes("mine"));
      return {};
    })
    .addEdge(START, "look")
    .compile();
  line = await startLine({ agents: { graph } });
  const client = await line.client();
  const config = {
    configurable: { who: "ann", thread_id: "stolen", checkpoint_id: "x", __pregel_read: 1 },
    tags: ["mine"],
  };
  await ended(await client.start({ agent: "graph", input: { topic: "x" }, threadId: "t", config }));
  expect(seen).toEqual(["ann", "t", true]);
});
