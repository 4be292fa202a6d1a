/** Graphs for tests, and a chat model whose every token a test can hold back. */

import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import { BaseChatModel } from "@langchain/core/language_models/chat_models";
import type { BaseMessage } from "@langchain/core/messages";
import { AIMessage, AIMessageChunk, type ToolCallChunk } from "@langchain/core/messages";
import { ChatGenerationChunk, type ChatResult } from "@langchain/core/outputs";

/** What a model says, token by token, to these messages. */
export type Script = (messages: BaseMessage[], signal: AbortSignal | undefined) => AsyncIterable<Said>;
export type Said = string | { toolCall: ToolCallChunk };

/** Streams what its script says. With `streaming: false` it answers in one piece. */
export class ScriptedModel extends BaseChatModel {
  readonly #script: Script;
  readonly #streams: boolean;

  constructor(script: Script, { streaming = true, tags }: { streaming?: boolean; tags?: string[] } = {}) {
    super(tags === undefined ? {} : { tags });
    this.#script = script;
    this.#streams = streaming;
    if (!streaming) this.disableStreaming = true;
  }

  override _llmType(): string {
    return "scripted";
  }

  override async _generate(messages: BaseMessage[], options: this["ParsedCallOptions"]): Promise<ChatResult> {
    let text = "";
    for await (const said of this.#script(messages, options.signal))
      if (typeof said === "string") text += said;
    return { generations: [{ text, message: new AIMessage({ content: text }) }] };
  }

  override async *_streamResponseChunks(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    manager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    if (!this.#streams) throw new Error("this model does not stream");
    for await (const said of this.#script(messages, options.signal)) {
      const text = typeof said === "string" ? said : "";
      const message = new AIMessageChunk({
        content: text,
        ...(typeof said === "string" ? {} : { tool_call_chunks: [said.toolCall] }),
      });
      const chunk = new ChatGenerationChunk({ text, message });
      yield chunk;
      await manager?.handleLLMNewToken(text, undefined, undefined, undefined, undefined, { chunk });
    }
  }
}

/** A model that says these tokens, whatever it is told. */
export function saying(...tokens: string[]): ScriptedModel {
  return new ScriptedModel(async function* () {
    for (const token of tokens) yield token;
  });
}

/** Says these tokens, and then nothing until it is stopped. */
export function stuckAfter(...tokens: Said[]): Script {
  return async function* (_, signal) {
    yield* tokens;
    await new Promise((_, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  };
}
