/**
 * One socket's view of one log, a run's or a thread's: one object, two states.
 *
 * - catching up: reads pages of the log from its own offset, no faster than its socket drains;
 * - live: gets batches as they come.
 *
 * Invariants:
 * - `next` is the offset that its socket gets next; every frame begins there, so frames are contiguous;
 * - it goes live only where a page ended at the feed's head, with no await in between;
 * - it delivers what is of one epoch only, until its socket knows of another, or has nothing that is not in that one too;
 * - a batch that does not begin at `next`, or a socket over its high-water mark, sends it back to catching up. This one
 *   rule covers lost messages, slow readers, resume and late joiners.
 */
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import { backoffDelay } from "@throughline/kit/timing";
import type { Batch, Passes } from "./batch.ts";
import type { Feed, FeedPage, FeedReader, LogBeginning } from "./feed.ts";
import type { FollowedLog } from "./followed-log.ts";
import type { Semaphore } from "./semaphore.ts";
import type { SnapshotPage } from "./snapshot.ts";

/** What a subscription needs of its socket. */
export interface Outlet {
  /** Whether it takes more now; false over the high-water mark. */
  readonly writable: boolean;
  /** Whether it is gone. */
  readonly closed: boolean;
  /** Bounds how many of a socket's subscriptions read a page at once: each page fills the socket. */
  readonly turns: Semaphore;
  send(frame: Buffer): void;
  /** Resolves under the low-water mark, or when the socket is gone. */
  drained(): Promise<void>;
  /** Called once, when the subscription has ended by itself. */
  removeSubscription(subscription: Subscription): void;
}

/** What reading a page has come to: `nothing`, the log has none yet; `done`, the subscription is live, or over. */
type Step = "read" | "nothing" | "failed" | "done";

/** What a subscriber wants of a log, and takes. */
export interface Wants {
  /** Which entries. @default all */
  passes?: Passes | undefined;
  /** It puts together a snapshot that comes in pages. */
  pages?: boolean | undefined;
  /** Who is to know what its socket was sent. */
  witness?: Witness | undefined;
}

/** Is told right behind what a socket was sent, with nothing between. */
export interface Witness {
  /** Its entries from offset `from` on, whatever the filter left of them. */
  onSent(batch: Batch, from: number): void;
  onReset(): void;
}

/** What a client has of a log, or asks to begin after. */
export interface Asked {
  after: number | "head";
  epoch?: string | undefined;
}

/** Where a subscription begins. `reset`: why its socket has to be told first that what it has is void. */
export interface Beginning {
  after: number;
  epoch: string;
  reset?: string;
}

/** Where one begins that asks for that of a log which is now as `is` says. */
export function beginningOf(
  log: FollowedLog,
  { after, epoch }: Asked,
  is: Pick<FeedPage, "epoch" | "earlier" | "head">,
): Beginning {
  const has = after === "head" ? is.head : after;
  // A client that has nothing but what is in this log too goes on in it, under the name that it has for it.
  const isStale = epoch !== undefined && epoch !== is.epoch && !log.isCovered(epoch, has, is.earlier);
  if (!isStale && has <= is.head) return { after: has, epoch: epoch ?? is.epoch };
  const reset = isStale ? "the log has a new epoch" : `the log ends at offset ${is.head}`;
  return { after: log.resumesAfter(is.head), epoch: is.epoch, reset };
}

const retryMs = { min: 100, max: 2_000 } as const;

export class Subscription implements FeedReader {
  readonly feed: Feed;
  readonly #outlet: Outlet;
  readonly #passes: Passes | undefined;
  readonly #takesPages: boolean;
  readonly #witness: Witness | undefined;
  /** The snapshot that is being sent, and its next page. */
  #snapshot: { log: LogBeginning; page: number } | undefined;
  #epoch: string;
  #next: number;
  /** Why its socket is told of a reset before all else. */
  readonly #resetReason: string | undefined;
  /** Live, or catching up. It changes in the same turn of the event loop as the offsets that it depends on. */
  #live = false;
  #closed = false;

  constructor(feed: Feed, { after, epoch, reset }: Beginning, wants: Wants, outlet: Outlet) {
    const { passes, pages = false, witness } = wants;
    this.feed = feed;
    this.#outlet = outlet;
    this.#passes = passes;
    this.#takesPages = pages;
    this.#witness = witness;
    this.#epoch = epoch;
    this.#next = after + 1;
    this.#resetReason = reset;
  }

