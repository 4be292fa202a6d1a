export { ConfigError, readConfig } from "./config.ts";
export {
  exitNeedsHuman,
  explainError,
  type ReadyMessage,
  type RunningService,
  type RunServiceOptions,
  reportReady,
  runService,
} from "./lifecycle.ts";
export { createLineFormatter, createLogger, type Logger, type LoggerOptions } from "./logger.ts";
export {
  type ConnectRedisOptions,
  connectRedis,
  type RedisConnection,
  type RedisRole,
  RedisUnavailableError,
} from "./redis.ts";
export {
  checkRedis,
  type RedisCheck,
  RedisDatabaseError,
  RedisIsClusterError,
  RedisTooOldError,
} from "./redis-check.ts";
export { describeRedisUrl, type RedisAddress, RedisUrlError, redisUrl } from "./redis-url.ts";
