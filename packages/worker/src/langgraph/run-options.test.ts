/** What a run may ask of its graph beside its input: where to wait, how long to take, where to go. */
import { Annotation, Command, interrupt, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { findSubgraph, RedisCheckpointSaver, readState } from "@throughline/checkpoint";
import { type RunRequest, threadRun } from "@throughline/dispatch";
import type { Part } from "@throughline/protocol";
import { runKeys } from "@throughline/runlog";
import { type AgentContext, agent, type Graph } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { ScriptedModel, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
let ran: string[];

beforeEach(() => {
  shop = new Workshop();
  ran = [];
});
afterEach(() => shop.stop());

const State = Annotation.Root({
  log: Annotation<string[]>({ reducer: (a, b) => a.concat(b), default: () => [] }),
});
const step = (name: string) => () => {
  ran.push(name);
  return { log: [name] };
};
const stateOf = async (threadId: string) => (await readState(shop.saver, { threadId }))!;

type Nodes = { interruptBefore?: string[]; interruptAfter?: string[] };

/** a → b → c */
const row = (options: Nodes = {}) =>
  new StateGraph(State)
    .addNode("a", step("a"))
    .addNode("b", step("b"))
    .addNode("c", step("c"))
    .addEdge(START, "a")
    .addEdge("a", "b")
    .addEdge("b", "c")
    .compile(options as object);

/** The same inside of a node, and then `end`. */
const inside = (options: Nodes) =>
  new StateGraph(State)
    .addNode("row", row(options))
    .addNode("end", step("end"))
    .addEdge(START, "row")
    .addEdge("row", "end")
    .compile();

/** A subgraph that never ends to speak, and `after`, which says what it was told last. */
function stuckGraph() {
  const speak = async ({ messages }: typeof MessagesAnnotation.State) => ({
    messages: [await new ScriptedModel(stuckAfter("so far")).invoke(messages)],
  });
  const team = new StateGraph(MessagesAnnotation).addNode("speak", speak).addEdge(START, "speak").compile();
  return new StateGraph(MessagesAnnotation)
    .addNode("team", team)
    .addNode("after", ({ messages }) => ({
      messages: [{ role: "assistant", content: `after ${messages.at(-1)?.content}` }],
    }))
    .addEdge(START, "team")
    .addEdge("team", "after")
    .compile();
}

/** What readers have of a run's updates in the end. */
function standing(parts: readonly Part[]): unknown[] {
  let kept: { offset: number; part: Part }[] = [];
  for (const [i, part] of parts.entries()) {
    if (part.type === "lifecycle" && part.data.event === "rewound") {
      const { to } = part.data;
      kept = kept.filter(({ offset }) => offset <= to);
    }
    kept.push({ offset: i + 1, part });
  }
  return kept.flatMap(({ part }) => (part.type === "updates" ? [part.data] : []));
}

/** Takes the ending of a run back, and all that it did: its worker died before it could write it. */
async function beforeItsEnd(runId: string, threadId: string): Promise<void> {
  const { run, log } = runKeys(shop.prefix, runId);
  const head = Number(await shop.redis.hget(run, "head")) - 1;
  const fence = (await shop.redis.hget(run, "endedBy"))!;
  await shop.redis.xdel(log, `${head + 1}-0`);
  const [[last]] = (await shop.redis.xrevrange(log, "+", "-", "COUNT", 1)) as [[string, unknown]];
  await shop.redis.call("XSETID", log, last);
  await shop.redis.hset(run, { status: "running", head, fence });
  await shop.redis.hdel(run, "endedBy", "ended", "interrupts", "final");
  await shop.dispatcher.threadsOf("alice").enter(threadId, threadRun(await shop.record(runId)));
}

describe("a run that loses its worker where it was told to wait", () => {
  test("goes on from there when it had done so before: it does not wait once more", async () => {
    let isStuck = true;
    const graph = new StateGraph(State)
      .addNode("a", step("a"))
      .addNode("b", async (_, { signal }) => {
        ran.push("b");
        if (isStuck) await new Promise((_, reject) => signal?.addEventListener("abort", reject));
        return { log: ["b"] };
      })
      .addEdge(START, "a")
      .addEdge("a", "b")
      .compile();
    const gate = { interruptBefore: ["b"] };
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: { log: [] }, ...gate }, { threadId }));
    const runId = await shop.start("graph", gate, { threadId });
    await until(() => ran.length === 2);
    await first.close();
    isStuck = false;
    await shop.serve({ graph });
    expect((await shop.ended(runId)).record).toMatchObject({ status: "completed", attempt: 2 });
    expect(ran).toEqual(["a", "b", "b"]);
  });

  test("waits before its first node, wherever its checkpoints were", async () => {
    const gate = new Gate();
    const { fenced } = RedisCheckpointSaver.prototype;
    const held = vi.spyOn(RedisCheckpointSaver.prototype, "fenced").mockImplementation(function (
      this: RedisCheckpointSaver,
      { before, ...fence },
    ) {
      const first: typeof before = async (write) => {
        if (write.kind === "checkpoint" && write.step! < 0) return await before!(write);
        await gate.passed;
        return null;
      };
      return fenced.call(this, { ...fence, ...(before === undefined ? {} : { before: first }) });
    });
    const graph = row();
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: { log: [] }, interruptBefore: "*" }, { threadId });
    try {
      await until(async () => (await shop.history(threadId)).length === 1);
      const { attempt } = await shop.claimAndDie(runId);
      await shop.dispatcher.threadsOf("alice").fence(threadId, runId, attempt);
      gate.open();
      await first.close();
    } finally {
      held.mockRestore();
    }
    await shop.serve({ graph });
    expect((await shop.ended(runId)).record.status).toBe("interrupted");
    expect(await stateOf(threadId)).toMatchObject({ next: ["a"] });
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(ran).toEqual(["a", "b", "c"]);
  });
});

