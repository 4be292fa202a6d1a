/** The graph that is measured: one node, whose model says the benchmark's tokens. */
import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessageChunk, type BaseMessage } from "@langchain/core/messages";
import { ChatGenerationChunk, type ChatResult } from "@langchain/core/outputs";
import { MessagesAnnotation, StateGraph } from "@langchain/langgraph";
import { type Load, text, until } from "./load.ts";

/** As fast as LangChain takes them: what is measured is not the model. */
class BenchModel extends BaseChatModel {
  _llmType(): string {
    return "bench";
  }

  override async *_streamResponseChunks(
    messages: BaseMessage[],
    _options: this["ParsedCallOptions"],
    runManager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    const load = JSON.parse(messages.at(-1)?.content as string) as Load;
    await until(load.startAt);
    for (let i = 0; i < load.parts; i++) {
      const content = text();
      const chunk = new ChatGenerationChunk({ text: content, message: new AIMessageChunk({ content }) });
      yield chunk;
      await runManager?.handleLLMNewToken(content, undefined, undefined, undefined, undefined, { chunk });
    }
  }

  /** LangChain calls it for a model that cannot stream; this one is always streamed from. */
  override _generate(): Promise<ChatResult> {
    throw new Error("the benchmark's model only streams");
  }
}

const model = new BenchModel({});

/** Without a checkpointer: the line gives it its own, the floor one in memory. */
export const graph = new StateGraph(MessagesAnnotation)
  .addNode("llm", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
  .addEdge("__start__", "llm")
  .addEdge("llm", "__end__");

export function graphInput(load: Load): { messages: { role: string; content: string }[] } {
  return { messages: [{ role: "human", content: JSON.stringify(load) }] };
}
