/** Cuts Redis connections from outside, by their names. */
import type { RedisConnection } from "@throughline/kit";
import { Cluster } from "ioredis";

/** Kills every connection with this name, on every master. Answers how many there were. */
export async function killConnections(redis: RedisConnection, name: string): Promise<number> {
  let killed = 0;
  for (const node of redis instanceof Cluster ? redis.nodes("master") : [redis]) {
    const list = (await node.call("CLIENT", "LIST")) as string;
    for (const entry of list.split("\n")) {
      if (!entry.includes(` name=${name} `)) continue;
      const id = /^id=(\d+)/.exec(entry)![1]!;
      killed += Number(await node.call("CLIENT", "KILL", "ID", id));
    }
  }
  return killed;
}
