/**
 * The graphs of the chaos worker. What a node says follows from the run's input; the id of its message is its
 * execution's, which no other one has: whether a node was executed again can be told from the log and the checkpoints.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessage, AIMessageChunk, type BaseMessage } from "@langchain/core/messages";
import { ChatGenerationChunk, type ChatResult } from "@langchain/core/outputs";
import { tool } from "@langchain/core/tools";
import {
  Annotation,
  entrypoint,
  getConfig,
  getPreviousState,
  interrupt,
  type LangGraphRunnableConfig,
  MessagesAnnotation,
  messagesStateReducer,
  START,
  StateGraph,
  task,
} from "@langchain/langgraph";
import { ToolNode } from "@langchain/langgraph/prebuilt";
import type { Graph } from "@throughline/worker";
import { aside, executionKey, type GraphName, type Lines, lineOf, tokenAt } from "./text.ts";

interface Speech extends Pick<Lines, "seed" | "tokens" | "paceMs"> {
  /** The tool that is called when all is said. */
  calls?: string;
}

/** Says one message, token by token, for as long as nobody stops it. */
class Speaker extends BaseChatModel {
  readonly #id: string;
  readonly #speech: Speech;

  constructor(id: string, speech: Speech, tags: string[]) {
    super({ tags });
    this.#id = id;
    this.#speech = speech;
  }

  override _llmType(): string {
    return "speaker";
  }

