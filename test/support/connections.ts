/** Cuts Redis connections from outside, by their names. */
import type { Redis } from "ioredis";

/** Kills every connection with this name. Answers how many there were. */
export async function killConnections(redis: Redis, name: string): Promise<number> {
  const list = (await redis.call("CLIENT", "LIST")) as string;
  let killed = 0;
  for (const entry of list.split("\n")) {
    if (!entry.includes(` name=${name} `)) continue;
    const id = /^id=(\d+)/.exec(entry)![1]!;
    killed += Number(await redis.call("CLIENT", "KILL", "ID", id));
  }
  return killed;
}
