/**
 * What becomes of a step whose tasks were stopped in the middle.
 *
 * `completeStep` ends it as LangGraph would have: each task gets the writes that its node would have made of what it
 * had streamed, and the step is applied. So what finished tasks of the same step wrote is in it, joins fire, and
 * the thread goes on behind the nodes. `updateState` would do for a lone node; but it does not store all of what
 * finished tasks wrote, nor does it go where they wanted to.
 *
 * `keepAside` writes it on a branch, for a thread whose line goes on from before the step.
 *
 * Invariants:
 * - whoever writes names the node: without, the graph would run it again, and answer twice;
 * - no checkpoint_id is named: with one, what finished tasks wrote would not be looked at;
 * - an unfinished tool call is never part of it.
 */
import {
  type BaseCheckpointSaver,
  Command,
  type LangGraphRunnableConfig,
  type StateSnapshot,
} from "@langchain/langgraph";
import {
  normalizeMessages,
  type RedisCheckpointSaver,
  type FlatMessage as SavedMessage,
  toBaseMessage,
} from "@throughline/checkpoint";
import type { FlatMessage } from "@throughline/protocol";
import type { Graph } from "../agent.ts";

/** A message that a task streamed. */
export interface StreamedMessage {
  message: FlatMessage;
  /** The path of the task, its own segment last: `node:taskId`. */
  task: readonly string[];
}

/** Where it happens: at the thread's head. */
export interface Place {
  graph: Graph;
  saver: RedisCheckpointSaver;
  threadId: string;
}

type Task = StateSnapshot["tasks"][number] & { messages: StreamedMessage[] };

interface Update {
  values: unknown;
  asNode: string;
  taskId: string;
}

type PendingWrites = Parameters<BaseCheckpointSaver["putWrites"]>[1];

/** Channels of pending writes that do not make a task a finished one. */
const unfinishedWrites = new Set(["__error__", "__error_source_node__", "__interrupt__", "__resume__"]);

/**
 * Ends the step that the thread stands in. Where nothing was streamed and nothing had finished, there is nothing to
 * end: it would begin anew. `inSubgraphs`: what subgraphs had streamed goes into their own state, so that they go
 * on from it; else into the root's, as what their node answered. `runId`: the run that the step is of.
 */
export async function completeStep(
  place: Place,
  streamed: readonly StreamedMessage[],
  options: { inSubgraphs: boolean; runId: unknown },
): Promise<void> {
  const config = at(place.threadId, "");
  const graph = withSaver(place.graph, place.saver);
  let left = streamed;
  for (;;) {
    const state = await graph.getState(config, { subgraphs: true });
    const here = new Set(state.tasks.map(segmentOf));
    if (!(await complete(place, place.graph, config, state, left, options.inSubgraphs))) return;
    // Every task of the step has its writes: they are applied, and it stops before any node of the next.
    await graph.invoke(null, {
      ...config,
      interruptBefore: "*",
      durability: "sync",
      metadata: { run_id: options.runId },
    });
    left = left.filter(({ task }) => !here.has(task[0]!));
    // A worker that was killed may have been ahead of its checkpoints: its next steps' tasks had other ids.
    const next = await graph.getState(config);
    left = left.map((each) => renamed(each, next.tasks));
    if (!left.some(({ task }) => next.tasks.some((each) => segmentOf(each) === task[0]))) return;
  }
}

/** The message as one of the task that runs the same node; as it is where there is no such one. */
function renamed({ message, task }: StreamedMessage, tasks: StateSnapshot["tasks"]): StreamedMessage {
  const name = task[0]!.slice(0, task[0]!.lastIndexOf(":"));
  const twin = tasks.find((each) => each.name === name);
  return twin === undefined ? { message, task } : { message, task: [segmentOf(twin)] };
}

