export { type GatewayEnv, gatewayConfig } from "./config.ts";
export { type Gateway, type GatewayTimes, startGateway } from "./server.ts";
