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

/** The content with another text: what else is in it, images and files, stays where it is. */
export function withText(content: FlatMessage["content"], text: string): FlatMessage["content"] {
  if (typeof content === "string") return text;
  const isText = (block: unknown) =>
    typeof block === "string" || (isRecord(block) && typeof block.text === "string");
  const at = content.findIndex(isText);
  const old = content[at];
  const block = { type: "text", ...(isRecord(old) ? old : {}), text };
  const others = content.filter((each, i) => i === at || !isText(each));
  return at === -1 ? [block, ...others] : others.map((each) => (each === old ? block : each));
}

function asMessages(list: unknown[]): Sent & { input: { messages: unknown[] } } {
  const messages = list.map((each) => {
    if (typeof each === "string") return { type: "human", id: randomId(), content: each };
    return isMessage(each) ? { ...each, id: each.id ?? randomId() } : each;
  });
  return { input: { messages }, question: messages.filter(isMessage) };
}
