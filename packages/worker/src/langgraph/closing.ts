/**
 * Writes down what a thread shows where a run stood in the middle of a step, and where that was.
 *
 * The principle: saving what was streamed never depends on the graph's author. No router is run; who goes on runs it. A
 * reducer that throws costs the change of its own channel. What is finished stays as it is, at every depth: what tasks
 * and subgraphs of the step had written is shown. What was cut off is marked, and only that. Every call to a tool has
 * an answer.
 *
 * What is shown is a checkpoint whose turn is over: no task waits in it. Where the run stood goes into its metadata
 * (`stop`): see marks.ts, and going-on.ts, which reads it.
 */

import { isDeepStrictEqual } from "node:util";
import type { BaseMessage } from "@langchain/core/messages";
import type { CheckpointTuple } from "@langchain/langgraph";
import {
  childCheckpoint,
  END,
  emptyCheckpoint,
  finishedTasks,
  functionOf,
  type GraphInside,
  isBelow,
  isFunctional,
  isStateKey,
  type Marks,
  marksOf,
  NO_TASK,
  namespaceBelow,
  outputKeys,
  PREVIOUS,
  pathOf,
  type RedisCheckpointSaver,
  SENDS,
  START,
  type Stop,
  segmentOf,
  subgraphOf,
  toBaseMessage,
  triggerOf,
} from "@throughline/checkpoint";
import { isRecord } from "@throughline/protocol";
import { type Answers, isStandIn, typeOf, withAnswers, withResults } from "../repair.ts";
import { Channels } from "./channels.ts";
import { neverWritesMessages } from "./silent.ts";

/** A message that a task streamed. */
export interface Said {
  message: BaseMessage;
  /** The path of the task, its own segment last. */
  task: readonly string[];
  /** It was finished; else it is marked already as what was cut off. */
  isWhole: boolean;
}

export interface ClosingOptions {
  /** undefined: its factory has not made it. Then only messages are saved, without its reducers. */
  graph: GraphInside | undefined;
  /** What it writes through. A branch leaves the thread's head where it is. */
  saver: RedisCheckpointSaver;
  threadId: string;
  /** The heads of all namespaces that are of the run's line. */
  heads: () => Promise<Map<string, string>>;
  /** Of the run that closes, for the metadata of what is written. */
  marks: Marks;
  /** What the run's tasks streamed behind this checkpoint of theirs, in the order in which it began. */
  said: (tuple: CheckpointTuple) => readonly Said[];
  answers: Answers;
  /** Whether a message was said for a tool or a router: it is none of the conversation. */
  isAside: (id: string) => boolean;
  /** Whether a task had called a tool that did not answer: what it had said is not all of its answer. */
  isInTool: (task: readonly string[]) => boolean;
  /**
   * What nodes had answered by what readers were told, though it is not stored: their worker died in between. `ns`: the
   * path of their graph.
   */
  told: (ns: readonly string[]) => readonly [node: string, delta: unknown][];
  /** The tasks of a checkpoint that does not know them. */
  tasksOf: (tuple: CheckpointTuple) => Promise<[id: string, name: string][]>;
}

/** A graph where it stood, and what it shows there. */
interface Level {
  tuple: CheckpointTuple;
  ns: string;
  graph: GraphInside | undefined;
  tasks: [id: string, name: string][];
  channels: Channels;
  /** The messages that are stored, in the state or by finished tasks. */
  stored: Map<string | undefined, BaseMessage>;
  stop: Stop;
  /** Of a functional graph: what is shown beside what it returned last. */
  beside?: Record<string, unknown> | undefined;
  /** It is a functional graph that has returned in this turn: that is all there is to show. */
  hasReturned?: boolean;
}

export class Closing {
  readonly #options: ClosingOptions;
  /** The heads of all namespaces. */
  #heads = new Map<string, string>();

  constructor(options: ClosingOptions) {
    this.#options = options;
  }

