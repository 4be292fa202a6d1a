/** Agents that are async generator functions: how one is driven, and what it may yield. */
import { normalizeMessages } from "@throughline/checkpoint";
import type { Part, StreamMode } from "@throughline/protocol";
import { streamModes } from "@throughline/protocol";
import { type Agent, type AgentContext, token, type Yielded } from "./agent.ts";
import type { Attempt } from "./attempt.ts";

/** An agent yielded what is no part. */
export class BadYieldError extends Error {
  override readonly name = "BadYieldError";
  readonly code = "bad_yield";
}

const known = new Set<string>(streamModes);

/**
 * Takes all that the agent yields, until it is done or the attempt is stopped. Rejects with what the agent threw.
 */
export async function drive(
  agent: Agent,
  name: string,
  context: AgentContext,
  attempt: Attempt,
  modes: ReadonlySet<StreamMode>,
): Promise<void> {
  const messageId = `${context.runId}-answer`;
  const inLog = (part: Part) => modes.has(part.type as StreamMode);
  const parts = (agent.run as (context: AgentContext) => AsyncIterable<Yielded>)(context);
  if (typeof parts?.[Symbol.asyncIterator] !== "function") {
    throw new BadYieldError(`agent ${name} is no async generator function: declare it as async function*`);
  }
  for await (const yielded of parts) {
    // `return` here runs the agent's own `finally`.
    if (attempt.reason !== undefined) return;
    const part = typeof yielded === "string" ? token(yielded) : yielded;
    complete(part, name, messageId);
    if (!inLog(part)) {
      attempt.foldOnly(part);
      continue;
    }
    const wait = attempt.take(part);
    if (wait !== undefined) await wait;
  }
}

/** Fills in what a part may leave out, and refuses what is none. */
function complete(part: Part, node: string, messageId: string): void {
  if (typeof part !== "object" || part === null || !known.has(part.type) || part.data === undefined) {
    throw new BadYieldError(
      `agent ${node} yielded ${describe(part)}: yield a string, token(…), custom(…), update(…), ` +
        `or a part {type, ns, data} with one of these types: ${streamModes.join(", ")}`,
    );
  }
  part.ns ??= [];
  if (part.type === "messages") {
    const [chunk, metadata] = part.data;
    chunk.id ??= messageId;
    metadata.langgraph_node ??= node;
  } else if (part.type === "updates") {
    completeMessages(part.data);
  }
}

/** Messages in a state update may be written `{role, content}`: in the log they are all flat. */
function completeMessages(data: unknown): void {
  if (typeof data !== "object" || data === null) return;
  for (const delta of Object.values(data)) {
    if (typeof delta !== "object" || delta === null || !("messages" in delta)) continue;
    delta.messages = normalizeMessages(delta.messages);
  }
}

function describe(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  try {
    const json = JSON.stringify(value);
    if (json !== undefined) return json.length > 100 ? `${json.slice(0, 100)}…` : json;
  } catch {
    // Not JSON: its type says enough.
  }
  return `a ${typeof value}`;
}
