/**
 * Where a run is struck, and when. A scene is a graph in which `first` says FIRST, `strike` is struck, and `last` says
 * LAST, at some depth of a graph; and a count of how often each node ran.
 */
import type { BaseMessage } from "@langchain/core/messages";
import type { Said, Script } from "../graphs.ts";
import { until } from "../until.ts";
import { type Library, modelOf } from "./library.ts";

export const places = [
  "root",
  "calling",
  "subgraph",
  "nested",
  "stateful",
  "tool",
  "send",
  "parallel",
  "task",
] as const;
/** Where: a node of the root; one that calls a graph; a subgraph; a subgraph of one; one that keeps its state; … */
export type Place = (typeof places)[number];

export const moments = [
  "before a token",
  "in a token",
  "between nodes",
  "in a call's arguments",
  "in a tool",
  "in a router",
  "while waiting",
] as const;
export type Moment = (typeof moments)[number];

/** What happens at the first visit of the place that is struck. */
export type Fate = "stand" | "throw" | "pass";

type State = { messages: BaseMessage[] };
interface Config {
  signal?: AbortSignal;
}
type Compiled = { invoke(input: unknown): Promise<State> };
interface Builder {
  addNode(name: string, run: unknown, options?: unknown): Builder;
  addEdge(from: string | string[], to: string): Builder;
  addConditionalEdges(from: string, route: unknown, ends?: string[]): Builder;
  compile(options?: unknown): Compiled;
}

