import { startPrivateRedis } from "@throughline/local";

/** One Redis for the whole run: REDIS_URL where it is set, else one of our own that ends with the run. */
export default async function setup(): Promise<() => Promise<void>> {
  if (process.env.REDIS_URL) {
    process.env.TEST_REDIS_URL = process.env.REDIS_URL;
    return async () => {};
  }
  const redis = await startPrivateRedis();
  process.env.TEST_REDIS_URL = redis.url;
  return () => redis.stop();
}
