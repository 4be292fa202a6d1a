/**
 * What becomes of messages whose nodes were stopped in the middle: each is written as its node would have written it.
 *
 * Invariants:
 * - a write names no checkpoint_id: with one, what finished tasks of the same step wrote would be lost;
 * - it names its node: without, the graph would run that node again, and answer twice;
 * - an unfinished tool call is never part of it.
 */
import { Command, type LangGraphRunnableConfig, type StateSnapshot } from "@langchain/langgraph";
import { type RedisCheckpointSaver, toBaseMessage } from "@throughline/checkpoint";
import type { FlatMessage } from "@throughline/protocol";
import type { Graph } from "../agent.ts";

/** A message that a task streamed. */
export interface StreamedMessage {
  message: FlatMessage;
  /** The path of the task, its own segment last: `node:taskId`. */
  task: readonly string[];
}

interface Update {
  values: unknown;
  asNode: string;
  taskId: string;
}

/** Channels of pending writes that do not make a task a finished one. */
const unfinishedWrites = new Set(["__error__", "__error_source_node__", "__interrupt__", "__resume__"]);

export interface PartialOptions {
  /** What subgraphs had streamed goes into their own state, so that they go on from it; else into the root's. */
  inSubgraphs: boolean;
  /** Writes also where nothing was streamed, but a task finished beside those that did not. */
  evenIfEmpty: boolean;
}

/**
 * Writes what unfinished tasks had streamed, at the head of the thread.
 *
 * @param graph with the saver to write through for its checkpointer
 * @param saver to read with
 * @returns the id of the root's checkpoint that was written; null where none was
 */
export async function savePartials(
  graph: Graph,
  saver: RedisCheckpointSaver,
  threadId: string,
  streamed: readonly StreamedMessage[],
  options: PartialOptions,
): Promise<string | null> {
  const config = { configurable: { thread_id: threadId, checkpoint_ns: "" } };
  const state = await graph.getState(config, { subgraphs: true });
  const { written } = await saveAt({ root: graph, saver, options }, graph, config, state, streamed);
  return written;
}

interface Saving {
  /** It finds its subgraphs by their namespaces. */
  root: Graph;
  saver: RedisCheckpointSaver;
  options: PartialOptions;
}

/** @returns what was written in this namespace, and whether everything found a place in it or below */
async function saveAt(
  saving: Saving,
  graph: Graph,
  config: Place,
  state: StateSnapshot,
  streamed: readonly StreamedMessage[],
): Promise<{ written: string | null; placed: boolean }> {
  const { root, saver, options } = saving;
  const ns = config.configurable.checkpoint_ns;
  const depth = ns === "" ? 0 : ns.split("|").length;
  const finished = await finishedTasks(saver, config);
  const open = state.tasks
    .filter(({ id }) => !finished.has(id))
    .map((task) => {
      const segment = `${task.name}:${task.id}`;
      return { ...task, segment, messages: streamed.filter((each) => each.task[depth] === segment) };
    });
  const partial = open.filter(({ messages }) => messages.length > 0);
  const inner = partial.flatMap(({ name, segment, state: below, messages }) => {
    const found = { graph: subgraph(graph, name), state: snapshot(below) };
    if (found.graph === undefined || found.state === undefined) return [];
    if (messages.some(({ task }) => task.length === depth + 1)) return [];
    return [{ ...found, config: place(config, ns === "" ? segment : `${ns}|${segment}`), messages }];
  });
  // A write here begins a new step, in which a subgraph begins anew: one is written to only where nothing else is.
  if (options.inSubgraphs && inner.length > 0 && inner.length === partial.length) {
    let placed = true;
    for (const each of inner) {
      const answer = await saveAt(saving, each.graph!, each.config, each.state!, each.messages);
      placed &&= answer.placed;
    }
    if (placed) return { written: null, placed };
  }
  const updates = partial.flatMap((task) => update(graph, task, task.messages));
  // What finished beside it is not to be lost to whoever comes with new input.
  if (updates.length === 0 && options.evenIfEmpty && state.tasks.some(({ id }) => finished.has(id))) {
    updates.push(...open.flatMap((task) => update(graph, task, [])));
  }
  if (updates.length === 0) return { written: null, placed: partial.length === 0 };
  const { configurable } = await root.bulkUpdateState(config, [{ updates }]);
  return { written: String(configurable?.checkpoint_id), placed: true };
}

interface Place extends LangGraphRunnableConfig {
  configurable: { thread_id: string; checkpoint_ns: string };
}

function place({ configurable }: Place, checkpoint_ns: string): Place {
  return { configurable: { ...configurable, checkpoint_ns } };
}

async function finishedTasks(saver: RedisCheckpointSaver, config: Place): Promise<Set<string>> {
  const { pendingWrites = [] } = (await saver.getTuple(config)) ?? {};
  return new Set(pendingWrites.flatMap(([id, channel]) => (unfinishedWrites.has(channel) ? [] : [id])));
}

function subgraph(graph: Graph, node: string): Graph | undefined {
  for (const [name, found] of graph.getSubgraphs(node)) if (name === node) return found as Graph;
  return undefined;
}

/** A subgraph's state where it has come as far as a checkpoint. */
function snapshot(state: unknown): StateSnapshot | undefined {
  const found = state as Partial<StateSnapshot> | undefined;
  return found?.tasks !== undefined && found.tasks.length > 0 ? (found as StateSnapshot) : undefined;
}

function update(
  graph: Graph,
  { id, name }: { id: string; name: string },
  streamed: readonly StreamedMessage[],
): Update[] {
  if (graph.nodes[name] === undefined || !("messages" in graph.channels)) return [];
  const messages = streamed.map(({ message }) => toBaseMessage(message));
  const values = messages.length === 0 ? {} : { messages };
  // A node that says itself where to go has no edges: where there is one way only, that is the way.
  const { ends = [] } = graph.nodes[name] as { ends?: string[] };
  const value = ends.length === 1 ? new Command({ update: values, goto: ends[0]! }) : values;
  // Not the task's own id: it is not finished.
  return [{ values: value, asNode: name, taskId: `${id}:partial` }];
}
