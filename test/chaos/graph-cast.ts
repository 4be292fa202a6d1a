/**
 * The graphs of the chaos worker. What a node says follows from the run's input; the id of its message is its
 * execution's, which no other one has: whether a node was executed again can be told from the log and the checkpoints.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessage, AIMessageChunk, type BaseMessage } from "@langchain/core/messages";
import { ChatGenerationChunk, type ChatResult } from "@langchain/core/outputs";
import {
  Annotation,
  interrupt,
  type LangGraphRunnableConfig,
  MessagesAnnotation,
  START,
  StateGraph,
} from "@langchain/langgraph";
import type { Graph } from "@throughline/worker";
import { executionKey, type GraphName, type Lines, lineOf, tokenAt } from "./text.ts";

type Speech = Pick<Lines, "seed" | "tokens" | "paceMs">;

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
    const { seed, tokens, paceMs } = this.#speech;
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
  questionBy: Annotation<string>,
  replyBy: Annotation<string>,
  answered: Annotation<unknown>,
});

/** Executions of this process. */
let executions = 0;

/** A node that says its line. */
function says(speaker: string) {
  return async (state: typeof State.State, config: LangGraphRunnableConfig) => {
    executions += 1;
    const execution = `${config.metadata?.run_id}-${speaker}-${process.pid}.${executions}`;
    config.writer?.({ execution });
    const model = new Speaker(execution, lineOf(state, speaker), [speaker]);
    const metadata = { ...config.metadata, pid: process.pid };
    const message = await model.invoke(state.messages, { ...config, metadata });
    return { messages: [message], [executionKey(speaker)]: execution };
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

export const graphs: Record<GraphName, Graph> = { essay, asking };
