/**
 * Conversations as stores, for any framework: `subscribe`, `getSnapshot`, and what a person can do. An entry of its own, so
 * that who follows runs alone does not load it.
 */
import type { AgentName, Agents, CustomOf, InputOf, StateOf } from "../agents.ts";
import type { Connection } from "../connection.ts";
import { Conversation, type ConversationOptions, threadKey } from "./conversation.ts";
import type { StorePort } from "./port.ts";
import { hold } from "./store.ts";
import { Threads, type ThreadsOptions } from "./threads.ts";

export type { ConversationOptions, RunParams } from "./conversation.ts";
export type { Branches, Message, MessageStatus, ToolCall, ToolCallStatus } from "./message.ts";
export { initialView } from "./status.ts";
export { noThreads, type ThreadsOptions, type ThreadsView } from "./threads.ts";
export type { ConversationError, ConversationStatus, ConversationView, QueuedRun } from "./view.ts";
export type { Conversation, Threads };

/** The conversation with an agent, by the agent's type. */
export type ConversationWith<A> = Conversation<InputOf<A>, StateOf<A>, CustomOf<A>>;

/**
 * The store of a conversation: of a thread, or of a new one, which begins with the first message. The same thread is the
 * same store, for all who ask for it; of `agent` and `run`, what was said last holds. `key`: so it is for a new thread, as long as the key is the same. Call `close` once
 * for each time that it was asked for.
 */
export function conversation<A extends Agents, N extends AgentName<A>>(
  connection: Connection<A>,
  options: ConversationOptions<N>,
  key: unknown = {},
): ConversationWith<A[N]> {
  const { threadId } = options;
  const make = () => new Conversation(connection, options) as ConversationWith<A[N]>;
  const store = hold(connection, threadId === undefined ? key : threadKey(threadId), make);
  store.use(options);
  return store;
}

/** The store of the owner's threads: the one that something last happened to first. Shared and closed as a conversation. */
export function threads(connection: StorePort, options: ThreadsOptions = {}): Threads {
  return hold(connection, `threads:${JSON.stringify(options)}`, () => new Threads(connection, options));
}
