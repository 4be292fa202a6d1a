/**
 * LangGraph's long-term store on plain Redis: items that threads share. What must hold:
 *
 * - All of an owner's items are in three keys with one hash tag, so every script declares all keys that it touches, they
 *   are in one slot of a Cluster, and a search is over everything below a namespace, the empty one included. Owners
 *   spread over the slots; a store without owners is in one. A key for each item would give it a TTL of Redis' own, but
 *   then a page would be of keys that no script can declare.
 * - Paths are a sorted set in the order of their bytes: what is below a namespace is a range of it, so a search reads
 *   that range page by page, and nothing else. It goes on behind the last path that it saw, not at a rank: what others
 *   write meanwhile neither repeats nor hides an item that was there all along.
 * - Redis' own clock says what has expired. An expired item is never answered: scripts look at the time, whether it has
 *   been removed or not. Each removes a few, so that what expires goes without a cleaner; where all items have a TTL
 *   the keys themselves expire with the last one.
 * - A batch writes in one script, all of it or nothing, and after its reads.
 */
import {
  BaseStore,
  type Item,
  type Operation,
  type OperationResults,
  type PutOperation,
  type SearchItem,
} from "@langchain/langgraph-checkpoint";
import type { Cluster, Redis } from "ioredis";
import type { Value } from "./store-filter.ts";
import { fromPath, type StoreKeys, storeKeys } from "./store-keys.ts";
import {
  checkTtl,
  type ListNamespaces,
  parseOperation,
  type Request,
  type Search,
  type TtlPutOperation,
} from "./store-operations.ts";
import { type RawItem, withStoreScripts } from "./store-scripts.ts";

export interface RedisStoreOptions {
  /** Of every key. @default "tl" */
  prefix?: string;
  /**
   * Whose items these are, any text but an empty one: a tenant, say. Stores of different owners never see each other's
   * items. @default one store for all who name no owner
   */
  owner?: string;
  ttl?: {
    /** The lifetime of items that are put without one of their own: ms, up to 100 years. @default they stay */
    defaultMs?: number;
    /** Whether the lifetime of an item that is got or found begins again. @default false */
    refreshOnRead?: boolean;
  };
}

/** Of one `RedisStore.put`. */
export interface StorePutOptions {
  /** The item's lifetime: ms, up to 100 years; null for one that stays. @default the store's `ttl.defaultMs` */
  ttlMs?: number | null;
  /** As LangGraph has it, but there is no index: fields are refused. @default undefined */
  index?: false | string[];
}

/** What a script looks at, at a time: enough to save round trips, little enough not to hold up others. */
const PAGE = 256;
/** Bytes of values with which a page ends, so that a page of large items is a short one. */
const PAGE_BYTES = 1024 * 1024;
/** How many expired items a script removes. A write removes as many more as it may add: what is over never piles up. */
const SWEEP = 64;

/**
 * Items by namespace and key. It differs from `InMemoryStore` in this:
 *
 * - Searches answer by path, in the order of its bytes: a namespace's own items before those below it.
 * - In filters, objects and lists are equal by what they hold, and an operator that there is not is an error.
 * - A namespace is listed while it has items.
 * - A value is plain JSON, up to about 8 Mi characters and 128 levels; keys that are undefined are left out.
 * - There is no vector search: `query`, and `index` with fields, are refused.
 *
 * A search or a list of namespaces of more than one page is not of one moment; each page is.
 */
export class RedisStore extends BaseStore {
  readonly #redis: Redis | Cluster;
  readonly #keys: StoreKeys;
  /** 0 for none. */
  readonly #defaultTtlMs: number;
  readonly #refreshOnRead: boolean;

  /**
   * Uses the connection that it is given; opens none and closes none.
   * @throws InvalidArgumentError: `owner` or `ttl.defaultMs`
   */
  constructor(redis: Redis | Cluster, { prefix = "tl", owner, ttl = {} }: RedisStoreOptions = {}) {
    super();
    this.#redis = withStoreScripts(redis);
    this.#keys = storeKeys(prefix, owner);
    this.#defaultTtlMs = ttl.defaultMs === undefined ? 0 : checkTtl(ttl.defaultMs);
    this.#refreshOnRead = ttl.refreshOnRead ?? false;
  }

  /**
   * Stores an item, or replaces its value and its lifetime. One round trip.
   *
   * A worker's graphs find the store itself, as `config.store`. Elsewhere LangGraph wraps it for its nodes, and passes
   * no options on: what they put has the store's default lifetime.
   *
   * @throws InvalidNamespaceError (LangGraph's), InvalidArgumentError (key, value, TTL), NotSupportedError (`index` with
   * fields); nothing was written then
   */
  override async put(
    namespace: string[],
    key: string,
    value: NonNullable<PutOperation["value"]>,
    options?: false | string[] | StorePutOptions,
  ): Promise<void> {
    const own = options === false || Array.isArray(options) ? { index: options } : options;
    const operation: TtlPutOperation = { ...own, namespace, key, value };
    await this.batch([operation]);
  }

