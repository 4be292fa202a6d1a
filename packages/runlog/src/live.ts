/**
 * One subscriber connection, many runs.
 *
 * Invariants:
 * - `subscribe` resolves after Redis has acknowledged: what is published from then on arrives, or `onGap` is called;
 * - after every reconnect all channels are subscribed again, acknowledged, and only then `onGap` is called: whoever
 *   listens reads the log again. Published messages are hints; no one is owed one;
 * - a channel without a listener is not subscribed to, but for the moment that it takes to say so.
 */
import type { Redis } from "ioredis";

export type LiveListener = (message: Buffer) => void;

export interface LiveOptions {
  /** Messages may have been lost: the connection was away, and is back. */
  onGap?: () => void;
}

/** How many channels one SUBSCRIBE names. */
const chunk = 512;

export class LiveSubscriber {
  readonly #redis: Redis;
  readonly #onGap: () => void;
  readonly #listeners = new Map<string, LiveListener>();
  /** Channels to subscribe to with the next command, and who waits for its acknowledgement. */
  #joining: { channels: string[]; done: Promise<void> } | undefined;
  #connects = 0;

  /** @param redis a connection that nobody else uses, with `autoResubscribe: false` */
  constructor(redis: Redis, options: LiveOptions = {}) {
    this.#redis = redis;
    this.#onGap = options.onGap ?? (() => {});
    redis.on("messageBuffer", (channel: Buffer, message: Buffer) => {
      this.#listeners.get(channel.toString("latin1"))?.(message);
    });
    redis.on("ready", () => {
      if (this.#connects++ > 0 || this.#listeners.size > 0) void this.#resubscribe();
    });
    if (redis.status === "ready") this.#connects = 1;
  }

  /** How many channels are subscribed to. */
  get size(): number {
    return this.#listeners.size;
  }

  /** Listens to a channel; one listener a channel. Resolves when Redis has acknowledged. */
  subscribe(channel: string, listener: LiveListener): Promise<void> {
    this.#listeners.set(channel, listener);
    if (this.#joining !== undefined) {
      this.#joining.channels.push(channel);
      return this.#joining.done;
    }
    // Everyone who subscribes in this turn of the event loop goes out in one command.
    const channels = [channel];
    const done = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
      this.#joining = undefined;
      return this.#send(channels);
    });
    this.#joining = { channels, done };
    return done;
  }

  /** @param listener the one that is to go; a later one of the same channel stays */
  unsubscribe(channel: string, listener: LiveListener): void {
    if (this.#listeners.get(channel) !== listener) return;
    this.#listeners.delete(channel);
    if (this.#redis.status !== "ready") return;
    // A message that still comes finds no listener; a failure means that the connection, and so the subscription, is gone.
    this.#redis.unsubscribe(channel).catch(() => {});
  }

  /**
   * Whether this connection is alive, proven by a message that `publish` sends to a channel of ours. Where none arrives
   * in time the connection is replaced.
   */
  async prove(
    channel: string,
    publish: (channel: string) => Promise<unknown>,
    deadlineMs: number,
  ): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<false>((resolve) => {
      timer = setTimeout(resolve, deadlineMs, false);
    });
    const echo = new Promise<true>((resolve) => {
      void this.subscribe(channel, () => resolve(true))
        .then(
          () => publish(channel),
          () => {},
        )
        .catch(() => {});
    });
    const alive = await Promise.race([echo, deadline]);
    clearTimeout(timer);
    if (!alive && this.#redis.status === "ready") this.#redis.disconnect(true);
    return alive;
  }

  async #send(channels: readonly string[]): Promise<void> {
    const wanted = channels.filter((channel) => this.#listeners.has(channel));
    for (let i = 0; i < wanted.length; i += chunk) {
      const now = wanted.slice(i, i + chunk);
      await this.#redis.subscribe(...now);
      // The command may have waited for the connection, and its listener gone meanwhile.
      const left = now.filter((channel) => !this.#listeners.has(channel));
      if (left.length > 0) this.#redis.unsubscribe(...left).catch(() => {});
    }
  }

  async #resubscribe(): Promise<void> {
    try {
      await this.#send([...this.#listeners.keys()]);
    } catch {
      return; // The connection went away again; its next `ready` comes back here.
    }
    this.#onGap();
  }
}
