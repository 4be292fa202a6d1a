/** What `connect<typeof agents>()` knows. Most of it is held by the compiler alone; these lines must not need a cast. */
import { Annotation, MessagesAnnotation, StateGraph } from "@langchain/langgraph";
import type { Connection, CustomOf, connect, InputOf, StateOf } from "@throughline/client";
import type { Conversation, conversation } from "@throughline/client/conversation";
import type { useThread } from "@throughline/client/react";
import { type AgentContext, agent, custom, perRun, token, update } from "@throughline/worker";
import { expect, expectTypeOf, test } from "vitest";

interface Asked {
  topic: string;
  words?: number;
}

async function* plain({ input }: AgentContext<Asked>) {
  yield token(input.topic);
  yield "and so on";
  yield custom({ progress: 0.5 });
  yield update({ topic: input.topic });
  yield update({ words: 3 });
}

async function* silent() {
  yield "nothing is known of me";
}

const State = Annotation.Root({ ...MessagesAnnotation.spec, title: Annotation<string> });
const graph = new StateGraph(State)
  .addNode("a", () => ({ title: "t" }))
  .addEdge("__start__", "a")
  .compile();

const agents = {
  plain,
  silent,
  graph,
  withOptions: agent(plain, { takeover: "resume" }),
  inline: agent(async function* ({ input }: AgentContext<number>) {
    yield `${input}`;
  }),
  graphWithOptions: agent(graph, { description: "G" }),
  each: perRun(() => graph),
};
type Mine = typeof agents;

test("inputs, states and custom data of agents are known by their types", () => {
  expectTypeOf<InputOf<Mine["plain"]>>().toEqualTypeOf<Asked>();
  expectTypeOf<InputOf<Mine["withOptions"]>>().toEqualTypeOf<Asked>();
  expectTypeOf<InputOf<Mine["inline"]>>().toEqualTypeOf<number>();
  expectTypeOf<InputOf<Mine["silent"]>>().toEqualTypeOf<unknown>();
  expectTypeOf<CustomOf<Mine["plain"]>>().toEqualTypeOf<{ progress: number }>();
  expectTypeOf<CustomOf<Mine["withOptions"]>>().toEqualTypeOf<{ progress: number }>();
  expectTypeOf<CustomOf<Mine["silent"]>>().toEqualTypeOf<unknown>();
  expectTypeOf<StateOf<Mine["plain"]>["topic"]>().toEqualTypeOf<string>();
  expectTypeOf<StateOf<Mine["plain"]>["words"]>().toEqualTypeOf<number>();
  for (const title of ["graph", "graphWithOptions", "each"] as const) {
    expectTypeOf<StateOf<Mine[typeof title]>["title"]>().toEqualTypeOf<string>();
  }
  expectTypeOf<InputOf<Mine["graph"]>["title"]>().toEqualTypeOf<string | undefined>();
  expect(Object.keys(agents)).toHaveLength(7);
});

test("a connection knows the agents' names, and what each takes", () => {
  const use = (open: typeof connect, talk: typeof conversation, hook: typeof useThread) => {
    const connection = open<Mine>("ws://…");
    void connection.start({ agent: "plain", input: { topic: "sea" } });
    // @ts-expect-error there is no such agent
    void connection.start({ agent: "plane" });
    // @ts-expect-error not what it takes
    void connection.start({ agent: "plain", input: { topic: 1 } });
    const store = talk(connection, { agent: "plain" });
    void store.send({ topic: "sea" });
    void store.send("text");
    // @ts-expect-error not what it takes
    void store.send({ topics: [] });
    expectTypeOf(store.getSnapshot().custom).toEqualTypeOf<readonly { progress: number }[]>();
    expectTypeOf(store.getSnapshot().messages[0]!.custom[0]!.progress).toEqualTypeOf<number>();
    expectTypeOf(store.getSnapshot().state.topic).toEqualTypeOf<string | undefined>();
    const thread = hook(connection, { agent: "graph" });
    expectTypeOf(thread.state.title).toEqualTypeOf<string | undefined>();
    // @ts-expect-error there is no such agent
    hook(connection, { agent: "plane" });

    const any: Connection = open("ws://…");
    void any.start({ agent: "whatever", input: { a: 1 } });
    expectTypeOf(talk(any, { agent: "whatever" })).toEqualTypeOf<Conversation<unknown>>();
  };
  expect(use).toBeTypeOf("function");
});
