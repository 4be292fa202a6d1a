/** What is different on a Redis Cluster: keys have slots, and published messages stay with them. */
import calculateSlot from "cluster-key-slot";
import { Cluster, type Redis } from "ioredis";

export function isCluster(redis: Redis | Cluster): redis is Cluster {
  return redis instanceof Cluster;
}

/** The slot of a key or a channel, 0 to 16383: of what is between its first braces, where there is something. */
export function slotOf(key: string): number {
  return calculateSlot(key);
}

/** Publishes to a LiveSubscriber. */
export async function publish(redis: Redis | Cluster, channel: string, message: string): Promise<void> {
  await (isCluster(redis) ? redis.spublish(channel, message) : redis.publish(channel, message));
}