  /**
   * Closes the step that follows this checkpoint of the root.
   *
   * @returns the id of what is shown: the checkpoint itself where there is no more to show
   */
  async close(tuple: CheckpointTuple): Promise<string> {
    const { graph, heads } = this.#options;
    this.#heads = await heads();
    return await this.#write(await this.#level(graph, tuple, "", []));
  }

  /**
   * Keeps the input of a run that had not taken it: its messages, behind what the thread has.
   *
   * @returns the id of what is shown; that of `before`, or null, where the input has no place
   */
  async keepInput(
    before: CheckpointTuple | undefined,
    messages: BaseMessage[],
    input: unknown,
  ): Promise<string | null> {
    const { graph, saver } = this.#options;
    const tuple = before ?? { config: {}, checkpoint: emptyCheckpoint(), pendingWrites: [] };
    const said = this.#options.said(tuple).map(({ message }) => message);
    const stop: Stop = { at: null, writes: [], answers: {}, results: [], nested: {}, input };
    const channels = await Channels.at(graph, tuple, saver);
    const { beside } = marksOf(tuple);
    const level: Level = { tuple, ns: "", graph, tasks: [], channels, stored: new Map(), stop, beside };
    if (graph !== undefined && isFunctional(graph)) showReturned(level, [...messages, ...said]);
    else if (graph === undefined && before === undefined) {
      // Nobody knows yet what the state has.
      if (messages.length + said.length > 0) channels.set("messages", [...messages, ...said]);
    } else channels.addMessages([...messages, ...said]);
    const id = await this.#write(level);
    return id === tuple.checkpoint.id && before === undefined ? null : id;
  }

