/** A thread's state as a gateway shows it and a plain function agent writes it: no graph needed. */

import { setTimeout as sleep } from "node:timers/promises";
import type { BaseMessage } from "@langchain/core/messages";
import type { RunnableConfig } from "@langchain/core/runnables";
import {
  type BaseCheckpointSaver,
  type ChannelVersions,
  type Checkpoint,
  type CheckpointMetadata,
  type CheckpointPendingWrite,
  type CheckpointTuple,
  emptyCheckpoint,
  isDeltaSnapshot,
  maxChannelVersion,
  uuid6,
} from "@langchain/langgraph-checkpoint";
import { isRecord, type TaskState, type ThreadState as WireState } from "@throughline/protocol";
import { HeadMovedError, InvalidArgumentError, NoSuchCheckpointError } from "./errors.ts";
import { hideError } from "./hidden-error.ts";
import {
  END,
  ERROR,
  finishedTasks,
  INTERRUPT,
  isNamed,
  isStateKey,
  NO_WRITES,
  pathOf,
  RETURN,
  SENDS,
  START,
  triggerOf,
} from "./langgraph.ts";
import { marksOf, withoutMarks } from "./marks.ts";
import { flattenValues, manyMessages, mergeMessages } from "./messages.ts";
import { RedisCheckpointSaver } from "./saver.ts";

/** A checkpoint of a thread, ready for JSON: the wire's, with what only older gateways leave out. */
export interface ThreadState extends WireState {
  /** The path of the subgraph whose state it is; [] is the thread's own. */
  ns: string[];
  /** The tasks of the next step. Empty also where the checkpoint does not know them: one that an update wrote. */
  tasks: TaskState[];
}

export interface StateUpdate {
  threadId: string;
  /** The checkpoint to write a child of; null for none. @default the head, whatever it is when the write happens */
  parentId?: string | null;
  /**
   * `messages` (one or many, in any form that toBaseMessage takes) are merged with the parent's like LangGraph's
   * reducer does it; every other key replaces. A key that is undefined is left as it is.
   */
  update: Record<string, unknown>;
  metadata: { source: CheckpointMetadata["source"]; run_id?: string; [key: string]: unknown };
}

/** How often a write to the head is tried. Each try reads the whole head. */
const maxTries = 10;
/** After a try, ms: a random time up to so much. */
const maxPauseMs = 20;

/** Which of a thread's checkpoints. */
export interface Position {
  threadId: string;
  /** @default the head */
  checkpointId?: string | undefined;
  /** The subgraph, by its path. @default the thread's own state */
  ns?: readonly string[] | undefined;
}

/**
 * The path of the subgraph that a path means in which names of nodes stand for their tasks: the one that was last
 * written to, of those that have the checkpoint where one is named. undefined: there is none.
 */
export async function findSubgraph(
  saver: RedisCheckpointSaver,
  { threadId, checkpointId, ns = [] }: Position,
): Promise<string[] | undefined> {
  if (ns.length === 0) return [];
  const heads = [...(await saver.heads(threadId))].map(([key, head]) => ({ path: pathOf(key), head }));
  const found = heads
    .filter(({ path }) => isNamed(path, ns))
    .sort((a, b) => (a.head < b.head ? 1 : -1))
    .map(({ path }) => path);
  if (checkpointId === undefined) return found[0];
  for (const path of found) {
    if ((await saver.getTuple(at(threadId, checkpointId, path))) !== undefined) return path;
  }
  return undefined;
}

/** The state at a checkpoint, by default the head; null where there is none. */
export async function readState(saver: BaseCheckpointSaver, position: Position): Promise<ThreadState | null> {
  const { threadId, checkpointId, ns } = position;
  const reader = flatReader(saver);
  const tuple = await reader.getTuple(at(threadId, checkpointId, ns));
  return tuple ? await threadState(reader, threadId, tuple) : null;
}

export function flatReader(saver: BaseCheckpointSaver): BaseCheckpointSaver {
  return saver instanceof RedisCheckpointSaver ? saver.flat() : saver;
}

