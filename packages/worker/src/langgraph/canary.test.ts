/**
 * What packages/checkpoint/src/langgraph.ts knows of LangGraph, held against the LangGraph that is installed. A test that
 * fails here says what a version has changed: mend it there, and nowhere else.
 */
import {
  Annotation,
  type BaseCheckpointSaver,
  type CheckpointTuple,
  Command,
  DeltaChannel,
  entrypoint,
  InMemoryStore,
  interrupt,
  MemorySaver,
  MessagesAnnotation,
  messagesDeltaReducer,
  Send,
  START,
  StateGraph,
  task,
} from "@langchain/langgraph";
import {
  channelOf,
  END,
  ERROR,
  finishedTasks,
  functionOf,
  type GraphInside,
  graphAt,
  INTERRUPT,
  isDelta,
  isFunctional,
  isLastValue,
  isStateKey,
  isToldAgain,
  mendBeginning,
  NO_WRITES,
  namespaceBelow,
  outputKeys,
  PREVIOUS,
  RESUME,
  RETURN,
  SAVER,
  SENDS,
  START as START_NAME,
  segmentOf,
  subgraphOf,
  triggerOf,
  wrapRouters,
} from "@throughline/checkpoint";
import { expect, test } from "vitest";
import { saying } from "../../../../test/support/graphs.ts";
import type { Graph } from "../agent.ts";

const State = Annotation.Root({
  ...MessagesAnnotation.spec,
  last: Annotation<string>,
  sum: Annotation<number>({ reducer: (a, b) => a + b, default: () => 0 }),
});
const thread = { configurable: { thread_id: "t" } };
const inside = (graph: unknown) => graph as GraphInside;

/** A copy of LangGraph is mended once: what is ours grows. */
const ours = new Set<unknown>();
function mend(graph: unknown, own: unknown): void {
  ours.add(own);
  mendBeginning(inside(graph), { saver: (each) => ours.has(each), store: (each) => ours.has(each) });
}

/** Runs a graph until it ends, waits or fails, and answers the checkpoints, newest first. */
async function checkpointsOf(graph: unknown, input: unknown): Promise<CheckpointTuple[]> {
  const run = graph as Graph;
  const saver = new MemorySaver();
  run.checkpointer = saver;
  await run.invoke(input, thread).catch(() => {});
  return await listed(saver);
}

async function listed(saver: BaseCheckpointSaver): Promise<CheckpointTuple[]> {
  const tuples: CheckpointTuple[] = [];
  for await (const tuple of saver.list({ configurable: { ...thread.configurable, checkpoint_ns: "" } })) {
    tuples.push(tuple);
  }
  return tuples;
}

const writes = (tuples: CheckpointTuple[]) => tuples.flatMap(({ pendingWrites = [] }) => pendingWrites);

test("the channels of a state graph: input, triggers, joins, sends", async () => {
  const graph = new StateGraph(State)
    .addNode("a", async () => ({ last: "a" }))
    .addNode("b", async () => ({}))
    .addNode("join", async () => ({}))
    .addNode("sent", async () => ({ sum: 1 }))
    .addEdge(START, "a")
    .addEdge(START, "b")
    .addEdge(["a", "b"], "join")
    .addConditionalEdges("join", () => [new Send("sent", {}), new Send("sent", {})], ["sent"])
    .compile();
  const tuples = await checkpointsOf(graph, { sum: 1 });
  const channels = new Set(tuples.flatMap(({ checkpoint }) => Object.keys(checkpoint.channel_values)));
  expect(tuples.at(-1)?.checkpoint.channel_values).toHaveProperty(START_NAME, { sum: 1 });
  expect([...channels].filter(isStateKey).sort()).toEqual(["last", "messages", "sum"]);
  const triggers = [...channels].flatMap((channel) => triggerOf(channel) ?? []);
  expect(triggers).toContainEqual({ node: "a", joins: undefined });
  expect(triggers).toContainEqual({ node: "join", joins: ["a", "b"] });
  const sends = tuples.map(({ checkpoint }) => checkpoint.channel_values[SENDS]);
  expect(sends).toContainEqual([
    expect.objectContaining({ node: "sent" }),
    expect.objectContaining({ node: "sent" }),
  ]);
});

test("a task that had nothing to write has one write that says so", async () => {
  const graph = new StateGraph(State)
    .addNode("quiet", async () => ({}))
    .addEdge(START, "quiet")
    .compile();
  const quiet = writes(await checkpointsOf(graph, { sum: 1 })).filter(([, channel]) => channel === NO_WRITES);
  expect(quiet).toHaveLength(1);
});

