/** The LangGraph that a matrix is about: each version brings its own, with a LangChain core of its own. */
import type { AIMessageChunk, BaseMessage } from "@langchain/core/messages";
import type { ToolCall } from "@langchain/core/messages/tool";
import type { ChatGenerationChunk, ChatResult } from "@langchain/core/outputs";
import type { Script } from "../graphs.ts";

export interface Library {
  graph: typeof import("@langchain/langgraph");
  prebuilt: typeof import("@langchain/langgraph/prebuilt");
  core: {
    chatModels: typeof import("@langchain/core/language_models/chat_models");
    messages: typeof import("@langchain/core/messages");
    outputs: typeof import("@langchain/core/outputs");
    tools: typeof import("@langchain/core/tools");
  };
}

/** A chat model of this library that says what its script says. */
export function modelOf(
  { core }: Library,
  script: Script,
): { invoke(messages: unknown): Promise<BaseMessage> } {
  const { AIMessageChunk: Chunk, AIMessage: Message } = core.messages;
  class Model extends core.chatModels.BaseChatModel {
    override _llmType(): string {
      return "scripted";
    }
    /** Where nobody listens LangChain asks for all at once. */
    override async _generate(
      messages: BaseMessage[],
      options: this["ParsedCallOptions"],
    ): Promise<ChatResult> {
      let text = "";
      const tool_calls: ToolCall[] = [];
      for await (const said of script(messages, options.signal)) {
        if (typeof said === "string") text += said;
        else tool_calls.push({ name: said.toolCall.name!, id: said.toolCall.id!, args: {} });
      }
      return { generations: [{ text, message: new Message({ content: text, tool_calls }) }] };
    }
    override async *_streamResponseChunks(
      messages: BaseMessage[],
      options: this["ParsedCallOptions"],
      manager?: { handleLLMNewToken(...args: unknown[]): Promise<void> },
    ): AsyncGenerator<ChatGenerationChunk> {
      for await (const said of script(messages, options.signal)) {
        const text = typeof said === "string" ? said : "";
        const message: AIMessageChunk = new Chunk({
          content: text,
          ...(typeof said === "string" ? {} : { tool_call_chunks: [said.toolCall] }),
        });
        const chunk = new core.outputs.ChatGenerationChunk({ text, message });
        yield chunk;
        await manager?.handleLLMNewToken(text, undefined, undefined, undefined, undefined, { chunk });
      }
    }
  }
  return new Model({}) as never;
}
