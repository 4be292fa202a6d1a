/** What callers ask of a store, checked: after this nothing is refused any more, and what is to be written is text. */
import {
  type GetOperation,
  InvalidNamespaceError,
  type ListNamespacesOperation,
  type MatchCondition,
  type Operation,
  type PutOperation,
  type SearchOperation,
  validateNamespace,
} from "@langchain/langgraph-checkpoint";
import { InvalidArgumentError } from "./errors.ts";
import { compileFilter, fulfils, type Value } from "./store-filter.ts";
import { type Bounds, below, isWellFormed, toPath } from "./store-keys.ts";
import { toJson } from "./store-value.ts";

/** The store has no such ability, and the message says what to do instead. Nothing was written. */
export class NotSupportedError extends Error {
  override readonly name = "NotSupportedError";
  readonly code = "not_supported";
}

/** LangGraph's operation with a lifetime for the item, for `RedisStore.batch`. */
export interface TtlPutOperation extends PutOperation {
  /** The item's lifetime: ms, up to 100 years; null for one that stays. @default the store's `ttl.defaultMs` */
  ttlMs?: number | null;
}

export type Request = Get | Put | Search | ListNamespaces;

interface Get {
  kind: "get";
  path: string;
}

interface Put {
  kind: "put";
  path: string;
  /** "" deletes. */
  json: string;
  /** 0 for none. */
  ttlMs: number;
}

export interface Search {
  kind: "search";
  range: Bounds;
  /** undefined: all pass. */
  matches: ((value: Value) => boolean) | undefined;
  limit: number;
  offset: number;
}

export interface ListNamespaces {
  kind: "namespaces";
  range: Bounds;
  /** How many labels Redis has to tell apart; 0 for all. */
  depth: number;
  matches: (namespace: string[]) => boolean;
  maxDepth: number;
  limit: number;
  offset: number;
}

/** Bytes of a namespace and a key together: Redis keeps them three times. */
const MAX_PATH = 4096;
const MAX_TTL = 100 * 365.25 * 24 * 60 * 60 * 1000;

/** @throws InvalidNamespaceError, InvalidArgumentError, NotSupportedError */
export function parseOperation(operation: Operation, defaultTtlMs: number): Request {
  if ("namespacePrefix" in operation) return parseSearch(operation);
  if ("value" in operation) return parsePut(operation, defaultTtlMs);
  if ("namespace" in operation) return parseGet(operation);
  if ("matchConditions" in operation || "limit" in operation) return parseListNamespaces(operation);
  throw new InvalidArgumentError("an operation is a get, a put, a search or a list of namespaces");
}

/** @throws InvalidArgumentError: it is not a whole number of milliseconds from 1, up to 100 years. */
export function checkTtl(ttlMs: number): number {
  if (!Number.isInteger(ttlMs) || ttlMs < 1 || ttlMs > MAX_TTL) {
    throw new InvalidArgumentError(`a TTL is whole milliseconds, from 1 to ${MAX_TTL}: ${String(ttlMs)}`);
  }
  return ttlMs;
}

function parseGet({ namespace, key }: GetOperation): Get {
  return { kind: "get", path: parsePath(namespace, key, { allowReservedRoot: true }) };
}

function parsePut(operation: PutOperation, defaultTtlMs: number): Put {
  const { namespace, key, value, index, ttlMs }: TtlPutOperation = operation;
  if (value === null) {
    return { kind: "put", path: parsePath(namespace, key, { allowReservedRoot: true }), json: "", ttlMs: 0 };
  }
  if (index !== undefined && index !== null && index !== false) {
    throw new NotSupportedError(
      "this store has no vector index: leave `index` out, and keep what is to be found by meaning in a vector store",
    );
  }
  return {
    kind: "put",
    path: parsePath(namespace, key, {}),
    json: toJson(value),
    ttlMs: ttlMs === undefined ? defaultTtlMs : ttlMs === null ? 0 : checkTtl(ttlMs),
  };
}

