/** Agents that are async generator functions: how one is driven, and what it may yield. */
import { flattenValues, normalizeMessages } from "@throughline/checkpoint";
import type { Part, StreamMode } from "@throughline/protocol";
import { isRecord, streamModes } from "@throughline/protocol";
import type { AgentContext, FunctionAgent, Step, Yielded } from "./agent.ts";
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
  agent: FunctionAgent,
  name: string,
  context: AgentContext,
  attempt: Attempt,
  modes: ReadonlySet<StreamMode>,
  endStep: (state: unknown) => Promise<void>,
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
    if (isStep(yielded)) {
      await endStep(yielded.state);
      continue;
    }
    const part =
      typeof yielded === "string"
        ? answerToken(yielded, name, messageId)
        : complete(yielded, name, messageId);
    if (!inLog(part)) {
      attempt.foldOnly(part);
      continue;
    }
    const wait = attempt.take(part);
    if (wait !== undefined) await wait;
  }
}

function isStep(yielded: Yielded): yielded is Step {
  return isRecord(yielded) && (yielded.type as string) === "step";
}

function answerToken(content: string, node: string, id: string): Part {
  return {
    type: "messages",
    ns: [],
    data: [{ type: "AIMessageChunk", id, content }, { langgraph_node: node }],
  };
}

/** The part with what it may leave out, and a BadYieldError for what is none. What was yielded is the agent's: it stays as it is. */
function complete(part: Part, node: string, messageId: string): Part {
  if (!isPart(part)) {
    throw new BadYieldError(
      `agent ${node} yielded ${describe(part)}: yield a string, token(…), custom(…), update(…), step(…), ` +
        `or a part {type, ns, data} with one of these types: ${streamModes.join(", ")}`,
    );
  }
  const ns = part.ns ?? [];
  if (part.type === "messages") {
    const [chunk, metadata] = part.data;
    const id = chunk.id ?? messageId;
    const langgraph_node = metadata.langgraph_node ?? node;
    return {
      ...part,
      ns,
      data: [
        { ...chunk, id },
        { ...metadata, langgraph_node },
      ],
    };
  }
  const data = flattenValues(part.data as unknown);
  return { ...part, ns, data: (part.type === "updates" ? withFlatMessages(data) : data) as never };
}

/** What the schema of a part says, without the depths of its data: this runs once per token. */
function isPart(part: unknown): part is Part {
  if (!isRecord(part) || !known.has(part.type as string)) return false;
  const { ns, data } = part;
  if (ns !== undefined && !(Array.isArray(ns) && ns.every((segment) => typeof segment === "string")))
    return false;
  if (part.type !== "messages")
    return data !== undefined && typeof data !== "function" && typeof data !== "symbol";
  if (!Array.isArray(data)) return false;
  const [chunk, metadata] = data as unknown[];
  if (!isRecord(chunk) || !isRecord(metadata) || typeof chunk.type !== "string") return false;
  if (chunk.id !== undefined && typeof chunk.id !== "string") return false;
  return typeof chunk.content === "string" || Array.isArray(chunk.content);
}

/** Messages in a state update may be written `{role, content}`: in the log they are all flat. */
function withFlatMessages(data: unknown): unknown {
  if (!isRecord(data)) return data;
  return Object.fromEntries(
    Object.entries(data).map(([node, delta]) => {
      if (!isRecord(delta) || !("messages" in delta)) return [node, delta];
      return [node, { ...delta, messages: normalizeMessages(delta.messages) }];
    }),
  );
}

const maxKeysTold = 10;
/** What a programmer chose as a name. Any other key may be data. */
const nameLike = /^[\w$-]{1,40}$/;

/** The kind of a value, and of an object its keys. Readers are told this, so never a value. */
function describe(value: unknown): string {
  if (value === undefined || value === null) return String(value);
  if (typeof value !== "object") return `a ${typeof value}`;
  try {
    if (Array.isArray(value)) return "an array";
    const keys = Object.keys(value);
    if (keys.length === 0) return "an object without keys";
    const told = keys.slice(0, maxKeysTold).map((key) => (nameLike.test(key) ? key : "…"));
    if (keys.length > maxKeysTold) told.push("…");
    return `an object with the ${keys.length === 1 ? "key" : "keys"} ${told.join(", ")}`;
  } catch {
    return "an object"; // A proxy that does not answer.
  }
}
