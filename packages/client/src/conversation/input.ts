/** What a person sends, as a run's input. */
import { type FlatMessage, isRecord } from "@throughline/protocol";
import { randomId } from "../platform.ts";
import { isMessage } from "./turn.ts";

export interface Sent {
  input: unknown;
  /** The messages of the input, under the ids that they will have in the thread; so they never change places. */
  question: FlatMessage[];
}

/** A text and a message become `{messages: [message]}`; any other input stays, and its messages get ids. */
export function makeInput(value: unknown): Sent {
  if (typeof value === "string") return asMessages([{ type: "human", content: value }]);
  if (isMessage(value)) return asMessages([value]);
  if (!isRecord(value) || value.messages === undefined) return { input: value, question: [] };
  const { input, question } = asMessages(Array.isArray(value.messages) ? value.messages : [value.messages]);
  return { input: { ...value, ...input }, question };
}

function asMessages(list: unknown[]): Sent & { input: { messages: unknown[] } } {
  const messages = list.map((each) => {
    if (typeof each === "string") return { type: "human", id: randomId(), content: each };
    return isMessage(each) ? { ...each, id: each.id ?? randomId() } : each;
  });
  return { input: { messages }, question: messages.filter(isMessage) };
}
