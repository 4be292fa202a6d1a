/**
 * What is done with threads as a whole: made, looked at, listed, patched, copied, deleted. Runs are the dispatcher's.
 *
 * Invariant: a thread that is being deleted is there for nobody; whoever meets one that was given up goes on with it.
 */
import {
  isEnding,
  ProtocolError,
  type RunRecord,
  type ThreadRecord,
  type ThreadRun,
} from "@throughline/protocol";
import type { ListedRun } from "@throughline/runlog";
import { nanoid } from "nanoid";
import { type CopiesCheckpoints, type CopyParts, type CopyThread, copyThread } from "./copy-thread.ts";
import { type DeletesCheckpoints, type DeletionParts, deleteThread } from "./delete-thread.ts";
import { listThreads, type ThreadQuery } from "./list-threads.ts";
import { type Metadata, mergeMetadata, metadataJson } from "./thread-metadata.ts";
import { noSuchThread, type SettledStatus, type Threads, threadRun } from "./threads.ts";

export interface OperationParts extends DeletionParts {
  /** For how long a thread is being deleted before it is taken for given up, ms. */
  givenUpMs: number;
  threadsOf(owner: string): Threads;
  /** The run whose turn it is; null where nobody waits. */
  active(owner: string, threadId: string): Promise<string | null>;
  /** A run as its owner is told of it. */
  describe(run: ListedRun): Promise<RunRecord>;
}

/** How often a patch is tried where others patch the same thread. */
const patchTries = 50;

export class ThreadOperations {
  readonly #parts: OperationParts;
  /** Deletions that others gave up, by owner and thread. */
  readonly #carried = new Set<string>();

  constructor(parts: OperationParts) {
    this.#parts = parts;
  }

