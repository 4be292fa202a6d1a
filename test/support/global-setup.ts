import { spawnSync } from "node:child_process";
import { startPrivateRedis } from "@throughline/local";
import { repositoryFile } from "./program.ts";

/** One Redis for the whole run: REDIS_URL where it is set, else one of our own that ends with the run. */
export default async function setup(): Promise<() => Promise<void>> {
  compile();
  if (process.env.REDIS_URL) {
    process.env.TEST_REDIS_URL = process.env.REDIS_URL;
    return async () => {};
  }
  const redis = await startPrivateRedis();
  process.env.TEST_REDIS_URL = redis.url;
  return () => redis.stop();
}

/** Tests that start programs start what these sources are compiled to, not what some earlier ones were. */
function compile(): void {
  const args = [repositoryFile("infra/setup.mjs"), "--quiet"];
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`The programs that tests start cannot be compiled:\n${stderr}`);
}
