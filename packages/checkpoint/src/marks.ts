/**
 * What Throughline says of a checkpoint in its metadata, beside what LangGraph says there.
 *
 * A run that was stopped in the middle of a step leaves two things. What its thread shows: a checkpoint with all that was
 * on the screen, whose turn is over for LangGraph (no task waits in it). And where the run stood: the checkpoint before
 * the step, with what its tasks had written and said so far (`stop`). New input begins a turn on the first. A run
 * without input goes on from the second: it forks it (`as`).
 */
import type { BaseMessage } from "@langchain/core/messages";
import type { CheckpointMetadata, CheckpointPendingWrite } from "@langchain/langgraph-checkpoint";

/** Where a run stood when it was stopped. Of a subgraph's checkpoint: where the subgraph stood. */
export interface Stop {
  /** The checkpoint before the step that was stopped; null: the run had not even taken its input. */
  at: string | null;
  /** What tasks of that step had written, finished or not: what they asked a person is among it. */
  writes: CheckpointPendingWrite[];
  /** By the task's id: the messages of those that were cut off in their answer. It counts as their answer. */
  answers: Record<string, BaseMessage[]>;
  /** By the task's id: what it had answered beside messages. */
  values?: Record<string, Record<string, unknown>>;
  /** What tasks had said that came behind the step: their worker died before it had stored that there was one. */
  ahead?: BaseMessage[];
  /** What tools had answered inside of tasks that were not cut off, but did not finish. */
  results: BaseMessage[];
  /** By namespace: the checkpoints in which subgraphs stood that go on inside. */
  nested: Record<string, string>;
  /** The input that was not taken. */
  input?: unknown;
}

export interface Marks {
  run_id?: string;
  agent?: string;
  attempt?: number;
  /** Up to there the run's log belongs to what the checkpoint holds. */
  log_offset?: number;
  /** Where the thread's head was before the run. */
  head_before?: string | null;
  /** Of a run that began from nothing: where the heads of the thread's lasting subgraphs were before it. */
  heads_before?: Record<string, string>;
  /** Why the run did not come to its end: it was stopped here, or this is kept aside of a try that was lost. */
  partial?: "cancelled" | "failed" | "taken-over";
  /** The tasks of the next step, in their order: [id, node]. */
  tasks?: [id: string, name: string][];
  stop?: Stop;
  /** Values that are shown beside the state's: a functional graph's state has no messages. */
  beside?: Record<string, unknown>;
  /** Of a fork: the checkpoint that it stands for. Tasks' ids hang on that one's. */
  as?: string;
  /** Of a fork: the checkpoint whose values the thread shows as long as this one is its head. */
  shown?: string;
  /** Written before the run began: the run itself has written nothing yet. */
  prepares?: true;
}

/** Not for readers. */
const inner = new Set(["heads_before", "tasks", "stop", "beside", "as", "shown", "prepares"]);

export function marksOf({ metadata }: { metadata?: CheckpointMetadata | undefined }): Marks {
  return (metadata ?? {}) as Marks;
}

/** The metadata as a reader is shown them. */
export function withoutMarks(metadata: object | undefined): Record<string, unknown> {
  return Object.fromEntries(Object.entries(metadata ?? {}).filter(([key]) => !inner.has(key)));
}