function parseSearch({ namespacePrefix, filter, limit, offset, query }: SearchOperation): Search {
  if (query !== undefined && query !== null && query !== "") {
    throw new NotSupportedError(
      "this store has no vector search: search by namespace and `filter`, or ask a vector store which items to get",
    );
  }
  checkNamespace(namespacePrefix, { allowEmpty: true, allowReservedRoot: true });
  return {
    kind: "search",
    range: below(namespacePrefix),
    matches: compileFilter(filter),
    ...parseWindow(limit ?? 10, offset),
  };
}

function parseListNamespaces(operation: ListNamespacesOperation): ListNamespaces {
  const { matchConditions, maxDepth = Number.POSITIVE_INFINITY, limit, offset } = operation;
  const conditions: MatchCondition[] = matchConditions ?? [];
  for (const { matchType, path } of conditions) {
    checkNamespace(path, { allowEmpty: true, allowReservedRoot: true });
    if (matchType !== "prefix" && matchType !== "suffix") {
      throw new InvalidArgumentError(`namespaces match by prefix or suffix, not by ${String(matchType)}`);
    }
  }
  if (maxDepth !== Number.POSITIVE_INFINITY && !(Number.isInteger(maxDepth) && maxDepth > 0)) {
    throw new InvalidArgumentError(`maxDepth is a whole number from 1: ${String(maxDepth)}`);
  }
  // Labels below maxDepth count only where a condition looks at them.
  const isFlat = conditions.every(({ matchType, path }) => matchType === "prefix" && path.length <= maxDepth);
  return {
    kind: "namespaces",
    range: below(longestPrefix(conditions)),
    depth: isFlat && Number.isFinite(maxDepth) ? maxDepth : 0,
    matches: (namespace) => conditions.every((condition) => fulfils(namespace, condition)),
    maxDepth,
    ...parseWindow(limit ?? Number.POSITIVE_INFINITY, offset),
  };
}

/** What all namespaces that fulfil the conditions begin with. */
function longestPrefix(conditions: readonly MatchCondition[]): string[] {
  let longest: string[] = [];
  for (const { matchType, path } of conditions) {
    const wildcard = path.indexOf("*");
    const labels = wildcard === -1 ? path : path.slice(0, wildcard);
    if (matchType === "prefix" && labels.length > longest.length) longest = labels;
  }
  return longest;
}

function parseWindow(limit: number, offset = 0): { limit: number; offset: number } {
  const isCount = (value: number) => Number.isSafeInteger(value) && value >= 0;
  if (!isCount(offset) || !(isCount(limit) || limit === Number.POSITIVE_INFINITY)) {
    throw new InvalidArgumentError(`limit and offset are whole numbers from 0: ${limit}, ${offset}`);
  }
  return { limit, offset };
}

interface NamespaceRules {
  allowEmpty?: boolean;
  allowReservedRoot?: boolean;
}

function parsePath(namespace: string[], key: string, rules: NamespaceRules): string {
  checkNamespace(namespace, rules);
  if (typeof key !== "string" || !isWellFormed(key)) {
    throw new InvalidArgumentError("a key is text, without half a character in it");
  }
  const path = toPath(namespace, key);
  if (Buffer.byteLength(path) > MAX_PATH) {
    throw new InvalidArgumentError(`a namespace and a key have ${MAX_PATH} bytes at most, together`);
  }
  return path;
}

/** LangGraph's rules. They hold for reading as well: a label that is missing must not widen a search. */
function checkNamespace(namespace: string[], rules: NamespaceRules): void {
  if (!Array.isArray(namespace)) throw new InvalidNamespaceError("a namespace is a list of labels");
  validateNamespace(namespace, rules);
  const broken = namespace.find((label) => label.includes("\0") || !isWellFormed(label));
  if (broken !== undefined) {
    throw new InvalidNamespaceError(
      `${JSON.stringify(broken)} is not a label: it holds a NUL or half a character`,
    );
  }
}
