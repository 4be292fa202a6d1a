/** P3, P6 where most programs are: routers, agents in nodes, subgraphs in subgraphs, tools, the functional API. */
import { setTimeout as sleep } from "node:timers/promises";
import { type BaseMessage, ToolMessage } from "@langchain/core/messages";
import { DynamicStructuredTool, tool } from "@langchain/core/tools";
import {
  Annotation,
  Command,
  END,
  entrypoint,
  getPreviousState,
  interrupt,
  MessagesAnnotation,
  messagesStateReducer,
  START,
  StateGraph,
  task,
} from "@langchain/langgraph";
import { createReactAgent, ToolNode } from "@langchain/langgraph/prebuilt";
import { findSubgraph, RedisCheckpointSaver, readState } from "@throughline/checkpoint";
import type { FlatMessage, Keep } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { type Said, type Script, ScriptedModel, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
let calls: string[];

beforeEach(() => {
  shop = new Workshop();
  calls = [];
});
afterEach(() => shop.stop());

type Messages = typeof MessagesAnnotation.State;

const call = (id: string, name: string, args: object): Said => ({
  toolCall: { type: "tool_call_chunk", index: 0, id, name, args: JSON.stringify(args) },
});

/** Says these in turn: the first time it is asked the first, … */
function inTurn(...turns: Script[]): Script {
  let asked = 0;
  return (messages, signal) => turns[Math.min(asked++, turns.length - 1)]!(messages, signal);
}

const says = (...said: Said[]): Script =>
  async function* () {
    yield* said;
  };

function llm(name: string, script: Script) {
  return async ({ messages }: Messages) => {
    calls.push(`${name}(${messages.map(({ content }) => content).join("|")})`);
    return { messages: [await new ScriptedModel(script).invoke(messages)] };
  };
}

async function state(threadId: string, checkpointId?: string) {
  return (await readState(shop.saver, { threadId, checkpointId }))!;
}

/** The thread's messages: type, text, what they call or answer, and whether they were cut off. */
async function shown(threadId: string, checkpointId?: string): Promise<string[]> {
  const { messages = [] } = (await state(threadId, checkpointId)).values as { messages?: FlatMessage[] };
  return messages.map(({ type, content, tool_calls, tool_call_id, additional_kwargs }) => {
    const called = ((tool_calls ?? []) as { id: string }[]).map(({ id }) => `+${id}`).join("");
    const cut = (additional_kwargs as { cancelled?: boolean })?.cancelled ? " (cut)" : "";
    return `${type}:${content}${called}${tool_call_id === undefined ? "" : `=${tool_call_id}`}${cut}`;
  });
}

async function cancelWhen(runId: string, condition: () => unknown, keep: Keep = "thread") {
  await until(condition);
  await shop.dispatcher.cancel(runId, { keep });
  return await shop.ended(runId);
}

/** Cancels once the log has come to this text. */
async function cancelAt(runId: string, text: string, keep: Keep = "thread") {
  const has = async () => {
    let all = "";
    for await (const { part } of shop.reader.parts(runId)) {
      if (part.type === "messages") all += part.data[0].content;
    }
    return all.includes(text);
  };
  return await cancelWhen(runId, has, keep);
}

const all = { subgraphs: true, modes: ["messages", "updates", "values"] };

describe("1: routers and reducers", () => {
  const branching = (
    router: (state: Messages, config: { configurable?: Record<string, unknown> }) => string,
  ) =>
    new StateGraph(MessagesAnnotation)
      .addNode("tell", llm("tell", inTurn(stuckAfter("Once ", "upon "), says("more"))))
      .addNode("left", llm("left", says("L")))
      .addNode("right", llm("right", says("R")))
      .addEdge(START, "tell")
      .addConditionalEdges("tell", router as never, ["left", "right", END])
      .compile();
  const byLevel = (_: Messages, { configurable }: { configurable?: Record<string, unknown> }) =>
    (configurable!.user as { level: number }).level > 1 ? "left" : "right";
  const config = { configurable: { user: { level: 2 } } };

  test.each([
    ["reads the run's config", byLevel],
    ["parses the answer", ({ messages }: Messages) => JSON.parse(String(messages.at(-1)!.content)).to],
  ])("a router that %s: a Stop does not run it", async (_, router) => {
    await shop.serve({ graph: branching(router) });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x", config }, { threadId });
    const { record } = await cancelAt(runId, "upon ");
    expect(record.status).toBe("cancelled");
    expect(await shown(threadId)).toEqual(["human:x", "ai:Once upon  (cut)"]);
    expect(record.checkpoint?.checkpointId).toBe(await shop.saver.head(threadId));
  });

  test("who goes on runs the router, with the config of that run", async () => {
    await shop.serve({ graph: branching(byLevel) });
    for (const [level, node] of [
      [2, "left"],
      [1, "right"],
    ] as const) {
      calls = [];
      const threadId = shop.newThread();
      // Each graph is stuck once: another one for each round.
      await shop.serve({ [`graph${level}`]: branching(byLevel) }, { queue: `q${level}` });
      const request = { input: "x", config, queue: `q${level}` };
      await cancelAt(await shop.start(`graph${level}`, request, { threadId }), "upon ");
      const goOn = { config: { configurable: { user: { level } } }, queue: `q${level}` };
      const { record } = await shop.ended(await shop.start(`graph${level}`, goOn, { threadId }));
      expect(record.status).toBe("completed");
      expect(calls).toEqual(["tell(x)", `${node}(x|Once upon )`]);
    }
  });

  test("what it throws then fails that run, and the thread is as the Stop left it", async () => {
    await shop.serve({ graph: branching(byLevel) });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", config }, { threadId }), "upon ");
    const before = await state(threadId);
    const { record } = await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(record).toMatchObject({ status: "failed", error: { name: "TypeError" } });
    expect((await state(threadId)).checkpointId).toBe(before.checkpointId);
    await shop.ended(await shop.start("graph", { config }, { threadId }));
    expect(calls).toEqual(["tell(x)", "left(x|Once upon )"]);
  });

  test.each(["hand-over", "crash"] as const)("taken over after a %s", async (how) => {
    const graph = branching(byLevel);
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x", config }, { threadId });
    await shop.reached(runId, 3);
    if (how === "crash") {
      const writer = await shop.claimAndDie(runId);
      await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.attempt);
    }
    await first.close();
    await shop.serve({ graph });
    expect((await shop.ended(runId)).record.status).toBe("completed");
    expect(await shown(threadId)).toEqual(["human:x", "ai:more", "ai:L"]);
  });

  test("a node's own error, and its partial on a branch", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode(
        "tell",
        llm("tell", async function* () {
          yield "Once ";
          throw new RangeError("429 from the provider");
        }),
      )
      .addEdge(START, "tell")
      .addConditionalEdges("tell", byLevel as never, [END])
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { record } = await shop.ended(await shop.start("graph", { input: "x" }, { threadId }));
    expect(record).toMatchObject({
      status: "failed",
      error: { name: "RangeError", message: "the agent failed; its worker's log says why" },
    });
    expect(await shown(threadId)).toEqual(["human:x"]);
    expect(await shown(threadId, record.checkpoint!.checkpointId)).toEqual(["human:x", "ai:Once "]);
  });

  test("a reducer that throws on what it does not like", async () => {
    const State = Annotation.Root({
      messages: Annotation<Messages["messages"]>({
        reducer: (left, right) => {
          for (const { additional_kwargs } of [right].flat()) {
            if (additional_kwargs?.cancelled) throw new Error("not with me");
          }
          return messagesStateReducer(left, right);
        },
        default: () => [],
      }),
    });
    const graph = new StateGraph(State)
      .addNode("tell", llm("tell", inTurn(stuckAfter("Once ", "upon "), says("more"))))
      .addEdge(START, "tell")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { record } = await cancelAt(
      await shop.start("graph", { input: { messages: [{ role: "user", content: "x" }] } }, { threadId }),
      "upon ",
    );
    expect(record.status).toBe("cancelled");
    expect(await shown(threadId)).toEqual(["human:x", "ai:Once upon  (cut)"]);
  });
});