  /** What a graph shows. `path`: of the task that it is; at the root []. */
  async #level(
    graph: GraphInside | undefined,
    tuple: CheckpointTuple,
    ns: string,
    path: readonly string[],
  ): Promise<Level> {
    const { saver, said } = this.#options;
    const channels = await Channels.at(graph, tuple, saver);
    const writes = tuple.pendingWrites ?? [];
    const tasks = marksOf(tuple).tasks ?? (await this.#options.tasksOf(tuple));
    const finished = finishedTasks(writes);
    const stop: Stop = { at: tuple.checkpoint.id, writes, answers: {}, results: [], nested: {} };
    const level: Level = { tuple, ns, graph, tasks, channels, stored: new Map(), stop };
    const open = tasks.filter(([id]) => !finished.has(id));
    await this.#carryOver(level);
    if (open.some(([, name]) => name === START)) takeInput(level);
    takeWrites(level, finished);
    level.stored = new Map(channels.messages.map((message) => [message.id, message]));

    const here = said(tuple).filter(({ task }) => isBelow(task, path));
    const messages: BaseMessage[] = [];
    for (const [id, name] of open) {
      const segment = segmentOf({ id, name });
      const task = [...path, segment];
      const own = here.filter((each) => isBelow(each.task, task));
      messages.push(...(await this.#task(level, { id, name, segment, task }, own)));
    }
    // A worker that died may have been ahead of its checkpoints: what it streamed there is of tasks that nobody knows.
    const paths = tasks.map(([id, name]) => [...path, segmentOf({ id, name })]);
    const strays = here.filter(({ task }) => !paths.some((known) => isBelow(task, known)));
    const names = tasks.map(([, name]) => name);
    const ahead = this.#told(level, path).filter(([node]) => !names.includes(node));
    for (const [, , values] of ahead) {
      for (const [key, value] of Object.entries(values)) channels.update(key, [value]);
    }
    const streamed = strays.map(({ message }) => message);
    const known = new Set(streamed.map(({ id }) => id));
    const answered = ahead.flatMap(([, messages]) => messages).filter(({ id }) => !known.has(id));
    const others = [...streamed, ...answered].filter(({ id }) => !level.stored.has(id));
    if (others.length > 0) {
      messages.push(...others);
      const last = open.map(([id]) => stop.answers[id]).findLast((answer) => answer !== undefined);
      // Nobody goes on behind them, for nobody knows where that is: who goes on does it again, behind what is shown.
      if (last === undefined) stop.ahead = others;
      else last.push(...others);
    }
    showMessages(level, messages, this.#options.answers);
    return level;
  }

  /**
   * What was shown when an earlier run was stopped: here, where this one went on without getting to the step's end; or
   * beside what a functional graph had returned.
   */
  async #carryOver(level: Level): Promise<void> {
    const { tuple, ns, channels, graph } = level;
    const { saver, threadId, marks } = this.#options;
    if (ns !== "") return;
    if (graph !== undefined && isFunctional(graph)) {
      const before = marks.head_before && (await saver.getTuple(at(threadId, ns, marks.head_before)));
      const { [END]: version } = tuple.checkpoint.channel_versions;
      level.hasReturned = version !== (before ? before.checkpoint.channel_versions[END] : undefined);
      if (before && !level.hasReturned) level.beside = marksOf(before).beside;
    }
    const { shown } = marksOf(tuple);
    if (shown === undefined) return;
    const before = await saver.getTuple(at(threadId, ns, shown));
    const { messages } = before?.checkpoint.channel_values ?? {};
    const known = new Set(channels.messages.map(({ id }) => id));
    const own = (Array.isArray(messages) ? (messages as BaseMessage[]) : []).filter(
      (message) => !known.has(message.id) && !isStandIn(message),
    );
    channels.addMessages(own);
  }

  /** What an unfinished task adds to its graph's messages. */
  async #task(
    level: Level,
    { id, name, segment, task }: { id: string; name: string; segment: string; task: string[] },
    said: readonly Said[],
  ): Promise<BaseMessage[]> {
    const { graph, ns, stop, channels } = level;
    const inner = graph && subgraphOf(graph, name);
    const below = inner && namespaceBelow(ns, segment, inner.checkpointer === true);
    const head = below === undefined ? undefined : await this.#head(below);
    if (inner !== undefined && head !== undefined) {
      const closed = await this.#level(inner, head, below!, task);
      stop.nested[below!] = await this.#write(closed);
      Object.assign(stop.nested, closed.stop.nested);
      return lift(closed, level);
    }
    const [answer, another] = this.#told(level, task.slice(0, -1)).filter(([node]) => node === name);
    if (
      answer !== undefined &&
      another === undefined &&
      level.tasks.filter((each) => each[1] === name).length === 1
    ) {
      const [, messages, values] = answer;
      for (const [key, value] of Object.entries(values)) channels.update(key, [value]);
      stop.values = { ...stop.values, [id]: values };
      stop.answers[id] = withResults(messages, this.#options.answers);
      return messages;
    }
    const called = await this.#called(ns, segment);
    const run = graph && functionOf(graph, name);
    // What its models say is for another key, which it has not written: it is run again.
    const isSilent = run !== undefined && neverWritesMessages(run);
    const messages = isSilent ? [] : inOrder(called.messages, said).filter(({ id }) => !level.stored.has(id));
    const wasCut = said.some(({ isWhole, message }) => !isWhole && !called.stored.has(message.id));
    const hasSpoken = said.some((each) => each.task.length === task.length) && !this.#options.isInTool(task);
    if (!isSilent && (wasCut || hasSpoken) && channels.holdsMessages) {
      stop.answers[id] = withResults(messages, this.#options.answers);
    } else
      for (const [each, head] of this.#heads) if (isBelow(pathOf(each), task)) stop.nested[each] ??= head;
    return messages;
  }

  /** What nodes were told to have answered, where that is a change of the state. */
  #told(
    { graph, channels }: Level,
    path: readonly string[],
  ): [node: string, messages: BaseMessage[], values: Record<string, unknown>][] {
    if (graph === undefined || isFunctional(graph)) return [];
    return this.#options.told(path).flatMap(([node, delta]) => {
      if (!Object.hasOwn(graph.nodes, node) || !isRecord(delta)) return [];
      const { messages, ...others } = delta;
      const values = Object.entries(others).filter(([key]) => isStateKey(key) && channels.has(key));
      return [[node, messagesIn(messages), Object.fromEntries(values)] as const];
    }) as [string, BaseMessage[], Record<string, unknown>][];
  }

  /**
   * What graphs that a node has called show of their messages, beyond those that they were called with, and which of
   * these are stored. Graphs that keep their state from call to call are closed, for nobody else will.
   */
  async #called(
    ns: string,
    segment: string,
  ): Promise<{ messages: BaseMessage[]; stored: Set<string | undefined> }> {
    const messages: BaseMessage[] = [];
    const stored = new Set<string | undefined>();
    const calls = [namespaceBelow(ns, segment, false), namespaceBelow(ns, segment, true)];
    const graphs = [...this.#heads.keys()]
      .filter((each) => calls.some((call) => each === call || isCallAgain(each, call)))
      .sort();
    for (const each of graphs) {
      const tuple = (await this.#head(each))!;
      const { tasks = [], stop } = marksOf(tuple);
      const keepsState = pathOf(each).every((part) => !part.includes(":"));
      // Of such a graph the head may be what an earlier call left.
      if (keepsState && (tasks.length === 0 || stop !== undefined)) continue;
      const level = await this.#level(undefined, tuple, each, pathOf(each));
      if (keepsState) this.#heads.set(each, await this.#write(level));
      const given = await this.#given(tuple);
      messages.push(
        ...level.channels.messages.filter(
          (message) =>
            !given.has(message.id) && !isStandIn(message) && !this.#options.isAside(message.id ?? ""),
        ),
      );
      for (const id of level.stored.keys()) stored.add(id);
    }
    return { messages, stored };
  }

  /** The ids of the messages that a graph was called with: those of its first checkpoint in which the input is taken. */
  async #given(tuple: CheckpointTuple): Promise<Set<string | undefined>> {
    const { saver } = this.#options;
    let first: CheckpointTuple | undefined;
    let each: CheckpointTuple | undefined = tuple;
    while (each !== undefined && each.metadata?.source !== "input") {
      first = each;
      each = each.parentConfig && (await saver.getTuple(each.parentConfig));
    }
    const { messages } = first?.checkpoint.channel_values ?? {};
    return new Set((Array.isArray(messages) ? (messages as BaseMessage[]) : []).map(({ id }) => id));
  }

  async #head(ns: string): Promise<CheckpointTuple | undefined> {
    const id = this.#heads.get(ns);
    if (id === undefined) return undefined;
    return await this.#options.saver.getTuple(at(this.#options.threadId, ns, id));
  }

  /** Writes what a level shows. @returns its id; that of the level's own checkpoint where there is no more to show */
  async #write({ tuple, ns, graph, tasks, channels, stop, beside }: Level): Promise<string> {
    const changes = channels.changes();
    if (changes.size === 0 && beside === undefined) return tuple.checkpoint.id;
    const { saver, threadId, marks } = this.#options;
    const step = (tuple.metadata?.step ?? -1) + 1;
    const { as: _, shown: __, prepares: ___, ...inherited } = marksOf(tuple);
    const child = childCheckpoint(tuple.checkpoint, step, changes, saver);
    const { checkpoint, newVersions } = closed(child, graph);
    await saver.put(
      tuple.config.configurable === undefined ? at(threadId, ns) : at(threadId, ns, tuple.checkpoint.id),
      checkpoint,
      {
        ...inherited,
        parents: tuple.metadata?.parents ?? {},
        ...marks,
        source: "update",
        step,
        tasks,
        stop,
        beside,
        ...withoutCounters(tuple.metadata, changes),
      } as never,
      newVersions,
    );
    return checkpoint.id;
  }
}

