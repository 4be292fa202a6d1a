/**
 * Where a store's items are: three keys for all of them. An item's path is its namespace's labels with a NUL behind
 * each, one more NUL, and its key. No label is empty or holds a NUL, so the first two NULs in a row end the namespace,
 * whatever the key holds. `paths` is a sorted set without scores, so Redis keeps it in the order of its bytes:
 *
 *     users NUL ann NUL NUL name          comes before all that is below users, ann
 *     users NUL ann NUL notes NUL NUL 1
 *     users NUL anna NUL NUL name         is not below users, ann
 */
import { createHash } from "node:crypto";
import { InvalidArgumentError } from "./errors.ts";

/** In the order in which every script takes them. */
export type StoreKeys = [
  /** Hash: path → created, updated, TTL, value. */
  items: string,
  /** Sorted set of all paths, scores 0. No thread has a key of this name, nor a run. */
  paths: string,
  /** Sorted set: the paths of items with a TTL, by the time when they expire, ms since 1970. */
  expiry: string,
];

/** The bounds of a range of `paths`, as ZRANGEBYLEX takes them. */
export interface Bounds {
  lower: string;
  upper: string;
}

/** @throws InvalidArgumentError: the owner is no text, or an empty one. */
export function storeKeys(prefix: string, owner: string | undefined): StoreKeys {
  if (owner !== undefined && (typeof owner !== "string" || owner === "" || !isWellFormed(owner))) {
    throw new InvalidArgumentError(
      `${JSON.stringify(owner)} is not an owner: leave it out for a store of all`,
    );
  }
  // A digest, for an owner may be long, and hold what would end a hash tag.
  const tag =
    owner === undefined ? "store" : `store-${createHash("sha256").update(owner).digest("base64url")}`;
  const key = (name: string) => `${prefix}:{${tag}}:${name}`;
  return [key("items"), key("paths"), key("expiry")];
}

export function toPath(namespace: readonly string[], key: string): string {
  return `${namespace.join("\0")}\0\0${key}`;
}

export function fromPath(path: string): { namespace: string[]; key: string } {
  const end = path.indexOf("\0\0");
  return { namespace: path.slice(0, end).split("\0"), key: path.slice(end + 2) };
}

/** The range of all paths below a namespace, its own items among them; [] is above all. */
export function below(namespace: readonly string[]): Bounds {
  if (namespace.length === 0) return { lower: "-", upper: "+" };
  const stem = namespace.join("\0");
  return { lower: `[${stem}\0`, upper: `(${stem}\x01` };
}

/** Whether UTF-8 can hold it. Half a surrogate pair would become U+FFFD, and two different texts one. */
export function isWellFormed(text: string): boolean {
  return !/\p{Surrogate}/u.test(text);
}