describe("2: an agent inside of a node", () => {
  const look = tool(
    async ({ q }: { q: string }) => {
      calls.push(`look(${q})`);
      return `found ${q}`;
    },
    { name: "look", schema: { type: "object", properties: { q: { type: "string" } } } },
  );
  const agentIn = (script: Script) => createReactAgent({ llm: model(script), tools: [look] });
  function model(script: Script) {
    const made = new ScriptedModel(script);
    Object.assign(made, { bindTools: () => made });
    return made;
  }
  const script = () =>
    inTurn(says(call("c1", "look", { q: "a" })), stuckAfter("The ", "answer "), says("next"));

  test.each(["thread", "branch"] as const)("called by the node, keep: %s", async (keep) => {
    const inner = agentIn(script());
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("agent", async ({ messages }) => {
        const { messages: answer } = await inner.invoke({ messages });
        return { messages: answer.slice(messages.length) };
      })
      .addEdge(START, "agent")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { record } = await cancelAt(
      await shop.start("graph", { input: "x", ...all }, { threadId }),
      "answer ",
      keep,
    );
    const saved = await shown(threadId, record.checkpoint!.checkpointId);
    expect(saved).toEqual(["human:x", "ai:+c1", "tool:found a=c1", "ai:The answer  (cut)"]);
    const at = keep === "branch" ? { checkpointId: record.checkpoint!.checkpointId } : {};
    await shop.ended(await shop.start("graph", { input: "go on", ...at }, { threadId }));
    expect(await shown(threadId)).toEqual([...saved, "human:go on", "ai:next"]);
    expect(calls).toEqual(["look(a)"]);
  });

  test.each(["thread", "branch"] as const)("as the node itself, keep: %s", async (keep) => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("agent", agentIn(script()))
      .addEdge(START, "agent")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { record } = await cancelAt(
      await shop.start("graph", { input: "x", ...all }, { threadId }),
      "answer ",
      keep,
    );
    const saved = await shown(threadId, record.checkpoint!.checkpointId);
    expect(saved).toEqual(["human:x", "ai:+c1", "tool:found a=c1", "ai:The answer  (cut)"]);
  });
});

/** Nodes in a row, each saying its name in capitals; one of them gets stuck the first time, behind half of it. */
function row(names: readonly string[], stuck?: string) {
  const graph = new StateGraph(MessagesAnnotation) as never as {
    addNode(name: string, run: unknown): void;
    addEdge(from: string, to: string): void;
    compile(options?: { checkpointer?: true }): ReturnType<StateGraph<Messages>["compile"]>;
  };
  for (const [i, name] of names.entries()) {
    const word = name.toUpperCase();
    graph.addNode(
      name,
      llm(name, inTurn(name === stuck ? stuckAfter(word, "…") : says(word), says(`${word} again`))),
    );
    graph.addEdge(i === 0 ? START : names[i - 1]!, name);
  }
  return graph;
}

