/**
 * Chat models for the example graphs, as LangChain knows them: one behind an OpenAI-compatible endpoint, and one that
 * needs no endpoint, since what it says is worked out here.
 */
import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessageChunk, type AIMessageChunkFields, type BaseMessage } from "@langchain/core/messages";
import { ChatGenerationChunk, type ChatResult } from "@langchain/core/outputs";
import { type ChatSettings, complete } from "../completion.ts";
import { history } from "../history.ts";
import { isAi, type Message, textOf } from "../input.ts";
import { Pace } from "../pace.ts";
import { defaultStory } from "../story.ts";
import { tokens } from "../tokens.ts";

/** A model that always streams; asked for an answer in one piece, it joins the pieces. */
abstract class StreamingModel extends BaseChatModel {
  protected abstract chunks(messages: Message[], signal: AbortSignal): AsyncIterable<AIMessageChunkFields>;

  constructor() {
    // What was streamed stays as it was streamed: nothing is tried again.
    super({ maxRetries: 0 });
  }

  override async *_streamResponseChunks(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    manager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    const signal = options.signal ?? new AbortController().signal;
    for await (const fields of this.chunks(messages.map(flat), signal)) {
      const text = typeof fields.content === "string" ? fields.content : "";
      const chunk = new ChatGenerationChunk({ text, message: new AIMessageChunk(fields) });
      yield chunk;
      await manager?.handleLLMNewToken(text, undefined, undefined, undefined, undefined, { chunk });
    }
  }

  override async _generate(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    manager?: CallbackManagerForLLMRun,
  ): Promise<ChatResult> {
    let whole: ChatGenerationChunk | undefined;
    for await (const chunk of this._streamResponseChunks(messages, options, manager)) {
      whole = whole?.concat(chunk) ?? chunk;
    }
    return { generations: whole === undefined ? [] : [whole] };
  }
}

/** Any model behind an OpenAI-compatible chat completions endpoint. */
export class EndpointModel extends StreamingModel {
  readonly #settings: ChatSettings;

  constructor(settings: ChatSettings) {
    super();
    this.#settings = settings;
  }

  override _llmType(): string {
    return "openai-compatible";
  }

  protected override async *chunks(
    messages: Message[],
    signal: AbortSignal,
  ): AsyncGenerator<AIMessageChunkFields> {
    for await (const { text, thought, fields } of complete(
      history(messages, undefined),
      this.#settings,
      signal,
    )) {
      if (thought !== undefined) yield { content: "", additional_kwargs: { reasoning_content: thought } };
      if (text !== undefined) yield { content: text };
      if (fields !== undefined) yield { content: "", ...fields };
    }
  }
}

/** Says what `text` makes of the conversation, token by token, at a steady rate. */
export class RecitingModel extends StreamingModel {
  readonly #text: (messages: readonly Message[]) => string;
  readonly #tokensPerSecond: number;

  /** `tokensPerSecond` 0: as fast as it goes. */
  constructor(text: (messages: readonly Message[]) => string, tokensPerSecond: number) {
    super();
    this.#text = text;
    this.#tokensPerSecond = tokensPerSecond;
  }

  override _llmType(): string {
    return "reciting";
  }

  protected override async *chunks(
    messages: Message[],
    signal: AbortSignal,
  ): AsyncGenerator<AIMessageChunkFields> {
    const pace = new Pace(this.#tokensPerSecond, signal);
    for (const content of tokens(this.#text(messages))) {
      const due = pace.next();
      if (due !== undefined) await due;
      yield { content };
    }
  }
}

/** What is left of the story after what the conversation has of it; all of it where that is nothing, or everything. */
export function restOfStory(messages: readonly Message[], story = defaultStory): string {
  let told = 0;
  for (const answer of messages.filter(isAi).map(textOf)) {
    if (story.startsWith(answer, told)) told += answer.length;
    else if (story.startsWith(answer)) told = answer.length;
    if (told === story.length) told = 0;
  }
  return story.slice(told);
}

function flat(message: BaseMessage): Message {
  const { type, data } = message.toDict();
  return { ...data, type } as Message;
}
