/** What a conversation shows. */
import type { FlatMessage, InterruptInfo, ThreadRecord } from "@throughline/protocol";
import type { ConnectionState } from "../link.ts";
import type { Message } from "./message.ts";

/**
 * Why something could not be done. `code` is for programs, and for who translates: the protocol's (`no_such_agent`,
 * `thread_busy`, …), an agent's own of a public error, the client's `connection_closed`, or `failed`.
 */
export interface ConversationError {
  readonly code: string;
  /** For people to read. */
  readonly message: string;
  /** Whether the same may succeed later. */
  readonly retryable: boolean;
  /** What was refused; `run`: the run failed. */
  readonly action: "open" | "send" | "stop" | "select" | "run" | "threads";
}

export function errorOf(
  action: ConversationError["action"],
  { code, message, retryable }: { code?: unknown; message: string; retryable?: unknown },
): ConversationError {
  const known = typeof code === "string" ? code : "failed";
  return { code: known, message, retryable: retryable === true, action };
}

/** Where the conversation stands. */
export type ConversationStatus =
  /** There is no thread yet: it begins with the first message. */
  | { readonly status: "new" }
  | { readonly status: "loading" }
  | { readonly status: "idle" }
  /** Somebody's message is on its way. */
  | { readonly status: "sending" }
  | { readonly status: "queued" | "running" | "stopping"; readonly runId: string | undefined }
  /** The agent waits for a person: see `interrupts`. */
  | { readonly status: "interrupted" }
  /** The last run failed: `retry` tries again. */
  | { readonly status: "failed"; readonly error: ConversationError }
  /** Somebody deleted the thread. */
  | { readonly status: "deleted" }
  /** It cannot be read. */
  | { readonly status: "unavailable"; readonly error: ConversationError };

/** A run that waits for its turn. */
export interface QueuedRun {
  readonly runId: string;
  readonly messages: readonly FlatMessage[];
}

export interface ConversationView<State = Record<string, unknown>, Custom = unknown> {
  readonly threadId: string | undefined;
  /** The thread's record: its metadata, its times. */
  readonly thread: ThreadRecord | undefined;
  readonly status: ConversationStatus;
  readonly connection: ConnectionState;
  readonly messages: readonly Message<Custom>[];
  /** There are earlier messages, which `loadEarlier` shows. */
  readonly hasEarlier: boolean;
  /** The state's keys but `messages`. */
  readonly state: Readonly<Partial<State>>;
  /** Custom data of the newest turn. */
  readonly custom: readonly Custom[];
  /** What waits for an answer. */
  readonly interrupts: readonly InterruptInfo[];
  readonly queue: readonly QueuedRun[];
  /** What was refused last; the next thing that succeeds takes it away. */
  readonly error: ConversationError | undefined;
}
