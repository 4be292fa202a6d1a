/** A gateway as a process: settings from the environment, one orderly shutdown. */
import { createLogger, runService } from "@throughline/kit";
import { gatewayConfig } from "./config.ts";
import { startGateway } from "./server.ts";

const logger = createLogger("gateway");

await runService({
  name: "gateway",
  logger,
  start: async () => {
    const gateway = await startGateway(gatewayConfig(), logger);
    return { close: () => gateway.close(), detail: gateway.url };
  },
});