/**
 * The agent whose graph wrote the state, by its name; null where no graph did, or where there is none. A graph knows
 * the versions of the channels with which its nodes last ran.
 */
export async function graphOf(
  saver: BaseCheckpointSaver,
  { threadId, checkpointId, ns }: Position,
): Promise<string | null> {
  const tuple = await saver.getTuple(at(threadId, checkpointId, ns));
  if (tuple === undefined || Object.keys(tuple.checkpoint.versions_seen).length === 0) return null;
  const { agent } = (tuple.metadata ?? {}) as { agent?: unknown };
  return typeof agent === "string" ? agent : null;
}

/**
 * Writes a child checkpoint in LangGraph's format, from which a graph continues as from one of its own. Two that write
 * to the head at the same time both end up on the thread's line, one after the other.
 * @throws NoSuchCheckpointError (`parentId`), InvalidArgumentError (a message, or a key or value that is LangGraph's
 * own), StaleAttemptError (a fenced saver), HeadMovedError (others moved the head before each of ten tries)
 */
export async function writeState(
  saver: RedisCheckpointSaver,
  { threadId, parentId, update, metadata }: StateUpdate,
): Promise<{ threadId: string; checkpointId: string }> {
  const changes = parseUpdate(update);
  for (let tries = 1; ; tries++) {
    const parent = parentId === null ? undefined : await saver.getTuple(at(threadId, parentId));
    if (parentId && !parent) throw new NoSuchCheckpointError(threadId, parentId);
    const step = (parent?.metadata?.step ?? -2) + 1;
    const changed = changesTo(parent?.checkpoint, changes);
    const { checkpoint, newVersions } = childCheckpoint(parent?.checkpoint, step, changed, saver);
    const parents = parent?.metadata?.parents ?? {};
    const ifHead = parentId === undefined ? { ifHead: parent?.checkpoint.id ?? null } : {};
    try {
      await saver.put(
        at(threadId, parent?.checkpoint.id),
        checkpoint,
        { parents, ...metadata, step },
        newVersions,
        ifHead,
      );
      return { threadId, checkpointId: checkpoint.id };
    } catch (error) {
      if (!(error instanceof HeadMovedError) || tries === maxTries) throw error;
      await sleep(Math.random() * maxPauseMs);
    }
  }
}

/** Where LangGraph finds a checkpoint. */
export function at(threadId: string, checkpointId?: string, ns: readonly string[] = []): RunnableConfig {
  return {
    configurable: {
      thread_id: threadId,
      checkpoint_ns: ns.join("|"),
      ...(checkpointId && { checkpoint_id: checkpointId }),
    },
  };
}

export async function threadState(
  saver: BaseCheckpointSaver,
  threadId: string,
  tuple: CheckpointTuple,
): Promise<ThreadState> {
  const { shown } = marksOf(tuple);
  const ns = pathOf(String(tuple.config.configurable?.checkpoint_ns ?? ""));
  // A fork stands before the step that goes on: until that is over the thread shows what it showed when it was stopped.
  const seen = shown === undefined ? undefined : await saver.getTuple(at(threadId, shown, ns));
  return stateOf(threadId, tuple, valuesOf(seen ?? tuple));
}

export function stateOf(
  threadId: string,
  tuple: CheckpointTuple,
  values: Record<string, unknown>,
): ThreadState {
  const parentId: unknown = tuple.parentConfig?.configurable?.checkpoint_id;
  const tasks = tasksOf(tuple);
  return {
    threadId,
    checkpointId: tuple.checkpoint.id,
    parentId: typeof parentId === "string" ? parentId : null,
    ns: pathOf(String(tuple.config.configurable?.checkpoint_ns ?? "")),
    values,
    next: nextOf(tuple, tasks),
    interrupts: openInterrupts(tuple),
    tasks,
    metadata: withoutMarks(tuple.metadata),
    createdAt: tuple.checkpoint.ts,
    // flattenValues makes JSON of whatever values there are.
  } as ThreadState;
}