export class Scene {
  readonly graph: unknown;
  /** By node: how often it ran, and by tool. */
  readonly ran = new Map<string, number>();
  /** Characters that its models have said. */
  said = 0;
  /** The run stands where it is to be struck. */
  struck = false;
  readonly #library: Library;
  readonly #place: Place;
  readonly #moment: Moment;
  readonly #fate: Fate;
  #release!: () => void;
  readonly #released = new Promise<void>((resolve) => {
    this.#release = resolve;
  });

  /** `pass`: nothing is struck, and what would have been cut off is all that is said. */
  constructor(library: Library, place: Place, moment: Moment, fate: Fate) {
    this.#library = library;
    this.#place = place;
    this.#moment = moment;
    this.#fate = fate;
    this.graph = this.#build();
  }

  /** Who stands goes on. */
  release(): void {
    this.#release();
  }

  #count(name: string): number {
    const times = (this.ran.get(name) ?? 0) + 1;
    this.ran.set(name, times);
    return times;
  }

  /** The first to come here is struck. */
  async #strike(signal: AbortSignal | undefined): Promise<void> {
    if (this.struck || this.#fate === "pass") return;
    // What runs beside it has finished by then: what is kept of it is not left to chance.
    const beside = { send: ["send 0", "send 2"], parallel: ["a", "c"] }[this.#place as string] ?? [];
    await until(() => beside.every((name) => this.ran.has(name)));
    await new Promise((resolve) => setTimeout(resolve, beside.length * 10));
    this.struck = true;
    if (this.#fate === "throw") throw new RangeError("429 from the provider");
    await new Promise<void>((resolve, reject) => {
      void this.#released.then(resolve);
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      if (signal?.aborted) reject(signal.reason);
    });
  }

  #build(): unknown {
    switch (this.#place) {
      case "root":
        return this.#row().compile();
      case "subgraph":
        return this.#after(this.#row().compile());
      case "stateful":
        return this.#after(this.#row().compile({ checkpointer: true }));
      case "nested":
        return this.#after(
          this.#state().addNode("inner", this.#row().compile()).addEdge("__start__", "inner").compile(),
        );
      case "calling":
        return this.#calling(this.#row().compile());
      case "tool":
        return this.#toolAround(this.#row().compile());
      case "parallel":
        return this.#parallel();
      case "send":
        return this.#send();
      case "task":
        return this.#flow();
    }
  }

  #state(): Builder {
    const { StateGraph, MessagesAnnotation } = this.#library.graph;
    return new StateGraph(MessagesAnnotation) as never;
  }

  /** first → strike (→ work) → last */
  #row(): Builder {
    const row = this.#state()
      .addNode("first", this.#says("first"))
      .addNode("strike", this.#strikeNode())
      .addNode("last", this.#lastNode())
      .addEdge("__start__", "first")
      .addEdge("first", "strike");
    return this.#leave(row, "strike");
  }

  /** How the node that is struck is left for `last`. */
  #leave(row: Builder, from: string): Builder {
    if (this.#moment === "in a tool" && !this.#worksInside) {
      return row.addNode("work", this.#workNode()).addEdge(from, "work").addEdge("work", "last");
    }
    if (this.#moment !== "in a router") return row.addEdge(from, "last");
    const router = async ({ messages }: State, config: Config) => {
      if (messages.at(-1)?.content === "STRIKE") {
        this.#count("router");
        await this.#strike(config.signal);
      }
      return "last";
    };
    return row.addConditionalEdges(from, router, ["last"]);
  }

  #after(inner: Compiled): unknown {
    return this.#state()
      .addNode("team", inner)
      .addNode("after", this.#says("after"))
      .addEdge("__start__", "team")
      .addEdge("team", "after")
      .compile();
  }

  #calling(inner: Compiled): unknown {
    const call = async ({ messages }: State) => {
      this.#count("caller");
      const answer = await inner.invoke({ messages });
      return { messages: answer.messages.slice(messages.length) };
    };
    return this.#state()
      .addNode("caller", call)
      .addNode("after", this.#says("after"))
      .addEdge("__start__", "caller")
      .addEdge("caller", "after")
      .compile();
  }

  #toolAround(inner: Compiled): unknown {
    const delegate = this.#library.core.tools.tool(
      async () => {
        this.#count("delegate");
        const { messages } = await inner.invoke({ messages: [{ role: "user", content: "q" }] });
        return messages
          .slice(1)
          .map(({ content }) => content)
          .join("|");
      },
      { name: "delegate", schema: { type: "object", properties: {} } as never },
    );
    const { ToolNode } = this.#library.prebuilt;
    return this.#state()
      .addNode("agent", this.#says("agent", "delegate"))
      .addNode("tools", new ToolNode([delegate]))
      .addNode("after", this.#says("after"))
      .addEdge("__start__", "agent")
      .addEdge("agent", "tools")
      .addEdge("tools", "after")
      .compile();
  }

  #parallel(): unknown {
    const row = this.#state()
      .addNode("first", this.#says("first"))
      .addNode("a", this.#says("a"))
      .addNode("strike", this.#strikeNode())
      .addNode("c", this.#says("c"))
      .addNode("last", this.#lastNode())
      .addEdge("__start__", "first")
      .addEdge("first", "a")
      .addEdge("first", "strike")
      .addEdge("first", "c")
      .addEdge("a", "last")
      .addEdge("c", "last");
    return this.#leave(row, "strike").compile();
  }

  #send(): unknown {
    const { Send } = this.#library.graph;
    const strike = this.#strikeNode();
    const branch = async (state: State & { i: number }, config: Config) =>
      state.i === 1 ? await strike(state, config) : await this.#says(`send ${state.i}`)(state);
    const row = this.#state()
      .addNode("first", this.#says("first"))
      .addNode("branch", branch)
      .addNode("last", this.#lastNode())
      .addEdge("__start__", "first")
      .addConditionalEdges(
        "first",
        ({ messages }: State) => [0, 1, 2].map((i) => new Send("branch", { messages, i })),
        ["branch"],
      );
    return this.#leave(row, "branch").compile();
  }

  #flow(): unknown {
    const { entrypoint, interrupt, getConfig } = this.#library.graph;
    const task = this.#library.graph.task as (name: string, run: unknown) => (state: State) => Promise<State>;
    const first = task("first", this.#says("first"));
    const strikes = this.#strikeNode();
    const strike = task("strike", (state: State) => strikes(state, getConfig() as Config));
    const ends = this.#lastNode();
    const last = task("last", (state: State) => ends(state, getConfig() as Config));
    return entrypoint("flow", async ({ messages }: State) => {
      const all = [...messages];
      const add = async (answer: Promise<State>) => {
        all.push(...(await answer).messages);
      };
      await add(first({ messages: all }));
      if (this.#moment === "while waiting") {
        const answer = interrupt("sure?");
        this.#count("answered");
        all.push({ role: "ai", content: `STRIKE ${answer}` } as never);
      } else await add(strike({ messages: all }));
      await add(last({ messages: all }));
      return { messages: all };
    });
  }

  #says(name: string, calls?: string) {
    return async ({ messages }: State): Promise<State> => {
      this.#count(name);
      const said = calls === undefined ? name.toUpperCase() : call(calls);
      return { messages: [await this.#model(says(said)).invoke(messages)] };
    };
  }

  #lastNode() {
    const says = this.#says("last");
    return async (state: State, config: Config): Promise<State> => {
      if (this.#moment === "between nodes") await this.#strike(config?.signal);
      return await says(state);
    };
  }

  #strikeNode() {
    const { interrupt } = this.#library.graph;
    return async ({ messages }: State, config: Config): Promise<State> => {
      const isFirst = this.#count("strike") === 1;
      if (this.#moment === "while waiting") {
        const answer = interrupt("sure?");
        this.#count("answered");
        return { messages: [await this.#model(says(`STRIKE ${answer}`)).invoke(messages)] };
      }
      const scene = this;
      const script: Script = async function* (_, signal) {
        switch (scene.#moment) {
          case "before a token":
            await scene.#strike(signal);
            yield "STRIKE";
            return;
          case "in a token":
            yield* isFirst ? ["CU", "T"] : ["STRIKE"];
            return await scene.#strike(signal);
          case "in a call's arguments":
            if (!isFirst) yield "STRIKE";
            else {
              yield "LET";
              if (scene.#fate !== "pass") yield { toolCall: { ...call("work").toolCall, args: '{"q":"a' } };
            }
            return await scene.#strike(signal);
          case "in a tool":
            yield call("work");
            return;
          default:
            yield "STRIKE";
        }
      };
      const answer = await this.#model(script).invoke(messages);
      if (this.#moment !== "in a tool" || !this.#worksInside) return { messages: [answer] };
      const { tool_calls } = answer as unknown as { tool_calls: object[] };
      const worked = await this.#work().invoke(
        { ...tool_calls[0], type: "tool_call" } as never,
        config as never,
      );
      return { messages: [answer, worked as never] };
    };
  }

  /** There is no room for a node of tools behind the one that is struck: it calls the tool itself. */
  get #worksInside(): boolean {
    return this.#place === "send" || this.#place === "parallel" || this.#place === "task";
  }

  #work() {
    return this.#library.core.tools.tool(
      async (_: unknown, config: Config) => {
        this.#count("work");
        await this.#strike(config.signal);
        return "worked";
      },
      { name: "work", schema: { type: "object", properties: {} } as never },
    );
  }

  #workNode(): unknown {
    const { ToolNode } = this.#library.prebuilt;
    return new ToolNode([this.#work()] as never);
  }

  #model(script: Script) {
    const scene = this;
    return modelOf(this.#library, async function* (messages, signal) {
      for await (const said of script(messages, signal)) {
        if (typeof said === "string") scene.said += said.length;
        yield said;
      }
    });
  }
}

function says(...said: Said[]): Script {
  return async function* () {
    yield* said;
  };
}

let calls = 0;

function call(name: string) {
  return {
    toolCall: { type: "tool_call_chunk" as const, index: 0, id: `call-${calls++}`, name, args: "{}" },
  };
}
