/**
 * Parts: what a run's log is made of. A part is LangGraph's StreamPart, `{type, ns, data}`.
 */
import { z } from "zod";
import { runStatuses } from "./status.ts";

const json = z.json();
const record = z.record(z.string(), json);

/** The stream modes that a run can be asked for; `lifecycle` is not one of them: it is always there. */
export const streamModes = [
  "messages",
  "values",
  "updates",
  "custom",
  "tasks",
  "debug",
  "tools",
  "checkpoints",
  "events",
] as const;
export const streamMode = z.enum(streamModes);
export type StreamMode = z.infer<typeof streamMode>;

/** What a run produces when `run.start` does not say. */
export const defaultModes: readonly StreamMode[] = ["messages", "updates", "custom"];

/** What becomes of the partial of a cancelled run: see PROTOCOL.md, run.cancel. */
export const keep = z.enum(["thread", "branch", "discard"]);
export type Keep = z.infer<typeof keep>;

export const checkpointRef = z.looseObject({ threadId: z.string(), checkpointId: z.string() });
export type CheckpointRef = z.infer<typeof checkpointRef>;

export const interruptInfo = z.looseObject({ id: z.string(), value: json });
export type InterruptInfo = z.infer<typeof interruptInfo>;

const checkpoint = checkpointRef.optional();

/**
 * A message, or a chunk of one: its type and its fields side by side, `{type:"AIMessageChunk", id, content, …}`. `type`
 * is LangChain's ("human", "ai", "system", "tool", "remove", …), of a chunk its class ("AIMessageChunk"). `content` is
 * text, or content blocks. Fields that carry nothing are left out, but for `content`.
 */
export const flatMessage = z.looseObject({
  type: z.string(),
  id: z.string().optional(),
  content: z.union([z.string(), z.array(json)]),
});
export type FlatMessage = z.infer<typeof flatMessage>;

/**
 * A tool call that is still being streamed. `args` is its arguments' text so far: JSON that is cut off anywhere, and
 * empty at first. `index` is the model's count of calls; it, `id` and `name` are there once a chunk has brought them.
 */
export const unfinishedCall = z.looseObject({
  index: z.union([z.number(), z.string()]).optional(),
  id: z.string().optional(),
  name: z.string().optional(),
  args: z.string(),
});
export type UnfinishedCall = z.infer<typeof unfinishedCall>;

/** Why a run failed, as its readers may know it. */
export const runError = z.looseObject({
  name: z.string(),
  message: z.string(),
  code: z.string().optional(),
});
export type RunError = z.infer<typeof runError>;

/** How a run begins, goes on and ends. Readers of `rewound` drop non-lifecycle parts above `to`. */
export const lifecycleData = z.discriminatedUnion("event", [
  /** `messages`: those that the input brings, under the ids that they have in the thread. */
  z.looseObject({
    event: z.literal("started"),
    attempt: z.int().positive(),
    messages: z.array(flatMessage).optional(),
  }),
  /** A step of a function agent is done: no later attempt takes back what came before it. */
  z.looseObject({ event: z.literal("stepped"), attempt: z.int().positive() }),
  z.looseObject({ event: z.literal("resumed"), attempt: z.int().positive() }),
  z.looseObject({ event: z.literal("rewound"), attempt: z.int().positive(), to: z.int().nonnegative() }),
  z.looseObject({ event: z.literal("completed"), checkpoint }),
  z.looseObject({ event: z.literal("interrupted"), interrupts: z.array(interruptInfo), checkpoint }),
  z.looseObject({
    event: z.literal("cancelled"),
    keep,
    checkpoint: checkpointRef.nullish(),
    reason: z.string().optional(),
  }),
  z.looseObject({
    event: z.literal("failed"),
    error: runError,
    checkpoint,
  }),
]);
export type LifecycleData = z.infer<typeof lifecycleData>;

const ns = z.array(z.string());
export const part = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("messages"), ns, data: z.tuple([flatMessage, record]) }),
  z.looseObject({ type: z.literal("lifecycle"), ns, data: lifecycleData }),
  z.looseObject({
    type: z.enum(["values", "updates", "custom", "tasks", "debug", "tools", "checkpoints", "events"]),
    ns,
    data: json,
  }),
]);
export type Part = z.infer<typeof part>;
export type MessagesPart = Extract<Part, { type: "messages" }>;
export type LifecyclePart = Extract<Part, { type: "lifecycle" }>;

export const runStatus = z.enum(runStatuses);
export type RunStatus = z.infer<typeof runStatus>;

/** The lifecycle part with this data. */
export function lifecycle(data: LifecycleData): LifecyclePart {
  return { type: "lifecycle", ns: [], data };
}
