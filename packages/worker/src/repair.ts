/**
 * Providers refuse a history in which a model called a tool and nothing answers. Where a turn is over before its tools
 * are, every open call gets an answer: what its tool had answered already, or that it was cancelled.
 */
import type { BaseMessage } from "@langchain/core/messages";
import { toBaseMessage } from "@throughline/checkpoint";
import type { FlatMessage } from "@throughline/protocol";

export interface Answers {
  /** What a tool had answered, in a node that did not finish. */
  answer(callId: string): BaseMessage | undefined;
  /** What models had said inside of a tool that did not answer. */
  said(callId: string): string;
}

export const noAnswers: Answers = { answer: () => undefined, said: () => "" };

/** Of LangChain's classes, or flat. */
type Message = BaseMessage | FlatMessage;

/** The same messages, with what tools had answered to their calls. */
export function withResults(messages: readonly BaseMessage[], { answer }: Answers): BaseMessage[] {
  return answered(messages, ({ id }) => answer(id));
}

/**
 * The same messages, with an answer to every call of the last turn that has none: behind the call, and the answers that
 * it has.
 */
export function withAnswers<M extends Message>(
  messages: readonly M[],
  { answer, said }: Answers = noAnswers,
): (M | BaseMessage)[] {
  return answered(messages, ({ id, name }) => answer(id) ?? cancelled(id, name, said(id)));
}

function answered<M extends Message>(
  messages: readonly M[],
  answerTo: (call: { id: string; name: string }) => BaseMessage | undefined,
): (M | BaseMessage)[] {
  const known = new Set(messages.map(callIdOf));
  const turn = messages.findLastIndex((message) => typeOf(message) === "human");
  const repaired: (M | BaseMessage)[] = [];
  let open: { id: string; name: string }[] = [];
  const close = () => {
    repaired.push(...open.flatMap((call) => answerTo(call) ?? []));
    open = [];
  };
  for (const [i, message] of messages.entries()) {
    if (callIdOf(message) === undefined) close();
    repaired.push(message);
    if (i < turn) continue;
    open.push(...callsOf(message).filter(({ id }) => !known.has(id)));
  }
  close();
  return repaired;
}

/** "human", "ai", "tool", …; undefined for what is no message. */
export function typeOf(message: Message): string | undefined {
  const { getType, type, role } = message as { getType?: unknown; type?: unknown; role?: unknown };
  if (typeof getType === "function") return (message as BaseMessage).getType();
  const given = type ?? role;
  if (typeof given !== "string" || !("content" in (message as object))) return undefined;
  return { user: "human", assistant: "ai" }[given] ?? given;
}

/** Whether a message stands for an answer that never came. */
export function isStandIn({ id }: BaseMessage): boolean {
  return id?.startsWith(standIn) ?? false;
}

const standIn = "cancelled-";

function cancelled(id: string, name: string, said: string): BaseMessage {
  return toBaseMessage({
    type: "tool",
    id: `${standIn}${id}`,
    tool_call_id: id,
    name,
    status: "error",
    content: said === "" ? "cancelled" : `cancelled; so far it had said: ${said}`,
    additional_kwargs: { cancelled: true },
  });
}

function callsOf(message: Message): { id: string; name: string }[] {
  const { tool_calls: calls = [] } = message as { tool_calls?: { id?: string; name: string }[] };
  return calls.flatMap(({ id, name }) => (id === undefined ? [] : [{ id, name }]));
}

function callIdOf(message: Message): string | undefined {
  return typeOf(message) === "tool" ? (message as { tool_call_id?: string }).tool_call_id : undefined;
}
