import { testRedisUrl } from "../support/redis.ts";
import { redisRunLog } from "./redis-run-log.ts";
import { describeRunLog } from "./run-log.ts";

describeRunLog("on Redis", () => redisRunLog(testRedisUrl()));