describe("3 to 6, 11: subgraphs", () => {
  test("3, 11: stopped in the second node: the first's message stays, at the ending and in the next turn", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("team", row(["first", "second"], "second").compile() as never)
      .addEdge(START, "team")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { record } = await cancelAt(
      await shop.start("graph", { input: "x", ...all }, { threadId }),
      "SECOND…",
    );
    const saved = ["human:x", "ai:FIRST", "ai:SECOND… (cut)"];
    expect(await shown(threadId, record.checkpoint!.checkpointId)).toEqual(saved);
    await shop.ended(await shop.start("graph", { input: "go on" }, { threadId }));
    expect(await shown(threadId)).toEqual([...saved, "human:go on", "ai:FIRST again", "ai:SECOND again"]);
  });

  test("4: a subgraph in a subgraph goes on behind its node", async () => {
    const inner = row(["first", "second"], "first").compile();
    const middle = row([]) as never as StateGraph<Messages>;
    middle.addNode("inner" as never, inner as never);
    middle.addNode("tail" as never, llm("tail", says("TAIL")) as never);
    middle.addEdge(START, "inner" as never);
    middle.addEdge("inner" as never, "tail" as never);
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("outer", middle.compile() as never)
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "outer")
      .addEdge("outer", "after")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
    expect(await shown(threadId)).toEqual(["human:x", "ai:FIRST… (cut)"]);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls.map((each) => each.split("(")[0])).toEqual(["first", "second", "tail", "after"]);
    expect(await shown(threadId)).toEqual(["human:x", "ai:FIRST… (cut)", "ai:SECOND", "ai:TAIL", "ai:AFTER"]);
  });

  test("5: a plain node and a subgraph in parallel: the subgraph goes on inside", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("plain", llm("plain", stuckAfter("PLAIN…")))
      .addNode("team", row(["first", "second"], "first").compile() as never)
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "plain")
      .addEdge(START, "team")
      .addEdge(["plain", "team"], "after")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x", ...all }, { threadId });
    await cancelWhen(runId, async () => {
      const { parts } = { parts: [] as string[] };
      for await (const { part } of shop.reader.parts(runId))
        if (part.type === "messages") parts.push(String(part.data[0].content));
      return parts.includes("PLAIN…") && parts.includes("…");
    });
    expect((await shown(threadId)).sort()).toEqual(["ai:FIRST… (cut)", "ai:PLAIN… (cut)", "human:x"]);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls.map((each) => each.split("(")[0])).toEqual(["plain", "first", "second", "after"]);
  });

  test("5: what is said beside a subgraph is not in its state", async () => {
    const inner = new StateGraph(MessagesAnnotation)
      .addNode("first", llm("first", stuckAfter("IN ", "SIDE ")))
      .addEdge(START, "first")
      .compile();
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("team", inner)
      .addNode("beside", llm("beside", stuckAfter("BE ", "SIDE ")))
      .addEdge(START, "team")
      .addEdge(START, "beside")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x", ...all }, { threadId });
    await until(async () => {
      let told = "";
      for await (const { part } of shop.reader.parts(runId)) told += JSON.stringify(part);
      return told.split('"SIDE "').length > 2;
    });
    await cancelWhen(runId, () => true);
    const ns = await findSubgraph(shop.saver, { threadId, ns: ["team"] });
    const { messages } = (await readState(shop.saver, { threadId, ns }))!.values as {
      messages: FlatMessage[];
    };
    expect(messages.map(({ content }) => content)).toEqual(["x", "IN SIDE "]);
    expect((await shown(threadId)).toSorted()).toEqual(["ai:BE SIDE  (cut)", "ai:IN SIDE  (cut)", "human:x"]);
  });

  test("6: a subgraph that keeps its state from call to call", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("team", row(["first", "second"], "second").compile({ checkpointer: true }) as never)
      .addEdge(START, "team")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "SECOND…");
    expect(await shown(threadId)).toEqual(["human:x", "ai:FIRST", "ai:SECOND… (cut)"]);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls.map((each) => each.split("(")[0])).toEqual(["first", "second"]);
    await shop.ended(await shop.start("graph", { input: "y" }, { threadId }));
    expect(calls.slice(2)).toEqual(["first(x|FIRST|SECOND…|y)", "second(x|FIRST|SECOND…|y|FIRST again)"]);
  });
});

