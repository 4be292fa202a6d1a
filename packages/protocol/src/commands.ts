/**
 * What a client sends and what it is answered: one schema per command, its params and its result.
 * Types are inferred; nothing is declared twice.
 */
import { z } from "zod";
import { checkpointRef, interruptInfo, keep, runStatus, streamMode } from "./parts.ts";

const json = z.json();
const record = z.record(z.string(), json);

/** An id of a run: what the gateway gave out. */
const runId = z.string().min(1).max(128);

/**
 * A thread's id may be chosen by the client. It becomes part of a Redis key and of its Cluster hash tag, hence no
 * braces, spaces or control characters; and no lone surrogates, which UTF-8 would make one and the same.
 */
export const threadId = z
  .string()
  .min(1)
  .max(200)
  .regex(
    /^[^\s{}\p{Cc}\p{Cs}]+$/u,
    "a thread id has 1 to 200 characters, and no spaces, braces or control characters",
  );

const checkpointId = z.string().min(1).max(200);
const agentName = z.string().min(1).max(128);
const limit = z.int().min(1).max(200);

export const multitaskStrategy = z.enum(["reject", "enqueue", "interrupt", "rollback"]);
export type MultitaskStrategy = z.infer<typeof multitaskStrategy>;

/** Which parts a subscription wants. All that is given must match; lifecycle parts always do. */
export const filter = z.object({
  modes: z.array(streamMode).max(16).optional(),
  /** A prefix of the part's ns. */
  ns: z.array(z.string().max(400)).max(32).optional(),
  /** How many segments below the prefix may follow; 0: only the prefix itself. */
  depth: z.int().min(0).max(32).optional(),
  /** `langgraph_node` of the part's metadata (messages), or the key of an update. */
  nodes: z.array(z.string().max(200)).max(64).optional(),
  /** At least one of these is among the tags of the part's metadata. */
  tags: z.array(z.string().max(200)).max(64).optional(),
});
export type Filter = z.infer<typeof filter>;

/** A command to a LangGraph graph in place of input. */
export const graphCommand = z.object({
  resume: json.optional(),
  update: json.optional(),
  goto: z.union([z.string(), z.array(z.string())]).optional(),
});
export type GraphCommand = z.infer<typeof graphCommand>;

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
  error: z.looseObject({ name: z.string(), message: z.string() }).optional(),
  interrupts: z.array(interruptInfo).optional(),
  checkpoint: checkpointRef.optional(),
});
export type RunRecord = z.infer<typeof runRecord>;

export const threadState = z.looseObject({
  threadId: z.string(),
  checkpointId: z.string(),
  parentId: z.string().nullable(),
  values: record,
  next: z.array(z.string()),
  interrupts: z.array(interruptInfo),
  metadata: record,
  createdAt: z.string(),
});
export type ThreadState = z.infer<typeof threadState>;

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
      checkpointId: checkpointId.optional(),
      modes: z.array(streamMode).min(1).max(16).optional(),
      subgraphs: z.boolean().optional(),
      config: record.optional(),
      metadata: record.optional(),
      command: graphCommand.optional(),
      multitaskStrategy: multitaskStrategy.optional(),
      idempotencyKey: z.string().min(1).max(256).optional(),
      subscribe: z.boolean().optional(),
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
    result: z.looseObject({ runs: z.array(runRecord) }),
  },
  "thread.get": {
    params: z.object({ threadId, checkpointId: checkpointId.optional() }),
    result: threadState,
  },
  "thread.history": {
    params: z.object({
      threadId,
      limit: limit.optional(),
      /** The checkpointId that the last page ended with. */
      before: checkpointId.optional(),
    }),
    result: z.looseObject({ checkpoints: z.array(threadState) }),
  },
  "thread.update": {
    params: z.object({
      threadId,
      values: record,
      asNode: z.string().max(200).optional(),
      checkpointId: checkpointId.optional(),
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
