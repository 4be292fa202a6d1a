/** Talks to any model behind an OpenAI-compatible endpoint; what holds of an answer, completion.ts says. */
import {
  type AgentContext,
  agent,
  custom,
  type FunctionAgent,
  PublicError,
  token,
  type Yielded,
} from "@throughline/worker";
import { chunk } from "./chunk.ts";
import { type ChatSettings, chatSettings, complete, type Environment } from "./completion.ts";
import { history } from "./history.ts";

/** Neither an endpoint nor a key was set. */
export class ChatNotConfigured extends PublicError {
  override readonly name = "ChatNotConfigured";
  override readonly code = "not_configured";

  constructor() {
    super(
      "chat needs a model: set OPENAI_API_KEY, or OPENAI_BASE_URL for an endpoint of your own, and OPENAI_MODEL",
    );
  }
}

/** The agent for the model that the environment names. Without one, its runs fail and say what to set. */
export function chat(env: Environment = process.env): FunctionAgent {
  const settings = chatSettings(env);
  return agent((context) => answer(context, settings), {
    description: settings === undefined ? "Chats with a model" : `Chats with ${settings.model}`,
  });
}

async function* answer(
  { input, messages, signal }: AgentContext,
  settings: ChatSettings | undefined,
): AsyncGenerator<Yielded, void, undefined> {
  if (settings === undefined) throw new ChatNotConfigured();
  const ids = new Set(messages.map((message) => message.id));
  for await (const delta of complete(history(messages, input), settings, signal)) {
    // Small servers number their completions anew; an id that the thread has would replace that message.
    const options = delta.id === undefined || ids.has(delta.id) ? undefined : { id: delta.id };
    if (delta.thought !== undefined) yield custom({ kind: "reasoning", text: delta.thought });
    if (delta.text !== undefined) yield token(delta.text, options);
    if (delta.fields !== undefined) yield chunk("", delta.fields, options);
  }
}
