/**
 * Where a thread's checkpoints are: five keys for all of them, however many, plus the fence, which others write. All
 * carry the hash tag `{threadId}`, so that a script declares every key it touches and all are in one Cluster slot.
 *
 * Fields and index entries are made of segments with a NUL between them. The index is a sorted set without scores, so
 * Redis keeps it in the order of its bytes, and a stem with a NUL behind it is a range:
 *
 *     c NUL ns NUL checkpoint                     a checkpoint; ids grow with time
 *     w NUL ns NUL checkpoint NUL task NUL position   a pending write
 *     r NUL run NUL (one of the above)            what a run wrote
 */
import { InvalidArgumentError } from "./errors.ts";

/** In the order in which every script takes them. */
export type ThreadKeys = [
  /** String `<runId>:<fence>`: who may write. */
  fence: string,
  /** Hash: namespace → the id of its head. */
  head: string,
  /** Hash: ns, id → parent, run, checkpoint without values, metadata, channel versions. */
  checkpoints: string,
  /** Hash: ns, channel, version → the channel's value. */
  blobs: string,
  /** Hash: ns, id, task, position → task, channel, value, run, and the write below it. */
  writes: string,
  index: string,
];

/** @throws InvalidArgumentError: an id that would not make a hash tag. */
export function threadKeys(prefix: string, threadId: string, scope = ""): ThreadKeys {
  if (threadId === "" || /[{}\0]/.test(scope + threadId)) {
    throw new InvalidArgumentError(`${JSON.stringify(threadId)} is not a thread id`);
  }
  const key = (name: string) => `${prefix}:{${scope}${threadId}}:${name}`;
  return [key("fence"), key("head"), key("checkpoints"), key("blobs"), key("writes"), key("index")];
}

/** A glob for SCAN that finds one key of every thread, and what takes the thread's id out of such a key. */
export function everyThread(
  prefix: string,
  scope = "",
): { match: string; threadId: (key: string) => string } {
  const literal = (text: string) => text.replace(/[\\*?[\]]/g, "\\$&");
  return {
    match: `${literal(prefix)}:{${literal(scope)}*}:index`,
    threadId: (key) => key.slice(prefix.length + ":{".length + scope.length, -"}:index".length),
  };
}

/** @throws InvalidArgumentError: what holds a NUL would be taken for two segments. */
export function segment(value: string): string {
  if (value.includes("\0")) throw new InvalidArgumentError(`${JSON.stringify(value)} holds a NUL`);
  return value;
}

/**
 * The bounds of a namespace's checkpoints in the index, of all namespaces' where `ns` is undefined. `from` is where a
 * page starts, exclusive; it holds in one namespace.
 */
export function checkpointBounds(ns: string | undefined, below?: string): { max: string; min: string } {
  const stem = ns === undefined ? "c" : `c\0${segment(ns)}`;
  return { max: below === undefined ? `(${stem}\x01` : `(${stem}\0${segment(below)}`, min: `[${stem}\0` };
}