describe("a run waits where it was told to", () => {
  const cases: [string, Partial<RunRequest>, () => Graph, string[]][] = [
    ["before a node", { interruptBefore: ["b"] }, () => row(), ["a"]],
    ["after a node", { interruptAfter: ["b"] }, () => row(), ["a", "b"]],
    ["before its first node", { interruptBefore: ["a"] }, () => row(), []],
    ["after its last", { interruptAfter: ["c"] }, () => row(), ["a", "b", "c"]],
    ["everywhere", { interruptBefore: "*" }, () => row(), []],
    ["as its graph was compiled", {}, () => row({ interruptBefore: ["b"] }), ["a"]],
    [
      "elsewhere than its graph was compiled",
      { interruptBefore: ["c"] },
      () => row({ interruptBefore: ["b"] }),
      ["a", "b"],
    ],
    ["inside of a subgraph", {}, () => inside({ interruptAfter: ["a"] }), ["a"]],
  ];

  test.each(cases)("%s", async (_, options, graph, before) => {
    await shop.serve({ graph: graph() });
    const threadId = shop.newThread();
    const { record } = await shop.ended(
      await shop.start("graph", { input: { log: [] }, ...options }, { threadId }),
    );
    expect(record).toMatchObject({ status: "interrupted", interrupts: [] });
    expect(ran).toEqual(before);
    const rest = await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(rest.record.status).toBe("completed");
    expect(ran.slice(0, 3)).toEqual(["a", "b", "c"]);
    expect(new Set(ran).size).toBe(ran.length);
  });

  test.each(cases)("%s, also where its worker died there", async (_, options, graph, before) => {
    await shop.serve({ graph: graph() });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: { log: [] }, ...options }, { threadId });
    const first = await shop.ended(runId);
    await beforeItsEnd(runId, threadId);
    await shop.dispatcher.revive(runId);
    const { record, lifecycle, parts } = await shop.ended(runId);
    expect(lifecycle.map(({ event }) => event)).toEqual(["started", expect.any(String), "interrupted"]);
    expect(standing(parts)).toEqual(standing(first.parts));
    expect(record).toMatchObject({
      status: "interrupted",
      interrupts: [],
      checkpoint: first.record.checkpoint,
    });
    expect(ran).toEqual(before);
    // Who goes on passes; and if its worker dies behind the gate, so does the next.
    const rest = await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(rest.record.status).toBe("completed");
    expect(new Set(ran).size).toBe(ran.length);
  });

  test("and not at nodes that there are not", async () => {
    await shop.serve({ graph: row() });
    const threadId = shop.newThread();
    const { record } = await shop.ended(
      await shop.start("graph", { input: { log: [] }, interruptAfter: ["b", "z"] }, { threadId }),
    );
    expect(record.error?.message).toBe("interruptAfter: there is no node z; there are a, b, c");
    expect(ran).toEqual([]);
  });

  test("and where there are none", async () => {
    async function* hello(_: AgentContext) {
      yield "hello";
    }
    await shop.serve({ hello });
    const { record } = await shop.ended(await shop.start("hello", { input: "x", interruptBefore: "*" }));
    expect(record.error?.message).toBe("agent hello is a function: it has no nodes to interrupt a run at");
  });

  test("a question that was answered falsely opens no gate", async () => {
    const graph = new StateGraph(State)
      .addNode("ask", () => ({ log: [String(interrupt("Go?"))] }))
      .addNode("act", step("act"))
      .addEdge(START, "ask")
      .addEdge("ask", "act")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: { log: [] } }, { threadId }));
    const answer = { command: { resume: false }, interruptBefore: ["act"] };
    const { record } = await shop.ended(await shop.start("graph", answer, { threadId }));
    expect(record).toMatchObject({ status: "interrupted", interrupts: [] });
    expect(ran).toEqual([]);
    expect((await stateOf(threadId)).values.log).toEqual(["false"]);
  });
});