function at(threadId: string, ns: string, checkpointId?: string) {
  return {
    configurable: {
      thread_id: threadId,
      checkpoint_ns: ns,
      ...(checkpointId === undefined ? {} : { checkpoint_id: checkpointId }),
    },
  };
}

/** The second call of a graph in one task, and those after it, have a number behind the task. */
function isCallAgain(ns: string, call: string): boolean {
  return ns.startsWith(`${call}|`) && /^\d+$/.test(ns.slice(call.length + 1));
}

/** Input that was not taken yet. */
function takeInput({ tuple, graph, channels }: Level): void {
  const input = tuple.checkpoint.channel_values[START];
  if (typeof input !== "object" || input === null || (graph && isFunctional(graph))) return;
  for (const [key, value] of Object.entries(input)) if (isStateKey(key)) channels.update(key, [value]);
}

/** What finished tasks wrote, in the order of the tasks. */
function takeWrites(level: Level, finished: ReadonlySet<string>): void {
  const { tasks, stop, channels, graph } = level;
  const byKey = new Map<string, unknown[]>();
  const ids = tasks.length > 0 ? tasks.map(([id]) => id) : [...finished].filter((id) => id !== NO_TASK);
  for (const id of ids.filter((each) => finished.has(each))) {
    for (const [task, key, value] of stop.writes) {
      if (task === id && isStateKey(key)) byKey.set(key, [...(byKey.get(key) ?? []), value]);
    }
  }
  if (graph !== undefined && isFunctional(graph)) takeReturned(level, finished);
  for (const [key, values] of byKey) {
    if (graph !== undefined) channels.update(key, values);
    else if (key === "messages") channels.addMessages(values.flat() as BaseMessage[]);
  }
}

