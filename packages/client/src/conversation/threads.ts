/** The threads of an owner as a list to draw: live, the one that something last happened to first. */
import type { Params, ThreadEvent, ThreadRecord } from "@throughline/protocol";
import type { Watching } from "../watch.ts";
import { Again } from "./again.ts";
import { isEqual } from "./message.ts";
import type { StorePort } from "./port.ts";
import { letGo, Store, type StoreOptions } from "./store.ts";
import { type ConversationError, errorOf } from "./view.ts";

export interface ThreadsOptions extends StoreOptions {
  /** Only threads whose newest run was of this agent. */
  agent?: string;
  status?: ThreadRecord["status"];
  /** Only threads whose metadata have these keys with equal values. */
  metadata?: Record<string, unknown>;
  /** How many are read at once. @default 50 */
  pageSize?: number;
}

export interface ThreadsView {
  readonly status: "loading" | "ready" | "unavailable";
  readonly threads: readonly ThreadRecord[];
  /** There are more, which `loadMore` reads. */
  readonly hasMore: boolean;
  /** What was refused last. */
  readonly error: ConversationError | undefined;
}

export const noThreads: ThreadsView = { status: "loading", threads: [], hasMore: false, error: undefined };

export class Threads extends Store<ThreadsView> {
  readonly #connection: StorePort;
  readonly #options: ThreadsOptions;
  readonly #threads = new Map<string, ThreadRecord>();
  /** A page that was asked for earlier may still tell of them. */
  readonly #deleted = new Set<string>();
  readonly #watch: Watching;
  readonly #first = new Again(
    () => this.#page(undefined),
    (error) => this.#refused(error),
  );
  #status: ThreadsView["status"] = "loading";
  #next: string | undefined;
  /** How often the list was read anew: pages of one before lead nowhere. */
  #readings = 0;
  #error: ConversationError | undefined;

  constructor(connection: StorePort, options: ThreadsOptions = {}) {
    super(noThreads, options);
    this.#connection = connection;
    this.#options = options;
    this.#watch = connection.watch(undefined, {
      watched: () => {},
      event: (event) => this.#onEvent(event),
      reset: () => this.#first.due(),
      deleted: () => {},
      failed: (error) => {
        // Nothing of it is live: a page that was asked for does not make it ready.
        this.#readings += 1;
        this.#first.stop();
        this.#status = "loading";
        this.#refused(error);
      },
    });
    this.#first.due();
  }

  /** Once for each time that it was asked for. */
  close(): void {
    letGo(this.#connection, this, () => {
      this.isClosed = true;
      this.#watch.stop();
      this.#first.stop();
    });
  }

  /** A new thread. Answers its record; undefined where it was refused. */
  create(params: Params<"thread.create"> = {}): Promise<ThreadRecord | undefined> {
    return this.#try(async () => {
      const { thread } = await this.#connection.call("thread.create", params);
      this.#put(thread);
      return thread;
    });
  }

  /** Its title: the key `title` of its metadata. */
  rename(threadId: string, title: string): Promise<ThreadRecord | undefined> {
    return this.patch(threadId, { title });
  }

  /** The keys take the place of those that are there; null takes one away. */
  patch(threadId: string, metadata: Record<string, unknown>): Promise<ThreadRecord | undefined> {
    return this.#try(async () => {
      const thread = await this.#connection.call("thread.patch", {
        threadId,
        metadata,
      } as Params<"thread.patch">);
      this.#put(thread);
      return thread;
    });
  }

  /** With all that it holds. Answers whether it is gone. */
  async delete(threadId: string): Promise<boolean> {
    const done = await this.#try(async () => {
      await this.#connection.call("thread.delete", { threadId });
      this.#deleted.add(threadId);
      this.#threads.delete(threadId);
      return true;
    });
    return done === true;
  }

  async loadMore(): Promise<void> {
    const before = this.#next;
    if (before !== undefined) await this.#try(() => this.#page(before));
  }

  /** `before`: where the page before it ended; without it the list is read anew. */
  async #page(before: string | undefined): Promise<void> {
    const { agent, status, metadata, pageSize = 50 } = this.#options;
    const filter = { agent, status, metadata, before, limit: pageSize };
    const given = Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined));
    const known = [...this.#threads];
    const readings = this.#readings;
    const { threads, next } = await this.#connection.call("thread.list", given);
    if (readings !== this.#readings) return;
    if (before === undefined) {
      this.#readings += 1;
      // What an event has told meanwhile stays, and may be newer than the page.
      for (const [id, thread] of known) if (this.#threads.get(id) === thread) this.#threads.delete(id);
    }
    for (const thread of threads) this.#put(thread);
    this.#next = next;
    this.#status = "ready";
    this.draw();
  }

  #onEvent(event: ThreadEvent): void {
    if (event.event === "deleted") {
      this.#deleted.add(event.threadId);
      this.#threads.delete(event.threadId);
    } else {
      if (event.event === "created") this.#deleted.delete(event.thread.threadId);
      this.#put(event.thread);
    }
    this.changed();
  }

  #put(thread: ThreadRecord): void {
    const { agent, status, metadata = {} } = this.#options;
    const known = this.#threads.get(thread.threadId);
    if (this.#deleted.has(thread.threadId) || (known !== undefined && known.updatedAt > thread.updatedAt))
      return;
    const fits =
      (agent === undefined || thread.agent === agent) &&
      (status === undefined || thread.status === status) &&
      Object.keys(metadata).every((key) => isEqual(thread.metadata[key], metadata[key]));
    if (!fits) this.#threads.delete(thread.threadId);
    else if (!isEqual(known, thread)) this.#threads.set(thread.threadId, thread);
  }

  async #try<T>(act: () => Promise<T>): Promise<T | undefined> {
    this.#error = undefined;
    let done: T | undefined;
    try {
      done = await act();
    } catch (error) {
      this.#error = errorOf("threads", error as Error);
    }
    this.draw();
    return done;
  }

  #refused(error: Error): void {
    const isOpening = this.#status === "loading";
    this.#error = errorOf(isOpening ? "open" : "threads", error);
    if (isOpening) this.#status = "unavailable";
    this.draw();
  }

  protected look(): ThreadsView {
    const threads = [...this.#threads.values()].sort((a, b) =>
      a.updatedAt < b.updatedAt ? 1 : a.updatedAt > b.updatedAt ? -1 : 0,
    );
    return { status: this.#status, threads, hasMore: this.#next !== undefined, error: this.#error };
  }
}
