/** A thread's state as a gateway shows it and a plain function agent writes it: no graph needed. */
import type { BaseMessage } from "@langchain/core/messages";
import type { RunnableConfig } from "@langchain/core/runnables";
import {
  type BaseCheckpointSaver,
  type ChannelVersions,
  type Checkpoint,
  type CheckpointMetadata,
  type CheckpointTuple,
  emptyCheckpoint,
  INTERRUPT,
  isDeltaSnapshot,
  maxChannelVersion,
  TASKS,
  uuid6,
} from "@langchain/langgraph-checkpoint";
import { HeadMovedError, InvalidArgumentError, NoSuchCheckpointError } from "./errors.ts";
import { flattenValues, manyMessages, mergeMessages } from "./messages.ts";
import type { RedisCheckpointSaver } from "./saver.ts";

/** A checkpoint of a thread's root namespace, ready for JSON. */
export interface ThreadState {
  threadId: string;
  checkpointId: string;
  parentId: string | null;
  /** The state's keys; messages are flat. A delta channel appears only where a snapshot of it was taken. */
  values: Record<string, unknown>;
  /**
   * The nodes that would run next: as the metadata tell, else as the checkpoint does. It does where it is a state
   * graph's; those of its next nodes that have finished while others had not are among them.
   */
  next: string[];
  interrupts: { id: string; value: unknown }[];
  metadata: Record<string, unknown>;
  /** ISO 8601. */
  createdAt: string;
}

export interface StateUpdate {
  threadId: string;
  /** The checkpoint to write a child of; null for none. Default: the head, whatever it is when the write happens. */
  parentId?: string | null;
  /**
   * `messages` (one or many, in any form that toBaseMessage takes) are merged with the parent's like LangGraph's
   * reducer does it; every other key replaces. A key that is undefined is left as it is.
   */
  update: Record<string, unknown>;
  metadata: { source: CheckpointMetadata["source"]; run_id?: string; [key: string]: unknown };
}

/** How LangGraph names channels of its own, which are no part of the state. */
const INTERNAL = /^(__|branch:|join:)/;

/** The state at a checkpoint, by default the head; null where there is none. */
export async function readState(
  saver: BaseCheckpointSaver,
  { threadId, checkpointId }: { threadId: string; checkpointId?: string | undefined },
): Promise<ThreadState | null> {
  const tuple = await saver.getTuple(at(threadId, checkpointId));
  return tuple ? threadState(threadId, tuple) : null;
}

/** The states of all lines of a thread, branches included, newest first; `before` is a checkpoint's id. */
export async function readHistory(
  saver: BaseCheckpointSaver,
  { threadId, limit, before }: { threadId: string; limit?: number | undefined; before?: string | undefined },
): Promise<ThreadState[]> {
  const options = { ...(limit !== undefined && { limit }), ...(before && { before: at(threadId, before) }) };
  const states: ThreadState[] = [];
  for await (const tuple of saver.list(at(threadId), options)) states.push(threadState(threadId, tuple));
  return states;
}

/**
 * The agent whose graph wrote the state, by its name; null where no graph did, or where there is none. A graph knows
 * the versions of the channels with which its nodes last ran.
 */
export async function graphOf(
  saver: BaseCheckpointSaver,
  { threadId, checkpointId }: { threadId: string; checkpointId?: string | undefined },
): Promise<string | null> {
  const tuple = await saver.getTuple(at(threadId, checkpointId));
  if (tuple === undefined || Object.keys(tuple.checkpoint.versions_seen).length === 0) return null;
  const { agent } = (tuple.metadata ?? {}) as { agent?: unknown };
  return typeof agent === "string" ? agent : null;
}

/**
 * Writes a child checkpoint in LangGraph's format, from which a graph continues as from one of its own. Two that write
 * to the head at the same time both end up on the thread's line, one after the other.
 * @throws NoSuchCheckpointError (`parentId`), InvalidArgumentError (a message, or a key or value that is LangGraph's
 * own), StaleAttemptError (a fenced saver)
 */