/** A functional graph was done, but for the checkpoint that says so. */
function takeReturned(level: Level, finished: ReadonlySet<string>): void {
  for (const [task, key, value] of level.stop.writes) {
    if (!finished.has(task) || (key !== END && key !== PREVIOUS)) continue;
    level.channels.set(key, value);
    if (key !== END) continue;
    level.hasReturned = true;
    level.beside = undefined;
  }
}

/** What a subgraph would answer if it ended now: its messages, and other keys where it changed them. */
function lift({ graph, channels: inner }: Level, { channels: outer, stored }: Level): BaseMessage[] {
  const messages: BaseMessage[] = [];
  for (const key of outputKeys(graph!)) {
    const value = inner.get(key);
    if (!isStateKey(key) || !outer.has(key) || value === undefined) continue;
    if (key === "messages" && inner.holdsMessages) {
      messages.push(...inner.messages.filter((each) => !isDeepStrictEqual(each, stored.get(each.id))));
    } else if (!isDeepStrictEqual(value, outer.get(key))) outer.update(key, [value]);
  }
  return messages;
}

function showMessages(level: Level, messages: readonly BaseMessage[], answers: Answers): void {
  const { channels, graph, stop, tuple } = level;
  if (graph !== undefined && isFunctional(graph)) {
    if (level.hasReturned) return;
    const asked = messagesIn(tuple.checkpoint.channel_values[START]);
    showReturned(level, [...asked, ...messages], answers);
    return;
  }
  if (!channels.holdsMessages) return;
  channels.addMessages(messages);
  if (level.tasks.length === 0) return;
  const all = channels.messages;
  const answered = withAnswers(all, answers);
  if (answered.length === all.length) return;
  channels.set("messages", answered);
  // Calls that the step began with: who goes on need not call again what has answered.
  const stood = callsIn(tuple.checkpoint.channel_values.messages);
  stop.results.push(
    ...answered.filter(
      (message) => !all.includes(message) && !isStandIn(message) && stood.has(callIdOf(message)),
    ),
  );
}

/**
 * A functional graph has no messages but those that it returns. What it was asked and said is shown beside what it
 * returned last, and is in what its next call finds saved, where that has a place for messages.
 */
