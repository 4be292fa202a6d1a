/**
 * Providers refuse a history in which a model called a tool and nothing answers. Where a turn is over before its tools
 * are, every open call gets an answer: what its tool had answered already, or that it was cancelled.
 */
import type { BaseMessage } from "@langchain/core/messages";
import { toBaseMessage } from "@throughline/checkpoint";
import { typeOf } from "./channels.ts";

interface ToolCall {
  id?: string;
  name: string;
}

export interface Answers {
  /** What a tool had answered, in a node that did not finish. */
  answer(callId: string): BaseMessage | undefined;
  /** What models had said inside of a tool that did not answer. */
  said(callId: string): string;
}

export const noAnswers: Answers = { answer: () => undefined, said: () => "" };

/**
 * The same messages, with an answer to every call of the last turn that has none: behind the call, and the answers that
 * it has.
 */
export function withAnswers(messages: readonly BaseMessage[], answers: Answers): BaseMessage[] {
  const answered = new Set(messages.map(callIdOf));
  const turn = messages.findLastIndex((message) => typeOf(message) === "human");
  const repaired: BaseMessage[] = [];
  let open: ToolCall[] = [];
  const close = () => {
    for (const { id, name } of open)
      repaired.push(answers.answer(id!) ?? cancelled(id!, name, answers.said(id!)));
    open = [];
  };
  for (const [i, message] of messages.entries()) {
    if (callIdOf(message) === undefined) close();
    repaired.push(message);
    if (i < turn) continue;
    open.push(...callsOf(message).filter(({ id }) => id !== undefined && !answered.has(id)));
  }
  close();
  return repaired;
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

function callsOf(message: BaseMessage): ToolCall[] {
  return (message as { tool_calls?: ToolCall[] }).tool_calls ?? [];
}

function callIdOf(message: BaseMessage): string | undefined {
  return typeOf(message) === "tool" ? (message as { tool_call_id?: string }).tool_call_id : undefined;
}
