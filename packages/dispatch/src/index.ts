export { AgentRegistry, type Offer, offerEveryMs } from "./agents.ts";
export {
  Dispatcher,
  keepsInput,
  type RunRequest,
  requestOf,
  type Started,
  type StartRequest,
  type StateUpdate,
} from "./dispatcher.ts";
export type { OwnerLimits } from "./owners.ts";
export { bringBackEveryMs, defaultQueue, lockTimes, parkedUntil, queuePrefix, type RunJob } from "./queue.ts";
export { type Entered, ownerScope, Threads, threadKey } from "./threads.ts";