describe("a run that may not take for ever", () => {
  test("fails when its time is up, and keeps what was said aside", async () => {
    await shop.serve({ graph: stuckGraph() });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi", subgraphs: true, timeoutMs: 300 }, { threadId });
    const { record, text } = await shop.ended(runId);
    expect(record).toMatchObject({
      status: "failed",
      error: { name: "RunTimeoutError", message: "the run took longer than its timeoutMs, 300" },
    });
    expect(text).toBe("so far");
    expect(await shop.messages(threadId, record.checkpoint?.checkpointId)).toEqual(["human:hi", "ai:so far"]);
    expect(await shop.messages(threadId)).not.toContain("ai:so far");
  });

  test("tells a function agent by its signal", async () => {
    const seen: unknown[] = [];
    const waits = agent(async function* ({ signal }: AgentContext) {
      yield "waiting";
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      seen.push((signal.reason as { code?: unknown }).code);
    });
    await shop.serve({ waits });
    const { record, text } = await shop.ended(await shop.start("waits", { input: "x", timeoutMs: 200 }));
    expect([record.status, record.error?.name, text]).toEqual(["failed", "RunTimeoutError", "waiting"]);
    expect(seen).toEqual(["run_timeout"]);
  });

  test("counts from its first attempt", async () => {
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: { log: [] }, timeoutMs: 60_000 }, { threadId });
    const writer = await shop.claimAndDie(runId, [
      { type: "lifecycle", ns: [], data: { event: "started", attempt: 1 } },
    ]);
    expect(writer.attempt).toBe(1);
    const { run } = runKeys(shop.prefix, runId);
    await shop.redis.hset(run, "started", Date.now() - 60_001);
    await shop.serve({ graph: row() });
    const { record } = await shop.ended(runId);
    expect(record.error?.name).toBe("RunTimeoutError");
    expect(ran).toEqual([]);
  });

  test("a run that ends in time leaves no timer behind", async () => {
    const timers = () => process.getActiveResourcesInfo().filter((each) => each === "Timeout").length;
    const worker = await shop.serve({ graph: row() });
    const before = timers();
    for (let i = 0; i < 5; i++) {
      await shop.ended(await shop.start("graph", { input: { log: [] }, timeoutMs: 86_400_000 }));
    }
    await until(() => worker.active === 0);
    expect(timers()).toBeLessThan(before + 5);
  });
});

