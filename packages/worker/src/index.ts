export {
  type Agent,
  type AgentContext,
  type AgentFunction,
  type AgentOptions,
  agent,
  custom,
  type TokenOptions,
  token,
  update,
  type Yielded,
} from "./agent.ts";
