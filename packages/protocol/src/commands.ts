/**
 * What a client sends and what it is answered: one schema per command, its params and its result.
 * Types are inferred; nothing is declared twice.
 */
import { z } from "zod";
import { checkpointRef, interruptInfo, keep, runError, runStatus, streamMode } from "./parts.ts";
import { threadStatuses } from "./status.ts";

type Json = z.core.util.JSONType;

/**
 * What came out of a JSON text, and so needs no second look: a gateway has bounded its depth and size, and refused
 * numbers that are not finite, before it parsed the text.
 */
const json = z.any().refine((value) => value !== undefined, "a value is needed") as z.ZodType<Json, Json>;
const record = z.record(z.string(), z.any()) as z.ZodType<Record<string, Json>, Record<string, Json>>;

/** A list of at most `max` items. One that is longer is refused before any of its items is looked at. */
function list<T extends z.ZodType>(item: T, max: number, min = 0) {
  const items = z.array(item).min(min).max(max);
  return z.preprocess((value, context) => {
    if (!Array.isArray(value) || value.length <= max) return value;
    context.addIssue({ code: "too_big", origin: "array", maximum: max, inclusive: true, input: value });
    return z.NEVER;
  }, items);
}

/**
 * An id becomes part of a Redis key and of its Cluster hash tag, hence no braces, spaces or control characters; and no
 * lone surrogates, which UTF-8 would make one and the same.
 */
const idText = /^[^\s{}\p{Cc}\p{Cs}]+$/u;

/** An id of a run: what the gateway gave out. */
const runId = z
  .string()
  .min(1)
  .max(128)
  .regex(idText, "a run id has 1 to 128 characters, and no spaces, braces or control characters");

/** A thread's id may be chosen by the client. */
export const threadId = z
  .string()
  .min(1)
  .max(200)
  .regex(idText, "a thread id has 1 to 200 characters, and no spaces, braces or control characters");

const checkpointId = z.string().min(1).max(200);
const agentName = z.string().min(1).max(128);
const limit = z.int().min(1).max(200);

/** A day, in ms. */
const maxTimeoutMs = 24 * 60 * 60 * 1000;

export const multitaskStrategy = z.enum(["reject", "enqueue", "interrupt", "rollback"]);
export type MultitaskStrategy = z.infer<typeof multitaskStrategy>;

/** What becomes of a run when nobody reads it any more. */
export const onDisconnect = z.enum(["continue", "cancel"]);
export type OnDisconnect = z.infer<typeof onDisconnect>;

/** Which parts a subscription wants. All that is given must match; lifecycle parts always do. */
export const filter = z.object({
  modes: list(streamMode, 16).optional(),
  /** A prefix of the part's ns. The name of a node stands for any of its tasks. */
  ns: list(z.string().max(400), 32).optional(),
  /** How many segments below the prefix may follow; 0: only the prefix itself. */
  depth: z.int().min(0).max(32).optional(),
  /** `langgraph_node` of the part's metadata (messages), or the key of an update. */
  nodes: list(z.string().max(200), 64).optional(),
  /** At least one of these is among the tags of the part's metadata. */
  tags: list(z.string().max(200), 64).optional(),
});
export type Filter = z.infer<typeof filter>;

/** A node to go to: with the thread's state, or with an input of its own. */
const target = z.union([z.string(), z.object({ node: z.string(), input: json })], {
  error: "a target is a node's name, or {node, input}",
});

/** A command to a LangGraph graph in place of input. */
export const graphCommand = z
  .object({
    resume: json.optional(),
    update: json.optional(),
    goto: z
      .union([target, list(target, 1000, 1)], {
        error: "where to go is a node's name, {node, input}, or a list of these",
      })
      .optional(),
  })
  .refine(({ resume, update, goto }) => resume !== undefined || update !== undefined || goto !== undefined, {
    error: "a command has at least one of resume, update and goto",
  });
export type GraphCommand = z.infer<typeof graphCommand>;

const recursionLimit = z.int().min(1).max(10_000);
const maxConcurrency = z.int().min(1).max(10_000);

/**
 * What a run's agent is told beside its input. Names that LangGraph knows are checked; all others are the agent's. Of
 * the two spellings of a name the first holds.
 */
