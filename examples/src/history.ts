/** A thread's messages as a chat completions endpoint takes them. */
import type OpenAI from "openai";
import { z } from "zod";
import { InputError, type Message, textOf } from "./input.ts";

type Param = OpenAI.ChatCompletionMessageParam;

const toolCalls = z.array(z.object({ id: z.string(), name: z.string(), args: z.unknown() }));

/** The messages, and the input where it is a string that is not among them yet. Throws when there is nothing to answer. */
export function history(messages: readonly Message[], input: unknown): Param[] {
  const all = messages.flatMap(param);
  if (typeof input === "string" && input !== "") {
    const last = messages.at(-1);
    if (last?.type !== "human" || textOf(last) !== input) all.push({ role: "user", content: input });
  }
  if (all.length === 0)
    throw new InputError("input: there is nothing to answer: send a string, or {messages: […]}");
  return all;
}

function param(message: Message): Param[] {
  switch (message.type) {
    case "human":
    case "HumanMessageChunk":
      return [{ role: "user", content: userContent(message) }];
    case "system":
      return [{ role: "system", content: textOf(message) }];
    case "developer":
      return [{ role: "developer", content: textOf(message) }];
    case "ai":
    case "AIMessageChunk":
      return assistant(message);
    case "tool":
      return [{ role: "tool", tool_call_id: String(message.tool_call_id ?? ""), content: textOf(message) }];
    default:
      throw new InputError(
        `messages: a message of type ${JSON.stringify(message.type)} cannot be sent to a model`,
      );
  }
}

/** An answer that was stopped before its first word is left out: endpoints refuse empty ones. */
function assistant(message: Message): Param[] {
  const content = textOf(message);
  const calls = toolCalls.safeParse(message.tool_calls);
  if (calls.success && calls.data.length > 0) {
    const tool_calls = calls.data.map(({ id, name, args }) => ({
      id,
      type: "function" as const,
      function: { name, arguments: JSON.stringify(args ?? {}) },
    }));
    return [{ role: "assistant", content: content === "" ? null : content, tool_calls }];
  }
  return content === "" ? [] : [{ role: "assistant", content }];
}

/** Text as it is; content blocks go as they came, for they are OpenAI's own form (text, image_url, …). */
function userContent(message: Message): string | OpenAI.ChatCompletionContentPart[] {
  if (typeof message.content === "string") return message.content;
  return message.content as unknown as OpenAI.ChatCompletionContentPart[];
}
