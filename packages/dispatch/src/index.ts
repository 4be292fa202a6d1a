export { AgentRegistry, type Offer, offerEveryMs } from "./agents.ts";
export type { CopiesCheckpoints, CopyThread } from "./copy-thread.ts";
export type { DeletesCheckpoints } from "./delete-thread.ts";
export {
  Dispatcher,
  keepsInput,
  type RunRequest,
  requestOf,
  type Started,
  type StartRequest,
  type StateUpdate,
} from "./dispatcher.ts";
export type { ThreadQuery } from "./list-threads.ts";
export type { OwnerLimits } from "./owners.ts";
export { bringBackEveryMs, defaultQueue, lockTimes, parkedUntil, queuePrefix, type RunJob } from "./queue.ts";
export { type LogKeys, ownerLogKeys, ownerScope, threadKey, threadLogKeys } from "./thread-keys.ts";
export { type Entered, type SettledStatus, Threads, threadRun } from "./threads.ts";
