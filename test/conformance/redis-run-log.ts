/** Throughline's run log on any kind of Redis, for describeRunLog. */
import { connectRedis } from "@throughline/kit";
import { LiveSubscriber, LogReader, LogWriter, RunStore, runKeys } from "@throughline/runlog";
import { testPrefix } from "../support/redis.ts";
import type { RunLog } from "./run-log.ts";

export async function redisRunLog(url: string): Promise<RunLog> {
  const prefix = testPrefix();
  const retention = { idleMs: 200_000, endedMs: 100_000 };
  const redis = connectRedis(url, "worker");
  const subscriber = connectRedis(url, "subscriber");
  const live = new LiveSubscriber(subscriber);
  const keptOf = (runId: string) => {
    const { run, log, snapshot } = runKeys(prefix, runId);
    return [run, log, snapshot];
  };
  return {
    store: new RunStore(redis, { prefix, retention }),
    log: new LogWriter(redis, { prefix, retention }),
    another: () => new LogWriter(redis, { prefix, retention }),
    reader: new LogReader(redis, prefix),
    retention,
    async listen(runId) {
      const keys = runKeys(prefix, runId);
      const heard = { live: [] as Buffer[], control: [] as Buffer[] };
      await live.subscribe(keys.live, (message) => heard.live.push(message));
      await live.subscribe(keys.control, (message) => heard.control.push(message));
      return heard;
    },
    async expiresIn(runId) {
      const left = await Promise.all(keptOf(runId).map((key) => redis.pttl(key)));
      return left.filter((ms) => ms !== -2).map((ms) => (ms === -1 ? Number.POSITIVE_INFINITY : ms));
    },
    async age(runId, ms) {
      for (const key of keptOf(runId)) {
        const left = await redis.pttl(key);
        if (left > 0) await redis.pexpire(key, left - ms);
      }
    },
    async loseEntries(runId, count) {
      const { run, log } = runKeys(prefix, runId);
      const last = await redis.xrevrange(log, "+", "-", "COUNT", count + 1);
      for (const [id] of last.slice(0, count)) await redis.xdel(log, id);
      const [id] = last[count]!;
      await redis.call("XSETID", log, id);
      await redis.hset(run, "head", id.slice(0, -2));
    },
    async close() {
      redis.disconnect();
      subscriber.disconnect();
    },
  };
}
