/**
 * Each example of LangGraph's streaming page, run through a gateway and a socket, and held against what `graph.stream`
 * gives directly: the same parts, in the same order.
 */
import { tool } from "@langchain/core/tools";
import {
  Annotation,
  getWriter,
  MemorySaver,
  MessagesAnnotation,
  START,
  StateGraph,
} from "@langchain/langgraph";
import type { Part, StreamMode } from "@throughline/protocol";
import type { Graph } from "@throughline/worker";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ScriptedModel, saying } from "../support/graphs.ts";
import { type Line, startLine } from "../support/line.ts";
import { until } from "../support/until.ts";

const Topic = Annotation.Root({
  topic: Annotation<string>,
  joke: Annotation<string>,
  poem: Annotation<string>,
});

const steps = new StateGraph(Topic)
  .addNode("refine", ({ topic }) => ({ topic: `${topic} and cats` }))
  .addNode("tell", ({ topic }) => ({ joke: `This is a joke about ${topic}` }))
  .addEdge(START, "refine")
  .addEdge("refine", "tell")
  .compile();

const tokens = new StateGraph(Topic)
  .addNode("call", async ({ topic }) => ({
    joke: String((await saying("Why ", "did ", "it?").invoke(`a joke about ${topic}`)).content),
  }))
  .addEdge(START, "call")
  .compile();

const says = (tags: string[], ...words: string[]) =>
  new ScriptedModel(
    async function* () {
      yield* words;
    },
    { tags },
  );

const tagged = new StateGraph(Topic)
  .addNode("call", async () => ({
    joke: String((await says(["joke"], "ha ", "ha").invoke("joke")).content),
    poem: String((await says(["poem"], "la ", "la").invoke("poem")).content),
  }))
  .addEdge(START, "call")
  .compile();

const nodes = new StateGraph(Topic)
  .addNode("write_joke", async () => ({ joke: String((await saying("ha ", "ha").invoke("joke")).content) }))
  .addNode("write_poem", async () => ({ poem: String((await saying("la ", "la").invoke("poem")).content) }))
  .addEdge(START, "write_joke")
  .addEdge("write_joke", "write_poem")
  .compile();

const custom = new StateGraph(Topic)
  .addNode("node", () => {
    getWriter()?.({ custom_key: "Generating custom data inside node" });
    return { joke: "some data" };
  })
  .addEdge(START, "node")
  .compile();

const Foo = Annotation.Root({ foo: Annotation<string> });
const inner = new StateGraph(Annotation.Root({ foo: Annotation<string>, bar: Annotation<string> }))
  .addNode("first", () => ({ bar: "bar" }))
  .addNode("second", async ({ foo, bar }) => ({
    foo: `${foo}${bar}${(await saying("in", "ner").invoke("x")).content}`,
  }))
  .addEdge(START, "first")
  .addEdge("first", "second")
  .compile();
const subgraphs = new StateGraph(Foo)
  .addNode("node_1", ({ foo }) => ({ foo: `hi! ${foo}` }))
  .addNode("node_2", inner)
  .addEdge(START, "node_1")
  .addEdge("node_1", "node_2")
  .compile();

const anyModel = new StateGraph(Topic)
  .addNode("call", async () => {
    for (const token of ["raw ", "client ", "tokens"]) getWriter()?.({ custom_llm_chunk: token });
    return { joke: "completed" };
  })
  .addEdge(START, "call")
  .compile();

const whole = new StateGraph(MessagesAnnotation)
  .addNode("call", async () => ({
    messages: [
      await new ScriptedModel(
        async function* () {
          yield "all at once";
        },
        { streaming: false },
      ).invoke("x"),
    ],
  }))
  .addEdge(START, "call")
  .compile();

const shout = tool(async ({ text }: { text: string }) => text.toUpperCase(), {
  name: "shout",
  description: "Shouts",
  schema: { type: "object", properties: { text: { type: "string" } }, required: ["text"] } as never,
});
const tools = new StateGraph(Topic)
  .addNode("use", async () => ({ joke: String(await shout.invoke({ text: "hey" } as never)) }))
  .addEdge(START, "use")
  .compile();

const graphs = { steps, tokens, tagged, nodes, custom, subgraphs, anyModel, whole, tools };

let line: Line;
beforeAll(async () => {
  line = await startLine({ agents: graphs });
});
afterAll(() => line.stop());

interface Example {
  graph: keyof typeof graphs;
  input: unknown;
  modes: StreamMode[];
  subgraphs?: boolean;
}

const ice = { topic: "ice cream" };
const table: [string, Example][] = [
  ["graph state: updates", { graph: "steps", input: ice, modes: ["updates"] }],
  ["graph state: values", { graph: "steps", input: ice, modes: ["values"] }],
  ["LLM tokens", { graph: "tokens", input: ice, modes: ["messages"] }],
  ["tokens of two invocations, by tags", { graph: "tagged", input: ice, modes: ["messages"] }],
  ["tokens of two nodes", { graph: "nodes", input: ice, modes: ["messages"] }],
  ["custom data", { graph: "custom", input: ice, modes: ["custom"] }],
  ["subgraphs: updates", { graph: "subgraphs", input: { foo: "foo" }, modes: ["updates"], subgraphs: true }],
  [
    "subgraphs, several modes",
    { graph: "subgraphs", input: { foo: "foo" }, modes: ["updates", "values", "messages"], subgraphs: true },
  ],
  [
    "subgraphs that nobody asked for",
    { graph: "subgraphs", input: { foo: "foo" }, modes: ["updates", "values"] },
  ],
  ["checkpoints", { graph: "steps", input: ice, modes: ["checkpoints"] }],
  ["tasks", { graph: "steps", input: ice, modes: ["tasks"] }],
  ["debug", { graph: "steps", input: ice, modes: ["debug"] }],
  ["several modes", { graph: "custom", input: ice, modes: ["updates", "custom"] }],
  ["any model", { graph: "anyModel", input: { topic: "cats" }, modes: ["custom"] }],
  [
    "a model that does not stream",
    { graph: "whole", input: { messages: ["x"] }, modes: ["messages", "updates"] },
  ],
  ["tools", { graph: "tools", input: ice, modes: ["tools", "updates"] }],
];

