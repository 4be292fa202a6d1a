export type { LiveListener } from "./channels.ts";
export { publish, slotOf } from "./cluster.ts";
export { LostWritesError, NoSuchRunError, PartTooLargeError, StaleAttemptError } from "./errors.ts";
export { defaultPrefix, type LogKeys, type RunKeys, runKeys } from "./keys.ts";
export { LiveSubscriber } from "./live.ts";
export { type Claimed, LogWriter, type WriterOptions } from "./log-writer.ts";
export { dropLines, LogReader, type Page, type SnapshotSlice } from "./reader.ts";
export { isPassing, persist, refusalOf, refusalTeller } from "./retry.ts";
export {
  body,
  type Cancelled,
  defaultRetention,
  type EarlierEpoch,
  isCovered,
  type ListedRun,
  type NewRun,
  newEpoch,
  type Opened,
  type Retention,
  RunStore,
  type StoredRun,
  type StoredSize,
} from "./run.ts";
export { type EndingFields, RunWriter } from "./run-writer.ts";
export { incarnationLua, publishing } from "./scripts.ts";