export const runConfig = z
  .object({
    configurable: record.optional(),
    /** How many steps a graph may take. */
    recursionLimit: recursionLimit.optional(),
    recursion_limit: recursionLimit.optional(),
    /** How many tasks of a step may run at once. */
    maxConcurrency: maxConcurrency.optional(),
    max_concurrency: maxConcurrency.optional(),
    tags: list(z.string().max(200), 100).optional(),
    metadata: record.optional(),
    durability: z.enum(["sync", "async", "exit"]).optional(),
  })
  .catchall(json);
export type RunConfig = z.infer<typeof runConfig>;

/** Names of a graph's nodes; `"*"`: all of them. */
const nodes = z.union([z.literal("*"), list(z.string().min(1).max(200), 1000)], {
  error: 'nodes are a list of names, or "*" by itself for all of them',
});

/** The path of a subgraph. The name of a node stands for the latest of its tasks. */
const subgraph = list(z.string().min(1).max(400), 32);

/** A task of a checkpoint's next step. */
export const taskState = z.looseObject({
  id: z.string(),
  name: z.string(),
  /** What it asked a person, and whether that was answered. */
  interrupts: z.array(z.looseObject({ id: z.string(), value: json, answered: z.boolean() })),
  error: z.looseObject({ name: z.string(), message: z.string() }).optional(),
  /** What it wrote; only of a task that has finished. */
  result: json.optional(),
  /** It was stopped in the middle of its answer: a run without input goes on behind it. */
  cancelled: z.literal(true).optional(),
});
export type TaskState = z.infer<typeof taskState>;

export const runRecord = z.looseObject({
  runId: z.string(),
  threadId: z.string(),
  agent: z.string(),
  status: runStatus,
  /** How many workers have picked the run up so far; 0 while it waits for its first. */
  attempt: z.int().nonnegative(),
  /** The first offset that the log still holds. */
  first: z.int().positive(),
  /** The last offset of the log; 0 while it is empty. */
  head: z.int().nonnegative(),
  epoch: z.string(),
  /** ISO 8601, as all times here. */
  createdAt: z.string(),
  startedAt: z.string().optional(),
  endedAt: z.string().optional(),
  metadata: record.optional(),
  cancel: z.looseObject({ keep, reason: z.string().optional(), requestedAt: z.string() }).optional(),
  error: runError.optional(),
  interrupts: z.array(interruptInfo).optional(),
  checkpoint: checkpointRef.optional(),
  /** Its number in its thread: 1, 2, … Older runs have none. */
  ordinal: z.int().positive().optional(),
  /** What it was asked; where that is large, cut down to something to show. */
  input: json.optional(),
  /** `input` is not whole. */
  inputCut: z.literal(true).optional(),
  /** The checkpoint that it was to continue from; null: from nothing. Not there: the head, when its turn came. */
  from: z.string().nullable().optional(),
  modes: z.array(streamMode).optional(),
  subgraphs: z.boolean().optional(),
  onDisconnect: onDisconnect.optional(),
});
export type RunRecord = z.infer<typeof runRecord>;

export const threadStatus = z.enum(threadStatuses);
export type ThreadStatus = z.infer<typeof threadStatus>;

/** A thread, without what is in it. */
export const threadRecord = z.looseObject({
  threadId: z.string(),
  status: threadStatus,
  createdAt: z.string(),
  /** When something last happened to it: a run that came, began or ended, an update, a patch. */
  updatedAt: z.string(),
  /** The agent of its newest run; not there while it has had none. */
  agent: z.string().optional(),
  metadata: record,
  /** Its head; null while it has none. */
  checkpointId: z.string().nullable(),
  /** How many messages its head has. */
  messages: z.int().nonnegative(),
  /** How many runs it has had. */
  runs: z.int().nonnegative(),
  /** Its runs that have not ended, in the order of their turns; at most 100 of them. */
  active: z.array(z.string()),
});
export type ThreadRecord = z.infer<typeof threadRecord>;

/** Of a run, what those who watch its thread are told. */
export const threadRun = runRecord
  .pick({
    runId: true,
    agent: true,
    status: true,
    ordinal: true,
    from: true,
    input: true,
    inputCut: true,
    error: true,
    interrupts: true,
    checkpoint: true,
  })
  // Of its log: a client that follows the run from here on can tell whether it is still the same.
  .extend({ epoch: z.string().optional() });
export type ThreadRun = z.infer<typeof threadRun>;