  /**
   * Does operations, and answers in their order: an item or null, items, namespaces, and null for what was written. As
   * in `InMemoryStore`, reads see what was there before the batch, and of several writes to one item the last counts. A
   * put may have a `ttlMs` (`TtlPutOperation`). Gets take one round trip together and writes another; searches go on
   * beside each other, a round trip for each page.
   *
   * @throws InvalidNamespaceError (LangGraph's), InvalidArgumentError, NotSupportedError: nothing of the batch was done
   */
  override async batch<Op extends Operation[]>(operations: Op): Promise<OperationResults<Op>> {
    const requests = operations.map((operation) => parseOperation(operation, this.#defaultTtlMs));
    const writesOnly = requests.every(({ kind }) => kind === "put");
    // Without an await before them, calls reach Redis in the order in which they were made.
    const results = writesOnly ? requests.map(() => null) : await this.#read(requests);
    await this.#write(requests);
    return results as OperationResults<Op>;
  }

  async #read(requests: Request[]): Promise<unknown[]> {
    const got = this.#get(requests.flatMap((request) => (request.kind === "get" ? [request.path] : [])));
    return Promise.all(
      requests.map(async (request) => {
        if (request.kind === "search") return this.#search(request);
        if (request.kind === "namespaces") return this.#listNamespaces(request);
        if (request.kind === "put") return null;
        const raw = (await got).get(request.path);
        return raw ? toItem(request.path, raw) : null;
      }),
    );
  }

  async #get(paths: string[]): Promise<Map<string, RawItem | null>> {
    const pages = pagesOf(paths).map(async (page) => {
      const answers = await this.#redis.tlStoreGet(...this.#keys, SWEEP, this.#refreshOnRead ? 1 : 0, page);
      return answers.map((raw, i): [string, RawItem | null] => [page[i]!, raw]);
    });
    return new Map((await Promise.all(pages)).flat());
  }

  async #write(requests: Request[]): Promise<void> {
    const puts = new Map(
      requests.flatMap((request) => (request.kind === "put" ? [[request.path, request] as const] : [])),
    );
    if (puts.size === 0) return;
    const triples = [...puts.values()].flatMap(({ path, json, ttlMs }) => [path, json, ttlMs]);
    await this.#redis.tlStorePut(...this.#keys, SWEEP + puts.size, triples);
  }

  async #search({ range, matches, limit, offset }: Search): Promise<SearchItem[]> {
    const found: SearchItem[] = [];
    const paths: string[] = [];
    let { lower } = range;
    let skip = offset;
    while (found.length < limit) {
      // Where nothing is filtered, Redis passes over what comes before the offset.
      const count = matches ? PAGE : Math.min(PAGE, skip + limit - found.length);
      const bounds = [lower, range.upper, count, matches ? 0 : skip, PAGE_BYTES] as const;
      const [after, skipped, ...page] = await this.#redis.tlStoreSearch(...this.#keys, SWEEP, ...bounds);
      skip -= skipped;
      for (const [path, ...raw] of page) {
        const item = toItem(path, raw);
        if (matches && !matches(item.value)) continue;
        if (skip > 0) skip--;
        else if (found.length < limit) {
          found.push(item);
          paths.push(path);
        }
      }
      if (after === "") break;
      lower = `(${after}`;
    }
    if (this.#refreshOnRead) await this.#touch(paths);
    return found;
  }

  async #touch(paths: string[]): Promise<void> {
    await Promise.all(pagesOf(paths).map((page) => this.#redis.tlStoreTouch(...this.#keys, SWEEP, page)));
  }

  async #listNamespaces(request: ListNamespaces): Promise<string[][]> {
    const { range, depth, matches, maxDepth, limit, offset } = request;
    const found: string[][] = [];
    let { lower } = range;
    let skip = offset;
    let last: string | undefined;
    while (found.length < limit) {
      const bounds = [lower, range.upper, depth, PAGE] as const;
      const [next, ...page] = await this.#redis.tlStoreNamespaces(...this.#keys, SWEEP, ...bounds);
      for (const labels of page) {
        const namespace = labels.slice(0, -1).split("\0");
        if (!matches(namespace)) continue;
        const shown = namespace.slice(0, maxDepth);
        // Those that are the same down to here come one after the other.
        const same = shown.join("\0");
        if (same === last) continue;
        last = same;
        if (skip > 0) skip--;
        else if (found.length < limit) found.push(shown);
      }
      if (next === "") break;
      lower = next;
    }
    return found;
  }
}

function toItem(path: string, [json, created, updated]: RawItem): Item & { value: Value } {
  return {
    value: JSON.parse(json),
    ...fromPath(path),
    createdAt: new Date(created),
    updatedAt: new Date(updated),
  };
}

function pagesOf(paths: string[]): string[][] {
  const pages: string[][] = [];
  for (let i = 0; i < paths.length; i += PAGE) pages.push(paths.slice(i, i + PAGE));
  return pages;
}
