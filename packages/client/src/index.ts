export type {
  FoldedMessage,
  Keep,
  Part,
  RunRecord,
  RunStatus,
  ThreadHead,
  ThreadRecord,
  ThreadState,
  UnfinishedCall,
} from "@throughline/protocol";
export { Fold, isEnding, ProtocolError } from "@throughline/protocol";
export type { Agents, CustomOf, InputOf, StartOf, StateOf } from "./agents.ts";
export { type Connection, type ConnectOptions, type ConversationWith, connect } from "./connection.ts";
export type { Conversation, ConversationOptions, RunParams } from "./conversation/conversation.ts";
export type { Branches, Message, MessageStatus, ToolCall, ToolCallStatus } from "./conversation/message.ts";
export type { Threads, ThreadsOptions, ThreadsView } from "./conversation/threads.ts";
export type {
  ConversationError,
  ConversationStatus,
  ConversationView,
  QueuedRun,
} from "./conversation/view.ts";
export type { ReasonCode } from "./down.ts";
export { ConnectionClosedError, ConnectionLostError, DetachedError, UsageError } from "./errors.ts";
export type { ConnectionState, TokenSource } from "./link.ts";
export type { StartParams } from "./params.ts";
export type { Clock, WebSocketClass, WebSocketLike } from "./platform.ts";
export type { AttachOptions, CancelOptions, Run } from "./run.ts";
export type { EndingData, OffsetPart, RunEvent } from "./run-event.ts";
export type { Thread } from "./thread.ts";