describe("7, 14: values that no JSON has", () => {
  const State = Annotation.Root({
    ...MessagesAnnotation.spec,
    odd: Annotation<unknown>,
    seen: Annotation<string>,
  });
  const serve = async (odd: unknown) => {
    const graph = new StateGraph(State)
      .addNode("put", async (_, { writer }) => {
        writer?.({ progress: odd });
        return { odd };
      })
      .addNode("look", async (state) => ({ seen: typeof state.odd }))
      .addEdge(START, "put")
      .addEdge("put", "look")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const modes = ["custom", "updates", "values"];
    const { record, parts } = await shop.ended(
      await shop.start("graph", { input: { messages: [] }, modes }, { threadId }),
    );
    expect(record.status).toBe("completed");
    const { values } = await state(threadId);
    // The thread goes on.
    const again = await shop.ended(await shop.start("graph", { input: { messages: [] } }, { threadId }));
    expect(again.record.status).toBe("completed");
    return {
      told: (parts.find(({ type }) => type === "custom")!.data as { progress?: unknown }).progress,
      values,
    };
  };

  test.each<[string, unknown, string]>([
    ["a function", () => 1, "function"],
    ["a symbol", Symbol("s"), "symbol"],
  ])("%s is there for the next node, and in no checkpoint", async (_, odd, type) => {
    const { told, values } = await serve(odd);
    expect(told).toBeUndefined();
    expect(values).toEqual({ messages: [], seen: type });
  });

  const cycle: Record<string, unknown> = { a: 1 };
  cycle.self = cycle;
  test.each<[string, unknown, unknown]>([
    ["a BigInt", 10n, "10"],
    ["a Map of Sets", new Map([["a", new Set([1n])]]), { a: ["1"] }],
    ["a Date", new Date(0), "1970-01-01T00:00:00.000Z"],
    ["what contains itself", cycle, { a: 1, self: "[Circular]" }],
  ])("%s is told as JSON can say it", async (_, odd, told) => {
    expect(await serve(odd)).toMatchObject({ told, values: { odd: told } });
  });

  test("an Error", async () => {
    const { told, values } = await serve(new RangeError("no"));
    expect(told).toEqual({ name: "RangeError", message: "no" });
    expect(values.odd).toMatchObject({ message: "no" });
  });
});

describe("7: values that no checkpoint can hold", () => {
  const deep = () => {
    let value: unknown = 0;
    for (let i = 0; i < 20_000; i++) value = [value];
    return value;
  };
  const getter = {
    get x() {
      throw new Error("no such luck");
    },
  };
  const unreadable = new Proxy(
    {},
    {
      ownKeys() {
        throw new Error("no such luck");
      },
    },
  );
  test.each<[string, () => unknown]>([
    ["a getter that throws", () => getter],
    ["a deep one", deep],
  ])("%s fails its run, which says which key, and the thread goes on", async (_, odd) => {
    const State = Annotation.Root({ odd: Annotation<unknown>, ask: Annotation<string> });
    const graph = new StateGraph(State)
      .addNode("put", ({ ask }, { writer }) => {
        calls.push(ask);
        writer?.({ progress: unreadable });
        return { odd: ask === "odd" ? odd() : ask };
      })
      .addEdge(START, "put")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const run = async (ask: string) =>
      await shop.ended(await shop.start("graph", { input: { ask } }, { threadId }));
    const { record, parts } = await run("odd");
    expect(record).toMatchObject({ status: "failed", attempt: 1, error: { name: "InvalidArgumentError" } });
    expect(record.error?.message).toMatch(/^key odd of the state cannot be stored: /);
    expect(parts.find(({ type }) => type === "custom")?.data).toEqual({
      progress: "[Unreadable: no such luck]",
    });
    expect((await run("fine")).record.status).toBe("completed");
    expect(calls).toEqual(["odd", "fine"]);
  });
});

describe("8: questions", () => {
  test("one of two was answered by its id: `false` answers the other", async () => {
    const ask = (name: string) => async () => {
      const answer = interrupt(`${name}?`);
      calls.push(`${name}:${answer}`);
      return { messages: [{ role: "ai", content: `${name} ${answer}` }] };
    };
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("one", ask("one"))
      .addNode("two", ask("two"))
      .addEdge(START, "one")
      .addEdge(START, "two")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: "x" }, { threadId }));
    const { interrupts } = await state(threadId);
    expect(interrupts.map(({ value }) => value)).toEqual(["one?", "two?"]);
    await shop.ended(
      await shop.start("graph", { command: { resume: { [interrupts[0]!.id]: "yes" } } }, { threadId }),
    );
    const half = await state(threadId);
    expect(half).toMatchObject({ next: ["two"], interrupts: [{ value: "two?" }] });
    expect(half.tasks).toMatchObject([
      { name: "one", interrupts: [{ answered: true }], result: expect.anything() },
      { name: "two", interrupts: [{ value: "two?", answered: false }] },
    ]);
    const { record } = await shop.ended(
      await shop.start("graph", { command: { resume: false } }, { threadId }),
    );
    expect(record.status).toBe("completed");
    expect(calls).toEqual(["one:yes", "two:false"]);
  });
});

