/**
 * All runs that this gateway follows: one feed each, one subscriber connection for all of them.
 *
 * Invariant: silence is never taken for nothing to say. After every reconnect of the subscriber each feed reads its
 * log's head again; a feed that has been quiet for long does so by itself; and the gateway proves every few seconds, by
 * a message to itself, that the connection still delivers.
 */
import { LiveSubscriber, LogReader } from "@throughline/runlog";
import type { Redis } from "ioredis";
import type { Logger } from "pino";
import { Feed, type FeedOptions } from "./feed.ts";
import { Semaphore } from "./semaphore.ts";

export interface HubOptions extends FeedOptions {
  gatewayId: string;
  /** Reads of logs under way at once. */
  maxReads: number;
  /** How often the subscriber connection has to prove itself, ms; it gets half of that to do so. */
  probeMs: number;
  /** How long a run may be silent before its head is looked up, ms. */
  quietMs: number;
}

export class Hub {
  readonly reader: LogReader;
  readonly #live: LiveSubscriber;
  readonly #commands: Redis;
  readonly #options: HubOptions;
  readonly #logger: Logger;
  readonly #feeds = new Map<string, Feed>();
  readonly #reads: Semaphore;
  readonly #probing: NodeJS.Timeout;
  #provenAt = 0;

  constructor(commands: Redis, subscriber: Redis, options: HubOptions, logger: Logger) {
    this.#commands = commands;
    this.#options = options;
    this.#logger = logger;
    this.#reads = new Semaphore(options.maxReads);
    this.reader = new LogReader(commands, options.prefix);
    this.#live = new LiveSubscriber(subscriber, { onGap: () => this.refreshAll() });
    this.#probing = setInterval(() => void this.probe(), options.probeMs);
  }

  /** How many runs are followed. */
  get size(): number {
    return this.#feeds.size;
  }

  /** Whether the subscriber connection has lately proved that it delivers. */
  get proven(): boolean {
    return Date.now() - this.#provenAt < 2.5 * this.#options.probeMs;
  }

  /** The run's feed. Acquire it before it is used. */
  feed(runId: string): Feed {
    let feed = this.#feeds.get(runId);
    if (feed === undefined) {
      feed = new Feed(runId, {
        reader: this.reader,
        live: this.#live,
        reads: this.#reads,
        options: this.#options,
        onIdle: (idle) => {
          if (this.#feeds.get(runId) === idle) this.#feeds.delete(runId);
        },
      });
      this.#feeds.set(runId, feed);
    }
    return feed;
  }

  /** Has the subscriber connection prove that it delivers, and looks at runs that have been quiet. One tick. */
  async probe(): Promise<void> {
    const { prefix, gatewayId, probeMs, quietMs } = this.#options;
    const alive = await this.#live.prove(
      `${prefix}:{gateway-${gatewayId}}:probe`,
      (channel) => this.#commands.publish(channel, "alive"),
      probeMs / 2,
    );
    if (alive) this.#provenAt = Date.now();
    else this.#logger.warn("the subscriber connection did not deliver a message to itself: it is replaced");
    const quietSince = Date.now() - quietMs;
    for (const feed of this.#feeds.values()) {
      feed.nudge();
      if (feed.heardAt < quietSince && !feed.ended) this.#refresh(feed);
    }
  }

  /** Messages may have been lost: every run's head is looked up. */
  refreshAll(): void {
    for (const feed of this.#feeds.values()) this.#refresh(feed);
  }

  close(): void {
    clearInterval(this.#probing);
  }

  #refresh(feed: Feed): void {
    // Counts as heard at once, so that the next tick does not ask again while this one waits its turn.
    feed.heardAt = Date.now();
    feed.refresh().catch((error) => {
      feed.heardAt = 0;
      this.#logger.debug(
        { err: error, runId: feed.runId },
        "could not look at a run's head; the next probe does",
      );
    });
  }
}
