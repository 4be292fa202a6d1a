/**
 * All that we know of LangGraph beyond what it documents: how it names things in checkpoints, and what its graphs look
 * like from inside. Nothing else in this repository names any of it. LangGraph is free to change it in any release:
 * `packages/worker/src/langgraph/canary.test.ts` says what a version changed.
 */

/** The channel that a graph's input goes to, and the node that spreads it over the state. */
export const START = "__start__";
/** The channel of a functional graph's return value, and that of what it saves for its next call. */
export const END = "__end__";
export const PREVIOUS = "__previous__";
/** The channel of `Send`s that wait for their turn. */
export const SENDS = "__pregel_tasks";

/** How LangGraph names channels of its own, which are no part of the state. */
const internalChannel = /^(__|branch:|join:)/;
/** How a state graph names what triggers a node: `branch:to:node`, or `join:one+other:node`. */
const triggerChannel = /^(?:branch:to|join:(.*)):([^:]*)$/s;

/** How the names of channels begin that say which nodes are to run. */
export const NEXT_NODES: readonly string[] = ["branch:to:", "join:", SENDS];

export function isStateKey(channel: string): boolean {
  return !internalChannel.test(channel);
}

/** The node that a channel triggers, and for a join the names of the nodes that must have come first. */
export function triggerOf(channel: string): { node: string; joins: string[] | undefined } | undefined {
  const match = triggerChannel.exec(channel);
  return match === null ? undefined : { node: match[2] ?? "", joins: match[1]?.split("+") };
}

/** The task id of writes that no task made: input, and commands. */
export const NO_TASK = "00000000-0000-0000-0000-000000000000";
/** The channel of a task that has finished and had nothing to write. Without any write it would run again. */
export const NO_WRITES = "__no_writes__";
/** The channel of what a functional task returned. */
export const RETURN = "__return__";
export const ERROR = "__error__";
export const INTERRUPT = "__interrupt__";
export const RESUME = "__resume__";
const ERROR_SOURCE = "__error_source_node__";

/** Pending writes to these channels do not make their task a finished one. */
const unfinished = new Set([ERROR, ERROR_SOURCE, INTERRUPT, RESUME]);

export type PendingWrites = readonly (readonly [task: string, channel: string, value: unknown])[];

export function isUnfinished(channel: string): boolean {
  return unfinished.has(channel);
}

/** The ids of the tasks that have finished: they are not run again. */
export function finishedTasks(writes: PendingWrites = []): Set<string> {
  return new Set(writes.flatMap(([task, channel]) => (isUnfinished(channel) ? [] : [task])));
}

/** A task's place in a path or namespace: `node:taskId`. */
export function segmentOf({ name, id }: { name: string; id: string }): string {
  return `${name}:${id}`;
}

/** The node of a segment. Those of graphs that keep their state from call to call are the bare name. */
export function nodeOf(segment: string): string {
  const colon = segment.lastIndexOf(":");
  return colon === -1 ? segment : segment.slice(0, colon);
}

export function pathOf(ns: string): string[] {
  return ns === "" ? [] : ns.split("|");
}

/** The namespace of a graph that runs as this task; one that keeps its state from call to call has no task ids in it. */
export function namespaceBelow(ns: string, segment: string, keepsState: boolean): string {
  const below = [...pathOf(ns), segment];
  return (keepsState ? below.map(nodeOf) : below).join("|");
}

/** Whether a namespace or path lies at or below a task's path. */
export function isBelow(path: readonly string[], task: readonly string[]): boolean {
  return (
    path.length >= task.length &&
    task.every((segment, i) => path[i] === segment || path[i] === nodeOf(segment))
  );
}

/** A channel of a graph, with as much of its interface as is used here. `update` runs the reducer of its author. */
export interface Channel {
  lc_graph_name?: string;
  fromCheckpoint(value: unknown): Channel;
  update(values: unknown[]): boolean;
  get(): unknown;
  replayWrites?(writes: PendingWrites): void;
}

/** A compiled graph from inside. */
export interface GraphInside {
  nodes: Record<string, { triggers?: string[]; ends?: string[]; bound?: unknown }>;
  channels: Record<string, unknown>;
  outputChannels: string | string[];
  /** true: it keeps its state from call to call; false: it is never saved. */
  checkpointer?: unknown;
  /** Nodes before or after which a run of it waits for somebody to go on. */
  interruptBefore?: "*" | string[];
  interruptAfter?: "*" | string[];
  builder?: { branches?: Record<string, Record<string, { path: Invokable }>> };
  getSubgraphs(namespace?: string, recurse?: boolean): Iterable<[name: string, graph: unknown]>;
}

interface Invokable {
  invoke(input: unknown, config: unknown): unknown;
}

/** Stored as what was written to it since its last snapshot. */
export function isDelta(channel: Channel | undefined): boolean {
  return channel?.lc_graph_name === "DeltaChannel";
}

/** Has no reducer: the last write is its value. */
export function isLastValue(channel: Channel | undefined): boolean {
  return channel?.lc_graph_name === "LastValue";
}

/** Never stored. */
export function isUntracked(channel: Channel | undefined): boolean {
  return channel?.lc_graph_name === "UntrackedValue";
}

export function channelOf(graph: GraphInside, key: string): Channel | undefined {
  return Object.hasOwn(graph.channels, key) ? (graph.channels[key] as Channel) : undefined;
}

/** A graph made by `entrypoint`: its state is what its function returned. */
export function isFunctional(graph: GraphInside): boolean {
  return graph.outputChannels === END && Object.hasOwn(graph.channels, PREVIOUS);
}