describe("8: questions of one node", () => {
  const graph = () =>
    new StateGraph(Annotation.Root({ said: Annotation<string> }))
      .addNode("ask", async (_, { signal }) => {
        const first = interrupt("pay?");
        if (calls.length === 0) {
          calls.push("paying");
          await sleep(60_000, undefined, { signal: signal! });
        }
        return { said: `${first} ${interrupt("really?")}` };
      })
      .addEdge(START, "ask")
      .compile();
  const run = async (threadId: string, request: object) =>
    (await shop.ended(await shop.start("graph", request, { threadId }))).record;

  test.each(["yes", { [Symbol.for("id")]: true }])(
    "the second is asked, whatever the first was answered",
    async (answer) => {
      calls.push("no pause");
      await shop.serve({ graph: graph() });
      const threadId = shop.newThread();
      await run(threadId, { input: {} });
      const { interrupts } = await state(threadId);
      const resume = typeof answer === "string" ? answer : { [interrupts[0]!.id]: "yes" };
      expect((await run(threadId, { command: { resume } })).interrupts).toMatchObject([{ value: "really?" }]);
      expect(await state(threadId)).toMatchObject({
        interrupts: [{ value: "really?" }],
        tasks: [{ interrupts: [{ value: "really?", answered: false }] }],
      });
      // Who only goes on has answered nothing.
      expect((await run(threadId, {})).interrupts).toMatchObject([{ value: "really?" }]);
      expect((await run(threadId, { command: { resume: "sure" } })).status).toBe("completed");
      expect((await state(threadId)).values.said).toBe("yes sure");
    },
  );

  test("stopped when it had its answer, before it had ended: it is open, and asked again", async () => {
    await shop.serve({ graph: graph() });
    const threadId = shop.newThread();
    await run(threadId, { input: {} });
    const runId = await shop.start("graph", { command: { resume: "yes" } }, { threadId });
    await cancelWhen(runId, () => calls.includes("paying"));
    const open = [{ value: "pay?", answered: false }];
    expect(await state(threadId)).toMatchObject({
      interrupts: [{ value: "pay?" }],
      tasks: [{ interrupts: open }],
    });
    expect((await run(threadId, {})).interrupts).toMatchObject([{ value: "pay?" }]);
  });

  test("answers to what nobody asks are refused, and what is asked stays", async () => {
    calls.push("no pause");
    await shop.serve({ graph: graph() });
    const threadId = shop.newThread();
    await run(threadId, { input: {} });
    const { id } = (await state(threadId)).interrupts[0]!;
    const unknown = "f".repeat(32);
    const { error } = await run(threadId, { command: { resume: { [unknown]: "yes" } } });
    expect(error?.message).toBe(`resume: no question ${unknown} is open; ${id} are`);
    for (const resume of ["yes", "sure"]) await run(threadId, { command: { resume } });
    const late = await run(threadId, { command: { resume: "yes" } });
    expect(late.error?.message).toMatch(/^resume: nothing waits for an answer here/);
    expect((await state(threadId)).values.said).toBe("yes sure");
  });
});

describe("8: an answer without an id, where two questions are open", () => {
  test.each([false, 0, "", null, "yes"])("%j answers both", async (resume) => {
    const ask = (name: string) => async () => ({
      messages: [{ role: "ai", content: `${name} ${interrupt(`${name}?`)}` }],
    });
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("one", ask("one"))
      .addNode("two", ask("two"))
      .addEdge(START, "one")
      .addEdge(START, "two")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: "x" }, { threadId }));
    const { record } = await shop.ended(await shop.start("graph", { command: { resume } }, { threadId }));
    expect(record.status).toBe("completed");
    expect(await shown(threadId)).toEqual(["human:x", `ai:one ${resume}`, `ai:two ${resume}`]);
  });
});

