export { aptPrelude, findOnPath, NoRedisError, rootPrefix, runQuietly } from "./install.ts";
export { endProcess, isAlive, waitForExit } from "./process.ts";
export {
  findFreePort,
  type PrivateRedis,
  type PrivateRedisOptions,
  RedisStartError,
  startPrivateRedis,
} from "./redis.ts";
