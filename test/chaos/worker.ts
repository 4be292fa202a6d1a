/** The chaos worker: the worker library as it is, with a cast of agents whose text is known. */
import { createLogger, runService } from "@throughline/kit";
import { serve } from "@throughline/worker";
import { cast } from "./cast.ts";

const logger = createLogger("worker");

await runService({
  name: "the chaos worker",
  logger,
  start: async () => {
    const worker = await serve({
      agents: cast,
      redis: process.env.REDIS_URL as string,
      concurrency: 200,
      maxCrashes: Number(process.env.MAX_CRASHES),
      maxLog: Number(process.env.MAX_LOG),
      logger,
    });
    return { close: () => worker.close() };
  },
});