test("what tasks write when they ask, are answered, and fail; none of it finishes them", async () => {
  const asking = new StateGraph(State)
    .addNode("ask", async () => ({ last: String(interrupt("sure?")) }))
    .addEdge(START, "ask")
    .compile();
  const asked = await checkpointsOf(asking, { sum: 1 });
  const [id] = writes([asked[0]!]).find(([, channel]) => channel === INTERRUPT)!;
  expect(finishedTasks(writes([asked[0]!])).has(id)).toBe(false);
  await asking.invoke(new Command({ resume: "yes" }), thread);
  const answered = writes(await listed(asking.checkpointer as MemorySaver));
  expect(answered.map(([, channel]) => channel)).toContain(RESUME);

  const failing = new StateGraph(State)
    .addNode("fail", async () => {
      throw new Error("no");
    })
    .addEdge(START, "fail")
    .compile();
  const failed = writes(await checkpointsOf(failing, { sum: 1 }));
  const error = failed.find(([, channel]) => channel === ERROR)!;
  expect(error[2]).toMatchObject({ name: "Error", message: "no" });
  expect(finishedTasks(failed).has(error[0])).toBe(false);
});

test("a functional graph: what it returned, what it saved, and what its tasks returned", async () => {
  const one = task("one", async () => 1);
  const flow = entrypoint("flow", async () => {
    await one();
    return entrypoint.final({ value: "told", save: "kept" });
  });
  expect(isFunctional(inside(flow))).toBe(true);
  const tuples = await checkpointsOf(flow, "x");
  expect(tuples[0]?.checkpoint.channel_values).toMatchObject({ [END]: "told", [PREVIOUS]: "kept" });
  expect(writes(tuples)).toContainEqual([expect.any(String), RETURN, 1]);
  expect(tuples.at(-1)?.checkpoint.channel_values).toHaveProperty(START_NAME, "x");
});

test("a graph from inside: subgraphs, channels, outputs, ways out of a node, routers", async () => {
  const inner = new StateGraph(State)
    .addNode("node", async () => ({}))
    .addEdge(START, "node")
    .compile();
  const Delta = Annotation.Root({ messages: new DeltaChannel(messagesDeltaReducer as never) as never });
  const graph = new StateGraph(State)
    .addNode("team", inner)
    .addNode("plain", async () => new Command({ goto: "team" }), { ends: ["team"] })
    .addEdge(START, "plain")
    .addConditionalEdges("team", () => "__end__")
    .compile();
  expect(inside(graph).nodes.plain?.ends).toEqual(["team"]);
  expect(inside(graph).nodes.plain?.triggers).toEqual(["branch:to:plain"]);
  expect(subgraphOf(inside(graph), "team")).toBe(inner);
  expect(subgraphOf(inside(graph), "plain")).toBeUndefined();
  expect(graphAt(inside(graph), "team:some-task")).toBe(inner);
  expect(outputKeys(inside(inner)).sort()).toEqual(["last", "messages", "sum"]);
  expect(isLastValue(channelOf(inside(graph), "last"))).toBe(true);
  expect(isLastValue(channelOf(inside(graph), "sum"))).toBe(false);
  const delta = new StateGraph(Delta)
    .addNode("n", async () => ({}))
    .addEdge(START, "n")
    .compile();
  expect(isDelta(channelOf(inside(delta), "messages"))).toBe(true);
  const sum = channelOf(inside(graph), "sum")!.fromCheckpoint(2);
  sum.update([3, 4]);
  expect(sum.get()).toBe(9);
  // The graph's own is not changed by that.
  expect(channelOf(inside(graph), "sum")!.fromCheckpoint(undefined).get()).toBe(0);

  let around = 0;
  wrapRouters(inside(graph), (run) => {
    around += 1;
    return run();
  });
  graph.checkpointer = new MemorySaver();
  await graph.invoke({ sum: 1 }, thread);
  expect(around).toBe(1);
});

test("a namespace is the path of the tasks; that of a graph which keeps its state, of the nodes", async () => {
  const inner = (keeps: boolean) =>
    new StateGraph(State)
      .addNode("node", async () => ({}))
      .addEdge(START, "node")
      .compile(keeps ? { checkpointer: true } : {});
  const graph = new StateGraph(State)
    .addNode("one", inner(false))
    .addNode("two", inner(true))
    .addEdge(START, "one")
    .addEdge("one", "two")
    .compile();
  const saver = new MemorySaver();
  graph.checkpointer = saver;
  const seen = new Set<string>();
  const tasks: { id: string; name: string }[] = [];
  const stream = await graph.stream({ sum: 1 }, { ...thread, streamMode: ["checkpoints"], subgraphs: true });
  for await (const [ns, , chunk] of stream as unknown as AsyncIterable<
    [string[], string, { tasks: { id: string; name: string }[] }]
  >) {
    seen.add(ns.join("|"));
    if (ns.length === 0) tasks.push(...chunk.tasks);
  }
  const one = segmentOf(tasks.find(({ name }) => name === "one")!);
  const two = segmentOf(tasks.find(({ name }) => name === "two")!);
  expect([...seen].sort()).toEqual(
    ["", namespaceBelow("", one, false), namespaceBelow("", two, true)].sort(),
  );
});

