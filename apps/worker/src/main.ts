/** The example worker as a process: its agents, served from the queue in Redis until SIGTERM. */
import { createLogger, readConfig, runService } from "@throughline/kit";
import { serve } from "@throughline/worker";
import { z } from "zod";
import { agents } from "./agents.ts";

const environment = z.object({
  REDIS_URL: z
    .url({ protocol: /^rediss?$/ })
    .default("redis://127.0.0.1:6379")
    .describe("a Redis URL, such as redis://127.0.0.1:6379"),
  CONCURRENCY: z.coerce
    .number()
    .int()
    .min(1)
    .max(10_000)
    .default(100)
    .describe("how many runs go at once, from 1 to 10000"),
});

const logger = createLogger("worker");

await runService({
  name: "the worker",
  logger,
  start: async () => {
    const { REDIS_URL, CONCURRENCY } = readConfig(environment);
    const offered = agents(process.env);
    if (offered.chat === undefined) {
      logger.info(
        "agent chat is off: to talk to a model, set OPENAI_API_KEY or OPENAI_BASE_URL, and OPENAI_MODEL",
      );
    }
    const worker = await serve({ agents: offered, redis: REDIS_URL, concurrency: CONCURRENCY, logger });
    return { close: () => worker.close(), detail: `offers ${Object.keys(offered).join(", ")}` };
  },
});
