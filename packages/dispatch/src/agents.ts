/**
 * Which agents there are: each worker says every few seconds what it offers, and on which queue.
 *
 * An agent is known for a day after its last worker was seen: while all of them are away, its runs wait instead of
 * being refused.
 */
import type { AgentInfo } from "@throughline/protocol";
import { defaultPrefix } from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";

export interface Offer {
  queue: string;
  agents: AgentInfo[];
}

interface KnownAgent extends AgentInfo {
  queue: string;
  /** By Redis' clock, ms since 1970. */
  seen: number;
}

/** An offer that was not repeated for this long has expired, ms. */
export const offerTtlMs = 15_000;
export const offerEveryMs = 5_000;
const knownForMs = 24 * 60 * 60 * 1000;

export class AgentRegistry {
  readonly #redis: Redis | Cluster;
  readonly #workers: string;
  readonly #known: string;

  constructor(redis: Redis | Cluster, prefix = defaultPrefix) {
    this.#redis = redis;
    this.#workers = `${prefix}:{agents}:workers`;
    this.#known = `${prefix}:{agents}:known`;
  }

  /** Registers what a worker offers. Repeat it every `offerEveryMs`: it expires after `offerTtlMs`. */
  async offer(workerId: string, offer: Offer): Promise<void> {
    const seen = await this.#now();
    const pipeline = this.#redis
      .pipeline()
      .sadd(this.#workers, workerId)
      .set(this.#offerKey(workerId), JSON.stringify(offer), "PX", offerTtlMs);
    for (const agent of offer.agents) {
      const known: KnownAgent = { ...agent, queue: offer.queue, seen };
      pipeline.hset(this.#known, agent.name, JSON.stringify(known));
    }
    await pipeline.exec();
  }

  async withdraw(workerId: string): Promise<void> {
    await this.#redis.pipeline().srem(this.#workers, workerId).del(this.#offerKey(workerId)).exec();
  }

  /** What live workers offer, by name. */
  async live(): Promise<AgentInfo[]> {
    const workerIds = await this.#redis.smembers(this.#workers);
    if (workerIds.length === 0) return [];
    const offers = await this.#redis.mget(workerIds.map((id) => this.#offerKey(id)));
    const gone = workerIds.filter((_, i) => offers[i] === null);
    if (gone.length > 0) await this.#redis.srem(this.#workers, ...gone);
    const byName = new Map<string, AgentInfo>();
    for (const json of offers) {
      if (json === null) continue;
      for (const agent of (JSON.parse(json as string) as Offer).agents) byName.set(agent.name, agent);
    }
    return [...byName.values()].sort((a, b) => a.name.localeCompare(b.name));
  }

  /** The queue of an agent that is on offer, or was within the last day; null: it is unknown. */
  async queueOf(agent: string): Promise<string | null> {
    const [json, now] = await Promise.all([this.#redis.hget(this.#known, agent), this.#now()]);
    if (json === null) return null;
    const known = JSON.parse(json) as KnownAgent;
    return now - known.seen < knownForMs ? known.queue : null;
  }

  /** On a Cluster any node's: of a day, that is close enough. */
  async #now(): Promise<number> {
    const [seconds] = await this.#redis.time();
    return Number(seconds) * 1_000;
  }

  #offerKey(workerId: string): string {
    return `${this.#workers}:${workerId}`;
  }
}