/** Gives all tasks of a namespace the writes of what they had streamed. @returns whether its step is now complete */
async function complete(
  place: Place,
  graph: Graph,
  config: At,
  state: StateSnapshot,
  streamed: readonly StreamedMessage[],
  inSubgraphs: boolean,
): Promise<boolean> {
  const { open, finished } = await openTasks(place.saver, config, state, streamed);
  const partial = open.filter(({ messages }) => messages.length > 0);
  if (partial.length === 0 && finished === 0) return false;
  if (inSubgraphs && partial.length > 0) {
    const below = partial.map((task) => inside(graph, config, task));
    if (below.every((each) => each !== undefined)) {
      let placed = true;
      for (const { graph: inner, config: where, state: its, messages } of below) {
        placed &&= await complete(place, inner, where, its, messages, inSubgraphs);
      }
      if (placed) return false;
    }
  }
  if (open.length === 0) return true;
  const updates = open.flatMap((task) => update(graph, task) ?? []);
  // Without messages in its state, a graph has no place for them.
  if (updates.length < open.length) return false;
  // LangGraph does not look at pending writes of a subgraph's tasks when it goes on.
  if (config.configurable.checkpoint_ns !== "") {
    const said = updates.filter(({ taskId }) => partial.some(({ id }) => id === taskId));
    if (said.length > 0) await updateAside(withSaver(place.graph, place.saver), config, said);
    return said.length > 0;
  }
  const writes = await writesOf(place, config, updates);
  for (const [taskId, made] of writes) {
    await place.saver.putWrites(atCheckpoint(config, state), made, taskId);
  }
  return true;
}

/**
 * Keeps what unfinished tasks had streamed on a branch off the thread's head: `place.saver` writes branches.
 *
 * @returns the branch's checkpoint; null where there was nothing to keep
 */
export async function keepAside(place: Place, streamed: readonly StreamedMessage[]): Promise<string | null> {
  const graph = withSaver(place.graph, place.saver);
  const config = at(place.threadId, "");
  const state = await graph.getState(config);
  const { open } = await openTasks(place.saver, config, state, streamed);
  const updates = open
    .filter(({ messages }) => messages.length > 0)
    .flatMap((task) => update(place.graph, task) ?? []);
  return updates.length === 0 ? null : await updateAside(graph, config, updates);
}

/** A checkpoint beside the step's own: its tasks are not done with it. */
async function updateAside(graph: Graph, config: At, updates: Update[]): Promise<string> {
  const others = updates.map((each) => ({ ...each, taskId: `${each.taskId}:partial` }));
  const { configurable } = await graph.bulkUpdateState(config, [{ updates: others }]);
  return String(configurable?.checkpoint_id);
}

/**
 * Ends a step that was stopped inside of subgraphs, and stands as they left it: what they keep of messages that were
 * cut off becomes what their nodes answered. To be done when the thread does not go on from there.
 */
export async function liftPartials(place: Place): Promise<void> {
  const { graph, threadId, saver } = place;
  if (graph.getSubgraphs().next().done) return;
  const state = await withSaver(graph, saver).getState(at(threadId, ""), { subgraphs: true });
  const { run_id } = (state.metadata ?? {}) as { run_id?: unknown };
  const streamed = state.tasks.flatMap((task) =>
    cutOff(task.state).map((message) => ({ message, task: [segmentOf(task)] })),
  );
  if (streamed.length > 0) await completeStep(place, streamed, { inSubgraphs: false, runId: run_id });
}

function cutOff(state: unknown): FlatMessage[] {
  const { values, tasks = [] } = (state ?? {}) as Partial<StateSnapshot>;
  const messages: unknown = (values as { messages?: unknown } | undefined)?.messages;
  const own = (Array.isArray(messages) ? normalizeMessages(messages) : []) as FlatMessage[];
  const marked = own.filter((each) => (each.additional_kwargs as { cancelled?: boolean })?.cancelled);
  return [...marked, ...tasks.flatMap((task) => cutOff(task.state))];
}

/** The segments of the next step's tasks: of those that have their writes, and of those that would be run. */
export async function tasksAt(place: Place): Promise<{ open: Set<string>; finished: Set<string> }> {
  const config = at(place.threadId, "");
  const { tasks } = await withSaver(place.graph, place.saver).getState(config);
  const done = await finishedTasks(place.saver, config);
  const segments = (finished: boolean) =>
    new Set(tasks.filter(({ id }) => done.has(id) === finished).map(segmentOf));
  return { open: segments(false), finished: segments(true) };
}

/** The graph with another checkpointer; the one that it was compiled with stays as it is. */
export function withSaver(graph: Graph, saver: BaseCheckpointSaver): Graph {
  const copy = graph.withConfig({}) as Graph;
  copy.checkpointer = saver;
  return copy;
}

interface At extends LangGraphRunnableConfig {
  configurable: { thread_id: string; checkpoint_ns: string };
}

