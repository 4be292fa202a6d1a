/** Where a conversation stands, and what is shown before anything is read. */
import { type FlatMessage, isRecord, type ThreadHead, type ThreadRecord } from "@throughline/protocol";
import type { StorePort } from "./port.ts";
import { Screen } from "./screen.ts";
import { Tree } from "./tree.ts";
import type { Turns } from "./turns.ts";
import type { ConversationError, ConversationStatus, ConversationView } from "./view.ts";

export type Phase = "new" | "loading" | "open" | "deleted" | "unavailable";

const nothing: readonly never[] = [];
const noState: Readonly<Record<string, unknown>> = {};

export interface Standing {
  phase: Phase;
  turns: Turns;
  head: ThreadHead | undefined;
  record: ThreadRecord | undefined;
  error: ConversationError | undefined;
  /** The watch has told which runs are active. */
  isLive: boolean;
}

export function statusOf({ phase, turns, head, record, error, isLive }: Standing): ConversationStatus {
  const [first] = turns.active;
  if (phase === "deleted") return { status: "deleted" };
  if (phase === "unavailable") return { status: "unavailable", error: error! };
  if (first !== undefined) {
    const { phase, runId, stop } = first;
    if (stop !== undefined) return { status: "stopping", runId };
    return phase === "queued" || phase === "running" ? { status: phase, runId } : { status: "sending" };
  }
  const { failed, last } = turns;
  if (failed !== undefined) {
    const { message = "the run failed", code = "failed" } = failed.error ?? {};
    return { status: "failed", error: { code, message, retryable: true, action: "run" } };
  }
  if (last !== undefined) return { status: last.ending === "interrupted" ? "interrupted" : "idle" };
  if (head === undefined) return { status: phase === "loading" ? "loading" : "new" };
  return { status: standingOf(head, record, isLive, phase === "open") };
}

/** Where a thread stands without a turn. `isLive`: the watch has told; `isRead`: its last run was looked at. */
function standingOf(
  { interrupts }: ThreadHead,
  record: ThreadRecord | undefined,
  isLive: boolean,
  isRead: boolean,
): "loading" | "interrupted" | "idle" {
  const { status } = record ?? {};
  // At what it works, and how it failed, is about to be told.
  if ((!isLive && status === "busy") || (!isRead && status === "failed")) return "loading";
  return interrupts.length > 0 || status === "interrupted" ? "interrupted" : "idle";
}

export function messagesOf(state: ThreadHead | undefined): readonly FlatMessage[] {
  const messages = state?.values.messages;
  return Array.isArray(messages) ? (messages.filter(isRecord) as FlatMessage[]) : nothing;
}

export interface InitialOptions {
  threadId?: string | undefined;
  initial?: ThreadHead | undefined;
  pageSize?: number | undefined;
}

/** What is shown of a conversation before there is a store: on a server, and in a browser's first render. */
export function initialView(
  { threadId, initial, pageSize = 50 }: InitialOptions,
  connection?: StorePort,
): ConversationView {
  const screen = new Screen(new Tree());
  screen.compose(messagesOf(initial), []);
  const first = Math.max(0, screen.ids.length - pageSize);
  const { messages: _, ...state } = initial?.values ?? noState;
  const interrupts = initial?.interrupts ?? nothing;
  const known = initial && standingOf(initial, initial.thread, false, false);
  return {
    threadId,
    thread: initial?.thread,
    status: { status: threadId === undefined ? "new" : (known ?? "loading") },
    connection: connection?.state ?? { status: "connecting", attempt: 1 },
    messages: screen.views(first, nothing, false),
    hasEarlier: first > 0,
    state,
    custom: nothing,
    interrupts,
    queue: nothing,
    error: undefined,
  };
}
