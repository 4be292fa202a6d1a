/** What comes in: an agent's input, parsed, and the text of a message. */
import { type AgentContext, PublicError } from "@throughline/worker";
import type { z } from "zod";

export type Message = AgentContext["messages"][number];

/** The input of a run is not what its agent takes, or asks for what cannot be done. */
export class InputError extends PublicError {
  override readonly name = "InputError";
  override readonly code = "invalid_argument";
}

/** The input as the schema has it. Throws an InputError that names every field that is wrong. */
export function parseInput<Schema extends z.ZodType>(schema: Schema, input: unknown): z.infer<Schema> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues.map((issue) => `${issue.path.join(".") || "input"}: ${issue.message}`);
  throw new InputError(issues.join("; "));
}

/** The text of a message; of content blocks, that of the text blocks. */
export function textOf(message: Message): string {
  if (typeof message.content === "string") return message.content;
  let text = "";
  for (const block of message.content) {
    if (typeof block === "string") text += block;
    else if (
      block !== null &&
      typeof block === "object" &&
      "text" in block &&
      typeof block.text === "string"
    ) {
      text += block.text;
    }
  }
  return text;
}

export function isAi(message: Message): boolean {
  return message.type === "ai" || message.type === "AIMessageChunk";
}