describe("9: the functional API", () => {
  const said = (name: string, script: Script) =>
    task(name, async (about: string) => {
      calls.push(`${name}(${about})`);
      return String((await new ScriptedModel(script).invoke(about)).content);
    });
  const flowOf = (first: Script, second: Script) => {
    const one = said("one", first);
    const two = said("two", second);
    return entrypoint("flow", async (about: string) => {
      const a = await one(about);
      return { a, b: await two(a) };
    });
  };

  test("its values, what comes next, and its tokens are the run's own", async () => {
    await shop.serve({ flow: flowOf(says("A"), says("B")) });
    const threadId = shop.newThread();
    const { text } = await shop.ended(await shop.start("flow", { input: "x" }, { threadId }));
    expect(text).toBe("AB");
    expect(await state(threadId)).toMatchObject({ values: { a: "A", b: "B" }, next: [] });
  });

  test("taken over: a finished task's tokens are told once, and it is not run again", async () => {
    const flow = flowOf(says("A"), inTurn(stuckAfter("B…"), says("B")));
    const first = await shop.serve({ flow });
    const threadId = shop.newThread();
    const runId = await shop.start("flow", { input: "x", modes: ["messages"] }, { threadId });
    await shop.reached(runId, 3);
    await first.close();
    await shop.serve({ flow });
    const { text } = await shop.ended(runId);
    expect(calls).toEqual(["one(x)", "two(A)", "two(A)"]);
    expect(text).toBe("AB");
  });

  test.each(["thread", "branch"] as const)(
    "stopped, keep: %s: its finished task is not run again",
    async (keep) => {
      const flow = flowOf(says("A"), inTurn(stuckAfter("B…"), says("B")));
      await shop.serve({ flow });
      const threadId = shop.newThread();
      const { record } = await cancelAt(await shop.start("flow", { input: "x" }, { threadId }), "B…", keep);
      const { checkpointId } = record.checkpoint!;
      expect(await shown(threadId, checkpointId)).toEqual(["human:x", "ai:A", "ai:B… (cut)"]);
      expect((await state(threadId, checkpointId)).next).toEqual(["flow"]);
      const at = keep === "branch" ? { checkpointId } : {};
      await shop.ended(await shop.start("flow", { ...at }, { threadId }));
      expect(calls).toEqual(["one(x)", "two(A)", "two(A)"]);
      expect((await state(threadId)).values).toEqual({ a: "A", b: "B" });
    },
  );

  const chatOf = (...scripts: Script[]) => {
    const script = inTurn(...scripts);
    return entrypoint("chat", async (input: { messages: { content: string }[] }) => {
      const before = getPreviousState<{ messages: { content: string }[] }>()?.messages ?? [];
      const messages = messagesStateReducer(before as never, input.messages as never);
      calls.push(messages.map(({ content }) => content).join("|"));
      const answer = await new ScriptedModel(script).invoke(messages);
      return { messages: [...messages, answer] };
    });
  };
  const input = (content: string) => ({ input: { messages: [{ role: "user", content }] } });

  test.each(["by its own worker", "when its worker had died"])(
    "stopped when it had returned, and before its run could end, %s: what it returned is shown",
    async (by) => {
      const chat = chatOf(says("hello"), stuckAfter("cut "), says("whole"), says("more"));
      const worker = await shop.serve({ chat });
      const threadId = shop.newThread();
      await shop.ended(await shop.start("chat", input("a"), { threadId }));
      await cancelAt(await shop.start("chat", input("b"), { threadId }), "cut ");

      const gate = new Gate();
      const { fenced } = RedisCheckpointSaver.prototype;
      const held = vi.spyOn(RedisCheckpointSaver.prototype, "fenced").mockImplementation(function (
        this: RedisCheckpointSaver,
        { before, ...fence },
      ) {
        const last: typeof before = async (write) => {
          if (write.kind !== "checkpoint" || calls.length < 3) return await before!(write);
          await gate.passed;
          return by === "by its own worker" ? await before!(write) : null;
        };
        return fenced.call(this, { ...fence, ...(before === undefined ? {} : { before: last }) });
      });
      const runId = await shop.start("chat", { ...input("c"), modes: ["updates"] }, { threadId });
      try {
        await shop.reached(runId, 2);
        if (by !== "by its own worker") {
          // What it wrote is stored; its checkpoint is not.
          await until(async () => {
            const tuple = await shop.saver.getTuple({ configurable: { thread_id: threadId } });
            return tuple?.pendingWrites?.some(([, channel]) => channel === END);
          });
          const { attempt } = await shop.claimAndDie(runId);
          await shop.dispatcher.threadsOf("alice").fence(threadId, runId, attempt);
        }
        await shop.dispatcher.cancel(runId, { keep: "thread" });
        gate.open();
        if (by !== "by its own worker") await worker.close();
      } finally {
        held.mockRestore();
      }
      if (by !== "by its own worker") await shop.serve({ chat });
      expect((await shop.ended(runId)).record.status).toBe("cancelled");
      const whole = ["human:a", "ai:hello", "human:b", "ai:cut  (cut)", "human:c", "ai:whole"];
      expect(await shown(threadId)).toEqual(whole);
      await shop.ended(await shop.start("chat", input("d"), { threadId }));
      expect(await shown(threadId)).toEqual([...whole, "human:d", "ai:more"]);
    },
  );

  test("stopped in its first turn, it goes on for readers of its values, too", async () => {
    await shop.serve({ flow: flowOf(says("A"), inTurn(stuckAfter("B…"), says("B"))) });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("flow", { input: "x" }, { threadId }), "B…");
    const { record } = await shop.ended(await shop.start("flow", { modes: ["values"] }, { threadId }));
    expect(record.status).toBe("completed");
  });

  test("what its next call finds saved has the turn that was stopped", async () => {
    const chat = chatOf(says("hello"), stuckAfter("cut "), stuckAfter("once more "), says("more"));
    await shop.serve({ chat });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("chat", input("a"), { threadId }));
    await cancelAt(await shop.start("chat", input("b"), { threadId }), "cut ");
    expect(await shown(threadId)).toEqual(["human:a", "ai:hello", "human:b", "ai:cut  (cut)"]);
    const next = await shop.start("chat", input("c"), { threadId });
    const waits = await shop.start("chat", input("d"), { threadId });
    await shop.dispatcher.cancel(waits, { keep: "thread" });
    await cancelAt(next, "once more ");
    await until(async () => (await shop.dispatcher.active("alice", threadId)) === null);
    expect((await shown(threadId)).slice(3)).toEqual([
      "ai:cut  (cut)",
      "human:c",
      "ai:once more  (cut)",
      "human:d",
    ]);
    await shop.ended(await shop.start("chat", input("e"), { threadId }));
    expect(calls.at(-1)).toBe("a|hello|b|cut |c|once more |d|e");
    expect(await shown(threadId)).toHaveLength(9);
  });
});