  override async _generate(messages: BaseMessage[], options: this["ParsedCallOptions"]): Promise<ChatResult> {
    let text = "";
    for await (const chunk of this._streamResponseChunks(messages, options)) text += chunk.text;
    return { generations: [{ text, message: new AIMessage({ id: this.#id, content: text }) }] };
  }

  override async *_streamResponseChunks(
    _: BaseMessage[],
    { signal }: this["ParsedCallOptions"],
    manager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    const { seed, tokens, paceMs, calls } = this.#speech;
    for (let i = 0; i < tokens; i++) {
      await sleep(paceMs, undefined, signal === undefined ? {} : { signal });
      const text = tokenAt(seed, i);
      const chunk = new ChatGenerationChunk({
        text,
        message: new AIMessageChunk({ id: this.#id, content: text }),
      });
      yield chunk;
      await manager?.handleLLMNewToken(text, undefined, undefined, undefined, undefined, { chunk });
    }
    if (calls === undefined) return;
    const id = `${this.#id}-call`;
    const call = { type: "tool_call_chunk" as const, index: 0, id, name: calls, args: "{}" };
    const chunk = new ChatGenerationChunk({
      text: "",
      message: new AIMessageChunk({ id: this.#id, content: "", tool_call_chunks: [call] }),
    });
    yield chunk;
    await manager?.handleLLMNewToken("", undefined, undefined, undefined, undefined, { chunk });
  }
}

/** The run's input, and which execution of a node it was that finished. */
const State = Annotation.Root({
  ...MessagesAnnotation.spec,
  seed: Annotation<string>,
  tokens: Annotation<number>,
  paceMs: Annotation<number>,
  outlineBy: Annotation<string>,
  factsBy: Annotation<string>,
  styleBy: Annotation<string>,
  draftBy: Annotation<string>,
  planBy: Annotation<string>,
  firstBy: Annotation<string>,
  deepBy: Annotation<string>,
  deeperBy: Annotation<string>,
  closingBy: Annotation<string>,
  oneBy: Annotation<string>,
  twoBy: Annotation<string>,
  askerBy: Annotation<string>,
  answererBy: Annotation<string>,
  questionBy: Annotation<string>,
  replyBy: Annotation<string>,
  answered: Annotation<unknown>,
});

/** Executions of this process. */
let executions = 0;

/** Says a speaker's line. Answers the message, and which execution it was. */
async function say(
  speaker: string,
  lines: Pick<Lines, "seed" | "tokens" | "paceMs">,
  config: LangGraphRunnableConfig,
  calls?: string,
): Promise<{ message: BaseMessage; by: Record<string, string> }> {
  executions += 1;
  const execution = `${config.metadata?.run_id}-${speaker}-${process.pid}.${executions}`;
  config.writer?.({ execution });
  const { seed, tokens, paceMs } = lineOf(lines, speaker);
  const model = new Speaker(execution, { seed, tokens, paceMs, ...(calls && { calls }) }, [speaker]);
  const metadata = { ...config.metadata, pid: process.pid };
  const message = await model.invoke([], { ...config, metadata });
  return { message, by: { [executionKey(speaker)]: execution } };
}

/** A node that says its line. */
function says(speaker: string, calls?: string) {
  return async (state: typeof State.State, config: LangGraphRunnableConfig) => {
    const { message, by } = await say(speaker, state, config, calls);
    return { messages: [message], ...by };
  };
}

/** Two in the middle say their lines at once. */
const essay = new StateGraph(State)
  .addNode("outline", says("outline"))
  .addNode("facts", says("facts"))
  .addNode("style", says("style"))
  .addNode("draft", says("draft"))
  .addEdge(START, "outline")
  .addEdge("outline", "facts")
  .addEdge("outline", "style")
  .addEdge(["facts", "style"], "draft")
  .compile();

/** Waits for a person in between. */
const asking = new StateGraph(State)
  .addNode("question", says("question"))
  .addNode("ask", ({ seed }) => ({ answered: interrupt({ question: seed }) }))
  .addNode("reply", says("reply"))
  .addEdge(START, "question")
  .addEdge("question", "ask")
  .addEdge("ask", "reply")
  .compile();

/** A subgraph in a subgraph, behind a router that needs its run's config, and fails without. */
const inner = new StateGraph(State)
  .addNode("deep", says("deep"))
  .addNode("deeper", says("deeper"))
  .addEdge(START, "deep")
  .addEdge("deep", "deeper")
  .compile();
const outer = new StateGraph(State)
  .addNode("first", says("first"))
  .addNode("inner", inner)
  .addEdge(START, "first")
  .addEdge("first", "inner")
  .compile();
const team = new StateGraph(State)
  .addNode("plan", says("plan"))
  .addNode("outer", outer)
  .addNode("closing", says("closing"))
  .addEdge(START, "plan")
  .addConditionalEdges("plan", (_, config: LangGraphRunnableConfig) => config.configurable?.route.to, [
    "outer",
  ])
  .addEdge("outer", "closing")
  .compile();

/** A node that calls a graph, and answers what that said. */
const called = new StateGraph(State)
  .addNode("one", says("one"))
  .addNode("two", says("two"))
  .addEdge(START, "one")
  .addEdge("one", "two")
  .compile();
const calling = new StateGraph(State)
  .addNode("caller", async ({ messages, ...state }) => {
    const { messages: all, oneBy, twoBy } = await called.invoke({ ...state, messages });
    return { messages: all.slice(messages.length), oneBy, twoBy };
  })
  .addEdge(START, "caller")
  .compile();

/** A model that calls a tool, in which another one speaks. */
const look = (lines: Lines) =>
  tool(
    async (_: unknown, config: LangGraphRunnableConfig) => {
      await say(aside, lines, config);
      return "found";
    },
    { name: "look", description: "Looks.", schema: { type: "object", properties: {} } },
  );
const tooling = new StateGraph(State)
  .addNode("asker", says("asker", "look"))
  .addNode("tools", async (state, config) => {
    const { messages } = await new ToolNode([look(state as never)]).invoke(state, config);
    return { messages };
  })
  .addNode("answerer", says("answerer"))
  .addEdge(START, "asker")
  .addEdge("asker", "tools")
  .addEdge("tools", "answerer")
  .compile();

/** The functional API: it answers its turn, and what it had heard before. */
const sayTask = (speaker: string) => task(speaker, (lines: Lines) => say(speaker, lines, getConfig()));
const opening = sayTask("opening");
const ending = sayTask("ending");
const flow = entrypoint("flow", async (lines: Lines) => {
  const before = getPreviousState<{ messages: BaseMessage[] }>()?.messages ?? [];
  const first = await opening(lines);
  const last = await ending(lines);
  const messages = [...lines.messages, first.message, last.message];
  const saved = messagesStateReducer(before, messages as never);
  const heard = before.map(({ id, type, content }) => (type === "human" ? content : id));
  return entrypoint.final({ value: { messages, heard, ...first.by, ...last.by }, save: { messages: saved } });
});

export const graphs: Record<GraphName, Graph> = {
  essay,
  asking,
  team,
  calling,
  tooling,
  flow: flow as unknown as Graph,
};
