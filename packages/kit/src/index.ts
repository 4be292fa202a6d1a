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
  checkRedis,
  connectRedis,
  describeRedisUrl,
  type RedisCheck,
  type RedisConnection,
  type RedisRole,
  RedisTooOldError,
  RedisUnavailableError,
} from "./redis.ts";
