/**
 * One log in this gateway, a run's or a thread's: what is known of it, its live batches, and the pages that its readers
 * share.
 *
 * Invariants:
 * - `head` is the highest offset that anything has told us of: a message, or a page;
 * - a live batch is a hint. It is never needed: whoever misses one finds `head` ahead of it and reads the log;
 * - a page that one reader fetched may be ahead of the batches that the others wait for: those batches still go to
 *   them when they come, and where none will come any more (it has ended) they are told at once;
 * - what is known is of one epoch. A batch or a page of another one is the first that is known of another log;
 * - a feed that someone uses has an acknowledged subscription to the log's channel, or knows that it has ended.
 */
import type { LiveSubscriber, LogReader, Page } from "@throughline/runlog";
import { Batch } from "./batch.ts";
import type { FollowedLog } from "./followed-log.ts";
import type { PageCache } from "./page-cache.ts";
import type { ReaderLeases } from "./reader-leases.ts";
import type { Semaphore } from "./semaphore.ts";
import { Silence } from "./silence.ts";
import { framePage, type SnapshotPage, sliceOf } from "./snapshot.ts";

/** Who reads a feed: see subscription.ts. */
export interface FeedReader {
  /** A batch came in. */
  onBatch(batch: Batch): void;
  /** The log may be gone: look. */
  onWake(): void;
  /** The feed's log is known to go on to `offset`, and no batch may say so: look if you are behind, or in another log. */
  onHead(offset: number): void;
}

export interface FeedOptions {
  /** Bytes of log that one read answers at the most (one batch is always read). */
  pageBytes: number;
}

export interface FeedDeps {
  reader: LogReader;
  live: LiveSubscriber;
  reads: Semaphore;
  cache: PageCache<FeedPage | SnapshotPage>;
  options: FeedOptions;
  leases?: ReaderLeases | undefined;
  /** Called when nobody uses the feed any more. */
  onIdle: (feed: Feed) => void;
}

/** A page of the log, with its framed batch. `batch` is undefined where there was nothing to read. */
export interface FeedPage extends Omit<Page, "first" | "last" | "body"> {
  readonly batch: Batch | undefined;
}

/** A log by what it still holds: its snapshot is another one where either is another. */
export type LogBeginning = Pick<Page, "epoch" | "logFirst">;

/** How many pages a feed keeps: they are looked through one by one. */
const maxPages = 64;

export class Feed {
  readonly log: FollowedLog;
  readonly #deps: FeedDeps;
  readonly #readers = new Set<FeedReader>();
  #head = 0;
  #headAtTick = 0;
  #ended = false;
  #epoch: string | undefined;
  /** The run ends when nobody reads it. */
  #needsReaders = false;
  #users = 0;
  #behind = 0;
  #ready: Promise<void> | undefined;
  /** Those of the cache that are this feed's. */
  readonly #pages = new Set<FeedPage>();
  readonly #reading = new Map<number, Promise<FeedPage | null>>();
  /** Of snapshots, by what they are pages of. */
  readonly #snapshotPages = new Map<string, SnapshotPage>();
  readonly #readingSnapshot = new Map<string, Promise<SnapshotPage | null>>();
  /** What nothing has broken yet: how long, and how often it was looked at since. */
  readonly silence = new Silence();

  constructor(log: FollowedLog, deps: FeedDeps) {
    this.log = log;
    this.#deps = deps;
  }

  /** Of the log that `head` and `ended` are about; undefined: nothing is known yet. */
  get epoch(): string | undefined {
    return this.#epoch;
  }

  get head(): number {
    return this.#head;
  }

