/**
 * Goes on where a run was stopped: see closing.ts for what it left.
 *
 * The step that was stopped is forked: the checkpoint before it once more, with what its tasks had written, and for each
 * task that was cut off the writes that its node would have made of what it had streamed. Those are made here: its
 * routers are run, as part of the run that goes on, with its config. What they throw is an ordinary failure of that
 * run, and the thread stays as it was. Subgraphs that were stopped inside are forked in the same way.
 */
import type { BaseMessage } from "@langchain/core/messages";
import {
  type BaseCheckpointSaver,
  type CheckpointTuple,
  Command,
  InvalidUpdateError,
  type LangGraphRunnableConfig,
} from "@langchain/langgraph";
import {
  channelOf,
  childCheckpoint,
  ForkView,
  type GraphInside,
  graphAt,
  isLastValue,
  type Marks,
  marksOf,
  NO_WRITES,
  newCheckpointId,
  type PendingWrites,
  type RedisCheckpointSaver,
  SAVER,
  type Stop,
} from "@throughline/checkpoint";
import type { Graph } from "../agent.ts";
import { Channels } from "./channels.ts";

export interface GoingOnOptions {
  graph: Graph;
  /** What it writes through; it moves the thread's head. */
  saver: RedisCheckpointSaver;
  threadId: string;
  /** Of the run that goes on. */
  marks: Marks;
  /** The run's own config: what routers find. */
  config: LangGraphRunnableConfig;
  /** The id of a task of the root whose answer somebody writes by hand: that routes it. */
  except?: string | undefined;
  /** A change of the root's state that comes before what the step's tasks wrote. */
  update?: Record<string, unknown> | undefined;
}

interface Fork {
  ns: string;
  /** What the thread shows. */
  shown: CheckpointTuple;
  /** Where it stood. */
  stood: CheckpointTuple;
  writes: PendingWrites;
  results: BaseMessage[];
}

/**
 * Forks what was stopped at this checkpoint of the root, which becomes the thread's head.
 *
 * @throws what a router or reducer of a stopped node throws: nothing is written then
 */
export async function goOn(shown: CheckpointTuple, options: GoingOnOptions): Promise<void> {
  const { saver, threadId } = options;
  const root = await fork(shown, "", options);
  const inner: Fork[] = [];
  for (const [ns, id] of Object.entries(marksOf(shown).stop!.nested)) {
    const tuple = await saver.getTuple(at(threadId, ns, id));
    // Where somebody wrote to a subgraph's state since, it goes on from that.
    if (tuple === undefined || (await isUpdated(ns, id, options))) continue;
    inner.push(await fork(tuple, ns, options));
  }
  // The root last: it is what a run finds first.
  for (const each of [...inner, root]) await write(each, options);
}

/** Whether a namespace's head is what updates by hand made of this checkpoint. */
async function isUpdated(ns: string, id: string, { saver, threadId }: GoingOnOptions): Promise<boolean> {
  const head = await saver.head(threadId, ns);
  let each = head === null || head === id ? undefined : await saver.getTuple(at(threadId, ns, head));
  while (each !== undefined && each.checkpoint.id !== id) {
    if (each.metadata?.source !== "update" || marksOf(each).stop !== undefined) return false;
    each = each.parentConfig && (await saver.getTuple(each.parentConfig));
  }
  return each !== undefined;
}

async function fork(shown: CheckpointTuple, ns: string, options: GoingOnOptions): Promise<Fork> {
  const { saver, threadId } = options;
  const stop: Stop = marksOf(shown).stop ?? {
    at: shown.checkpoint.id,
    writes: shown.pendingWrites ?? [],
    answers: {},
    results: [],
    nested: {},
  };
  const stood = (await saver.getTuple(at(threadId, ns, stop.at!)))!;
  const tasks = (marksOf(shown).tasks ?? []).filter(
    ([id]) => Object.hasOwn(stop.answers, id) && !(ns === "" && id === options.except),
  );
  const routed = await route(tasks, stop, stood, ns, options);
  const writes = [...stop.writes, ...routed];
  const { ahead = [], results } = stop;
  // Behind what the step's tasks wrote, as the thread shows it; else behind what it has.
  const last = ahead.length > 0 ? writes.findLast(([, channel]) => channel === "messages") : undefined;
  if (last !== undefined) writes.push([last[0], "messages", ahead]);
  return { ns, shown, stood, writes, results: last === undefined ? [...results, ...ahead] : results };
}