/** What happened to a thread. `thread`: its record after that. */
export const threadEvent = z.discriminatedUnion("event", [
  z.looseObject({ event: z.literal("created"), thread: threadRecord }),
  /** A run came into line (`queued`), a worker has begun or taken it over (`running`), or it has ended. */
  z.looseObject({ event: z.literal("run"), thread: threadRecord, run: threadRun }),
  /** The head moved without a run: an update, a copy. */
  z.looseObject({ event: z.literal("head"), thread: threadRecord }),
  z.looseObject({ event: z.literal("metadata"), thread: threadRecord }),
  /** The last event of a thread. */
  z.looseObject({ event: z.literal("deleted"), threadId: z.string() }),
]);
export type ThreadEvent = z.infer<typeof threadEvent>;
export const threadEventName = z.enum(["created", "run", "head", "metadata", "deleted"]);
export type ThreadEventName = z.infer<typeof threadEventName>;

/** A checkpoint of a thread. */
export const threadState = z.looseObject({
  threadId: z.string(),
  checkpointId: z.string(),
  parentId: z.string().nullable(),
  /** The path of the subgraph whose state it is; [] is the thread's own. Older gateways leave it out. */
  ns: z.array(z.string()).optional(),
  /**
   * The state's keys; messages are flat. A delta channel appears only where a snapshot of it was taken. Of a functional
   * graph: what it returned last, under `output` if that is no object.
   */
  values: record,
  /** The nodes at which a run without input goes on: those that would run next, and those that were stopped. */
  next: z.array(z.string()),
  /** What waits for a person's answer. */
  interrupts: z.array(interruptInfo),
  /** The tasks of the next step, where the checkpoint knows them. Older gateways leave it out. */
  tasks: z.array(taskState).optional(),
  metadata: record,
  createdAt: z.string(),
  /** Of the messages: how many there are, and the ids of those that its parent has not. Only without `values`. */
  messages: z.looseObject({ count: z.int().nonnegative(), added: z.array(z.string()) }).optional(),
});
export type ThreadState = z.infer<typeof threadState>;

/** What `thread.get` answers. */
export const threadHead = threadState.extend({
  /** null: the thread has no checkpoint yet. */
  checkpointId: z.string().nullable(),
  /** The thread's record. Only with its head. */
  thread: threadRecord.optional(),
});
export type ThreadHead = z.infer<typeof threadHead>;

export const agentInfo = z.looseObject({
  name: z.string(),
  description: z.string().optional(),
  modes: z.array(streamMode),
});
export type AgentInfo = z.infer<typeof agentInfo>;

const empty = z.object({});

