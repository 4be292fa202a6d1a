/** Messages as they travel: flat objects, and back. */
import { randomUUID } from "node:crypto";
import {
  AIMessage,
  AIMessageChunk,
  BaseMessage,
  ChatMessage,
  ChatMessageChunk,
  coerceMessageLikeToMessage,
  FunctionMessage,
  FunctionMessageChunk,
  HumanMessage,
  HumanMessageChunk,
  RemoveMessage,
  SystemMessage,
  SystemMessageChunk,
  ToolMessage,
  ToolMessageChunk,
} from "@langchain/core/messages";
import { isDeltaSnapshot } from "@langchain/langgraph-checkpoint";
import type { FlatMessage } from "@throughline/protocol";
import { InvalidArgumentError } from "./errors.ts";
import { type Special, toJson } from "./json.ts";

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** What is taken for a message: one of LangChain's, a flat one, one with a `role`, or the text of a human's. */
export type MessageLike =
  | BaseMessage
  | { type: string; [field: string]: unknown }
  | { role: string; [field: string]: unknown }
  | string;

/** The id with which a RemoveMessage removes all that came before it, as in LangGraph. */
const REMOVE_ALL = "__remove_all__";

// Chunks, and the two kinds that LangChain itself does not coerce. The constructors check nothing.
const constructors: Record<string, new (fields: never) => BaseMessage> = {
  AIMessageChunk,
  HumanMessageChunk,
  SystemMessageChunk,
  ToolMessageChunk,
  FunctionMessageChunk,
  ChatMessageChunk,
  function: FunctionMessage,
  generic: ChatMessage,
};
const whole: typeof constructors = {
  ai: AIMessage,
  human: HumanMessage,
  system: SystemMessage,
  tool: ToolMessage,
  remove: RemoveMessage,
};
const chunks: Record<string, string> = {
  ai: "AIMessageChunk",
  human: "HumanMessageChunk",
  system: "SystemMessageChunk",
  tool: "ToolMessageChunk",
  function: "FunctionMessageChunk",
  generic: "ChatMessageChunk",
};
/** The type of the message that a chunk is of. */
const types = Object.fromEntries(Object.entries(chunks).map(([type, chunk]) => [chunk, type]));
const coerced = new Set(["human", "user", "ai", "assistant", "system", "developer", "tool", "remove"]);
const silent = new Set(["ai", "assistant", "AIMessageChunk"]);

/**
 * `{type, ...message.toDict().data}`, taken from the message's fields directly: this runs once per token, and toDict()
 * would wrap what looks serialised.
 */
export function flattenMessage(message: BaseMessage): FlatMessage {
  const isChunk = message.lc_id.at(-1)?.endsWith("Chunk") ?? false;
  const flat: FlatMessage = {
    type: (isChunk && chunks[message.type]) || message.type,
    content: message.content as string | Json[],
  };
  const live = message as unknown as Record<string, unknown>;
  if (!isEmpty(live.id)) flat.id = message.id as string;
  if (!isEmpty(live.name)) flat.name = live.name;
  for (const key in message.lc_kwargs) {
    // `contentBlocks` is `content` once more.
    if (key === "contentBlocks" || Object.hasOwn(flat, key)) continue;
    const value = Object.hasOwn(live, key) ? live[key] : message.lc_kwargs[key];
    if (!isEmpty(value)) flat[key] = value;
  }
  return flat;
}

/**
 * The message that a flat one stands for; one of LangChain's is answered itself. Every message gets an id if it has
 * none. Also takes OpenAI's form, `{role, content, …}`.
 * @throws InvalidArgumentError
 */
export function toBaseMessage(like: MessageLike): BaseMessage {
  const message = BaseMessage.isInstance(like) ? like : construct(like);
  if (message.id === undefined || message.id === null) {
    // Both: what is serialised is taken from lc_kwargs' keys.
    message.id = randomUUID();
    message.lc_kwargs.id = message.id;
  }
  return message;
}

/** The message that flattenMessage made a flat one of. Checks nothing, for it is called for all of a long thread's. */
export function unflattenMessage({ type, ...fields }: FlatMessage): BaseMessage {
  const Message = constructors[type] ?? whole[type];
  if (Message === undefined) throw new InvalidArgumentError(`there is no message of type ${type}`);
  if (type === "ai") fields.tool_calls ??= [];
  return new Message(fields as never);
}