describe("a command says where to go", () => {
  test("with inputs, to one node as often as one likes", async () => {
    const Called = Annotation.Root({ ...State.spec, called: Annotation<string>() });
    const graph = new StateGraph(Called)
      .addNode("a", () => new Command({ update: step("a")() }), { ends: ["work"] })
      .addNode("work", ({ called }: typeof Called.State) => ({ log: [`work ${called}`] }))
      .addEdge(START, "a")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: { log: [] } }, { threadId }));
    const goto = [...["x", "y"].map((called) => ({ node: "work", input: { called } })), "a"];
    const { record } = await shop.ended(await shop.start("graph", { command: { goto } }, { threadId }));
    expect(record.status).toBe("completed");
    const { values } = await stateOf(threadId);
    expect((values.log as string[]).toSorted()).toEqual(["a", "a", "work x", "work y"]);
  });

  test("and fails where there is no such node", async () => {
    await shop.serve({ graph: row() });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: { log: [] } }, { threadId }));
    for (const goto of ["z", { node: "z", input: {} }]) {
      const { record } = await shop.ended(await shop.start("graph", { command: { goto } }, { threadId }));
      expect(record.error?.message).toBe("goto: there is no node z; there are a, b, c");
    }
    expect((await stateOf(threadId)).values.log).toEqual(["a", "b", "c"]);
  });
});

describe("a subgraph's state is written to", () => {
  const written = async (
    threadId: string,
    node: string,
    values: Record<string, unknown>,
    asNode?: string,
  ) => {
    const ns = (await findSubgraph(shop.saver, { threadId, ns: [node] }))!;
    return await shop.ended(await shop.start("graph", { update: { values, asNode, ns } }, { threadId }));
  };

  test("behind a Stop: it goes on from that", async () => {
    await shop.serve({ graph: stuckGraph() });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "hi", subgraphs: true }, { threadId });
    await shop.reached(runId, 2);
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.ended(runId);
    const ns = (await findSubgraph(shop.saver, { threadId, ns: ["team"] }))!;
    const cut = (await readState(shop.saver, { threadId, ns }))!.values.messages as { id: string }[];
    const better = { type: "ai", id: cut.at(-1)!.id, content: "rather this" };
    const { record } = await written(threadId, "team", { messages: [better] }, "speak");
    expect(record.status).toBe("completed");
    const { record: done } = await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(done.status).toBe("completed");
    expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:rather this", "ai:after rather this"]);
  });

  test("while it waits for a person, more than once", async () => {
    const inner = new StateGraph(State)
      .addNode("first", step("first"))
      .addNode("ask", ({ log }: typeof State.State) => {
        const answer = interrupt("Go?");
        return { log: [`${answer} to ${log.at(-1)}`] };
      })
      .addEdge(START, "first")
      .addEdge("first", "ask")
      .compile();
    const graph = new StateGraph(State).addNode("inner", inner).addEdge(START, "inner").compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: { log: [] } }, { threadId }));
    await written(threadId, "inner", { log: ["one"] });
    await written(threadId, "inner", { log: ["two"] });
    await shop.ended(await shop.start("graph", { command: { resume: "yes" } }, { threadId }));
    expect((await stateOf(threadId)).values.log).toEqual(["first", "one", "two", "yes to two"]);
    expect(ran).toEqual(["first"]);
  });

  test("not of one that there is not", async () => {
    await shop.serve({ graph: row() });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: { log: [] } }, { threadId }));
    const update = { values: { log: ["x"] }, ns: ["a:1"] };
    const { record } = await shop.ended(await shop.start("graph", { update }, { threadId }));
    expect(record.error?.message).toBe("there is no subgraph a:1 whose state can be written to");
  });
});