function showReturned(level: Level, said: readonly BaseMessage[], answers?: Answers): void {
  const { channels, tuple } = level;
  const { [END]: returned, [PREVIOUS]: saved } = tuple.checkpoint.channel_values;
  if (said.length === 0) return;
  const before = messagesIn(level.beside?.messages ?? returned);
  const turn = withAnswers([...before, ...said], answers).slice(before.length);
  level.beside = { messages: [...before, ...turn] };
  if (Array.isArray(saved) && saved.length > 0 && messagesIn(saved).length === saved.length) {
    channels.set(PREVIOUS, [...saved, ...turn]);
  } else if (isRecord(saved) && Array.isArray(saved.messages)) {
    channels.set(PREVIOUS, { ...saved, messages: [...saved.messages, ...turn] });
  }
}

/** A list of messages, one, or those under `messages`; a text is one of the user's. */
function messagesIn(value: unknown): BaseMessage[] {
  const list = isRecord(value) && typeOf(value as never) === undefined ? value.messages : value;
  if (typeof list === "string") return [toBaseMessage(list)];
  const all: unknown[] = Array.isArray(list) ? list : list === undefined ? [] : [list];
  return all.flatMap((each) => {
    try {
      return [toBaseMessage(each as never)];
    } catch {
      return [];
    }
  });
}

/**
 * The checkpoint as one in which no task waits: what would begin one is gone, also what a join has seen of a step that
 * will never come to its end. It gets a new version, for what is stored under the old one would be found again.
 */
function closed({ checkpoint, newVersions, version }: Child, graph: GraphInside | undefined): Child {
  const { channel_values: values, versions_seen } = checkpoint;
  const isTrigger = (channel: string) =>
    channel === START || channel === SENDS || triggerOf(channel) !== undefined;
  const gone = Object.keys(values).filter((channel) => isTrigger(channel) && values[channel] !== null);
  const emptied = Object.fromEntries(gone.map((channel) => [channel, version]));
  const versions = { ...checkpoint.channel_versions, ...emptied };
  const seen = { ...versions_seen };
  for (const [node, { triggers = [] }] of Object.entries(graph?.nodes ?? {})) {
    const known = triggers.filter((trigger) => versions[trigger] !== undefined);
    seen[node] = {
      ...seen[node],
      ...Object.fromEntries(known.map((trigger) => [trigger, versions[trigger]!])),
    };
  }
  const kept = Object.entries(values).filter(([channel]) => !gone.includes(channel));
  return {
    checkpoint: {
      ...checkpoint,
      channel_values: Object.fromEntries(kept),
      channel_versions: versions,
      versions_seen: seen,
    },
    newVersions: { ...newVersions, ...emptied },
    version,
  };
}

type Child = ReturnType<typeof childCheckpoint>;

/** LangGraph counts how long ago it stored a delta channel whole: those that are stored now need no count. */
function withoutCounters(metadata: unknown, changes: ReadonlyMap<string, unknown>): Record<string, unknown> {
  const { counters_since_delta_snapshot: counters } = (metadata ?? {}) as Record<string, unknown>;
  if (!isRecord(counters)) return {};
  const left = Object.entries(counters).filter(([channel]) => !changes.has(channel));
  return { counters_since_delta_snapshot: Object.fromEntries(left) };
}

/** What was stored and what was streamed, each in its own order; what both know is taken as it is stored. */
function inOrder(stored: readonly BaseMessage[], said: readonly Said[]): BaseMessage[] {
  const messages: BaseMessage[] = [];
  const left = [...stored];
  for (const { message } of said) {
    const at = left.findIndex(({ id }) => id === message.id);
    if (at === -1) messages.push(message);
    else messages.push(...left.splice(0, at + 1));
  }
  // What an earlier attempt stored, and this one did not stream, came before what this one says.
  const first = messages.findIndex((message) => !stored.includes(message));
  messages.splice(first === -1 ? messages.length : first, 0, ...left);
  return messages;
}

function callsIn(messages: unknown): Set<string | undefined> {
  const list = Array.isArray(messages) ? (messages as { tool_calls?: { id?: string }[] }[]) : [];
  return new Set(list.flatMap(({ tool_calls = [] }) => tool_calls.map(({ id }) => id)));
}

function callIdOf(message: BaseMessage): string | undefined {
  return (message as { tool_call_id?: string }).tool_call_id;
}
