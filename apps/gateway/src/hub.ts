/**
 * All logs that this gateway follows, of runs and of threads: one feed each, one subscriber for all of them.
 *
 * Invariant: silence is never taken for nothing to say. After a subscription was lost, and is there again, its feed reads
 * its log's head; a feed that has been quiet for long does so by itself; and the gateway proves every few seconds, by
 * messages to itself, that the subscriber's connections still deliver.
 */
import type { RedisConnection } from "@throughline/kit";
import { LiveSubscriber, LogReader, publish } from "@throughline/runlog";
import type { Logger } from "pino";
import { Feed, type FeedOptions, type FeedPage } from "./feed.ts";
import { type FollowedLog, RunLog, ThreadLog } from "./followed-log.ts";
import { PageCache } from "./page-cache.ts";
import type { ReaderLeases } from "./reader-leases.ts";
import { Semaphore } from "./semaphore.ts";
import type { SnapshotPage } from "./snapshot.ts";

export interface HubOptions extends FeedOptions {
  prefix: string;
  gatewayId: string;
  /** Bytes of pages that all feeds together keep for readers that are behind. */
  cacheBytes: number;
  /** Reads of logs under way at once. */
  maxReads: number;
  /** How often the subscriber connection has to prove itself, ms; it gets half of that to do so. */
  probeMs: number;
  /** Puts back what a run waits for, where it was lost. Called for runs that are quiet, a few at a time. */
  revive: (runId: string) => Promise<void>;
  /** Where it is said which runs are read here. */
  leases?: ReaderLeases;
}

/** Quiet runs that are seen to at once. */
const maxRevivals = 4;

export class Hub {
  readonly reader: LogReader;
  readonly #live: LiveSubscriber;
  readonly #commands: RedisConnection;
  readonly #options: HubOptions;
  readonly #logger: Logger;
  readonly #feeds = new Map<string, Feed>();
  readonly #reads: Semaphore;
  readonly #cache: PageCache<FeedPage | SnapshotPage>;
  readonly #probing: NodeJS.Timeout;
  readonly #revivals = new Semaphore(maxRevivals);
  readonly #reviving = new Set<Feed>();
  #provenAt = Number.NEGATIVE_INFINITY;
  /** When it first did not deliver; undefined while it does. */
  #lostAt: number | undefined;

  constructor(commands: RedisConnection, subscriber: RedisConnection, options: HubOptions, logger: Logger) {
    this.#commands = commands;
    this.#options = options;
    this.#logger = logger;
    this.#reads = new Semaphore(options.maxReads);
    this.#cache = new PageCache(options.cacheBytes);
    this.reader = new LogReader(commands, options.prefix);
    this.#live = new LiveSubscriber(subscriber, { onGap: (channels) => this.refresh(channels) });
    this.#probing = setInterval(() => void this.probe(), options.probeMs);
  }

  /** How many logs are followed. */
  get size(): number {
    return this.#feeds.size;
  }

  /** Whether the subscriber connection has lately proved that it delivers. */
  get proven(): boolean {
    return performance.now() - this.#provenAt < 2.5 * this.#options.probeMs;
  }

  /** The run's feed. Acquire it before it is used. */
  feed(runId: string): Feed {
    return this.#feeds.get(runId) ?? this.#add(new RunLog(this.#options.prefix, runId));
  }

  /** The feed of what happens to a thread, or to all of an owner's. Acquire it before it is used. */
  threadFeed(owner: string, threadId: string | undefined): Feed {
    const log = new ThreadLog(this.#options.prefix, owner, threadId);
    return this.#feeds.get(log.id) ?? this.#add(log);
  }

  #add(log: FollowedLog): Feed {
    const feed = new Feed(log, {
      reader: this.reader,
      live: this.#live,
      reads: this.#reads,
      cache: this.#cache,
      options: this.#options,
      leases: this.#options.leases,
      onIdle: (idle) => {
        if (this.#feeds.get(log.id) === idle) this.#feeds.delete(log.id);
      },
    });
    this.#feeds.set(log.id, feed);
    return feed;
  }

  /** Has the subscriber connection prove that it delivers, and looks at runs that have been quiet. One tick. */
  async probe(): Promise<void> {
    const { prefix, gatewayId, probeMs } = this.#options;
    const alive = await this.#live.prove(
      (tag) => `${prefix}:{gateway-${gatewayId}-${tag}}:probe`,
      (channel) => publish(this.#commands, channel, "alive"),
      probeMs / 2,
    );
    this.#note(alive);
    const now = performance.now();
    for (const feed of this.#feeds.values()) {
      feed.nudge();
      if (feed.silence.isDue(now) && !feed.ended) {
        this.#refresh(feed);
        void this.#revive(feed);
      }
    }
  }

  /** Messages may have been lost: the heads of these channels' runs are looked up. */
  refresh(channels: readonly string[]): void {
    const gap = new Set(channels);
    for (const feed of this.#feeds.values()) {
      if (gap.has(feed.log.channel)) this.#refresh(feed);
    }
  }

  close(): void {
    clearInterval(this.#probing);
  }

  /** An outage is two lines of the log, however long it is: its beginning and its end. */
  #note(alive: boolean): void {
    const now = performance.now();
    if (alive) {
      this.#provenAt = now;
      if (this.#lostAt === undefined) return;
      const seconds = ((now - this.#lostAt) / 1000).toFixed(1);
      this.#logger.info(`the subscriber connection delivers again after ${seconds} s`);
      this.#lostAt = undefined;
      return;
    }
    const level = this.#lostAt === undefined ? "warn" : "debug";
    this.#logger[level]("the subscriber connection did not deliver a message to itself: it is replaced");
    this.#lostAt ??= now;
  }

  /** Nothing that a thread's log says is waited for: what a run of it waits for is seen to by the run's own feed. */
  async #revive(feed: Feed): Promise<void> {
    const { runId } = feed.log;
    if (runId === undefined || this.#reviving.has(feed)) return;
    this.#reviving.add(feed);
    await this.#revivals.acquire();
    try {
      await this.#options.revive(runId);
    } catch (error) {
      this.#logger.debug({ err: error, runId }, "could not see to a quiet run; a later probe does");
    } finally {
      this.#revivals.release();
      this.#reviving.delete(feed);
    }
  }

  #refresh(feed: Feed): void {
    // At once, so that the next tick does not ask again while this one waits its turn.
    feed.silence.looked();
    feed.refresh().catch((error) => {
      feed.silence.failed();
      this.#logger.debug(
        { err: error, log: feed.log.id },
        "could not look at a log's head; the next probe does",
      );
    });
  }
}
