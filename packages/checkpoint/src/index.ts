export { DeltaSnapshot, emptyCheckpoint } from "@langchain/langgraph-checkpoint";
export type { FlatMessage } from "@throughline/protocol";
export {
  HeadMovedError,
  InvalidArgumentError,
  NoSuchCheckpointError,
  NoSuchThreadError,
  StaleAttemptError,
  ThreadExistsError,
} from "./errors.ts";
export { ForkView } from "./fork-view.ts";
export { GraphSaver } from "./graph-saver.ts";
export { type HiddenError, hideError } from "./hidden-error.ts";
export { messageCount, type PagePosition, readHistory, readHistoryPage, readOutlinePage } from "./history.ts";
export * from "./langgraph.ts";
export { type Marks, marksOf, type Stop } from "./marks.ts";
export {
  flattenMessage,
  flattenValues,
  type Json,
  type MessageLike,
  normalizeMessages,
  toBaseMessage,
} from "./messages.ts";
export {
  type CopyOptions,
  type Fence,
  type PutOptions,
  RedisCheckpointSaver,
  type SaverOptions,
  type WriteToCome,
} from "./saver.ts";
export { RedisStore, type RedisStoreOptions, type StorePutOptions } from "./store.ts";
export { NotSupportedError, type TtlPutOperation } from "./store-operations.ts";
export {
  childCheckpoint,
  findSubgraph,
  graphOf,
  newCheckpointId,
  type Position,
  readState,
  refuseSerialised,
  type StateUpdate,
  type ThreadState,
  writeState,
} from "./thread-state.ts";
