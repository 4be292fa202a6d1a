/** The agents that this worker offers. */
import type { Agent } from "@throughline/worker";
import { chat, chatSettings, type Environment } from "./chat.ts";
import { digest } from "./digest.ts";
import { storyteller } from "./storyteller.ts";

/** The agents by name; `chat` only where the environment names a model. Throws a ConfigError. */
export function agents(env: Environment = process.env): Record<string, Agent> {
  const all: Record<string, Agent> = { storyteller, digest };
  if (chatSettings(env) !== undefined) all.chat = chat(env);
  return all;
}
