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
export { type Connection, type ConnectOptions, connect } from "./connection.ts";
export type { ReasonCode } from "./down.ts";
export { ConnectionClosedError, ConnectionLostError, DetachedError, UsageError } from "./errors.ts";
export type { ConnectionState, TokenSource } from "./link.ts";
export type { StartParams } from "./params.ts";
export type { Clock, WebSocketClass, WebSocketLike } from "./platform.ts";
export type { AttachOptions, CancelOptions, Run } from "./run.ts";
export type { EndingData, OffsetPart, RunEvent } from "./run-event.ts";
export type { Thread } from "./thread.ts";
