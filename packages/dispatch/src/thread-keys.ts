/** The names of an owner's keys and of those of a thread. What is one thread's, or one owner's, is in one Cluster slot. */
import { createHash } from "node:crypto";

/** Where a log is: a run's, a thread's, or that of all of an owner's threads. */
export interface LogKeys {
  /** Hash: status, epoch, earlier, head, first. */
  readonly run: string;
  /** Stream: id `<offset>-0`, fields `n` (how many), `b` (a JSON array). */
  readonly log: string;
  /** Channel: `<first offset>:<how many>:<epoch>[:e]\n<the same JSON array>`. */
  readonly live: string;
}

/** All that a thread has, its checkpoints and its log too. */
export const threadKeyNames = [
  "thread",
  "line",
  "runs",
  "head",
  "told",
  "events",
  "fence",
  "checkpoints",
  "blobs",
  "writes",
  "index",
] as const;

/** A name of one length for a text of any. */
export function digest(text: string): string {
  return createHash("sha256").update(text).digest("base64url").slice(0, 32);
}

/** The prefix of a thread's id in its keys: a digest of the owner. Its length is fixed, so no id yields another owner's key. */
export function ownerScope(owner: string): string {
  return `${createHash("sha256").update(owner).digest("base64url").slice(0, 22)}/`;
}

/** One of the keys of an owner's thread: its checkpoints' as well as those of its line. */
export function threadKey(prefix: string, owner: string, threadId: string, name: string): string {
  return `${prefix}:{${ownerScope(owner)}${threadId}}:${name}`;
}

/** One of the keys of what an owner has in all. */
export function ownerKey(prefix: string, owner: string, name: string): string {
  return `${prefix}:{owner-${digest(owner)}}:${name}`;
}

/** The log of what happens to a thread. */
export function threadLogKeys(prefix: string, owner: string, threadId: string): LogKeys {
  return logKeys((name) => threadKey(prefix, owner, threadId, name));
}

/** The log of what happens to any of an owner's threads. */
export function ownerLogKeys(prefix: string, owner: string): LogKeys {
  return logKeys((name) => ownerKey(prefix, owner, name));
}

function logKeys(key: (name: string) => string): LogKeys {
  return { run: key("told"), log: key("events"), live: key("watch") };
}
