import { createLogger } from "@throughline/kit";

/** Says nothing, unless LOG_LEVEL asks. */
export const testLogger = createLogger("test", { level: process.env.LOG_LEVEL ?? "silent" });