  /** It is over: nothing more comes of it. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Begins. The feed must have been acquired; it is released when the subscription closes. */
  start(): void {
    if (this.#resetReason !== undefined) this.#tellReset(this.#resetReason);
    this.feed.join(this);
    this.#catchUp();
  }

  /** Ends it, whatever it is doing. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.feed.leave(this);
    this.feed.release();
  }

  onBatch(batch: Batch): void {
    if (!this.#live) return;
    if (batch.epoch !== this.#epoch) {
      // The log has another epoch: read the next page of that one.
      this.onWake();
      return;
    }
    // A page has delivered it already.
    if (batch.last < this.#next) return;
    if (batch.first === this.#next && this.#outlet.writable) {
      this.#deliver(batch);
      this.#goLiveOrEnd();
    } else {
      this.onWake();
    }
  }

  onWake(): void {
    if (this.#live && !this.#closed) this.#catchUp();
  }

  onHead(offset: number): void {
    if (this.#next <= offset || this.#epoch !== this.feed.epoch) this.onWake();
  }

  #deliver(batch: Batch): void {
    const from = this.#next;
    this.#outlet.send(batch.frame(this.feed.log, from, this.#passes));
    this.#next = batch.last + 1;
    this.#witness?.onSent(batch, from);
  }

  /** Live where nothing is missing; done where the ending has been delivered. Answers whether it is either. */
  #goLiveOrEnd(): boolean {
    if (this.#next <= this.feed.head || this.#epoch !== this.feed.epoch) return false;
    if (this.feed.ended) this.#end(this.feed.log.endReason);
    else this.#live = true;
    return true;
  }

  #catchUp(): void {
    this.#live = false;
    this.feed.enterBehind();
    void this.#readPages().finally(() => this.feed.leaveBehind());
  }

  /** Returns when the subscription is live, or over. */
  async #readPages(): Promise<void> {
    const { turns } = this.#outlet;
    for (let failures = 0; ; ) {
      await turns.acquire();
      let step: Step;
      try {
        step = await this.#readPage();
      } finally {
        turns.release();
      }
      if (step === "done") return;
      if (step === "failed") await sleep(retryDelay(failures++));
      else failures = 0;
      if (step === "nothing") await sleep(retryMs.min);
    }
  }

  async #readPage(): Promise<Step> {
    const outlet = this.#outlet;
    if (!outlet.writable) await outlet.drained();
    if (this.#closed || outlet.closed) return "done";
    if (this.#snapshot !== undefined) return await this.#sendSnapshot(this.#snapshot);
    let page: FeedPage | null;
    try {
      page = await this.feed.page(this.#next - 1);
    } catch {
      // Redis is away: the log is still there when it is back.
      return "failed";
    }
    if (this.#closed || outlet.closed) return "done";
    if (page === null) {
      this.#end(this.feed.log.goneReason);
      return "done";
    }
    if (page.epoch !== this.#epoch && this.feed.log.isCovered(this.#epoch, this.#next - 1, page.earlier)) {
      // All that its socket has is in the new epoch's log as well: there it goes on.
      this.#epoch = page.epoch;
    }
    if (page.epoch !== this.#epoch) this.#reset(page, "the log has a new epoch");
    else if (page.logFirst > this.#next) {
      // The log no longer holds the next offset: what it added up to, in its place, where that is kept.
      if (this.feed.log.runId === undefined) {
        this.#reset(page, `the log begins at offset ${page.logFirst}`);
      } else {
        this.#snapshot = { log: page, page: 1 };
        this.feed.dropPages();
        return "read";
      }
    } else if (page.batch !== undefined && page.batch.last >= this.#next) {
      // The next page is read while this one is written.
      if (page.batch.last < page.head && outlet.writable) this.feed.readAhead(page.batch.last);
      this.#deliver(page.batch);
    }
    // In the same turn as the page was delivered: nothing can have come in between.
    if (this.#goLiveOrEnd()) return "done";
    // A head that the log does not have (yet): a message overtook a read from elsewhere.
    return page.batch === undefined ? "nothing" : "read";
  }

  /** Sends one page of a snapshot when its socket is below the low-water mark: at most one page waits there. */
  async #sendSnapshot(snapshot: { log: LogBeginning; page: number }): Promise<Step> {
    const { log, page } = snapshot;
    let sent: SnapshotPage | null;
    try {
      await this.#outlet.drained();
      // One page a turn of the event loop, so that other sockets get theirs.
      if (page > 1) await setImmediate();
      sent = await this.feed.snapshotPage(log, page);
    } catch {
      return "failed";
    }
    if (this.#closed || this.#outlet.closed) return "done";
    if (sent === null) {
      // It has been trimmed again, or is another log: what there is now begins anew.
      this.#snapshot = undefined;
      return "read";
    }
    if (!sent.whole && !this.#takesPages) {
      this.#end("too_large");
      return "done";
    }
    this.#outlet.send(sent.frame);
    if (page < sent.pages) {
      snapshot.page++;
    } else {
      this.#snapshot = undefined;
      this.#next = log.logFirst;
    }
    return "read";
  }

  #reset({ epoch, head }: FeedPage, reason: string): void {
    this.#epoch = epoch;
    this.#next = this.feed.log.resumesAfter(head) + 1;
    this.#snapshot = undefined;
    this.feed.dropPages();
    this.#tellReset(reason);
  }

  #tellReset(reason: string): void {
    this.#outlet.send(this.feed.log.resetFrame(this.#epoch, this.#next - 1, reason));
    this.#witness?.onReset();
  }

  #end(reason: string): void {
    if (this.#closed) return;
    this.#outlet.send(this.feed.log.endFrame(reason));
    this.close();
    this.#outlet.removeSubscription(this);
  }
}

function retryDelay(failures: number): number {
  return backoffDelay(retryMs, failures) * (0.5 + Math.random() / 2);
}