export async function writeState(
  saver: RedisCheckpointSaver,
  { threadId, parentId, update, metadata }: StateUpdate,
): Promise<{ threadId: string; checkpointId: string }> {
  const changes = parseUpdate(update);
  for (;;) {
    const parent = parentId === null ? undefined : await saver.getTuple(at(threadId, parentId));
    if (parentId && !parent) throw new NoSuchCheckpointError(threadId, parentId);
    const step = (parent?.metadata?.step ?? -2) + 1;
    const { checkpoint, newVersions } = childOf(parent?.checkpoint, step, changes, (version) =>
      saver.getNextVersion(version),
    );
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
      if (!(error instanceof HeadMovedError)) throw error;
    }
  }
}

function at(threadId: string, checkpointId?: string): RunnableConfig {
  return {
    configurable: {
      thread_id: threadId,
      checkpoint_ns: "",
      ...(checkpointId && { checkpoint_id: checkpointId }),
    },
  };
}

function threadState(threadId: string, tuple: CheckpointTuple): ThreadState {
  const metadata: Record<string, unknown> = { ...tuple.metadata };
  const channels = Object.entries(tuple.checkpoint.channel_values);
  const parentId: unknown = tuple.parentConfig?.configurable?.checkpoint_id;
  return {
    threadId,
    checkpointId: tuple.checkpoint.id,
    parentId: typeof parentId === "string" ? parentId : null,
    values: flattenValues(Object.fromEntries(channels.filter(([channel]) => !INTERNAL.test(channel)))),
    next: Array.isArray(metadata.next) ? metadata.next.map(String) : nextNodes(tuple.checkpoint),
    interrupts: interrupts(tuple),
    metadata,
    createdAt: tuple.checkpoint.ts,
  };
}

/**
 * What a state graph's checkpoint says of the nodes that are to run: each has a channel that triggers it, and knows the
 * version of that channel with which it last ran.
 */
function nextNodes({ channel_values, channel_versions, versions_seen }: Checkpoint): string[] {
  const next: string[] = [];
  for (const [channel, value] of Object.entries(channel_values)) {
    if (channel === START) next.push(START);
    if (channel === TASKS && Array.isArray(value)) {
      next.push(...value.map((send: { node: unknown }) => String(send.node)));
    }
    const trigger = TRIGGER.exec(channel);
    if (trigger === null) continue;
    const [, names, node = ""] = trigger;
    // A join's value is the names of those that have come.
    const missing = names?.split("+").filter((name) => !(Array.isArray(value) && value.includes(name))) ?? [];
    const seen = versions_seen[node]?.[channel];
    if (missing.length === 0 && (seen === undefined || channel_versions[channel]! > seen)) next.push(node);
  }
  return next;
}

const START = "__start__";
/** How a state graph names what triggers a node: `branch:to:node`, or `join:one+other:node`. */
const TRIGGER = /^(?:branch:to|join:(.*)):([^:]*)$/s;

/** A task's interrupts are one write: an interrupt, or a list of them. */
function interrupts({ pendingWrites = [] }: CheckpointTuple): { id: string; value: unknown }[] {
  return pendingWrites
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
    if (INTERNAL.test(key)) throw new InvalidArgumentError(`${key} is a name of LangGraph's own`);
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

function childOf(
  parent: Checkpoint | undefined,
  step: number,
  { values, messages }: Changes,
  nextVersion: (current: number | undefined) => number,
): { checkpoint: Checkpoint; newVersions: ChannelVersions } {
  const old = parent ?? emptyCheckpoint();
  const changed = new Map(values);
  if (messages && messages.length > 0) {
    changed.set("messages", mergeMessages(messagesOf(old.channel_values.messages), messages));
  }
  const versions = Object.values(old.channel_versions);
  // Above every channel's, as LangGraph counts: a version tells when in the thread a channel changed.
  const version = nextVersion(versions.length > 0 ? Number(maxChannelVersion(...versions)) : undefined);
  const newVersions = Object.fromEntries([...changed.keys()].map((channel) => [channel, version]));
  return {
    checkpoint: {
      ...old,
      v: 4,
      id: uuid6(Math.max(step, 0)),
      ts: new Date().toISOString(),
      channel_values: { ...old.channel_values, ...Object.fromEntries(changed) },
      channel_versions: { ...old.channel_versions, ...newVersions },
    },
    newVersions,
  };
}

function messagesOf(value: unknown): BaseMessage[] {
  const list: unknown = isDeltaSnapshot(value) ? value.value : value;
  return list === undefined || list === null ? [] : manyMessages(list);
}
