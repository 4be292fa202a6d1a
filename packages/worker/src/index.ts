export {
  type Agent,
  type AgentContext,
  type AgentFunction,
  type AgentOptions,
  agent,
  custom,
  type FunctionAgent,
  type Graph,
  type GraphAgent,
  type GraphOptions,
  isGraph,
  type TokenOptions,
  token,
  update,
  type Yielded,
} from "./agent.ts";
export { AttemptLostError, RunCancelledError, WorkerStoppingError } from "./attempt.ts";
export { BadYieldError } from "./generator.ts";
export { type ServeOptions, serve, type WorkerHandle } from "./serve.ts";
