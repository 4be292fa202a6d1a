export { type GatewayEnv, gatewayConfig } from "./config.ts";
export { type Gateway, startGateway } from "./server.ts";
