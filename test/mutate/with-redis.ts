/** Runs a program with a Redis of its own for its tests: `with-redis.js <program> [arguments]`. */
import { spawn } from "node:child_process";
import { startPrivateRedis } from "@throughline/local";

const redis = await startPrivateRedis();
const child = spawn(process.execPath, process.argv.slice(2), {
  stdio: "inherit",
  env: { ...process.env, TEST_REDIS_URL: redis.url },
});
process.exitCode = await new Promise<number>((resolve) => child.on("close", (code) => resolve(code ?? 1)));
await redis.stop();