/** What `graph.stream` gives when it is called as the page calls it, by the protocol's rules for a part. */
async function direct({ graph, input, modes, subgraphs = false }: Example): Promise<Part[]> {
  const own = (graphs[graph] as Graph).withConfig({}) as Graph;
  own.checkpointer = new MemorySaver();
  const parts: Part[] = [];
  const config = { configurable: { thread_id: "direct" }, streamMode: modes as never, subgraphs };
  for await (const chunk of await own.stream(input, config)) {
    const [ns, mode, data] = (subgraphs ? chunk : [[], ...(chunk as unknown[])]) as unknown as [
      string[],
      string,
      unknown,
    ];
    // One segment more in 1.4: that of the task.
    const path = subgraphs && mode === "messages" ? ns.slice(0, -1) : ns;
    parts.push({ type: mode, ns: path, data: JSON.parse(JSON.stringify(data, plain)) } as Part);
  }
  return parts;
}

/** Messages flat, and nothing of this process. Written for the test, from LangChain's own `toDict`. */
function plain(this: unknown, key: string, value: unknown): unknown {
  const raw = (this as Record<string, unknown>)[key];
  if (key === "callbacks" || key.startsWith("__pregel")) return undefined;
  const message = raw as { toDict?: () => { type: string; data: object }; lc_id?: string[] } | null;
  if (typeof message?.toDict !== "function") return value;
  const { type, data } = message.toDict();
  const isToken =
    Array.isArray(this) && key === "0" && this.length === 2 && message.lc_id?.at(-1) === "AIMessageChunk";
  return { ...data, type: isToken ? "AIMessageChunk" : type };
}

/** Ids, times, and what only one of the two runs has: by their order of appearance, or gone. */
function comparable(parts: readonly Part[]): unknown {
  const ids = new Map<string, string>();
  const uuid = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;
  const only = new Set(["run_id", "thread_id", "timestamp", "createdAt", "durability", "signal"]);
  const json = JSON.stringify(parts, (key, value) => {
    if (only.has(key)) return undefined;
    // Fields of a message that carry nothing.
    if (value === null || (Array.isArray(value) && value.length === 0 && key !== "ns" && key !== "next"))
      return undefined;
    if (
      typeof value === "object" &&
      !Array.isArray(value) &&
      key !== "data" &&
      Object.keys(value).length === 0
    )
      return undefined;
    return value;
  });
  return JSON.parse(
    json.replace(uuid, (id) => {
      if (!ids.has(id)) ids.set(id, `id-${ids.size}`);
      return ids.get(id)!;
    }),
  );
}

describe("P1: LangGraph's streaming page, through the whole line", () => {
  test.each(table)("%s", async (_, example) => {
    const client = await line.client();
    const { graph, input, modes, subgraphs } = example;
    const run = await client.start({
      agent: graph,
      input: input as never,
      modes,
      ...(subgraphs === undefined ? {} : { subgraphs }),
    });
    await until(() => run.ending !== undefined);
    expect(run.ending?.event).toBe("completed");
    expect(run.problems).toEqual([]);
    const parts = run.parts.filter(({ type }) => type !== "lifecycle");
    const expected = await direct(example);
    expect(expected.length).toBeGreaterThan(0);
    expect(comparable(parts)).toEqual(comparable(expected));
  });

  test.each([
    ["tags", "tagged", { tags: ["joke"] }, "ha ha"],
    ["node", "nodes", { nodes: ["write_poem"] }, "la la"],
  ] as const)("filter by %s", async (_, agent, filter, text) => {
    const client = await line.client();
    const { runId } = await client.call("run.start", {
      agent,
      input: ice,
      modes: ["messages"],
      subscribe: false,
    });
    const run = await client.follow(runId, { filter: filter as never });
    await until(() => run.ending !== undefined);
    expect(run.text).toBe(text);
  });

  test("events, beside other modes, of one execution of the graph", async () => {
    const client = await line.client();
    const run = await client.start({ agent: "tokens", input: ice, modes: ["events", "messages", "updates"] });
    await until(() => run.ending !== undefined);
    const events = run.parts.flatMap((part) =>
      part.type === "events" ? [part.data as { event: string; name: string; data: never }] : [],
    );
    const streamed = events.filter(({ event }) => event === "on_chat_model_stream");
    expect(streamed.map(({ data }) => (data as { chunk: { content: string } }).chunk.content)).toEqual([
      "Why ",
      "did ",
      "it?",
    ]);
    expect(run.text).toBe("Why did it?");
    expect(run.parts.filter(({ type }) => type === "updates")).toHaveLength(1);
    const own: string[] = [];
    for await (const { event, name } of tokens.streamEvents(ice, { version: "v2" })) {
      if (event !== "on_chain_stream" || name !== "LangGraph") own.push(`${event} ${name}`);
    }
    expect(events.map(({ event, name }) => `${event} ${name}`)).toEqual(own);
  });

  test("agent.list tells what a graph can stream", async () => {
    const client = await line.client();
    const { agents } = await client.call("agent.list", {});
    const modes = [
      "messages",
      "values",
      "updates",
      "custom",
      "tasks",
      "debug",
      "tools",
      "checkpoints",
      "events",
    ];
    expect(agents.find(({ name }) => name === "steps")?.modes).toEqual(modes);
  });
});