  /**
   * Makes a thread without runs; one that is there stays as it is.
   *
   * @throws ProtocolError thread_busy (it is being deleted), payload_too_large (the metadata, or what its owner has stored)
   */
  async create(
    owner: string,
    { threadId = `thread_${nanoid()}`, metadata = {} }: { threadId?: string; metadata?: Metadata },
  ): Promise<{ thread: ThreadRecord; created: boolean }> {
    const json = metadataJson(metadata);
    const bytes = Buffer.byteLength(json);
    const make = () => this.#parts.threadsOf(owner).create(threadId, json);
    const made = await this.#carrying(owner, threadId, () =>
      this.#parts.owners.keeping(owner, threadId, bytes, make),
    );
    if (!made.created) await this.#parts.owners.giveBack(owner, threadId, bytes);
    return made;
  }

  /** A thread's record; null: the owner has none by that id, or it is being deleted. */
  async record(owner: string, threadId: string): Promise<ThreadRecord | null> {
    const threads = this.#parts.threadsOf(owner);
    const look = await threads.look(threadId);
    if (look !== null && look.deletingForMs !== null) this.#mayCarryOn(owner, threadId, look.deletingForMs);
    if (look === null || look.deletingForMs !== null) return null;
    // What a crash kept from its owner's index.
    await threads.index.show(threadId, look.state);
    return look.record;
  }

  /** Those of a thread's runs that have not ended, in the order of their turns; at most 100 of them. */
  async activeRuns(owner: string, threadId: string): Promise<ThreadRun[]> {
    const line = await this.#parts.threadsOf(owner).line(threadId);
    const listed = await this.#parts.runs.listed(line.slice(0, 100));
    const active = listed.filter((run) => run !== null && !isEnding(run.record.status)) as ListedRun[];
    return (await Promise.all(active.map((run) => this.#parts.describe(run)))).map(threadRun);
  }

  /**
   * An owner's threads, the one that something last happened to first. With `metadata` it looks at so many at most.
   *
   * @throws ProtocolError invalid_argument: `before` is no page's `next`
   */
  async list(query: ThreadQuery): Promise<{ threads: ThreadRecord[]; next?: string }> {
    return await listThreads(this.#parts.threadsOf(query.owner), query, (threadId, forMs) => {
      this.#mayCarryOn(query.owner, threadId, forMs);
    });
  }

  /**
   * Puts keys in the place of those that a thread's metadata have; null takes one away.
   *
   * @throws ProtocolError no_such_thread, thread_busy (it is being deleted, or others patch it all the time),
   * payload_too_large (the metadata, or what its owner has stored)
   */
  async patch(owner: string, threadId: string, patch: Metadata): Promise<ThreadRecord> {
    const threads = this.#parts.threadsOf(owner);
    const bytes = Buffer.byteLength(JSON.stringify(patch));
    let grown = 0;
    const write = async () => {
      let known = (await threads.look(threadId))?.metadata ?? "{}";
      for (let tries = 0; tries < patchTries; tries++) {
        const json = metadataJson(mergeMetadata(JSON.parse(known) as Metadata, patch));
        grown = Buffer.byteLength(json) - Buffer.byteLength(known);
        const answer = await threads.patch(threadId, known, json);
        if ("thread" in answer) return answer.thread;
        known = answer.other;
      }
      throw new ProtocolError("thread_busy", `thread ${threadId} is patched by others all the time`);
    };
    const thread = await this.#carrying(owner, threadId, () =>
      this.#parts.owners.keeping(owner, threadId, bytes, write),
    );
    // What took another's place, or away, does not count.
    if (grown < bytes) await this.#parts.owners.giveBack(owner, threadId, bytes - grown);
    return thread;
  }

  /**
   * A thread's head moved without a run.
   *
   * @throws ProtocolError no_such_thread, thread_busy (it is being deleted): what was written to it is to be deleted
   */
  async headMoved(
    owner: string,
    threadId: string,
    { status, messages }: { status: SettledStatus; messages: number },
  ): Promise<void> {
    await this.#parts.threadsOf(owner).headMoved(threadId, status, messages);
  }

  /**
   * Deletes a thread with its runs and its checkpoints. What is active is cancelled, and waited for up to 10 s.
   *
   * @throws ProtocolError no_such_thread
   */
  async delete(owner: string, threadId: string, checkpoints: DeletesCheckpoints): Promise<void> {
    if (!(await this.#delete(owner, threadId, checkpoints))) throw noSuchThread(threadId);
  }

  /**
   * Copies a thread, without its runs.
   *
   * @throws ProtocolError no_such_thread, thread_busy (it has an active run), invalid_argument (there is one by the id
   * `to`), payload_too_large; what `checkpoints` throw
   */
  async copy(
    owner: string,
    threadId: string,
    copy: CopyThread,
    checkpoints: CopiesCheckpoints,
  ): Promise<ThreadRecord> {
    const threads = this.#parts.threadsOf(owner);
    const activeRunId = await this.#parts.active(owner, threadId);
    if (activeRunId !== null) {
      throw new ProtocolError("thread_busy", `thread ${threadId} has an active run`, { activeRunId });
    }
    const to = copy.to ?? `thread_${nanoid()}`;
    const parts: CopyParts = {
      keeping: (copyId, bytes, write) => this.#parts.owners.keeping(owner, copyId, bytes, write),
      keep: (copyId, bytes) => this.#parts.owners.keep(owner, copyId, bytes),
      remove: (copyId) => this.#delete(owner, copyId),
    };
    const make = () => copyThread(parts, threads, threadId, to, copy, checkpoints);
    return await this.#carrying(owner, to, make);
  }

  /** Does what is refused while a thread is being deleted: where that was given up it is carried through, for the next. */
  async #carrying<T>(owner: string, threadId: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const isBusy = error instanceof ProtocolError && error.code === "thread_busy";
      if (isBusy) await this.record(owner, threadId).catch(() => {});
      throw error;
    }
  }

  /** Carries a deletion through that somebody has given up. */
  #mayCarryOn(owner: string, threadId: string, forMs: number): void {
    if (forMs < this.#parts.givenUpMs) return;
    const name = JSON.stringify([owner, threadId]);
    if (this.#carried.has(name)) return;
    this.#carried.add(name);
    // Where it fails the next who lists the thread tries.
    this.#delete(owner, threadId)
      .catch(() => {})
      .finally(() => this.#carried.delete(name));
  }

  async #delete(owner: string, threadId: string, checkpoints?: DeletesCheckpoints): Promise<boolean> {
    return await deleteThread(this.#parts, this.#parts.threadsOf(owner), threadId, checkpoints);
  }
}