function construct(like: Exclude<MessageLike, BaseMessage>): BaseMessage {
  if (typeof like === "string") return construct({ type: "human", content: like });
  if (typeof like !== "object" || like === null || Array.isArray(like)) {
    throw new InvalidArgumentError(`a message is an object, not ${JSON.stringify(like)}`);
  }
  const { type, ...rest } = "type" in like ? like : { ...like, type: like.role, role: undefined };
  if (typeof type !== "string") throw new InvalidArgumentError("a message has a type or a role");
  const fields = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  // A model that only calls tools says nothing, which OpenAI writes as null.
  if (silent.has(type)) fields.content ??= "";
  if (type !== "remove" && typeof fields.content !== "string" && !Array.isArray(fields.content)) {
    throw new InvalidArgumentError(`a message of type ${type} has a string or blocks for its content`);
  }
  // Without the empty list the constructor makes calls of additional_kwargs.tool_calls, which the flat form may carry
  // beside a list that was empty on purpose.
  if (type === "ai") fields.tool_calls ??= [];
  try {
    const known = Object.hasOwn(constructors, type) ? constructors[type] : undefined;
    if (known) return new known(fields as never);
    delete fields.role;
    if (coerced.has(type)) return coerceMessageLikeToMessage({ ...fields, type });
  } catch (cause) {
    throw new InvalidArgumentError(`not a message of type ${type}`, { cause });
  }
  throw new InvalidArgumentError(`there is no message of type ${type}`);
}

/** One message or many, in any form that toBaseMessage takes, as flat ones that all have an id. */
export function normalizeMessages(messages: unknown): FlatMessage[] {
  return manyMessages(messages).map(flattenMessage);
}

/** One message or many, in any form that toBaseMessage takes, as LangChain's. @throws InvalidArgumentError */
export function manyMessages(messages: unknown): BaseMessage[] {
  return (Array.isArray(messages) ? messages : [messages]).map((message: MessageLike) =>
    toBaseMessage(message),
  );
}

/**
 * The values as readers get them: JSON (see json.ts), with every message in them, however deep, a flat one. What it is
 * given stays as it is. Messages of a state are whole, also where a model's last chunk stands for one: their type is the
 * message's.
 */
export function flattenValues(values: Record<string, unknown>, flatten?: Flatten): Record<string, unknown>;
export function flattenValues(values: unknown, flatten?: Flatten): unknown;
export function flattenValues(values: unknown, flatten: Flatten = flattenWhole): unknown {
  const special: Special = (value) => {
    if (BaseMessage.isInstance(value)) return { value: flatten(value) };
    return isDeltaSnapshot(value) ? { value: flattenValues(value.value, flatten) } : undefined;
  };
  return toJson(values, special);
}

type Flatten = (message: BaseMessage) => FlatMessage;

function flattenWhole(message: BaseMessage): FlatMessage {
  return wholeMessage(flattenMessage(message));
}

/** A whole message: one that was put together from chunks has their class, and still the chunks of its calls. */
export function wholeMessage(flat: FlatMessage): FlatMessage {
  const type = Object.hasOwn(types, flat.type) ? types[flat.type]! : flat.type;
  if (type === flat.type && !("tool_call_chunks" in flat)) return flat;
  const { tool_call_chunks: _, ...rest } = flat;
  return { ...rest, type } as FlatMessage;
}

/**
 * LangGraph's messages reducer: what has an id that is there replaces it in place, what is new comes last, a
 * RemoveMessage removes.
 * @throws InvalidArgumentError: a removal of what is not there
 */
export function mergeMessages(left: BaseMessage[], right: BaseMessage[]): BaseMessage[] {
  const all = right.findLastIndex(
    (message) => RemoveMessage.isInstance(message) && message.id === REMOVE_ALL,
  );
  if (all !== -1) return right.slice(all + 1);
  const merged = new Map(left.map((message) => [message.id, message]));
  const removed = new Set<string | undefined>();
  for (const message of right) {
    if (!RemoveMessage.isInstance(message)) {
      merged.set(message.id, message);
      removed.delete(message.id);
    } else if (merged.has(message.id)) {
      removed.add(message.id);
    } else {
      throw new InvalidArgumentError(`there is no message ${message.id} to remove`);
    }
  }
  return [...merged].filter(([id]) => !removed.has(id)).map(([, message]) => message);
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null) return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype && isBare(value);
}

function isBare(value: object): boolean {
  for (const _ in value) return false;
  return true;
}