test("a stream tells of a checkpoint, and of its tasks, before the step begins; and of tasks that were done before", async () => {
  let stuck = true;
  const graph = new StateGraph(State)
    .addNode("done", async () => ({ last: "done" }))
    .addNode("ask", async () => ({ sum: stuck ? Number(interrupt("?")) : 1 }))
    .addEdge(START, "done")
    .addEdge(START, "ask")
    .compile();
  graph.checkpointer = new MemorySaver();
  const modes = { ...thread, streamMode: ["checkpoints", "updates", "tasks"] as never, subgraphs: true };
  const told: [string[], string, Record<string, unknown>][] = [];
  for await (const chunk of await graph.stream({ sum: 1 }, modes)) told.push(chunk as never);
  const at = (mode: string, has: string) =>
    told.findIndex(([, each, payload]) => each === mode && JSON.stringify(payload).includes(has));
  expect(at("checkpoints", '"name":"ask"')).toBeGreaterThan(-1);
  expect(at("checkpoints", '"name":"ask"')).toBeLessThan(at("updates", "done"));
  const results = told.filter(([, mode, payload]) => mode === "tasks" && payload.result !== undefined);
  expect(results.map(([, , { name }]) => name)).toContain("done");

  stuck = false;
  const again: unknown[] = [];
  for await (const [, mode, payload] of (await graph.stream(null, modes)) as never as AsyncIterable<
    [string[], string, unknown]
  >) {
    if (mode === "updates") again.push(payload);
  }
  expect(again.filter(isToldAgain)).toMatchObject([{ done: { last: "done" } }]);
});

test("tokens tell of the task that they come from", async () => {
  const graph = new StateGraph(State)
    .addNode("tell", async () => ({ messages: [await saying("a").invoke("x")] }))
    .addEdge(START, "tell")
    .compile();
  for await (const [, metadata] of await graph.stream({ sum: 1 }, { streamMode: "messages" })) {
    expect(metadata.langgraph_checkpoint_ns).toMatch(/^tell:[0-9a-f-]{36}$/);
  }
});

test("in a subgraph too, what had finished is not run again", async () => {
  let ran = 0;
  let stuck = true;
  const inner = new StateGraph(State)
    .addNode("done", async () => {
      ran += 1;
      return { last: "done" };
    })
    .addNode("ask", async () => ({ sum: stuck ? Number(interrupt("?")) : 1 }))
    .addEdge(START, "done")
    .addEdge(START, "ask")
    .compile();
  const graph = new StateGraph(State).addNode("team", inner).addEdge(START, "team").compile();
  const saver = new MemorySaver();
  graph.checkpointer = saver;
  mend(graph, saver);
  await graph.invoke({ sum: 1 }, thread);
  stuck = false;
  await graph.invoke(null, thread);
  expect(ran).toBe(1);
});

test("the function of a node", async () => {
  const one = async () => ({});
  const graph = inside(new StateGraph(State).addNode("one", one).addEdge(START, "one").compile());
  expect(functionOf(graph, "one")).toBe(one);
  expect(functionOf(graph, "two")).toBeUndefined();
});

test("a store of ours is found by nodes as it is, and the loop has none", async () => {
  const store = new InMemoryStore();
  const found: unknown[] = [];
  const note = (_: unknown, config: { store?: unknown }) => {
    found.push(config.store);
    return {};
  };
  const inner = new StateGraph(State).addNode("deep", note).addEdge(START, "deep").compile();
  const graph = new StateGraph(State)
    .addNode("one", note)
    .addNode("inner", inner)
    .addEdge(START, "one")
    .addEdge("one", "inner")
    .compile();
  mend(graph, store);
  await graph.invoke({ sum: 1 }, { store });
  expect(found.every((each) => each === store)).toBe(true);
  expect(found).toHaveLength(2);
  await graph.invoke({ sum: 1 }, { store: new InMemoryStore() });
  expect(found[2]).not.toBeInstanceOf(InMemoryStore);
});

test("a graph that is lent a saver, and told the task, writes to it as that task's node", async () => {
  const graph = new StateGraph(State)
    .addNode("one", async () => ({}))
    .addNode("two", async () => ({}))
    .addEdge(START, "one")
    .addConditionalEdges(
      "one",
      (state, config) => (config.configurable!.way === state.last ? "two" : "__end__"),
      ["two", "__end__"],
    )
    .compile();
  const saver = new MemorySaver();
  graph.checkpointer = saver;
  await graph.invoke({ sum: 1 }, { ...thread, interruptBefore: ["one"] });
  const made: unknown[][] = [];
  const recorder = {
    serde: saver.serde,
    getTuple: (config: never) => saver.getTuple(config),
    getDeltaChannelHistory: async () => ({}),
    getNextVersion: (current: never) => saver.getNextVersion(current),
    put: async (config: unknown) => config,
    putWrites: async (_: unknown, some: [string, unknown][], id: string) => {
      made.push(...some.map((each) => [id, ...each]));
    },
  };
  const configurable = { ...thread.configurable, checkpoint_ns: "", way: "here", [SAVER]: recorder };
  await graph.bulkUpdateState({ configurable }, [
    { updates: [{ values: { last: "here" }, asNode: "one", taskId: "the-task" } as never] },
  ]);
  expect(made).toEqual([
    ["the-task", "last", "here"],
    ["the-task", "branch:to:two", expect.anything()],
  ]);
  // Nothing of it was stored.
  expect((await graph.getState(thread)).next).toEqual(["one"]);
});