  /** Nothing comes any more: `head` is the offset of a run's ending, or of the last event. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Keeps the feed until `release`. Resolves when live batches come in, or the log is known to have ended. */
  async acquire(): Promise<void> {
    this.#users++;
    if (this.#ended) return;
    try {
      await this.#listen();
    } catch (error) {
      this.release();
      throw error;
    }
  }

  #listen(): Promise<void> {
    this.#ready ??= this.#deps.live.subscribe(this.log.channel, this.#onMessage).catch((error: unknown) => {
      this.#ready = undefined;
      throw error;
    });
    return this.#ready;
  }

  release(): void {
    if (--this.#users > 0) return;
    this.#leaveChannel();
    this.#deps.onIdle(this);
  }

  join(reader: FeedReader): void {
    this.#readers.add(reader);
    if (this.#readers.size === 1) this.#sayRead();
  }

  leave(reader: FeedReader): void {
    const { runId } = this.log;
    if (!this.#readers.delete(reader) || this.#readers.size > 0 || runId === undefined) return;
    this.#deps.leases?.leave(runId);
  }

  #sayRead(): void {
    const { runId } = this.log;
    if (this.#needsReaders && !this.#ended && runId !== undefined) this.#deps.leases?.arrive(runId);
  }

  /** What a record or a page says of the log. */
  learn({
    epoch,
    head,
    status,
    onDisconnect,
  }: {
    epoch: string;
    head: number;
    status: string;
    onDisconnect?: string | undefined;
  }): void {
    this.#needsReaders ||= onDisconnect === "cancel";
    this.#epoch ??= epoch;
    // Which of the two is the later, the next read of the log will say.
    if (epoch !== this.#epoch) return;
    if (head > this.#head) this.#head = head;
    // The head of what has ended does not move: whoever reads both in one go has them both.
    if (!this.log.isOver(status) || head !== this.#head || this.#ended) return;
    this.#end();
    this.#tell(head);
  }

  /** Has those look who still wait for a batch that should have come since the last call. One tick. */
  nudge(): void {
    this.#tell(this.#headAtTick);
    this.#headAtTick = this.#head;
  }

  #tell(offset: number): void {
    for (const reader of this.#readers) reader.onHead(offset);
  }

  /** Reads what the log says now, for messages that may have been lost, and wakes those who are behind. */
  async refresh(): Promise<void> {
    const page = await this.#read(this.#head);
    if (page !== null) return this.#tell(this.#head);
    this.#end();
    for (const reader of this.#readers) reader.onWake();
  }

  /** A page that holds the offset after `after`, or says that there is none yet. null: the log has expired. */
  async page(after: number): Promise<FeedPage | null> {
    const cached = this.#find(after);
    if (cached !== undefined) return cached;
    const reading = this.#reading.get(after);
    if (reading !== undefined) return await reading;
    const read = this.#read(after).finally(() => this.#reading.delete(after));
    this.#reading.set(after, read);
    return await read;
  }

  /**
   * A page, from 1 on, of what the trimmed part of the log added up to. null: the log begins elsewhere now, or has
   * expired.
   */
  async snapshotPage(log: LogBeginning, page: number): Promise<SnapshotPage | null> {
    const key = `${log.epoch}:${log.logFirst}:${page}`;
    const known = this.#snapshotPages.get(key) ?? this.#readingSnapshot.get(key);
    if (known !== undefined) return await known;
    const read = this.#readSnapshot(log, page, key).finally(() => this.#readingSnapshot.delete(key));
    this.#readingSnapshot.set(key, read);
    return await read;
  }

  async #readSnapshot(log: LogBeginning, page: number, key: string): Promise<SnapshotPage | null> {
    const { reads, reader, cache } = this.#deps;
    await reads.acquire();
    try {
      const { runId } = this.log;
      const slice = runId === undefined ? null : await reader.snapshotSlice(runId, ...sliceOf(page));
      if (slice === null || slice.epoch !== log.epoch || slice.first !== log.logFirst) return null;
      const framed = framePage(runId!, page, slice);
      if (this.#behind > 0) {
        this.#snapshotPages.set(key, framed);
        cache.add(framed, framed.frame.length, () => this.#snapshotPages.delete(key));
      }
      return framed;
    } finally {
      reads.release();
    }
  }

  /** Begins to read the page that somebody will ask for next. */
  readAhead(after: number): void {
    this.page(after).catch(() => {}); // Whoever asks for it hears of it.
  }

  async #read(after: number): Promise<FeedPage | null> {
    const { reads, options } = this.#deps;
    await reads.acquire();
    try {
      // While this one waited its turn another reader may have read the same.
      const cached = this.#find(after);
      if (cached !== undefined) return cached;
      const page = await this.#fetch(after, options.pageBytes);
      if (page === null) return null;
      const { first, last, body, ...rest } = page;
      const batch = first === 0 ? undefined : new Batch(first, last, page.epoch, false, body);
      const read: FeedPage = { ...rest, batch };
      this.#follow(page.epoch);
      if (batch !== undefined) {
        this.silence.broken();
        this.#keep(read, body.length);
      }
      this.learn(page);
      return read;
    } finally {
      reads.release();
    }
  }

  async #fetch(after: number, maxBytes: number): Promise<Page | null> {
    const { reader } = this.#deps;
    for (;;) {
      const known = this.#epoch;
      const page = (await this.log.page(reader, after, maxBytes)) ?? this.log.missing(known);
      // Where a message told of a new epoch while it was on its way, it may be from before that.
      if (page === null || page.epoch === this.#epoch || known === this.#epoch) return page;
    }
  }

  /** What the log is now, as Redis has it. null: it has expired. */
  async look(): Promise<Pick<Page, "epoch" | "earlier" | "head" | "logFirst"> | null> {
    const { reads } = this.#deps;
    await reads.acquire();
    try {
      // What it may hold beyond is not wanted: one batch of it is always read.
      const page = await this.#fetch(this.#head, 0);
      if (page === null) return null;
      this.#follow(page.epoch);
      this.learn(page);
      return page;
    } finally {
      reads.release();
    }
  }

  #find(after: number): FeedPage | undefined {
    for (const page of this.#pages) {
      const { first, last } = page.batch!;
      if (first <= after + 1 && after < last) return page;
    }
    return undefined;
  }

  /** A log with another epoch is another log: what was known of it, its end too, and its pages are of no use. */
  #follow(epoch: string): void {
    if (this.#epoch !== undefined && epoch !== this.#epoch) {
      this.#head = this.#headAtTick = 0;
      this.dropPages();
      if (this.#ended) {
        this.#ended = false;
        if (this.#readers.size > 0) this.#sayRead();
        this.#listen().catch(() => {}); // The subscriber listens again when its connection is back.
      }
    }
    this.#epoch = epoch;
  }

  /** Pages are kept for readers that are behind together. A page that was read ahead for one that has gone is not. */
  #keep(page: FeedPage, bytes: number): void {
    if (this.#behind === 0) return;
    const [oldest] = this.#pages;
    if (oldest !== undefined && this.#pages.size >= maxPages) {
      this.#pages.delete(oldest);
      this.#deps.cache.delete(oldest);
    }
    this.#pages.add(page);
    this.#deps.cache.add(page, bytes, () => this.#pages.delete(page));
  }

  /** A reader begins to catch up. */
  enterBehind(): void {
    this.#behind++;
  }

  /** A reader has caught up, or is gone. Pages are worth their memory only while somebody is behind. */
  leaveBehind(): void {
    if (--this.#behind > 0) return;
    this.dropPages();
    for (const page of this.#snapshotPages.values()) this.#deps.cache.delete(page);
    this.#snapshotPages.clear();
  }

  dropPages(): void {
    for (const page of this.#pages) this.#deps.cache.delete(page);
    this.#pages.clear();
  }

  readonly #onMessage = (message: Buffer): void => {
    const batch = Batch.parse(message);
    this.silence.broken();
    this.#follow(batch.epoch);
    if (batch.last > this.#head) this.#head = batch.last;
    if (batch.ending) this.#end();
    for (const reader of this.#readers) reader.onBatch(batch);
  };

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    if (this.log.runId !== undefined) this.#deps.leases?.end(this.log.runId);
    this.#leaveChannel();
  }

  #leaveChannel(): void {
    if (this.#ready === undefined) return;
    this.#ready = undefined;
    this.#deps.live.unsubscribe(this.log.channel, this.#onMessage);
  }
}