export const commands = {
  "run.start": {
    params: z.object({
      agent: agentName,
      input: json.optional(),
      threadId: threadId.optional(),
      /** null: from nothing, as on a new thread. */
      checkpointId: checkpointId.nullable().optional(),
      modes: list(streamMode, 16, 1).optional(),
      subgraphs: z.boolean().optional(),
      config: runConfig.optional(),
      metadata: record.optional(),
      command: graphCommand.optional(),
      /** The run ends `interrupted` before, or after, each of these nodes of its graph. */
      interruptBefore: nodes.optional(),
      interruptAfter: nodes.optional(),
      /** How long the run may take from its first attempt on, ms. */
      timeoutMs: z.int().min(1).max(maxTimeoutMs).optional(),
      multitaskStrategy: multitaskStrategy.optional(),
      idempotencyKey: z.string().min(1).max(256).optional(),
      onDisconnect: onDisconnect.optional(),
      subscribe: z.boolean().optional(),
      /** As for `run.subscribe`. */
      pages: z.boolean().optional(),
    }),
    result: z.looseObject({
      runId: z.string(),
      threadId: z.string(),
      status: runStatus,
      epoch: z.string(),
      created: z.boolean(),
    }),
  },
  "run.subscribe": {
    params: z.object({
      runId,
      after: z.union([z.int().nonnegative(), z.literal("head")]).optional(),
      epoch: z.string().max(128).optional(),
      filter: filter.optional(),
      /** Whether the client puts a snapshot together that comes as several `run.page`. */
      pages: z.boolean().optional(),
    }),
    result: z.looseObject({
      runId: z.string(),
      status: runStatus,
      first: z.int().positive(),
      head: z.int().nonnegative(),
      epoch: z.string(),
    }),
  },
  "run.unsubscribe": { params: z.object({ runId }), result: empty },
  "run.cancel": {
    params: z.object({ runId, keep: keep.optional(), reason: z.string().max(1000).optional() }),
    result: z.looseObject({
      runId: z.string().optional(),
      status: runStatus,
      offset: z.int().nonnegative().optional(),
      checkpoint: checkpointRef.nullish(),
    }),
  },
  "run.get": { params: z.object({ runId }), result: runRecord },
  "run.list": {
    params: z.object({
      threadId: threadId.optional(),
      status: runStatus.optional(),
      limit: limit.optional(),
      /** The runId that the last page ended with. */
      before: runId.optional(),
    }),
    result: z.looseObject({
      runs: z.array(runRecord),
      /** There may be more behind this run, which need not be among `runs`: it has not been looked at. */
      next: runId.optional(),
    }),
  },
  "thread.create": {
    params: z.object({ threadId: threadId.optional(), metadata: record.optional() }),
    result: z.looseObject({ thread: threadRecord, created: z.boolean() }),
  },
  "thread.list": {
    params: z.object({
      status: threadStatus.optional(),
      agent: agentName.optional(),
      /** Keys of the metadata and their values, all of which must be equal. */
      metadata: record.optional(),
      limit: limit.optional(),
      /** `next` of the page before. */
      before: z.string().min(1).max(400).optional(),
    }),
    result: z.looseObject({ threads: z.array(threadRecord), next: z.string().optional() }),
  },
  "thread.patch": {
    params: z.object({ threadId, metadata: record }),
    result: threadRecord,
  },
  "thread.delete": { params: z.object({ threadId }), result: empty },
  "thread.copy": {
    params: z.object({
      threadId,
      /** The copy's head; what does not lead to it is not copied. */
      checkpointId: checkpointId.optional(),
      /** The copy's id. */
      to: threadId.optional(),
      metadata: record.optional(),
    }),
    result: threadRecord,
  },
  "thread.watch": {
    params: z.object({
      /** Left out: all of the owner's threads. */
      threadId: threadId.optional(),
      after: z.union([z.int().nonnegative(), z.literal("head")]).optional(),
      epoch: z.string().max(128).optional(),
      /** Only these events. */
      events: list(threadEventName, 8, 1).optional(),
      /** The thread's runs are subscribed to as they come; where they are known, from after what the client has. */
      runs: z
        .object({
          filter: filter.optional(),
          pages: z.boolean().optional(),
          known: z
            .record(runId, z.object({ after: z.int().nonnegative(), epoch: z.string().max(128).optional() }))
            .refine((known) => Object.keys(known).length <= 100, "at most 100 runs")
            .optional(),
        })
        .optional(),
    }),
    result: z.looseObject({
      threadId: z.string().optional(),
      thread: threadRecord.optional(),
      /** Those of `thread.active`. */
      runs: z.array(threadRun).optional(),
      first: z.int().positive(),
      head: z.int().nonnegative(),
      epoch: z.string(),
    }),
  },
  "thread.unwatch": { params: z.object({ threadId: threadId.optional() }), result: empty },
  "thread.get": {
    params: z.object({ threadId, checkpointId: checkpointId.optional(), ns: subgraph.optional() }),
    result: threadHead,
  },
  "thread.history": {
    params: z.object({
      threadId,
      limit: limit.optional(),
      /** The checkpointId that the last page ended with. */
      before: checkpointId.optional(),
      ns: subgraph.optional(),
      /** false: `messages` in place of the values. */
      values: z.boolean().optional(),
    }),
    result: z.looseObject({
      checkpoints: z.array(threadState),
      /** There may be more behind this one, the last: the answer was large enough. */
      next: checkpointId.optional(),
    }),
  },
  "thread.update": {
    params: z.object({
      threadId,
      values: record,
      asNode: z.string().max(200).optional(),
      checkpointId: checkpointId.optional(),
      ns: subgraph.optional(),
    }),
    result: checkpointRef,
  },
  "agent.list": { params: empty, result: z.looseObject({ agents: z.array(agentInfo) }) },
  "auth.refresh": {
    params: z.object({ token: z.string().min(1).max(16_384) }),
    result: z.looseObject({ expiresAt: z.string().nullable() }),
  },
  "server.ping": { params: empty, result: empty },
} as const;

export type Method = keyof typeof commands;
export type Params<M extends Method> = z.infer<(typeof commands)[M]["params"]>;
export type Result<M extends Method> = z.infer<(typeof commands)[M]["result"]>;

/** The envelope of a command. `params` may be left out where a command needs none. */
export const commandFrame = z.looseObject({
  id: z.int().nonnegative(),
  method: z.string(),
  params: z.record(z.string(), z.unknown()).optional(),
});
export type CommandFrame = z.infer<typeof commandFrame>;