/** By the mark that LangGraph itself goes by: which copy of the library compiled it makes no difference. */
export function isGraph(value: unknown): value is GraphInside {
  return (
    typeof value === "object" && value !== null && "lg_is_pregel" in value && value.lg_is_pregel === true
  );
}

/** The graph that a node is, where it is one. A function that calls a graph is none: what it does besides, it knows. */
export function subgraphOf(graph: GraphInside, node: string): GraphInside | undefined {
  const bound = Object.hasOwn(graph.nodes, node) ? graph.nodes[node]!.bound : undefined;
  return isGraph(bound) ? bound : undefined;
}

/** The function that a node runs, where it is one. */
export function functionOf(graph: GraphInside, node: string): ((...args: never[]) => unknown) | undefined {
  const bound = Object.hasOwn(graph.nodes, node) ? graph.nodes[node]!.bound : undefined;
  const { func } = (bound ?? {}) as { func?: unknown };
  return typeof func === "function" ? (func as (...args: never[]) => unknown) : undefined;
}

/** The subgraph at a namespace, where every step on the way is a node that is a graph. */
export function graphAt(graph: GraphInside, ns: string): GraphInside | undefined {
  let inner: GraphInside | undefined = graph;
  for (const segment of pathOf(ns)) inner = inner && subgraphOf(inner, nodeOf(segment));
  return inner;
}

/** The graph at a namespace: nodes that are graphs, and graphs that nodes say they call. */
export function declaredGraphAt(graph: GraphInside, ns: readonly string[]): GraphInside | undefined {
  let inner: GraphInside | undefined = graph;
  for (const segment of ns) {
    const subgraphs: [string, unknown][] = inner === undefined ? [] : [...inner.getSubgraphs()];
    inner = subgraphs.find(([name]) => name === nodeOf(segment))?.[1] as GraphInside | undefined;
  }
  return inner;
}

/** Whether a path is what a pattern says, in which the name of a node stands for any of its tasks. */
export function isNamed(path: readonly string[], pattern: readonly string[]): boolean {
  return path.length === pattern.length && isBelow(pattern, path);
}

/** The state's keys that a subgraph answers with. */
export function outputKeys({ outputChannels }: GraphInside): string[] {
  return Array.isArray(outputChannels) ? outputChannels : [outputChannels];
}

/**
 * Has every router of a graph and its subgraphs run inside of `around`, so that what routers do can be told from what
 * nodes do: LangGraph gives both the node's name. Once a graph: `around` is the first call's.
 */
export function wrapRouters(graph: GraphInside, around: <T>(run: () => T) => T): void {
  for (const branches of Object.values(graph.builder?.branches ?? {})) {
    for (const branch of Object.values(branches)) {
      if (wrapped.has(branch)) continue;
      wrapped.add(branch);
      const { path } = branch;
      const invoke = (input: unknown, config: unknown) => around(() => path.invoke(input, config));
      branch.path = Object.create(path, { invoke: { value: invoke } }) as Invokable;
    }
  }
  for (const [, inner] of graph.getSubgraphs()) wrapRouters(inner as GraphInside, around);
}

const wrapped = new WeakSet<object>();

/** What of LangGraph's is used in another way where it is ours. */
export interface Ours {
  saver(saver: unknown): boolean;
  store(store: unknown): boolean;
}

/**
 * Mends two things in how a graph, and each of its subgraphs, begins. Once for each copy of the library, and only for
 * what is ours.
 *
 * - LangGraph 1.4 runs all tasks of a subgraph's step again when the step goes on, those that had finished too: it takes
 *   `checkpoint_id: undefined` in a task's config for a checkpoint that was asked for. 1.7 does not.
 * - LangGraph wraps a store in one that gathers calls, for which a timer of 0 ms goes round for as long as the graph
 *   runs, in each of its subgraphs too, whether or not anybody uses the store. Nodes get ours as it is.
 */
export function mendBeginning(graph: GraphInside, ours: Ours): void {
  let prototype: Record<string, unknown> | null = Object.getPrototypeOf(graph);
  while (prototype !== null && !Object.hasOwn(prototype, "_defaults")) {
    prototype = Object.getPrototypeOf(prototype);
  }
  if (prototype === null || mended.has(prototype)) return;
  mended.add(prototype);
  const defaults = prototype._defaults as (this: unknown, config: GraphConfig) => unknown[];
  prototype._defaults = function (this: { store?: unknown }, config: GraphConfig) {
    const { configurable } = config;
    if (
      configurable !== undefined &&
      configurable.checkpoint_id === undefined &&
      configurable[REPLAY] === undefined &&
      ours.saver(configurable[SAVER])
    ) {
      delete configurable.checkpoint_id;
    }
    const store = config.store ?? this.store;
    if (!ours.store(store)) return defaults.call(this, config);
    // The graph's loop gets none, its tasks the one in the config.
    return defaults.call(this, { ...config, store }).map((each) => (each === store ? undefined : each));
  };
}

interface GraphConfig {
  configurable?: Record<string, unknown>;
  store?: unknown;
}

const mended = new WeakSet<object>();
const REPLAY = "__pregel_replay_state";
/** Where a graph's config has the saver of the graph above it. */
export const SAVER = "__pregel_checkpointer";

/** Whether a cached update tells of a task that had finished before this run began. */
export function isToldAgain(update: unknown): boolean {
  const { __metadata__: metadata } = (update ?? {}) as { __metadata__?: { cached?: unknown } };
  return metadata?.cached === true;
}
