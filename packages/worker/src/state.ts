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
import type { CheckpointRef, FlatMessage, Fold, Keep } from "@throughline/protocol";
import { isRecord } from "@throughline/protocol";
import { withAnswers } from "./repair.ts";

/** What the thread was when the run began. */
export interface Base {
  threadId: string;
  checkpointId: string | null;
  values: Record<string, unknown>;
  messages: FlatMessage[];
}

/** What the state is saved for: an ending, or that another attempt goes on. */
type Occasion = "completed" | "failed" | { cancelled: Keep } | "taken-over";

/**
 * The thread's state that a run goes on from: its head, or the checkpoint that was asked for. A head of the run's own,
 * from an attempt that died between saving it and ending the run, is not what it began with.
 */
export async function readBase(
  saver: RedisCheckpointSaver,
  runId: string,
  threadId: string,
  checkpointId: string | undefined,
): Promise<Base> {
  let state = await readState(saver, { threadId, ...(checkpointId === undefined ? {} : { checkpointId }) });
  while (state?.metadata.run_id === runId) {
    const { parentId } = state;
    state = parentId === null ? null : await readState(saver, { threadId, checkpointId: parentId });
  }
  const values = state?.values ?? {};
  return {
    threadId,
    checkpointId: state?.checkpointId ?? null,
    values,
    messages: Array.isArray(values.messages) ? (values.messages as FlatMessage[]) : [],
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
  fold: Fold,
  occasion: Occasion,
): Promise<CheckpointRef | null> {
  const keep = typeof occasion === "object" ? occasion.cancelled : undefined;
  if (keep === "discard") {
    const now = await readState(saver, { threadId: base.threadId });
    const head = now?.metadata.run_id === run.runId ? base.checkpointId : (now?.checkpointId ?? null);
    await saver.fenced({ runId: run.runId, fence: run.fence }).discardRun(base.threadId, run.runId, { head });
    return null;
  }
  const whole = occasion === "completed";
  const streamed: FlatMessage[] = [];
  for (const { message, complete } of fold.messages()) {
    if (whole || complete) streamed.push(message);
    else if (message.content.length > 0) streamed.push(partial(message, keep !== undefined));
  }
  const update: Record<string, unknown> = { ...fold.values() };
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
