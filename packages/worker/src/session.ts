/**
 * What the runner needs to know of an agent's kind: how one attempt of it begins, runs, and leaves its state in the
 * thread. One session, one attempt. The runner decides when each
 * method is called, and sees to it that the parts are in the log by then.
 */
import type { BaseStore } from "@langchain/langgraph";
import type { RedisCheckpointSaver } from "@throughline/checkpoint";
import type { RunRequest } from "@throughline/dispatch";
import type {
  CheckpointRef,
  FlatMessage,
  FoldSnapshot,
  InterruptInfo,
  Keep,
  LifecycleData,
  Part,
} from "@throughline/protocol";
import type { StoredRun } from "@throughline/runlog";
import type { Logger } from "pino";
import type { Attempt } from "./attempt.ts";

/** What an attempt works on. */
export interface Assignment {
  readonly run: StoredRun;
  readonly request: RunRequest;
  readonly attempt: Attempt;
  readonly saver: RedisCheckpointSaver;
  /** Of the run's owner; undefined: the worker has none. */
  readonly store: BaseStore | undefined;
  readonly logger: Logger;
}

/** How a run ended, as far as its state goes. */
export type Outcome = "completed" | "interrupted" | "failed" | { cancelled: Keep };

/** How an agent came to its end by itself. */
export type Finished = { event: "completed" } | { event: "interrupted"; interrupts: InterruptInfo[] };

/** What earlier attempts of the run streamed, as the log has it. */
export type Earlier = Pick<FoldSnapshot, "messages" | "values">;

export interface Session {
  /** The messages that the run's input brings, under the ids that they have in the thread. */
  readonly asked?: readonly FlatMessage[];
  /** Hears of every part that earlier attempts wrote and that the log still has, in order, before `takeOver`. */
  recall?(part: Part, offset: number): void;
  /**
   * Goes on from what earlier attempts left: keeps their unfinished work off the thread's line, and answers what
   * readers are told. Not called where the log is empty: the run has only started.
   */
  takeOver(): Promise<Extract<LifecycleData, { event: "resumed" | "rewound" }>>;
  /**
   * Runs the agent and gives its parts to the attempt, until it is done or the attempt is stopped. Rejects with what
   * the agent threw. The result is ignored once the attempt is stopped.
   */
  run(): Promise<Finished>;
  /**
   * The offset below which no later attempt rewinds, except to 0: up to there the log may be replaced by a snapshot. It
   * only grows. A session without it has no such limit.
   */
  rewindFloor?(): Promise<number>;
  /**
   * Waits for the writes to the thread that are under way, and refuses all later ones: the run is handed to another
   * worker, which is not to do again what was done.
   */
  drainWrites?(): Promise<void>;
  /**
   * Saves what the run added up to, once all its parts are in the log. May be called without `run`: for a run that
   * ends before this attempt has begun.
   *
   * @returns the checkpoint that the ending names; null where there is none
   */
  save(outcome: Outcome): Promise<CheckpointRef | null>;
}
