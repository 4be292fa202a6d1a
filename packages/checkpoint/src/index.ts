export {
  HeadMovedError,
  InvalidArgumentError,
  NoSuchCheckpointError,
  NoSuchThreadError,
  StaleAttemptError,
  ThreadExistsError,
} from "./errors.ts";
export { forGraph, type GraphSaver } from "./for-graph.ts";
export {
  type FlatMessage,
  flattenMessage,
  flattenValues,
  type Json,
  type MessageLike,
  mergeMessages,
  normalizeMessages,
  toBaseMessage,
} from "./messages.ts";
export {
  type Fence,
  type PutOptions,
  RedisCheckpointSaver,
  type SaverOptions,
  type WriteToCome,
} from "./saver.ts";
export {
  graphOf,
  readHistory,
  readState,
  refuseSerialised,
  type StateUpdate,
  type ThreadState,
  writeState,
} from "./thread-state.ts";
