/** The example worker as a process: its agents, served from the queue in Redis until SIGTERM. */
import { createLogger, readConfig, redisUrl, runService } from "@throughline/kit";
import { serve } from "@throughline/worker";
import { z } from "zod";
import { agents } from "./agents.ts";

const days = z.coerce.number().int().min(86_400).default(604_800);

const environment = z.object({
  REDIS_URL: redisUrl.default("redis://127.0.0.1:6379"),
  CONCURRENCY: z.coerce
    .number()
    .int()
    .min(1)
    .max(10_000)
    .default(100)
    .describe("how many runs go at once, from 1 to 10000"),
  KEY_PREFIX: z
    .string()
    .regex(/^[A-Za-z0-9_.-]+$/)
    .default("tl")
    .describe("the gateways' KEY_PREFIX: letters, digits, _ . - only"),
  RUN_TTL_S: days.describe("how long runs are kept after their end, in seconds, a day (86400) at least"),
  RUN_IDLE_TTL_S: days.describe(
    "how long runs are kept while nothing happens, in seconds, a day (86400) at least",
  ),
});

const logger = createLogger("worker");

await runService({
  name: "the worker",
  logger,
  start: async () => {
    const env = readConfig(environment);
    const offered = agents(process.env);
    if (offered.chat === undefined) {
      logger.info(
        "agent chat is off: to talk to a model, set OPENAI_API_KEY or OPENAI_BASE_URL, and OPENAI_MODEL",
      );
    }
    const worker = await serve({
      agents: offered,
      redis: env.REDIS_URL,
      concurrency: env.CONCURRENCY,
      prefix: env.KEY_PREFIX,
      retention: { endedMs: env.RUN_TTL_S * 1000, idleMs: env.RUN_IDLE_TTL_S * 1000 },
      logger,
    });
    return { close: () => worker.close(), detail: `offers ${Object.keys(offered).join(", ")}` };
  },
});
