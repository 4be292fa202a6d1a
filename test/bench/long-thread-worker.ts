/** The worker of the long thread: a function agent and two graphs that say the same. */
import { setTimeout as sleep } from "node:timers/promises";
import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessageChunk, type BaseMessage } from "@langchain/core/messages";
import { ChatGenerationChunk, type ChatResult } from "@langchain/core/outputs";
import { MessagesAnnotation, StateGraph } from "@langchain/langgraph";
import { reportReady } from "@throughline/kit";
import { type AgentContext, serve, token } from "@throughline/worker";

const tokens = 10;

/** 220 characters in ten tokens, no two answers alike. */
function answer(count: number): string[] {
  return Array.from({ length: tokens }, (_, i) => `${count}.${i} `.padEnd(22, "answer"));
}

class Model extends BaseChatModel {
  _llmType(): string {
    return "bench";
  }

  override async *_streamResponseChunks(
    messages: BaseMessage[],
    _options: this["ParsedCallOptions"],
    runManager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    for (const content of answer(messages.length)) {
      const chunk = new ChatGenerationChunk({ text: content, message: new AIMessageChunk({ content }) });
      yield chunk;
      await runManager?.handleLLMNewToken(content, undefined, undefined, undefined, undefined, { chunk });
    }
  }

  override _generate(): Promise<ChatResult> {
    throw new Error("this model only streams");
  }
}

const model = new Model({});
const graph = new StateGraph(MessagesAnnotation)
  .addNode("llm", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
  .addEdge("__start__", "llm")
  .addEdge("llm", "__end__")
  .compile();

const steps = new StateGraph(MessagesAnnotation)
  .addNode("llm", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
  .addNode("check", () => ({}))
  .addEdge("__start__", "llm")
  .addEdge("llm", "check")
  .addEdge("check", "__end__")
  .compile();

async function* plain({ messages }: AgentContext) {
  for (const text of answer(messages.length)) yield token(text);
  await sleep(0);
}

const worker = await serve({
  agents: { function: plain, graph, steps },
  redis: process.env.REDIS_URL as string,
});
process.once("disconnect", () => process.exit(0));
process.once("SIGTERM", () => void worker.close().then(() => process.exit(0)));
reportReady();
