/**
 * What a run of a function agent leaves in its thread: one checkpoint, when it ends.
 *
 * Invariants:
 * - the messages that the input brought are in it once, under ids that every attempt gives them alike;
 * - its text is the text in the log, code unit for code unit;
 * - it is written before the terminal part, and only by the attempt that holds the run.
 */
import {
  type MessageLike,
  normalizeMessages,
  type RedisCheckpointSaver,
  readState,
  writeState,
} from "@throughline/checkpoint";
import type { RunRequest } from "@throughline/dispatch";
import type { CheckpointRef, FlatMessage, FoldedMessage, Keep } from "@throughline/protocol";
import { isRecord } from "@throughline/protocol";
import { withAnswers } from "./repair.ts";

/** What the thread was when the run began. */
export interface Base {
  threadId: string;
  checkpointId: string | null;
  values: Record<string, unknown>;
  messages: FlatMessage[];
  /** The thread's head before the run. */
  headBefore: string | null;
}

/** What the state is saved for: an ending, or that another attempt goes on. */
type Occasion = "completed" | "failed" | { cancelled: Keep } | "taken-over";

/** Where a run is to begin: at its thread's head, unless it says otherwise. */
type Place = Pick<RunRequest, "checkpointId" | "fromNothing">;

/**
 * The thread's state that a run goes on from: its head, or the checkpoint that was asked for, or nothing. A head of the
 * run's own, from an attempt that died between saving it and ending the run, is not what it began with.
 */
export async function readBase(
  saver: RedisCheckpointSaver,
  runId: string,
  threadId: string,
  { checkpointId, fromNothing }: Place,
): Promise<Base> {
  let head = await readState(saver, { threadId });
  // Of a run that began elsewhere, the parent is not where the head was.
  let headBefore = head?.metadata.run_id === runId ? head.metadata.head_before : undefined;
  while (head?.metadata.run_id === runId) {
    const { parentId } = head;
    head = parentId === null ? null : await readState(saver, { threadId, checkpointId: parentId });
  }
  headBefore ??= head?.checkpointId ?? null;
  let state = head;
  if (fromNothing === true) state = null;
  else if (checkpointId !== undefined && checkpointId !== head?.checkpointId) {
    state = await readState(saver, { threadId, checkpointId });
  }
  const values = state?.values ?? {};
  return {
    threadId,
    checkpointId: state?.checkpointId ?? null,
    values,
    messages: Array.isArray(values.messages) ? (values.messages as FlatMessage[]) : [],
    headBefore: headBefore as string | null,
  };
}

/** The thread's state when a run begins: what it was, with the messages that the input brings. */
export function beginning(
  { values, messages }: Base,
  input: readonly FlatMessage[],
): Record<string, unknown> {
  const merged = new Map(messages.map((message) => [message.id, message]));
  for (const message of input) {
    if (message.type === "remove") merged.delete(message.id);
    else merged.set(message.id, message);
  }
  return merged.size === 0 ? { ...values } : { ...values, messages: [...merged.values()] };
}

/**
 * What a fold has beyond the state that the run began with, which is in it where the run has the mode `values`: what the
 * run has said, and what it changed.
 */
export function beyond(
  begun: Record<string, unknown>,
  fold: { messages: readonly FoldedMessage[]; values: Record<string, unknown> },
): { messages: FoldedMessage[]; values: Record<string, unknown> } {
  const { messages = [], ...state } = begun;
  const known = new Map((messages as FlatMessage[]).map((message) => [message.id, JSON.stringify(message)]));
  return {
    messages: fold.messages.filter(({ message }) => known.get(message.id) !== JSON.stringify(message)),
    values: Object.fromEntries(
      Object.entries(fold.values).filter(
        ([key, value]) => JSON.stringify(state[key]) !== JSON.stringify(value),
      ),
    ),
  };
}

/**
 * The messages that an input brings: a string is one of the user's; `{messages}` are as they are.
 *
 * @throws InvalidArgumentError for what is no message
 */