describe("10: tools", () => {
  const agentWith = (script: Script, tools: Parameters<typeof createReactAgent>[0]["tools"]) => {
    const made = new ScriptedModel(script);
    Object.assign(made, { bindTools: () => made });
    return new StateGraph(MessagesAnnotation)
      .addNode("agent", async ({ messages }) => {
        calls.push(`agent(${messages.map((m) => m.content || "·").join("|")})`);
        return { messages: [await made.invoke(messages)] };
      })
      .addNode("tools", new ToolNode(tools as never))
      .addEdge(START, "agent")
      .addConditionalEdges("agent", ({ messages }) =>
        ((messages.at(-1) as { tool_calls?: unknown[] }).tool_calls ?? []).length > 0 ? "tools" : END,
      )
      .addEdge("tools", "agent")
      .compile();
  };
  const slow = (name: string, ms: number) => {
    let times = 0;
    return tool(
      async (_, config) => {
        calls.push(name);
        if (times++ === 0) await sleep(ms, undefined, { signal: config.signal! });
        return `${name} done`;
      },
      { name, schema: { type: "object", properties: {} } },
    );
  };

  test("stopped while a tool runs, then new input: the call has an answer", async () => {
    const graph = agentWith(inTurn(says(call("c1", "slow", {})), says("sorry")), [slow("slow", 60_000)]);
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    await cancelWhen(runId, () => calls.includes("slow"));
    expect(await shown(threadId)).toEqual(["human:x", "ai:+c1", "tool:cancelled=c1 (cut)"]);
    await shop.ended(await shop.start("graph", { input: "never mind" }, { threadId }));
    expect(await shown(threadId)).toEqual([
      "human:x",
      "ai:+c1",
      "tool:cancelled=c1 (cut)",
      "human:never mind",
      "ai:sorry",
    ]);
  });

  test("the same without input: the tool is run, once more, and those that had answered are not", async () => {
    const both: Script = async function* () {
      yield { toolCall: { type: "tool_call_chunk", index: 0, id: "c1", name: "slow", args: "{}" } };
      yield { toolCall: { type: "tool_call_chunk", index: 1, id: "c2", name: "quick", args: "{}" } };
    };
    const graph = agentWith(inTurn(both, says("fine")), [slow("slow", 60_000), slow("quick", 0)]);
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    await until(() => calls.includes("quick") && calls.includes("slow"));
    await sleep(200);
    await cancelWhen(runId, () => true);
    expect((await shown(threadId)).slice(2)).toEqual(["tool:cancelled=c1 (cut)", "tool:quick done=c2"]);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls.filter((each) => !each.startsWith("agent"))).toEqual(["slow", "quick", "slow"]);
    const saved = await shown(threadId);
    expect(saved.slice(0, 2)).toEqual(["human:x", "ai:+c1+c2"]);
    expect(saved.slice(2, 4).sort()).toEqual(["tool:quick done=c2", "tool:slow done=c1"]);
    expect(saved.at(-1)).toBe("ai:fine");
  });

  test("a tool that answers by a command has answered, if that is all that it commands", async () => {
    const both: Script = async function* () {
      yield { toolCall: { type: "tool_call_chunk", index: 0, id: "c1", name: "slow", args: "{}" } };
      yield { toolCall: { type: "tool_call_chunk", index: 1, id: "c2", name: "book", args: "{}" } };
    };
    const book = tool(
      async () => {
        calls.push("book");
        const booked = new ToolMessage({ content: "booked", tool_call_id: "c2", name: "book" });
        return new Command({ update: { messages: [booked] } });
      },
      { name: "book", schema: { type: "object", properties: {} } },
    );
    const graph = agentWith(inTurn(both, says("fine")), [slow("slow", 60_000), book]);
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    await until(() => calls.includes("book") && calls.includes("slow"));
    await sleep(200);
    await cancelWhen(runId, () => true);
    expect((await shown(threadId)).slice(2).sort()).toEqual(["tool:booked=c2", "tool:cancelled=c1 (cut)"]);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls.filter((each) => !each.startsWith("agent"))).toEqual(["slow", "book", "slow"]);
  });

  const aboutThat = async (script: Script) => String((await new ScriptedModel(script).invoke("q")).content);
  const schema = { type: "object" as const, properties: {} };
  /** One whose author does not hand the config of the call on. */
  const byClass = (name: string, script: Script) =>
    new DynamicStructuredTool({ name, description: name, schema, func: () => aboutThat(script) });

  test.each(
    Object.entries({
      "made by tool()": (name: string, script: Script) => tool(() => aboutThat(script), { name, schema }),
      "of a class": byClass,
    }),
  )("what a model says inside of a tool %s is no message of the conversation", async (_, make) => {
    const asking = make("asking", stuckAfter("let me ", "think "));
    await shop.serve({ graph: agentWith(says(call("c1", "asking", {})), [asking]) });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), "think ");
    expect(await shown(threadId)).toEqual([
      "human:x",
      "ai:+c1",
      "tool:cancelled; so far it had said: let me think =c1 (cut)",
    ]);
  });

  test("nor is it with two of a class at once, of which nobody knows which one speaks", async () => {
    const both: Script = async function* () {
      yield { toolCall: { type: "tool_call_chunk", index: 0, id: "c1", name: "one", args: "{}" } };
      yield { toolCall: { type: "tool_call_chunk", index: 1, id: "c2", name: "two", args: "{}" } };
    };
    const tools = ["one", "two"].map((name) => byClass(name, stuckAfter(`${name} `, "thinks ")));
    await shop.serve({ graph: agentWith(both, tools) });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    await until(async () => {
      const all: string[] = [];
      for await (const { part } of shop.reader.parts(runId)) all.push(JSON.stringify(part));
      return all.filter((part) => part.includes('"thinks "')).length === 2;
    });
    await cancelWhen(runId, () => true);
    const saved = await shown(threadId);
    expect(saved.map((each) => each.split(":")[0])).toEqual(["human", "ai", "tool", "tool"]);
  });

  test("what a node says when a tool has failed is a message", async () => {
    const failing = tool(() => Promise.reject(new Error("no luck")), { name: "failing", schema });
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("agent", async () => {
        await failing.invoke({ type: "tool_call", id: "c1", name: "failing", args: {} }).catch(() => {});
        return { messages: [await new ScriptedModel(stuckAfter("it ", "failed ")).invoke("q")] };
      })
      .addEdge(START, "agent")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), "failed ");
    expect(await shown(threadId)).toEqual(["human:x", "ai:it failed  (cut)"]);
  });
});