function valuesOf(tuple: CheckpointTuple): Record<string, unknown> {
  const { channel_values: channels } = tuple.checkpoint;
  const own = Object.entries(channels).filter(([channel]) => isStateKey(channel));
  const values = flattenValues({ ...Object.fromEntries(own), ...marksOf(tuple).beside });
  if (!Object.hasOwn(channels, END)) return values;
  const returned = flattenValues(channels[END]);
  return { ...(isRecord(returned) ? returned : { output: returned }), ...values };
}

/** What the tasks of a checkpoint's next step had written: those of a step that was stopped stand with the stop. */
function writesOf(tuple: CheckpointTuple): CheckpointPendingWrite[] {
  return marksOf(tuple).stop?.writes ?? tuple.pendingWrites ?? [];
}

function tasksOf(tuple: CheckpointTuple): TaskState[] {
  const { tasks = [], stop } = marksOf(tuple);
  const writes = writesOf(tuple);
  const finished = finishedTasks(writes);
  return tasks.map(([id, name]) => {
    const own = writes.filter(([task]) => task === id);
    const isCut = stop !== undefined && Object.hasOwn(stop.answers, id);
    const error = own.find(([, channel]) => channel === ERROR)?.[2];
    // A task that was stopped with its answer in hand asks again; and a second question has the first one's id.
    const answered = finished.has(id) || isCut;
    const interrupts = interruptsOf(own).map((each) => ({ ...each, answered }));
    return {
      id,
      name,
      interrupts,
      ...(isRecord(error) ? { error: hideError(error) } : {}),
      ...(finished.has(id) ? { result: resultOf(own) } : {}),
      ...(isCut ? { cancelled: true as const } : {}),
    } as TaskState;
  });
}

function resultOf(writes: readonly CheckpointPendingWrite[]): unknown {
  const returned = writes.find(([, channel]) => channel === RETURN || channel === END);
  if (returned !== undefined) return flattenValues(returned[2]);
  const own = writes.filter(([, channel]) => isStateKey(channel) && channel !== NO_WRITES);
  return flattenValues(Object.fromEntries(own.map(([, channel, value]) => [channel, value])));
}

function nextOf(tuple: CheckpointTuple, tasks: readonly TaskState[]): string[] {
  const { next } = (tuple.metadata ?? {}) as { next?: unknown };
  const left = tasks.filter((task) => !("result" in task));
  // A step that is over, as that of an earlier checkpoint, had all of its tasks before it.
  if (tasks.length > 0) return (left.length > 0 ? left : tasks).map(({ name }) => name);
  return Array.isArray(next) ? next.map(String) : nextNodes(tuple.checkpoint);
}

/**
 * What a state graph's checkpoint says of the nodes that are to run: each has a channel that triggers it, and knows the
 * version of that channel with which it last ran.
 */
function nextNodes({ channel_values, channel_versions, versions_seen }: Checkpoint): string[] {
  const next: string[] = [];
  for (const [channel, value] of Object.entries(channel_values)) {
    if (channel === START) next.push(START);
    if (channel === SENDS && Array.isArray(value)) {
      for (const { node } of value as { node: unknown }[]) next.push(String(node));
    }
    const trigger = triggerOf(channel);
    if (trigger === undefined) continue;
    const { node, joins = [] } = trigger;
    // A join's value is the names of those that have come.
    const missing = joins.filter((name) => !(Array.isArray(value) && value.includes(name)));
    const seen = versions_seen[node]?.[channel];
    if (missing.length === 0 && (seen === undefined || channel_versions[channel]! > seen)) next.push(node);
  }
  return next;
}

/**
 * What waits for an answer, in the order of the tasks: what was asked by tasks that have finished, or were stopped
 * behind it, was answered.
 */