export function inputMessages(input: unknown, runId: string): FlatMessage[] {
  let given: unknown;
  if (typeof input === "string") given = input;
  else if (typeof input === "object" && input !== null && "messages" in input) given = input.messages;
  if (given === undefined) return [];
  return normalizeMessages(withIds(given, runId)) as FlatMessage[];
}

/** One message or many, in any form, each with an id: its own, or the same in every attempt. What is no message stays. */
export function withIds(messages: unknown, runId: string): MessageLike[] {
  const list: unknown[] = Array.isArray(messages) ? messages : [messages];
  return list.map((each, i) => withId(each, `${runId}-input-${i}`)) as MessageLike[];
}

function withId(message: unknown, id: string): unknown {
  if (typeof message === "string") return { type: "human", content: message, id };
  if (Array.isArray(message) && message.length === 2) return { role: message[0], content: message[1], id };
  if (!isRecord(message)) return message;
  return typeof message.id === "string" && message.id !== "" ? message : { ...message, id };
}

/**
 * Saves what the run added up to, as a child of its base. `discard` saves nothing, and takes back what earlier
 * attempts saved; a partial that is kept as `branch`, and that of a failed or taken-over attempt, leaves the thread's
 * head where it is.
 *
 * @returns the checkpoint; null where there was nothing to save
 */
export async function saveOutcome(
  saver: RedisCheckpointSaver,
  run: { runId: string; attempt: number; fence: number; agent: string },
  base: Base,
  input: readonly FlatMessage[],
  folded: { messages: readonly FoldedMessage[]; values: Record<string, unknown> },
  occasion: Occasion,
): Promise<CheckpointRef | null> {
  const keep = typeof occasion === "object" ? occasion.cancelled : undefined;
  if (keep === "discard") {
    const now = await readState(saver, { threadId: base.threadId });
    const head = now?.metadata.run_id === run.runId ? base.headBefore : (now?.checkpointId ?? null);
    await saver.fenced({ runId: run.runId, fence: run.fence }).discardRun(base.threadId, run.runId, { head });
    return null;
  }
  const whole = occasion === "completed";
  const streamed: FlatMessage[] = [];
  for (const { message, complete } of folded.messages) {
    if (whole || complete) streamed.push(message);
    else if (message.content.length > 0) streamed.push(partial(message, keep !== undefined));
  }
  const update: Record<string, unknown> = { ...folded.values };
  if (input.length + streamed.length > 0) {
    // An agent that was done may leave a call to whoever reads it.
    update.messages = whole ? [...input, ...streamed] : withAnswers([...input, ...streamed]);
  }
  if (Object.keys(update).length === 0) {
    return base.checkpointId === null ? null : { threadId: base.threadId, checkpointId: base.checkpointId };
  }
  const branch = keep === "branch" || occasion === "failed" || occasion === "taken-over";
  return await writeState(saver.fenced({ runId: run.runId, fence: run.fence, branch }), {
    threadId: base.threadId,
    parentId: base.checkpointId,
    update,
    metadata: {
      source: whole ? "loop" : "update",
      run_id: run.runId,
      agent: run.agent,
      attempt: run.attempt,
      ...(base.headBefore === base.checkpointId ? {} : { head_before: base.headBefore }),
      ...(whole ? {} : { partial: keep === undefined ? occasion : "cancelled" }),
    },
  });
}

/** A message that was not finished, and says so. What some providers' models stream of calls is not in it. */
export function partial(message: FlatMessage, cancelled: boolean): FlatMessage {
  const { additional_kwargs: given = {} } = message as { additional_kwargs?: Record<string, unknown> };
  const { tool_calls: _, function_call: __, ...others } = given;
  const { content } = message;
  return {
    ...message,
    ...(typeof content === "string" ? {} : { content: content.filter((block) => !isUnsigned(block)) }),
    additional_kwargs: { ...others, ...(cancelled ? { cancelled: true } : { incomplete: true }) },
  } as FlatMessage;
}

/** A thought that was cut off before its signature: providers that sign their thoughts refuse one without. */
function isUnsigned(block: unknown): boolean {
  const { type, signature } = (block ?? {}) as Record<string, unknown>;
  return type === "thinking" && typeof signature !== "string";
}
