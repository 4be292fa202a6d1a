/** A run's request as a graph takes it. */
import { Command, type PregelOptions, Send } from "@langchain/langgraph";
import {
  END,
  type GraphInside,
  InvalidArgumentError,
  marksOf,
  type RedisCheckpointSaver,
  readState,
  START,
} from "@throughline/checkpoint";
import type { RunRequest } from "@throughline/dispatch";
import type { GraphCommand, RunConfig } from "@throughline/protocol";
import { type Graph, type GraphAgent, isGraph } from "../agent.ts";
import type { Assignment } from "../session.ts";
import { namedInput } from "./asked.ts";

// biome-ignore lint/suspicious/noExplicitAny: a graph's channels and context are known to who compiled it.
type Options = PregelOptions<any, any, any>;

/** What a client may set of a graph's config. All else in it is the worker's. */
export type RequestedConfig = Pick<
  Options,
  "configurable" | "tags" | "metadata" | "recursionLimit" | "maxConcurrency" | "context" | "durability"
>;

/** What names a place in a thread: that is said by threadId and checkpointId of `run.start`. */
const places = new Set(["thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id"]);

/** What of `config` in `run.start` is for the graph. LangGraph's server writes some names with underscores. */
export function requestedConfig(config: RunConfig = {}): RequestedConfig {
  const { configurable = {}, tags, metadata, context, durability } = config;
  const recursionLimit = config.recursionLimit ?? config.recursion_limit;
  const maxConcurrency = config.maxConcurrency ?? config.max_concurrency;
  const own = Object.entries(configurable).filter(([key]) => !places.has(key) && !key.startsWith("__"));
  return {
    configurable: Object.fromEntries(own),
    ...(tags === undefined ? {} : { tags }),
    ...(metadata === undefined ? {} : { metadata }),
    ...(recursionLimit === undefined ? {} : { recursionLimit }),
    ...(maxConcurrency === undefined ? {} : { maxConcurrency }),
    ...(context === undefined ? {} : { context }),
    ...(durability === undefined ? {} : { durability }),
  };
}

/**
 * The graph of a run: its agent's, or one that is made for it.
 *
 * @throws what the factory throws; InvalidArgumentError: it answers no graph
 */
export async function graphFor({ graph }: GraphAgent, work: Assignment): Promise<Graph> {
  if (isGraph(graph)) return graph;
  const { run, request, store, attempt } = work;
  const { runId, threadId, agent } = run.record;
  const config = requestedConfig(request.config);
  const made: unknown = await graph({
    ...config,
    configurable: { ...config.configurable, thread_id: threadId },
    metadata: { ...config.metadata, run_id: runId },
    signal: attempt.signal,
    ...(store === undefined ? {} : { store }),
  });
  if (isGraph(made)) return made;
  throw new InvalidArgumentError(
    `the factory of agent ${agent} answers ${kindOf(made)}, and no compiled graph`,
  );
}

/**
 * What the graph is run with: a command, the input, or null to go on where the thread stands. A string is a message of
 * the user's where the graph has messages.
 *
 * @throws InvalidArgumentError: the command names a node that there is not
 */
export function graphInput(graph: Graph, { input, command }: RunRequest, runId: string): unknown {
  if (command !== undefined) {
    checkTargets(graph, command);
    return new Command(withSends(command));
  }
  return namedInput(graph as unknown as GraphInside, { input }, runId) ?? null;
}

/** LangGraph passes over what it does not know, and the run would do nothing. */
function checkTargets({ nodes }: Graph, { goto = [] }: GraphCommand): void {
  const targets = [goto].flat().map((each) => (typeof each === "string" ? each : each.node));
  const unknown = targets.filter((name) => !Object.hasOwn(nodes, name) && name !== END);
  if (unknown.length === 0) return;
  const known = Object.keys(nodes).filter((name) => name !== START);
  throw new InvalidArgumentError(
    `goto: there is no node ${unknown.join(", ")}; there are ${known.join(", ")}`,
  );
}

function withSends({ goto, ...command }: GraphCommand): ConstructorParameters<typeof Command>[0] {
  if (goto === undefined) return command as never;
  const targets = [goto].flat();
  return {
    ...command,
    goto: targets.map((each) => (typeof each === "string" ? each : new Send(each.node, each.input))),
  } as never;
}

/**
 * An answer without an id is for all that is open, and is given their ids. LangGraph 1.4 takes one that is false, 0, "" or
 * null for none otherwise; and it stores one without an id for whatever asks next: a second question of the same node
 * would be answered by it when somebody only goes on.
 */
export async function withAnswerNamed(
  request: RunRequest,
  saver: RedisCheckpointSaver,
  threadId: string,
): Promise<RunRequest> {
  const { command, checkpointId, fromNothing } = request;
  if (command === undefined || command.resume === undefined) return request;
  const { resume } = command;
  const state = fromNothing === true ? null : await readState(saver, { threadId, checkpointId });
  const open = state?.interrupts ?? [];
  if (open.length === 0 && (state?.next ?? []).length === 0) {
    throw new InvalidArgumentError(
      "resume: nothing waits for an answer here, and there is nothing to go on with",
    );
  }
  if (isByIds(resume)) {
    const ids = open.map(({ id }) => id);
    const unknown = Object.keys(resume).filter((id) => !ids.includes(id));
    // Of an earlier checkpoint, questions that were answered since are asked once more.
    if (checkpointId !== undefined || unknown.length === 0) return request;
    const which = ids.length === 0 ? "none is" : `${ids.join(", ")} are`;
    throw new InvalidArgumentError(`resume: no question ${unknown.join(", ")} is open; ${which}`);
  }
  if (open.length === 0) return request;
  // Its question has another id since its subgraph was written to: the answer is for whatever that asks now.
  if (resume && (await isSubgraphWritten(saver, threadId))) return request;
  return {
    ...request,
    command: { ...command, resume: Object.fromEntries(open.map(({ id }) => [id, resume])) },
  };
}

async function isSubgraphWritten(saver: RedisCheckpointSaver, threadId: string): Promise<boolean> {
  for (const [ns, id] of await saver.heads(threadId)) {
    if (ns === "") continue;
    const configurable = { thread_id: threadId, checkpoint_ns: ns, checkpoint_id: id };
    const tuple = await saver.getTuple({ configurable });
    if (tuple?.metadata?.source === "update" && marksOf(tuple).stop === undefined) return true;
  }
  return false;
}

/** As LangGraph tells answers by their questions' ids from any other object. */
function isByIds(resume: unknown): resume is Record<string, unknown> {
  if (typeof resume !== "object" || resume === null || Array.isArray(resume)) return false;
  const keys = Object.keys(resume);
  return keys.length > 0 && keys.every((key) => /^[0-9a-f]{32}$/.test(key));
}

function kindOf(value: unknown): string {
  if (typeof (value as { compile?: unknown } | null)?.compile === "function")
    return "a graph that is not compiled";
  return value === null ? "null" : `a value of type ${typeof value}`;
}