function openInterrupts(tuple: CheckpointTuple): { id: string; value: unknown }[] {
  const { tasks = [], stop } = marksOf(tuple);
  const writes = writesOf(tuple);
  const answered = finishedTasks(writes);
  for (const id of Object.keys(stop?.answers ?? {})) answered.add(id);
  const place = (task: string) => tasks.findIndex(([id]) => id === task);
  const open = writes.filter(([task]) => !answered.has(task)).sort((a, b) => place(a[0]) - place(b[0]));
  return interruptsOf(open);
}

/** A task's interrupts are one write: an interrupt, or a list of them. */
function interruptsOf(writes: readonly CheckpointPendingWrite[]): { id: string; value: unknown }[] {
  return writes
    .filter(([, channel]) => channel === INTERRUPT)
    .flatMap(([taskId, , write]) =>
      (Array.isArray(write) ? write : [write]).map((interrupt: { id?: string; value?: unknown } | null) => ({
        id: interrupt?.id ?? taskId,
        value: flattenValues(interrupt?.value),
      })),
    );
}

interface Changes {
  values: [channel: string, value: unknown][];
  messages: BaseMessage[] | undefined;
}

function parseUpdate({ messages, ...others }: Record<string, unknown>): Changes {
  const values = Object.entries(others).filter(([, value]) => value !== undefined);
  for (const [key, value] of values) {
    if (!isStateKey(key)) throw new InvalidArgumentError(`${key} is a name of LangGraph's own`);
    refuseSerialised(value);
  }
  if (messages === undefined) return { values, messages };
  refuseSerialised(messages);
  return { values, messages: manyMessages(messages) };
}

/**
 * The serializer would make objects of `{"lc":1,…}` when the checkpoint is read: any class of LangChain's, with
 * arguments that may come from a browser.
 * @throws InvalidArgumentError
 */
export function refuseSerialised(value: unknown): void {
  const open: unknown[] = [value];
  for (let each = open.pop(); each !== undefined; each = open.pop()) {
    if (typeof each !== "object" || each === null) continue;
    const prototype: unknown = Object.getPrototypeOf(each);
    if (!Array.isArray(each) && prototype !== Object.prototype && prototype !== null) continue;
    if ("lc" in each && (each.lc === 1 || each.lc === 2)) {
      throw new InvalidArgumentError('a serialised object ({"lc": …}) is no value: send plain JSON');
    }
    for (const inner of Object.values(each)) if (inner !== undefined) open.push(inner);
  }
}

function changesTo(parent: Checkpoint | undefined, { values, messages }: Changes): Map<string, unknown> {
  const changed = new Map(values);
  if (messages && messages.length > 0) {
    changed.set("messages", mergeMessages(messagesOf(parent?.channel_values.messages), messages));
  }
  return changed;
}

/** An id that sorts behind those that were made before. */
export function newCheckpointId(step: number): string {
  return uuid6(Math.max(step, 0));
}

/** A checkpoint like `parent`, in which these channels have new values, under a new version. */
export function childCheckpoint(
  parent: Checkpoint | undefined,
  step: number,
  changed: ReadonlyMap<string, unknown>,
  saver: BaseCheckpointSaver,
): { checkpoint: Checkpoint; newVersions: ChannelVersions; version: number } {
  const old = parent ?? emptyCheckpoint();
  const versions = Object.values(old.channel_versions);
  // Above every channel's, as LangGraph counts: a version tells when in the thread a channel changed.
  const version = saver.getNextVersion(
    versions.length > 0 ? Number(versions.reduce((max, each) => maxChannelVersion(max, each))) : undefined,
  );
  const newVersions = Object.fromEntries([...changed.keys()].map((channel) => [channel, version]));
  return {
    checkpoint: {
      ...old,
      v: 4,
      id: newCheckpointId(step),
      ts: new Date().toISOString(),
      channel_values: { ...old.channel_values, ...Object.fromEntries(changed) },
      channel_versions: { ...old.channel_versions, ...newVersions },
    },
    newVersions,
    version,
  };
}

function messagesOf(value: unknown): BaseMessage[] {
  const list: unknown = isDeltaSnapshot(value) ? value.value : value;
  return list === undefined || list === null ? [] : manyMessages(list);
}
