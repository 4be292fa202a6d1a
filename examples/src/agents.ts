/** The agents that this worker offers. */
import type { Agent } from "@throughline/worker";
import { chat } from "./chat.ts";
import { chatSettings, type Environment } from "./completion.ts";
import { digest } from "./digest.ts";
import { chatGraph } from "./graphs/chat-graph.ts";
import { research } from "./graphs/research.ts";
import { storyteller } from "./storyteller.ts";

/** The agents by name; `chat` only where the environment names a model. Throws a ConfigError. */
export function agents(env: Environment = process.env): Record<string, Agent> {
  const all: Record<string, Agent> = {
    storyteller,
    digest,
    "chat-graph": chatGraph(env),
    research: research(env),
  };
  if (chatSettings(env) !== undefined) all.chat = chat(env);
  return all;
}
