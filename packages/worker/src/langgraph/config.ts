/** A run's request as a graph takes it. */
import { Command, type PregelOptions } from "@langchain/langgraph";
import { type RedisCheckpointSaver, readState } from "@throughline/checkpoint";
import type { RunRequest } from "@throughline/dispatch";
import type { Graph } from "../agent.ts";

// biome-ignore lint/suspicious/noExplicitAny: a graph's channels and context are known to who compiled it.
type Options = PregelOptions<any, any, any>;

/** What a client may set of a graph's config. All else in it is the worker's. */
export type RequestedConfig = Pick<
  Options,
  "configurable" | "tags" | "metadata" | "recursionLimit" | "maxConcurrency" | "context" | "durability"
>;

/** What names a place in a thread: that is said by threadId and checkpointId of `run.start`. */
const places = new Set(["thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id"]);

/**
 * What of `config` in `run.start` is for the graph. LangGraph's server writes some names with underscores; both are
 * understood.
 */
export function requestedConfig(config: Record<string, unknown> = {}): RequestedConfig {
  const { configurable, tags, metadata, context } = config;
  const recursionLimit = config.recursionLimit ?? config.recursion_limit;
  const maxConcurrency = config.maxConcurrency ?? config.max_concurrency;
  const { durability } = config;
  const own = Object.entries(isRecord(configurable) ? configurable : {}).filter(
    ([key]) => !places.has(key) && !key.startsWith("__"),
  );
  return {
    configurable: Object.fromEntries(own),
    ...(Array.isArray(tags) ? { tags: tags.map(String) } : {}),
    ...(isRecord(metadata) ? { metadata } : {}),
    ...(typeof recursionLimit === "number" ? { recursionLimit } : {}),
    ...(typeof maxConcurrency === "number" ? { maxConcurrency } : {}),
    ...(context === undefined ? {} : { context }),
    ...(durability === "sync" || durability === "async" || durability === "exit" ? { durability } : {}),
  };
}

/**
 * What the graph is run with: a command, the input, or null to go on where the thread stands. A string is a message of
 * the user's where the graph has messages.
 */
export function graphInput(graph: Graph, { input, command }: RunRequest, runId: string): unknown {
  if (command !== undefined) return new Command(command);
  if (typeof input === "string" && "messages" in graph.channels) {
    return { messages: [{ role: "user", content: input, id: `${runId}-input-0` }] };
  }
  return input ?? null;
}

/**
 * LangGraph 1.4 takes an answer that is false, 0, "" or null for none, unless it comes with the id of what it answers:
 * where one thing is asked, it gets that.
 */
export async function withAnswerNamed(
  request: RunRequest,
  saver: RedisCheckpointSaver,
  threadId: string,
): Promise<RunRequest> {
  const { command, checkpointId } = request;
  if (command === undefined || command.resume === undefined || command.resume) return request;
  const [asked, ...others] = (await readState(saver, { threadId, checkpointId }))?.interrupts ?? [];
  if (asked === undefined || others.length > 0) return request;
  return { ...request, command: { ...command, resume: { [asked.id]: command.resume } } };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
