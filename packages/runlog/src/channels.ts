/** How LiveSubscriber's channels are subscribed to; here, over one connection. See live.ts for what must hold. */
import type { Redis } from "ioredis";

export type LiveListener = (message: Buffer) => void;

/** What the connections learn from LiveSubscriber, and tell it. */
export interface LiveHooks {
  /** The channels that somebody listens to now. */
  readonly wanted: ReadonlyMap<string, LiveListener>;
  onMessage(channel: Buffer, message: Buffer): void;
  /** Messages of these channels may have been lost; they are subscribed again. */
  onGap(channels: readonly string[]): void;
}

export interface LiveChannels {
  /** Resolves when Redis has acknowledged all of these that are still wanted. */
  subscribe(channels: readonly string[]): Promise<void>;
  /** For a channel that is no longer wanted. */
  unsubscribe(channel: string): void;
  /** The connections that messages come over, each with a channel that leads to it. Resolves once there are any. */
  probes(channelOf: (tag: string) => string): Promise<LiveProbe[]>;
}

export interface LiveProbe {
  readonly channel: string;
  /** Gives the connection up for a new one. */
  replace(): void;
}

/** How many channels one SUBSCRIBE names. */
const chunk = 512;

export class PlainChannels implements LiveChannels {
  readonly #redis: Redis;
  readonly #hooks: LiveHooks;
  #connects = 0;

  constructor(redis: Redis, hooks: LiveHooks) {
    this.#redis = redis;
    this.#hooks = hooks;
    redis.on("messageBuffer", hooks.onMessage);
    redis.on("ready", () => {
      if (this.#connects++ > 0 || hooks.wanted.size > 0) void this.#resubscribe();
    });
    if (redis.status === "ready") this.#connects = 1;
  }

  async subscribe(channels: readonly string[]): Promise<void> {
    const wanted = channels.filter((channel) => this.#hooks.wanted.has(channel));
    for (let i = 0; i < wanted.length; i += chunk) {
      const now = wanted.slice(i, i + chunk);
      await this.#redis.subscribe(...now);
      // The command may have waited for the connection, and its listener gone meanwhile.
      const left = now.filter((channel) => !this.#hooks.wanted.has(channel));
      if (left.length > 0) this.#redis.unsubscribe(...left).catch(() => {});
    }
  }

  unsubscribe(channel: string): void {
    if (this.#redis.status !== "ready") return;
    // A failure means that the connection, and so the subscription, is gone.
    this.#redis.unsubscribe(channel).catch(() => {});
  }

  async probes(channelOf: (tag: string) => string): Promise<LiveProbe[]> {
    const replace = () => {
      if (this.#redis.status === "ready") this.#redis.disconnect(true);
    };
    return [{ channel: channelOf("0"), replace }];
  }

  async #resubscribe(): Promise<void> {
    const channels = [...this.#hooks.wanted.keys()];
    try {
      await this.subscribe(channels);
    } catch {
      return; // The connection went away again; its next `ready` comes back here.
    }
    this.#hooks.onGap(channels);
  }
}