describe("12, 13: what is on the way from node to node", () => {
  test("12: a router that takes its time does not hold up a Stop, and runs once for who goes on", async () => {
    const gate = new Gate();
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("tell", llm("tell", says("whole")))
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "tell")
      .addConditionalEdges("tell", async () => {
        calls.push("router");
        await gate.passed;
        return "after";
      }, ["after"])
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    await until(() => calls.includes("router"));
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.ended(runId);
    gate.open();
    expect(await shown(threadId)).toEqual(["human:x", "ai:whole"]);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls).toEqual(["tell(x)", "router", "router", "after(x|whole)"]);
  });

  test("13: nor is that of a router inside of a subgraph", async () => {
    const inner = new StateGraph(MessagesAnnotation)
      .addNode("tell", llm("tell", says("whole")))
      .addEdge(START, "tell")
      .addConditionalEdges("tell", async () => {
        await new ScriptedModel(stuckAfter('{"to":', '"end"')).invoke("where?");
        return END;
      }, [END])
      .compile();
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("inner", inner)
      .addEdge(START, "inner")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), '"end"');
    expect(await shown(threadId)).toEqual(["human:x", "ai:whole"]);
  });

  test("13: a router's model is not in the messages", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("tell", llm("tell", says("whole")))
      .addEdge(START, "tell")
      .addConditionalEdges("tell", async () => {
        await new ScriptedModel(stuckAfter('{"to":', '"end"')).invoke("where?");
        return END;
      }, [END])
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), '"end"');
    expect(await shown(threadId)).toEqual(["human:x", "ai:whole"]);
  });
});

describe("13: what models say for another key", () => {
  const State = Annotation.Root({ ...MessagesAnnotation.spec, summary: Annotation<string> });
  type State = typeof State.State;
  const texts = (said: BaseMessage) => String(said.content);
  const inner = (script: Script) =>
    new StateGraph(MessagesAnnotation).addNode("say", llm("say", script)).addEdge(START, "say").compile();

  /** A node that has a model say something, the first time for ever, and writes no message. */
  const helpers: Record<string, (script: Script) => (state: State) => Promise<unknown>> = {
    "a summary": (script) => async (state) => {
      calls.push("helper");
      const said = await new ScriptedModel(script).invoke(state.messages);
      return { summary: texts(said) };
    },
    "a choice of the way": (script) => async (state) => {
      calls.push("helper");
      const said = await new ScriptedModel(script).invoke(state.messages);
      return new Command({ update: { summary: texts(said) }, goto: "after" });
    },
    "a report of a graph that it calls": (script) => async (state) => {
      calls.push("helper");
      const { messages } = await inner(script).invoke(state);
      return { summary: texts(messages.at(-1)!) };
    },
  };

  test.each(Object.entries(helpers))(
    "%s is not in the messages; the node is run again",
    async (_, helper) => {
      const script = inTurn(stuckAfter("in ", "short"), says("in short: x"));
      const graph = new StateGraph(State)
        .addNode("tell", llm("tell", says("whole")))
        .addNode("helper", helper(script), { ends: ["after"] })
        .addNode("after", llm("after", says("AFTER")))
        .addEdge(START, "tell")
        .addEdge("tell", "helper")
        .addEdge("helper", "after")
        .compile();
      await shop.serve({ graph });
      const threadId = shop.newThread();
      await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "short");
      expect(await shown(threadId)).toEqual(["human:x", "ai:whole"]);
      expect((await state(threadId)).next).toEqual(["helper"]);
      const { record } = await shop.ended(await shop.start("graph", all, { threadId }));
      expect(record.status).toBe("completed");
      expect((await state(threadId)).values.summary).toBe("in short: x");
      expect(await shown(threadId)).toEqual(["human:x", "ai:whole", "ai:AFTER"]);
      const order = calls.map((each) => each.split("(")[0]).filter((each) => each !== "say");
      expect(order).toEqual(["tell", "helper", "helper", "after"]);
    },
  );

  test("what a node beside had finished with is all that is kept of it", async () => {
    const graph = new StateGraph(State)
      .addNode("helper", async () => ({ summary: texts(await new ScriptedModel(says("short")).invoke("q")) }))
      .addNode("tell", llm("tell", stuckAfter("so ", "far ")))
      .addEdge(START, "helper")
      .addEdge(START, "tell")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    await until(async () => (await state(threadId))?.tasks?.some((each) => "result" in each));
    await cancelAt(runId, "far ");
    expect(await shown(threadId)).toEqual(["human:x", "ai:so far  (cut)"]);
    expect((await state(threadId)).values.summary).toBe("short");
  });

  test("a node that may write messages has its partial kept", async () => {
    const answer = (messages: unknown) => ({ messages });
    const graph = new StateGraph(State)
      .addNode("tell", async ({ messages }) =>
        answer([await new ScriptedModel(stuckAfter("so ", "far")).invoke(messages)]),
      )
      .addEdge(START, "tell")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), "far");
    expect(await shown(threadId)).toEqual(["human:x", "ai:so far (cut)"]);
  });

  test("what is tagged `nostream` is in neither the stream nor the messages", async () => {
    let asked = false;
    const graph = new StateGraph(State)
      .addNode("tell", async ({ messages }) => {
        const script: Script = async function* (_, signal) {
          yield "to myself";
          asked = true;
          yield* stuckAfter()(messages, signal);
        };
        const said = await new ScriptedModel(script, { tags: ["nostream"] }).invoke(messages);
        return { messages: [said] };
      })
      .addEdge(START, "tell")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    const { parts } = await cancelWhen(runId, () => asked);
    expect(parts.filter(({ type }) => type === "messages")).toEqual([]);
    expect(await shown(threadId)).toEqual(["human:x"]);
  });
});

describe("16: before there is anything", () => {
  test("stopped before its node says anything: the user's message is in the thread", async () => {
    let running = false;
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("mute", async (_: Messages, { signal }) => {
        running = true;
        await new Promise((_, reject) => signal?.addEventListener("abort", reject));
        return {};
      })
      .addEdge(START, "mute")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    await cancelWhen(runId, () => running);
    expect(await shown(threadId)).toEqual(["human:x"]);
  });
});