/** What the nodes of these tasks would have written, had these been their answers. */
async function route(
  tasks: [id: string, name: string][],
  { answers, values: told = {} }: Stop,
  stood: CheckpointTuple,
  ns: string,
  { graph: root, saver, threadId, config }: GoingOnOptions,
): Promise<PendingWrites> {
  const graph = graphAt(root as unknown as GraphInside, ns);
  if (graph === undefined || tasks.length === 0) return [];
  const before = await Channels.at(graph, stood, saver);
  const replaces = isLastValue(channelOf(graph, "messages"));
  const updates = tasks.map(([taskId, asNode]) => {
    const messages = replaces ? [...before.messages, ...answers[taskId]!] : answers[taskId]!;
    const update = { ...told[taskId], ...(before.holdsMessages ? { messages } : {}) };
    // A node that says itself where to go has no edges: where there is one way only, that is the way.
    const { ends = [] } = graph.nodes[asNode]!;
    const values = ends.length === 1 ? new Command({ update, goto: ends[0]! }) : update;
    return { values, asNode, taskId };
  });
  const made = new Map<string, [channel: string, value: unknown][]>(tasks.map(([id]) => [id, []]));
  const view = new ForkView(saver);
  // Each router sees the state as it was, and what its own node wrote.
  const alone = view.seen({ ...stood, pendingWrites: [] });
  const recorder: Partial<BaseCheckpointSaver> = {
    serde: saver.serde,
    getTuple: async () => alone,
    getDeltaChannelHistory: (of) => view.getDeltaChannelHistory(of),
    getNextVersion: (current) => view.getNextVersion(current),
    put: async (from) => from,
    putWrites: async (_, writes, task) => {
      made.get(task)?.push(...(writes as [string, unknown][]));
    },
  };
  const configurable = { ...config.configurable, thread_id: threadId, checkpoint_ns: ns, [SAVER]: recorder };
  await (graph as unknown as Graph).bulkUpdateState({ ...config, configurable }, [{ updates }]);
  return [...made].flatMap(([id, writes]) =>
    (writes.length === 0 ? [[NO_WRITES, null] as const] : writes).map(
      ([channel, value]) => [id, channel, value] as const,
    ),
  );
}

async function write(
  { ns, shown, stood, writes, results }: Fork,
  { saver, threadId, marks, graph, update = {} }: GoingOnOptions,
): Promise<void> {
  const id = newCheckpointId(stood.metadata?.step ?? 0);
  const place = at(threadId, ns, id);
  const byTask = new Map<string, [channel: string, value: unknown][]>();
  for (const [task, channel, value] of writes) {
    byTask.set(task, [...(byTask.get(task) ?? []), [channel, value]]);
  }
  // Before the fork itself: what is found without its writes would be done once more.
  for (const [task, made] of byTask) await saver.putWrites(place, made as never, task);

  const channels = await Channels.at(graphAt(graph as unknown as GraphInside, ns), stood, saver);
  channels.addMessages(results);
  for (const [key, value] of ns === "" ? Object.entries(update) : []) {
    if (!channels.update(key, [value]))
      throw new InvalidUpdateError(`update: ${key} does not take this value`);
  }
  const { checkpoint, newVersions } = childCheckpoint(
    stood.checkpoint,
    stood.metadata?.step ?? 0,
    channels.changes(),
    saver,
  );
  // The step's writes stand with the fork as well: what is rebuilt from writes must not find those behind it.
  for (const [key, snapshot] of channels.snapshots()) {
    const version = checkpoint.channel_versions[key];
    if (version === undefined) continue;
    checkpoint.channel_values[key] = snapshot;
    newVersions[key] = version;
  }
  await saver.put(
    at(threadId, ns, shown.checkpoint.id),
    { ...checkpoint, id },
    {
      ...stood.metadata,
      ...marks,
      as: marksOf(stood).as ?? stood.checkpoint.id,
      shown: shown.checkpoint.id,
      prepares: true,
    } as never,
    newVersions,
  );
}

function at(threadId: string, ns: string, checkpointId: string) {
  return { configurable: { thread_id: threadId, checkpoint_ns: ns, checkpoint_id: checkpointId } };
}
