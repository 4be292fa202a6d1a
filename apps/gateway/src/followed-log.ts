/**
 * What a gateway follows: the log of a run, or of what happens to a thread, or to all threads of an owner. Feeds,
 * subscriptions and batches are the same for all of them; what differs is here, and nowhere else.
 */
import { ownerLogKeys, ownerScope, threadLogKeys } from "@throughline/dispatch";
import { isEnding } from "@throughline/protocol";
import {
  type EarlierEpoch,
  isCovered,
  type LogKeys,
  type LogReader,
  type Page,
  runKeys,
} from "@throughline/runlog";
import { asciiJson, eventFrame, joinFrame } from "./frame.ts";

export interface FollowedLog {
  /** Unlike that of any other log, of whatever kind and owner. */
  readonly id: string;
  /** Where its live batches come from. */
  readonly channel: string;
  /**
   * The run whose log it is; undefined: a thread's, or an owner's. What a run's log has lost at its beginning is there as a
   * snapshot; of the others it is gone, and who needs it is told so.
   */
  readonly runId: string | undefined;
  /** What a reader is told at the end: when it has all of it, and when the log is gone. */
  readonly endReason: string;
  readonly goneReason: string;
  /** A page; null where there is no such log. */
  page(reader: LogReader, after: number, maxBytes: number): Promise<Page | null>;
  /** What stands for a page of a log that is not there, and was last known by that epoch; null: it is gone. */
  missing(known: string | undefined): Page | null;
  /** Whether nothing comes behind the head any more. */
  isOver(status: string): boolean;
  /** Whether what a reader has up to `offset`, under that epoch, is in the log that had `earlier` before. */
  isCovered(epoch: string, offset: number, earlier: EarlierEpoch | undefined): boolean;
  /** After which offset a reader goes on that has nothing of this log that holds. */
  resumesAfter(head: number): number;
  /** The frame of a batch from that offset on: its body's bytes go through as they are. `bodyOf` finds them in it. */
  batchFrame(offset: number, body: Buffer): Buffer;
  /** What stands before the fields in which a filtered batch differs, and the name of the list of entries among them. */
  readonly opening: string;
  readonly listName: string;
  resetFrame(epoch: string, after: number, reason: string): Buffer;
  endFrame(reason: string): Buffer;
}

/** A run's. */
export class RunLog implements FollowedLog {
  readonly runId: string;
  readonly channel: string;
  readonly endReason = "ended";
  readonly goneReason = "expired";
  readonly listName = "parts";
  readonly opening: string;

  constructor(prefix: string, runId: string) {
    this.runId = runId;
    this.channel = runKeys(prefix, runId).live;
    // A runId is ours: it needs no escaping.
    this.opening = `{"type":"event","method":"run.parts","params":{"runId":"${runId}","offset":`;
  }

  get id(): string {
    return this.runId;
  }

  async page(reader: LogReader, after: number, maxBytes: number): Promise<Page | null> {
    return await reader.page(this.runId, after, maxBytes);
  }

  missing(): null {
    return null;
  }

  isOver(status: string): boolean {
    return isEnding(status as Page["status"]);
  }

  isCovered(epoch: string, offset: number, earlier: EarlierEpoch | undefined): boolean {
    return isCovered(epoch, offset, earlier);
  }

  /** It is told from the beginning. */
  resumesAfter(): number {
    return 0;
  }

  batchFrame(offset: number, body: Buffer): Buffer {
    return joinFrame(`${this.opening}${offset},"parts":`, body, "}}");
  }

  resetFrame(epoch: string, _after: number, reason: string): Buffer {
    return eventFrame("run.reset", { runId: this.runId, epoch, reason });
  }

  endFrame(reason: string): Buffer {
    return eventFrame("run.unsubscribed", { runId: this.runId, reason });
  }
}

/** The id of what is told of a thread, or of all of an owner's. No run has such a one: there are no spaces in those. */
export function threadLogId(owner: string, threadId: string | undefined): string {
  return `threads ${ownerScope(owner)}${threadId ?? ""}`;
}

/** The epoch of a log to which nothing was written yet. */
const noEpoch = "";

/**
 * Of what happens to a thread, or, where none is named, to all threads of an owner. A thread's goes with the thread; an
 * owner's with time, where nothing happens.
 */
export class ThreadLog implements FollowedLog {
  readonly id: string;
  readonly channel: string;
  readonly runId = undefined;
  readonly endReason = "deleted";
  readonly goneReason = "deleted";
  readonly listName = "events";
  readonly opening: string;
  readonly #keys: LogKeys;
  /** What names it in events. */
  readonly #name: { threadId?: string };

  constructor(prefix: string, owner: string, threadId: string | undefined) {
    this.#keys =
      threadId === undefined ? ownerLogKeys(prefix, owner) : threadLogKeys(prefix, owner, threadId);
    this.#name = threadId === undefined ? {} : { threadId };
    this.channel = this.#keys.live;
    this.id = threadLogId(owner, threadId);
    const name = threadId === undefined ? "" : `"threadId":${asciiJson(threadId)},`;
    this.opening = `{"type":"event","method":"thread.events","params":{${name}"offset":`;
  }

  async page(reader: LogReader, after: number, maxBytes: number): Promise<Page | null> {
    return await reader.pageOf(this.#keys, after, maxBytes);
  }

  /** One to which nothing was written yet is empty. */
  missing(known: string | undefined): Page | null {
    const isGone = this.#name.threadId !== undefined && known !== undefined && known !== noEpoch;
    return isGone ? null : emptyPage;
  }

  isOver(status: string): boolean {
    return status === "deleted";
  }

  /** Who has nothing, of a log that did not yet begin, has missed nothing. */
  isCovered(epoch: string, offset: number, earlier: EarlierEpoch | undefined): boolean {
    return (epoch === noEpoch && offset === 0) || isCovered(epoch, offset, earlier);
  }

  /** What was told before is in the record that who is told of a reset asks for. */
  resumesAfter(head: number): number {
    return head;
  }

  batchFrame(offset: number, body: Buffer): Buffer {
    return joinFrame(`${this.opening}${offset},"events":`, body, "}}");
  }

  resetFrame(epoch: string, after: number, reason: string): Buffer {
    return eventFrame("thread.reset", { ...this.#name, epoch, offset: after, reason });
  }

  endFrame(reason: string): Buffer {
    return eventFrame("thread.unwatched", { ...this.#name, reason });
  }
}

const emptyPage: Page = {
  status: "queued",
  epoch: noEpoch,
  earlier: undefined,
  head: 0,
  logFirst: 1,
  first: 0,
  last: 0,
  body: Buffer.alloc(0),
};
