export {
  type Agent,
  type AgentContext,
  type AgentFunction,
  type AgentOptions,
  agent,
  type CustomPart,
  custom,
  type FunctionAgent,
  type Graph,
  type GraphAgent,
  type GraphFactory,
  type GraphOptions,
  isGraph,
  perRun,
  type Step,
  step,
  type TokenOptions,
  token,
  type UpdatePart,
  update,
  type Yielded,
} from "./agent.ts";
export { AttemptLostError, RunCancelledError, RunTimeoutError, WorkerStoppingError } from "./attempt.ts";
export { BadYieldError } from "./generator.ts";
export { PublicError, type PublicErrorHook } from "./public-error.ts";
export { type ServeOptions, type StoreOptions, serve, type WorkerHandle, type WorkerTimes } from "./serve.ts";