function at(thread_id: string, checkpoint_ns: string): At {
  return { configurable: { thread_id, checkpoint_ns } };
}

function atCheckpoint({ configurable }: At, { config }: StateSnapshot): LangGraphRunnableConfig {
  return { configurable: { ...configurable, checkpoint_id: config.configurable?.checkpoint_id } };
}

/** Those of the next tasks that have not finished, with what they had streamed, themselves or below them. */
async function openTasks(
  saver: RedisCheckpointSaver,
  config: At,
  { tasks }: StateSnapshot,
  streamed: readonly StreamedMessage[],
): Promise<{ open: Task[]; finished: number }> {
  const ns = config.configurable.checkpoint_ns;
  const depth = ns === "" ? 0 : ns.split("|").length;
  const done = await finishedTasks(saver, config);
  const open = tasks
    .filter(({ id }) => !done.has(id))
    .map((task) => {
      const segment = segmentOf(task);
      return { ...task, messages: streamed.filter((each) => each.task[depth] === segment) };
    });
  return { open, finished: tasks.length - open.length };
}

async function finishedTasks(saver: RedisCheckpointSaver, config: At): Promise<Set<string>> {
  const { pendingWrites = [] } = (await saver.getTuple(config)) ?? {};
  return new Set(pendingWrites.flatMap(([id, channel]) => (unfinishedWrites.has(channel) ? [] : [id])));
}

function segmentOf({ name, id }: { name: string; id: string }): string {
  return `${name}:${id}`;
}

/** The subgraph that a task is, where all that it streamed came from inside, and it has come as far as a checkpoint. */
function inside(graph: Graph, { configurable }: At, task: Task) {
  const { thread_id, checkpoint_ns } = configurable;
  const ns = checkpoint_ns === "" ? segmentOf(task) : `${checkpoint_ns}|${segmentOf(task)}`;
  const state = task.state as Partial<StateSnapshot> | undefined;
  const inner = [...graph.getSubgraphs(task.name)].find(([name]) => name === task.name)?.[1];
  if (inner === undefined || state?.tasks === undefined || state.tasks.length === 0) return undefined;
  if (task.messages.some((each) => each.task.at(-1) === segmentOf(task))) return undefined;
  const config = at(thread_id, ns);
  return { graph: inner as Graph, config, state: state as StateSnapshot, messages: task.messages };
}

/** What a node is to have answered. undefined: it has no place for messages. */
function update(graph: Graph, { id, name, messages }: Task): Update | undefined {
  if (graph.nodes[name] === undefined) return undefined;
  if (messages.length > 0 && !("messages" in graph.channels)) return undefined;
  const values =
    messages.length === 0
      ? {}
      : { messages: messages.map(({ message }) => toBaseMessage(message as SavedMessage)) };
  // A node that says itself where to go has no edges: where there is one way only, that is the way.
  const { ends = [] } = graph.nodes[name] as { ends?: string[] };
  const value = ends.length === 1 ? new Command({ update: values, goto: ends[0]! }) : values;
  return { values: value, asNode: name, taskId: id };
}

/** What LangGraph would write for these updates, by task: it is asked to update the state, and nothing of it is stored. */
async function writesOf(
  { graph, saver }: Place,
  config: At,
  updates: Update[],
): Promise<Map<string, PendingWrites>> {
  const made = new Map<string, PendingWrites>(updates.map(({ taskId }) => [taskId, []]));
  const recorder = {
    serde: saver.serde,
    getTuple: (from: LangGraphRunnableConfig) => saver.getTuple(from),
    getDeltaChannelHistory: (of: Parameters<RedisCheckpointSaver["getDeltaChannelHistory"]>[0]) =>
      saver.getDeltaChannelHistory(of),
    getNextVersion: (current: number | undefined) => saver.getNextVersion(current),
    put: async (from: LangGraphRunnableConfig) => from,
    putWrites: async (_: LangGraphRunnableConfig, writes: PendingWrites, taskId: string) => {
      made.get(taskId)?.push(...writes);
    },
  };
  await withSaver(graph, recorder as never).bulkUpdateState(config, [{ updates }]);
  // As LangGraph marks a task that had nothing to write: without any, it would run again.
  for (const writes of made.values()) if (writes.length === 0) writes.push(["__no_writes__", null]);
  return made;
}
