import {
  AsyncBatchedStore,
  InMemoryStore,
  InvalidNamespaceError,
  type Item,
  type ListNamespacesOperation,
  type MatchCondition,
  type Operation,
  type PutOperation,
  type SearchOperation,
} from "@langchain/langgraph-checkpoint";
import { Redis } from "ioredis";
import { afterAll, describe, expect, test, vi } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { until } from "../../../test/support/until.ts";
import { InvalidArgumentError } from "./errors.ts";
import { RedisStore, type RedisStoreOptions } from "./store.ts";
import { NotSupportedError, type TtlPutOperation } from "./store-operations.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

const minute = 60_000;

function setup(options: RedisStoreOptions = {}) {
  const prefix = testPrefix();
  const store = new RedisStore(redis, { prefix, ...options });
  return { prefix, store, items: `${prefix}:{store}:items`, expiry: `${prefix}:{store}:expiry` };
}

const keysOf = async (prefix: string) => (await redis.keys(`${prefix}:*`)).sort();
const ttlsOf = async (prefix: string) => Promise.all((await keysOf(prefix)).map((key) => redis.pttl(key)));

/** Redis' clock, ms since 1970. */
async function redisNow(): Promise<number> {
  const [seconds, micros] = (await redis.time()).map(Number);
  return seconds! * 1000 + Math.floor(micros! / 1000);
}

const plain = ({ namespace, key, value }: Item) => ({ namespace, key, value });
const pathOf = ({ namespace, key }: { namespace: string[]; key: string }) =>
  `${namespace.join("\0")}\0\0${key}`;
const foundKeys = (found: Item[]) => found.map(({ key }) => key);

/** What a search must answer, from a store that answers in another order. */
async function searched(memory: InMemoryStore, operation: SearchOperation) {
  const { limit = 10, offset = 0 } = operation;
  const [all] = await memory.batch([{ ...operation, limit: Number.POSITIVE_INFINITY, offset: 0 }]);
  const sorted = structuredClone(all!.map(plain)).sort((a, b) => (pathOf(a) < pathOf(b) ? -1 : 1));
  return sorted.slice(offset, offset + limit);
}

/** What a list must answer, from a store that goes on to list namespaces which have no items any more. */
async function listed(memory: InMemoryStore, operation: ListNamespacesOperation) {
  const fresh = new InMemoryStore();
  await fresh.batch(await memory.search([], { limit: Number.POSITIVE_INFINITY }));
  return (await fresh.batch([{ matchConditions: undefined, ...operation } as ListNamespacesOperation]))[0];
}

/** LangGraph's own store, with reads that see what was before the batch, as it says of itself. */
async function expected(memory: InMemoryStore, operations: Operation[]): Promise<unknown[]> {
  const results: unknown[] = [];
  for (const operation of operations) {
    if ("namespacePrefix" in operation) results.push(await searched(memory, operation));
    else if ("value" in operation) results.push(null);
    else if ("namespace" in operation) {
      const item = await memory.get(operation.namespace, operation.key);
      results.push(item && structuredClone(plain(item)));
    } else results.push(await listed(memory, operation));
  }
  await memory.batch(operations.filter((operation) => "value" in operation));
  return results;
}

const withoutTimes = (results: unknown[]) =>
  results.map((result) => {
    if (Array.isArray(result)) return result.map((each) => (Array.isArray(each) ? each : plain(each)));
    return result && plain(result as Item);
  });

/** mulberry32 */
function randomOf(seed: number) {
  let state = seed;
  const below = (end: number) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % end;
  };
  const pick = <T>(list: readonly T[]) => list[below(list.length)]!;
  const maybe = <T>(make: () => T) => (below(2) === 0 ? make() : undefined);
  const many = <T>(from: number, to: number, make: () => T) =>
    Array.from({ length: from + below(to - from + 1) }, make);
  return { below, pick, maybe, many };
}

function operationsOf(seed: number): () => Operation[] {
  const { below, pick, maybe, many } = randomOf(seed);
  const labels = ["a", "b", "c"];
  const namespace = () => many(1, 3, () => pick(labels));
  const key = () => pick(["", "k", "l", "m"]);
  const scalar = () => pick<unknown>([0, 1, 2, 3, "1", "x", true, null]);
  const value = () => ({ n: below(4), s: scalar(), ...maybe(() => ({ deep: { list: [below(3), "x"] } })) });
  const operator = () => pick(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]);
  const condition = () => {
    const list = maybe(() => ({ [pick(["$in", "$nin"])]: many(0, 3, scalar) }));
    return list ?? maybe(scalar) ?? Object.fromEntries(many(0, 2, () => [operator(), scalar()]));
  };
  const filter = () => Object.fromEntries(many(0, 2, () => [pick(["n", "s", "none"]), condition()]));
  const match = (): MatchCondition => ({
    matchType: pick(["prefix", "suffix"]),
    path: many(0, 2, () => pick([...labels, "*"])),
  });
  const make: (() => Operation)[] = [
    () => ({ namespace: namespace(), key: key() }),
    () => ({ namespace: namespace(), key: key(), value: value() }),
    () => ({ namespace: namespace(), key: key(), value: value(), index: false }),
    () => ({ namespace: namespace(), key: key(), value: null }),
    () => ({
      namespacePrefix: many(0, 2, () => pick(labels)),
      ...maybe(() => ({ filter: filter() })),
      ...maybe(() => ({ limit: below(8) })),
      ...maybe(() => ({ offset: below(4) })),
    }),
    () => ({
      matchConditions: many(0, 2, match),
      ...maybe(() => ({ maxDepth: 1 + below(3) })),
      limit: below(8),
      offset: below(3),
    }),
  ];
  return () => many(1, 6, () => pick(make)());
}

describe("against InMemoryStore", () => {
  test.each([1, 2, 3, 4, 5, 6])("answers the same to a sequence of operations (seed %i)", async (seed) => {
    const { store, prefix } = setup();
    const memory = new InMemoryStore();
    const next = operationsOf(seed);
    for (let i = 0; i < 150; i++) {
      const operations = next();
      const answers = withoutTimes(await store.batch(operations));
      expect(answers, `${i}: ${JSON.stringify(operations)}`).toEqual(await expected(memory, operations));
    }
    const left = await memory.search([], { limit: Number.POSITIVE_INFINITY });
    expect(left.length).toBeGreaterThan(0);
    await store.batch(left.map(({ namespace, key }) => ({ namespace, key, value: null })));
    expect(await keysOf(prefix)).toEqual([]);
  });

  const many: PutOperation[] = Array.from({ length: 1_000 }, (_, i) => ({
    namespace: ["many", `n${String(i % 330).padStart(3, "0")}`, ["x", "y"][i % 2]!],
    key: `k${i}`,
    value: { i, odd: i % 2, fifty: i % 50 },
  }));

  test.each<[string, Operation]>([
    ["all", { namespacePrefix: [], limit: Number.POSITIVE_INFINITY }],
    ["more than a page", { namespacePrefix: ["many"], limit: 600, offset: 0 }],
    ["a page exactly", { namespacePrefix: ["many"], limit: 256 }],
    ["an offset behind several pages", { namespacePrefix: ["many"], limit: 20, offset: 777 }],
    ["an offset behind the end", { namespacePrefix: ["many"], offset: 1_001 }],
    ["few by a filter", { namespacePrefix: ["many"], filter: { fifty: 49 }, limit: 100 }],
    ["few by a filter, from the middle", { namespacePrefix: ["many"], filter: { fifty: 49 }, offset: 15 }],
    [
      "many by a filter, from the middle",
      { namespacePrefix: [], filter: { odd: 1 }, limit: 300, offset: 150 },
    ],
    ["none by a filter", { namespacePrefix: [], filter: { odd: 2 } }],
    ["namespaces", { limit: 1_000, offset: 0 }],
    ["namespaces from the middle", { limit: 200, offset: 290 }],
    ["namespaces, cut", { maxDepth: 2, limit: 1_000, offset: 0 }],
    [
      "namespaces by their end, cut",
      { maxDepth: 2, matchConditions: [{ matchType: "suffix", path: ["y"] }], limit: 1_000, offset: 10 },
    ],
  ])("answers the same page by page: %s", async (_, operation) => {
    const { store } = setup();
    const memory = new InMemoryStore();
    await store.batch(many);
    await memory.batch(many);
    expect(withoutTimes(await store.batch([operation]))).toEqual(await expected(memory, [operation]));
  });
});

describe("an item", () => {
  test("has the times of Redis' clock, and keeps that of its creation", async () => {
    const { store } = setup();
    vi.spyOn(Date, "now").mockReturnValue(0);
    await store.put(["a"], "k", { n: 1 });
    const first = (await store.get(["a"], "k"))!;
    vi.restoreAllMocks();
    expect(Math.abs(first.createdAt.getTime() - (await redisNow()))).toBeLessThan(minute);
    expect(first).toEqual({
      ...{ namespace: ["a"], key: "k", value: { n: 1 } },
      ...{ createdAt: expect.any(Date), updatedAt: first.createdAt },
    });

    const second = await until(async () => {
      await store.put(["a"], "k", { n: 2 });
      const item = (await store.get(["a"], "k"))!;
      return item.updatedAt > first.updatedAt && item;
    });
    expect(second.value).toEqual({ n: 2 });
    expect(second.createdAt).toEqual(first.createdAt);
    expect((await store.search(["a"]))[0]).toEqual(second);

    await store.delete(["a"], "k");
    await store.put(["a"], "k", {});
    expect((await store.get(["a"], "k"))!.createdAt >= second.updatedAt).toBe(true);
  });

  test("keeps text as it is, in labels, keys and values", async () => {
    const { store } = setup();
    const value = { "\ud83d": "\udc00 \0 \u2028 héllo 日本 👩‍👩‍👧", "": [null, true, -1.5e300, ""] };
    const places: [string[], string][] = [
      [["日本", "a b\n\x01"], "\0\0"],
      [["日本", "a b\n\x01"], "\0"],
      [["日本", "a b\n\x01"], ""],
      [["日本"], "a b\n\x01"],
    ];
    for (const [namespace, key] of places) await store.put(namespace, key, { ...value, key });
    for (const [namespace, key] of places) {
      expect(plain((await store.get(namespace, key))!)).toEqual({ namespace, key, value: { ...value, key } });
    }
    expect(await store.search(["日本"])).toHaveLength(4);
    expect(await store.listNamespaces()).toEqual([["日本"], ["日本", "a b\n\x01"]]);
  });

  test("is what the caller gave, even if it changes right after", async () => {
    const { store } = setup();
    const value = { list: [1] };
    const stored = store.put(["a"], "k", value);
    value.list.push(2);
    await stored;
    expect((await store.get(["a"], "k"))?.value).toEqual({ list: [1] });
  });

  test("leaves out what is undefined, and may be of an object without a prototype", async () => {
    const { store } = setup();
    const value = Object.assign(Object.create(null), { a: undefined, b: { c: undefined }, lc: "text" });
    await store.put(["a"], "k", value);
    expect((await store.get(["a"], "k"))?.value).toStrictEqual({ b: {}, lc: "text" });
    await store.put(["a"], "k", JSON.parse('{"__proto__":{"n":1}}'));
    expect(JSON.stringify((await store.get(["a"], "k"))?.value)).toBe('{"__proto__":{"n":1}}');
  });

  test("may hold the same object twice, and as many as it likes", async () => {
    const { store } = setup();
    const twice = { n: 1 };
    const value = { twice: [twice, twice], wide: Array.from({ length: 20_000 }, (_, i) => i) };
    await store.put(["a"], "k", value);
    expect((await store.get(["a"], "k"))?.value).toEqual(value);
  });

  test("is found through the wrapper that a graph's nodes have", async () => {
    const { store } = setup();
    const wrapped = new AsyncBatchedStore(store);
    wrapped.start();
    await Promise.all([wrapped.put(["a"], "k", { n: 1 }), wrapped.put(["a"], "l", { n: 2 })]);
    const [item, found, none] = await Promise.all([
      wrapped.get(["a"], "k"),
      wrapped.search(["a"], { filter: { n: 2 } }),
      wrapped.get(["a"], "m"),
    ]);
    expect([item?.value, foundKeys(found), none]).toEqual([{ n: 1 }, ["l"], null]);
    await wrapped.stop();
  });
});

describe("a batch", () => {
  test("reads what was before it, and of several writes to an item the last counts", async () => {
    const { store } = setup();
    const at = { namespace: ["a"], key: "k" };
    await store.put(["a"], "k", { n: 0 });
    const results = await store.batch([
      { ...at, value: { n: 1 } },
      at,
      { ...at, value: null },
      { namespacePrefix: ["a"] },
      { ...at, value: { n: 2 } },
      { namespace: ["a"], key: "other", value: { n: 3 } },
      { namespace: ["a"], key: "other", value: null },
    ]);
    expect(withoutTimes(results)).toEqual([
      null,
      { ...at, value: { n: 0 } },
      null,
      [{ ...at, value: { n: 0 } }],
      ...[null, null, null],
    ]);
    expect((await store.search([])).map(plain)).toEqual([{ ...at, value: { n: 2 } }]);
  });

  test("takes a round trip for its gets and another for its writes", async () => {
    const { store } = setup();
    const put = (i: number) => ({ namespace: ["a"], key: `k${i}`, value: { i } });
    // Redis knows the scripts from here on.
    await store.batch([put(0), { namespace: ["a"], key: "k0" }, { namespacePrefix: [] }]);
    const seen: string[] = [];
    const send = redis.sendCommand;
    redis.sendCommand = function (command, ...rest) {
      seen.push(`${command.name} ${String(command.args[2]).split(":").at(-1)}`);
      return send.call(this, command, ...rest);
    };
    await store.get(["a"], "k0");
    await store.put(["a"], "k0", { i: 0 });
    await store.delete(["a"], "k0");
    await store.search(["a"]);
    await store.batch(Array.from({ length: 200 }, (_, i) => put(i)));
    await store.batch(Array.from({ length: 200 }, (_, i) => ({ namespace: ["a"], key: `k${i}` })));
    await store.batch([{ namespace: ["a"], key: "k0" }, put(1), { namespace: ["a"], key: "k1" }, put(2)]);
    redis.sendCommand = send;
    expect(seen).toEqual(Array(8).fill("evalsha items"));
  });

  test("and another that is not waited for are done in the order in which they were called", async () => {
    const { store } = setup();
    const [, first, , second, found] = await Promise.all([
      store.put(["a"], "k", { n: 1 }),
      store.get(["a"], "k"),
      store.put(["a"], "k", { n: 2 }),
      store.get(["a"], "k"),
      store.search(["a"]),
    ]);
    expect([first?.value, second?.value, found[0]?.value]).toEqual([{ n: 1 }, { n: 2 }, { n: 2 }]);
  });

  test("of more operations than a call has arguments is one", async () => {
    const { store, items } = setup();
    const at = (i: number) => ({ namespace: ["a"], key: `k${i}` });
    const numbers = Array.from({ length: 50_000 }, (_, i) => i);
    await store.batch(numbers.map((i) => ({ ...at(i), value: { i } })));
    expect(await redis.hlen(items)).toBe(50_000);
    const got = await store.batch(numbers.map(at));
    expect(got.every((item, i) => item?.value.i === i)).toBe(true);
  });
});

describe("a search", () => {
  test("finds what is below the namespace, label by label, in the order of paths", async () => {
    const { store } = setup();
    const places: [string[], string][] = [
      [["a"], "1"],
      [["a", "\x01"], "2"],
      [["a", "b"], "3"],
      [["a", "b", "c"], "4"],
      [["a", "bc"], "5"],
      [["a\x01"], "6"],
      [["ab"], "7"],
    ];
    await store.batch(places.map(([namespace, key]) => ({ namespace, key, value: {} })).reverse());
    const keys = async (prefix: string[]) => foundKeys(await store.search(prefix)).join("");
    expect(await keys([])).toBe("1234567");
    expect(await keys(["a"])).toBe("12345");
    expect(await keys(["a", "b"])).toBe("34");
    expect(await keys(["a", "\x01"])).toBe("2");
    expect(await keys(["b"])).toBe("");
    expect(await keys(["langgraph"])).toBe("");
  });

  test.each<[string, Record<string, unknown>, string]>([
    ["a field", { n: 2 }, "b"],
    ["two fields", { n: 1, s: "x" }, "a"],
    ["no field", {}, "abcd"],
    ["null", { s: null }, "c"],
    ["a missing field", { s: undefined }, "d"],
    ["a name that every object has", { constructor: { $ne: undefined } }, ""],
    ["$eq", { s: { $eq: "x" } }, "a"],
    ["$ne", { s: { $ne: "x" } }, "bcd"],
    ["$gt", { n: { $gt: 2 } }, "c"],
    ["$gte", { n: { $gte: 2 } }, "bc"],
    ["$lt", { n: { $lt: 2 } }, "a"],
    ["$lte", { n: { $lte: 2 } }, "ab"],
    ["a text that is a number", { n: { $gt: "2" } }, "c"],
    ["a text that is none", { s: { $gt: "a" } }, ""],
    ["a range", { n: { $gt: 1, $lt: 3 } }, "b"],
    ["$in", { s: { $in: ["x", null] } }, "ac"],
    ["$nin", { s: { $nin: ["x", null] } }, "bd"],
    ["an object, by what it holds", { o: { p: { q: [1] } } }, "a"],
    ["a list, by what it holds", { list: [1, { x: 1 }] }, "b"],
    ["$ne of an object", { o: { $ne: { p: { q: [1] } } } }, "bcd"],
    ["no operators", { o: {} }, "abcd"],
    ["zero of either sign", { zero: -0 }, "a"],
  ])("filters by %s", async (_, filter, keys) => {
    const { store } = setup();
    await store.put(["x"], "a", { n: 1, s: "x", o: { p: { q: [1] } }, zero: 0 });
    await store.put(["x"], "b", { n: 2, s: "y", list: [1, { x: 1 }] });
    await store.put(["x"], "c", { n: 3, s: null });
    await store.put(["x"], "d", {});
    expect(foundKeys(await store.search(["x"], { filter })).join("")).toBe(keys);
  });

  test("is not broken by a value that is no number and cannot be made one", async () => {
    const { store } = setup();
    await store.put(["x"], "a", { n: { toString: 1, valueOf: 1 } });
    await store.put(["x"], "b", { n: 1 });
    expect(foundKeys(await store.search(["x"], { filter: { n: { $gt: 0 } } }))).toEqual(["b"]);
    expect(foundKeys(await store.search(["x"], { filter: { n: { $lt: new Date() } } }))).toEqual(["b"]);
  });

  /** 1,000 items, of which every hundredth is rare, and what a search of theirs read. */
  async function reading(text: string, options: Parameters<RedisStore["search"]>[1]) {
    const connection = new Redis(testRedisUrl());
    const store = new RedisStore(connection, { prefix: testPrefix() });
    await store.batch(
      Array.from({ length: 1_000 }, (_, i) => ({
        namespace: ["many"],
        key: `k${String(i).padStart(4, "0")}`,
        value: { text, rare: i % 100 === 99 },
      })),
    );
    const calls = vi.spyOn(connection, "tlStoreSearch");
    const found = await store.search(["many"], options);
    const pages = (await Promise.all(calls.mock.results.map(({ value }) => value))).map((page) =>
      page.slice(2),
    );
    connection.disconnect();
    return { found: foundKeys(found), pages: pages.map((page) => page.length) };
  }

  test("reads a page at a time, and no more than it needs", async () => {
    const filter = { rare: true };
    const few = await reading("x", { filter, limit: 3 });
    expect(few).toEqual({ found: ["k0099", "k0199", "k0299"], pages: [256, 256] });
    const later = await reading("x", { filter, limit: 2, offset: 8 });
    expect(later).toEqual({ found: ["k0899", "k0999"], pages: [256, 256, 256, 232] });
    expect((await reading("x", { filter, limit: 1 })).pages).toEqual([256]);
    expect((await reading("x", { limit: 7 })).pages).toEqual([7]);
    expect((await reading("x", { limit: 0 })).pages).toEqual([]);
    // What is before the offset stays in Redis.
    expect((await reading("x", { limit: 5, offset: 600 })).pages).toEqual([0, 0, 5]);
  });

  test("reads short pages where items are large", async () => {
    const { found, pages } = await reading("x".repeat(64 * 1024), { filter: { rare: true }, limit: 2 });
    expect(found).toEqual(["k0099", "k0199"]);
    expect(Math.max(...pages)).toBeLessThanOrEqual(16);
  });

  test("goes on behind the last path, whatever is written meanwhile", async () => {
    const connection = new Redis(testRedisUrl());
    const prefix = testPrefix();
    const store = new RedisStore(connection, { prefix });
    const key = (i: number) => `k${String(i).padStart(4, "0")}`;
    const keys = Array.from({ length: 600 }, (_, i) => key(i));
    await store.batch(keys.map((each) => ({ namespace: ["a"], key: each, value: {} })));
    const read = connection.tlStoreSearch.bind(connection);
    const other = new RedisStore(redis, { prefix });
    vi.spyOn(connection, "tlStoreSearch").mockImplementation(async (...args) => {
      const page = await read(...args);
      await other.batch([
        { namespace: ["a"], key: "first", value: {} },
        { namespace: ["a"], key: key(0), value: null },
        { namespace: ["a"], key: key(255), value: null },
      ]);
      return page;
    });
    expect(foundKeys(await store.search(["a"], { limit: 1_000 }))).toEqual(keys);
    connection.disconnect();
  });
});

describe("namespaces", () => {
  test.each<[string, Parameters<RedisStore["listNamespaces"]>[0], string[]]>([
    ["all", {}, ["a", "a/b", "a/b/c", "a/d", "e/b", "f/b/c"]],
    ["by prefix", { prefix: ["a"] }, ["a", "a/b", "a/b/c", "a/d"]],
    ["by a longer prefix", { prefix: ["a", "b"] }, ["a/b", "a/b/c"]],
    ["by an empty prefix", { prefix: [] }, ["a", "a/b", "a/b/c", "a/d", "e/b", "f/b/c"]],
    ["by a prefix with a wildcard", { prefix: ["*", "b"] }, ["a/b", "a/b/c", "e/b", "f/b/c"]],
    ["by a prefix with a wildcard within", { prefix: ["a", "*", "c"] }, ["a/b/c"]],
    ["by suffix", { suffix: ["b"] }, ["a/b", "e/b"]],
    ["by a suffix with a wildcard", { suffix: ["*", "c"] }, ["a/b/c", "f/b/c"]],
    ["by prefix and suffix", { prefix: ["a"], suffix: ["c"] }, ["a/b/c"]],
    ["cut", { maxDepth: 1 }, ["a", "e", "f"]],
    ["cut at two", { maxDepth: 2 }, ["a", "a/b", "a/d", "e/b", "f/b"]],
    ["cut below a prefix", { prefix: ["a"], maxDepth: 2 }, ["a", "a/b", "a/d"]],
    ["cut above a prefix's end", { prefix: ["*", "b", "c"], maxDepth: 1 }, ["a", "f"]],
    ["cut by suffix", { suffix: ["c"], maxDepth: 2 }, ["a/b", "f/b"]],
    ["a few", { limit: 2, offset: 1 }, ["a/b", "a/b/c"]],
    ["a few, cut", { maxDepth: 1, limit: 1, offset: 1 }, ["e"]],
    ["none", { limit: 0 }, []],
    ["none there", { prefix: ["x"] }, []],
  ])("are listed: %s", async (_, options, namespaces) => {
    const { store } = setup();
    const places = ["a", "a/b", "a/b/c", "a/d", "e/b", "f/b/c"].map((each) => each.split("/"));
    await store.batch(
      places.flatMap((namespace) => ["1", "2"].map((key) => ({ namespace, key, value: {} }))),
    );
    expect((await store.listNamespaces(options)).map((each) => each.join("/"))).toEqual(namespaces);
  });

  test("are listed while they have items", async () => {
    const { store } = setup();
    await store.put(["a"], "1", {});
    await store.put(["b"], "1", {});
    await store.delete(["a"], "1");
    expect(await store.listNamespaces()).toEqual([["b"]]);
  });

  test("take as many steps as there are of them, however many items they have", async () => {
    const connection = new Redis(testRedisUrl());
    const store = new RedisStore(connection, { prefix: testPrefix() });
    const puts = Array.from({ length: 2_000 }, (_, i) => ({
      namespace: [["a", "b"][i % 2]!, `n${i % 20}`],
      key: `k${i}`,
      value: {},
    }));
    await store.batch(puts);
    const calls = vi.spyOn(connection, "tlStoreNamespaces");
    expect(await store.listNamespaces()).toHaveLength(20);
    expect(await store.listNamespaces({ maxDepth: 1 })).toEqual([["a"], ["b"]]);
    expect(await store.listNamespaces({ prefix: ["b", "*"], suffix: ["n7"] })).toEqual([["b", "n7"]]);
    const pages = await Promise.all(calls.mock.results.map(({ value }) => value));
    expect(pages.map((page) => page.length - 1)).toEqual([20, 2, 10]);
    connection.disconnect();
  });
});

describe("a lifetime", () => {
  test("ends", async () => {
    const { store, prefix } = setup();
    // Sent together: nothing comes between them, however slow this process is.
    const [, item] = await Promise.all([
      store.put(["short"], "k", { n: 1 }, { ttlMs: 250 }),
      store.get(["short"], "k"),
    ]);
    expect(item?.value).toEqual({ n: 1 });
    await until(async () => (await store.get(["short"], "k")) === null);
    expect(await store.search([])).toEqual([]);
    expect(await store.listNamespaces()).toEqual([]);
    await until(async () => (await keysOf(prefix)).length === 0);
  });

  /** A store with 200 items that have expired, of which nothing has been removed yet, and one that stays. */
  async function expired(options: RedisStoreOptions = {}) {
    const all = setup(options);
    const puts: TtlPutOperation[] = Array.from({ length: 200 }, (_, i) => ({
      namespace: ["old", `n${i}`],
      key: "k",
      value: { i },
      ttlMs: 1 + i,
    }));
    await all.store.batch([...puts, { namespace: ["stays"], key: "k", value: {} }]);
    await until(async () => {
      return (await redis.zcount(all.expiry, "-inf", await redisNow())) === 200;
    });
    expect(await redis.hlen(all.items)).toBe(201);
    return { ...all, last: ["old", "n199"] };
  }

  test.each<[string, (store: RedisStore, last: string[]) => Promise<unknown>, unknown]>([
    ["get", (store, last) => store.get(last, "k"), null],
    ["search", async (store) => foundKeys(await store.search([], { limit: 500 })), ["k"]],
    ["search below", (store, last) => store.search(last), []],
    ["search behind", async (store) => foundKeys(await store.search([], { offset: 1, limit: 500 })), []],
    ["list", (store) => store.listNamespaces({ limit: 500 }), [["stays"]]],
    ["list by suffix", (store) => store.listNamespaces({ suffix: ["n199"] }), []],
  ])("that is over is not answered before the item is removed: %s", async (_, read, answer) => {
    const { store, items, last } = await expired();
    expect(await read(store, last)).toEqual(answer);
    // 64 at a time.
    expect(await redis.hlen(items)).toBe(201 - 64);
  });

  test("that is over makes the next put a new item, and is not begun again by a read", async () => {
    const { store, last, expiry } = await expired({ ttl: { refreshOnRead: true } });
    const [, end] = (await redis.zrange(expiry, "-1", "-1", "WITHSCORES")) as [string, string];
    expect(await store.get(last, "k")).toBe(null);
    expect(await redis.zscore(expiry, `${last.join("\0")}\0\0k`)).toBe(end);
    await store.put(last, "k", { new: true });
    const item = (await store.get(last, "k"))!;
    expect(item.createdAt.getTime()).toBeGreaterThanOrEqual(Number(end));
    expect(item.createdAt).toEqual(item.updatedAt);
  });

  test("that is over frees Redis of the item, some with every call", async () => {
    const { store, items, expiry, prefix } = await expired();
    const left = () => redis.hlen(items);
    await store.get(["stays"], "k");
    expect(await left()).toBe(137);
    await store.put(["stays"], "k", {});
    // One more for the one that it may add.
    expect(await left()).toBe(72);
    await store.search(["stays"]);
    expect(await left()).toBe(8);
    await store.listNamespaces();
    expect(await left()).toBe(1);
    expect(await redis.exists(expiry)).toBe(0);
    expect(await redis.zcard(`${prefix}:{store}:paths`)).toBe(1);
  });

  test("is the store's where a put has none, and a put may have none at all", async () => {
    const { store, expiry } = setup({ ttl: { defaultMs: 10 * minute } });
    const lifetimes = async () => {
      const scores = await redis.zrange(expiry, "0", "-1", "WITHSCORES");
      const lifetime = async (key: string) => {
        const at = scores.indexOf(`a\0\0${key}`);
        const { updatedAt } = (await store.get(["a"], key))!;
        return at === -1 ? null : Number(scores[at + 1]) - updatedAt.getTime();
      };
      return Promise.all(["default", "own", "none", "batch", "unindexed"].map(lifetime));
    };
    await store.put(["a"], "default", {});
    await store.put(["a"], "own", {}, { ttlMs: minute });
    await store.put(["a"], "none", {}, { ttlMs: null });
    await store.batch([{ namespace: ["a"], key: "batch", value: {}, ttlMs: 2 * minute }]);
    await store.put(["a"], "unindexed", {}, false);
    expect(await lifetimes()).toEqual([10 * minute, minute, null, 2 * minute, 10 * minute]);
    // The last put decides.
    await store.put(["a"], "none", {}, { ttlMs: minute, index: false });
    await store.put(["a"], "own", {});
    await store.put(["a"], "batch", {}, { ttlMs: null });
    expect(await lifetimes()).toEqual([10 * minute, 10 * minute, minute, null, 10 * minute]);
  });

  test.each<[string, (store: RedisStore) => Promise<unknown>]>([
    ["got", (store) => store.get(["a"], "read")],
    ["found", (store) => store.search(["a"], { filter: { wanted: true } })],
  ])("begins again when the item is %s, where that is asked for", async (_, read) => {
    const { store, prefix, expiry } = setup({ ttl: { refreshOnRead: true } });
    await store.batch([
      { namespace: ["a"], key: "read", value: { wanted: true }, ttlMs: minute },
      { namespace: ["a"], key: "passed over", value: {}, ttlMs: minute },
      { namespace: ["b"], key: "stays", value: { wanted: true } },
    ]);
    const end = async (key: string) => Number(await redis.zscore(expiry, `a\0\0${key}`));
    const before = await end("read");
    const indifferent = new RedisStore(redis, { prefix });
    await until(async () => {
      await indifferent.batch([{ namespace: ["a"], key: "read" }, { namespacePrefix: ["a"] }]);
      return (await redisNow()) + minute > before;
    });
    expect(await end("read")).toBe(before);
    await read(store);
    expect(await end("read")).toBeGreaterThan(before);
    expect(await end("passed over")).toBe(before);

    // The keys' own with it, where nothing stays.
    await store.delete(["b"], "stays");
    for (const key of await keysOf(prefix)) await redis.pexpire(key, 60 * minute);
    await read(store);
    for (const ttl of await ttlsOf(prefix)) expect(ttl > 0 && ttl <= minute).toBe(true);
  });

  test("of the last item is that of all keys, unless one item stays", async () => {
    const { store, prefix } = setup();
    const ttls = () => ttlsOf(prefix);
    await store.put(["a"], "long", {}, { ttlMs: 60 * minute });
    await store.put(["a"], "short", {}, { ttlMs: minute });
    expect(await keysOf(prefix)).toHaveLength(3);
    for (const ttl of await ttls()) expect(ttl).toBeGreaterThan(30 * minute);
    await store.put(["b"], "stays", {});
    expect(await ttls()).toEqual([-1, -1, -1]);
    await store.delete(["b"], "stays");
    for (const ttl of await ttls()) expect(ttl).toBeGreaterThan(30 * minute);
    await store.delete(["a"], "long");
    for (const ttl of await ttls()) expect(ttl > 0 && ttl <= minute).toBe(true);
    await store.put(["a"], "short", {});
    expect(await ttls()).toEqual([-1, -1]);
    await store.delete(["a"], "short");
    expect(await keysOf(prefix)).toEqual([]);
  });
});

describe("owners", () => {
  test("never see each other's items", async () => {
    const prefix = testPrefix();
    const stores = [undefined, "ann", "bob", "store", "ann}:{", "\0"].map(
      (owner) => new RedisStore(redis, { prefix, ...(owner !== undefined && { owner }) }),
    );
    for (const [i, store] of stores.entries()) await store.put(["a", `n${i}`], `k${i}`, { i });
    for (const [i, store] of stores.entries()) {
      expect(foundKeys(await store.search([]))).toEqual([`k${i}`]);
      expect(await store.listNamespaces()).toEqual([["a", `n${i}`]]);
      expect(await store.get(["a", `n${i + 1}`], `k${i + 1}`)).toBe(null);
      await store.delete(["a", `n${i + 1}`], `k${i + 1}`);
    }
    for (const [i, store] of stores.entries()) expect(foundKeys(await store.search([]))).toEqual([`k${i}`]);
    const again = new RedisStore(redis, { prefix, owner: "ann" });
    expect(foundKeys(await again.search([]))).toEqual(["k1"]);
  });

  test("have three keys each, with one hash tag, and no name of a thread's or a run's", async () => {
    const prefix = testPrefix();
    const store = new RedisStore(redis, { prefix, owner: "a} b{" });
    await store.put(["a"], "k", {}, { ttlMs: minute });
    const keys = await keysOf(prefix);
    const tags = new Set(keys.map((key) => /^[^{]*\{([\w-]+)\}:\w+$/.exec(key)?.[1]));
    expect(tags.size).toBe(1);
    expect([...tags][0]).toMatch(/^store-[\w-]{43}$/);
    expect(keys.map((key) => key.split(":").at(-1))).toEqual(["expiry", "items", "paths"]);
  });

  test.each(["", "\ud800", 7 as unknown as string])("are not %j", (owner) => {
    expect(() => new RedisStore(redis, { owner })).toThrow(InvalidArgumentError);
  });

  test("work on a connection with a prefix of its own", async () => {
    const keyPrefix = `${testPrefix()}:`;
    const connection = new Redis(testRedisUrl(), { keyPrefix });
    const store = new RedisStore(connection);
    await store.put(["a"], "k", {}, { ttlMs: minute });
    expect(foundKeys(await store.search([]))).toEqual(["k"]);
    expect(await redis.keys(`${keyPrefix}*`)).toHaveLength(3);
    connection.disconnect();
  });
});

describe("refused", () => {
  const put = (value: unknown) => (store: RedisStore) =>
    store.put(["a"], "k", value as Record<string, unknown>);
  const cycle: Record<string, unknown> = { inner: {} };
  cycle.inner = [{ cycle }];
  const deep = JSON.parse(`${'{"a":'.repeat(200)}1${"}".repeat(200)}`);
  /** 2^24 things, if one looks at each of them again. */
  let shared: unknown = 0;
  for (let i = 0; i < 24; i++) shared = [shared, shared];

  test.each<[string, (store: RedisStore) => Promise<unknown>, new (message: string) => Error]>([
    ["an empty namespace", (store) => store.put([], "k", {}), InvalidNamespaceError],
    ["an empty label", (store) => store.put(["a", ""], "k", {}), InvalidNamespaceError],
    ["a label with a period", (store) => store.put(["a.b"], "k", {}), InvalidNamespaceError],
    ["a label with a NUL", (store) => store.put(["a\0b"], "k", {}), InvalidNamespaceError],
    ["half a character in a label", (store) => store.put(["\ud800"], "k", {}), InvalidNamespaceError],
    ["LangGraph's own root", (store) => store.put(["langgraph"], "k", {}), InvalidNamespaceError],
    [
      "LangGraph's own root in a batch",
      (store) => store.batch([{ namespace: ["langgraph"], key: "k", value: {} }]),
      InvalidNamespaceError,
    ],
    [
      "a label that is no text",
      (store) => store.put([1 as unknown as string], "k", {}),
      InvalidNamespaceError,
    ],
    [
      "a namespace that is a text",
      (store) => store.put("abc" as unknown as string[], "k", {}),
      InvalidNamespaceError,
    ],
    ["a get of no namespace", (store) => store.get([], "k"), InvalidNamespaceError],
    ["a get with an empty label", (store) => store.get(["a", ""], "k"), InvalidNamespaceError],
    ["a deletion with an empty label", (store) => store.delete(["a", ""], "k"), InvalidNamespaceError],
    [
      "a search with a label that is missing",
      (store) => store.search(["a", undefined as unknown as string]),
      InvalidNamespaceError,
    ],
    ["a search with a NUL", (store) => store.search(["a\0b"]), InvalidNamespaceError],
    ["a list with an empty label", (store) => store.listNamespaces({ prefix: [""] }), InvalidNamespaceError],
    [
      "a match that there is not",
      (store) =>
        store.batch([
          { matchConditions: [{ matchType: "infix" as "suffix", path: ["a"] }], limit: 1, offset: 0 },
        ]),
      InvalidArgumentError,
    ],
    ["a key that is no text", (store) => store.put(["a"], 1 as unknown as string, {}), InvalidArgumentError],
    ["half a character in a key", (store) => store.put(["a"], "\udfff", {}), InvalidArgumentError],
    ["a long key", (store) => store.put(["a"], "k".repeat(5_000), {}), InvalidArgumentError],
    ["a value that is a list", put([]), InvalidArgumentError],
    ["a value that is a text", put("text"), InvalidArgumentError],
    ["no value", put(undefined), InvalidArgumentError],
    ["a function", put({ a: [{ b: () => 1 }] }), InvalidArgumentError],
    ["a symbol", put({ a: Symbol("s") }), InvalidArgumentError],
    ["a symbol for a key", put({ a: { [Symbol("s")]: 1 } }), InvalidArgumentError],
    ["a BigInt", put({ a: 1n }), InvalidArgumentError],
    ["a number that is none", put({ a: Number.NaN }), InvalidArgumentError],
    ["an endless number", put({ a: Number.NEGATIVE_INFINITY }), InvalidArgumentError],
    ["undefined in a list", put({ a: [undefined] }), InvalidArgumentError],
    // biome-ignore lint/suspicious/noSparseArray: it is what the test is about.
    ["a hole in a list", put({ a: [1, , 2] }), InvalidArgumentError],
    ["a date", put({ a: new Date() }), InvalidArgumentError],
    ["a map", put({ a: new Map() }), InvalidArgumentError],
    ["bytes", put({ a: new Uint8Array(1) }), InvalidArgumentError],
    ["an instance as the value", put(new (class Mine {})()), InvalidArgumentError],
    ["a cycle", put(cycle), InvalidArgumentError],
    ["a deep value", put(deep), InvalidArgumentError],
    ["a large value", put({ a: "x".repeat(9 * 1024 * 1024) }), InvalidArgumentError],
    ["a value of too many things", put({ shared }), InvalidArgumentError],
    ["a serialised object", put({ a: [{ lc: 1, type: "constructor" }] }), InvalidArgumentError],
    ["a serialised object as the value", put({ lc: 1, type: "secret" }), InvalidArgumentError],
    ["a TTL of nothing", (store) => store.put(["a"], "k", {}, { ttlMs: 0 }), InvalidArgumentError],
    ["a TTL that is not whole", (store) => store.put(["a"], "k", {}, { ttlMs: 0.5 }), InvalidArgumentError],
    ["a TTL without end", (store) => store.put(["a"], "k", {}, { ttlMs: 1e15 }), InvalidArgumentError],
    ["a vector index", (store) => store.put(["a"], "k", {}, ["text"]), NotSupportedError],
    [
      "a vector index among options",
      (store) => store.put(["a"], "k", {}, { index: ["$"] }),
      NotSupportedError,
    ],
    ["a vector search", (store) => store.search(["a"], { query: "like this" }), NotSupportedError],
    [
      "an operator that there is not",
      (store) => store.search(["a"], { filter: { a: { $like: "x" } } }),
      InvalidArgumentError,
    ],
    [
      "a filter that is a list",
      (store) => store.search(["a"], { filter: [] as unknown as Record<string, unknown> }),
      InvalidArgumentError,
    ],
    ["a limit below nothing", (store) => store.search(["a"], { limit: -1 }), InvalidArgumentError],
    ["an offset that is none", (store) => store.search(["a"], { offset: Number.NaN }), InvalidArgumentError],
    ["a depth of nothing", (store) => store.listNamespaces({ maxDepth: 0 }), InvalidArgumentError],
    ["an operation of no kind", (store) => store.batch([{} as Operation]), InvalidArgumentError],
  ])("%s", async (_, act, kind) => {
    const { store, prefix } = setup();
    await expect(act(store)).rejects.toThrow(kind);
    expect(await keysOf(prefix)).toEqual([]);
  });

  test("says where, and what would be right", async () => {
    const { store } = setup();
    await expect(put({ a: [{ b: () => 1 }] })(store)).rejects.toThrow('value["a"][0]["b"] is a function');
    await expect(put({ a: new Date() })(store)).rejects.toThrow('value["a"] is an instance of Date');
    await expect(store.search(["a"], { query: "x" })).rejects.toMatchObject({
      code: "not_supported",
      message: expect.stringContaining("`filter`"),
    });
    await expect(store.put(["a"], "k", {}, ["x"])).rejects.toMatchObject({
      code: "not_supported",
      message: expect.stringContaining("leave `index` out"),
    });
    await expect(store.search(["a"], { filter: { a: { $like: "x" } } })).rejects.toThrow("$gte");
  });

  test("a batch with one operation that is: nothing of it is done", async () => {
    const { store, prefix } = setup();
    const good = { namespace: ["a"], key: "k", value: {} };
    await expect(store.batch([good, { ...good, value: { a: 1n } }])).rejects.toThrow(InvalidArgumentError);
    await expect(store.batch([good, { namespacePrefix: ["a"], query: "x" }])).rejects.toThrow(
      NotSupportedError,
    );
    expect(await keysOf(prefix)).toEqual([]);
  });

  test("a default lifetime of nothing", () => {
    expect(() => new RedisStore(redis, { ttl: { defaultMs: 0 } })).toThrow(InvalidArgumentError);
  });

  test("but no index and no query are fine", async () => {
    const { store } = setup();
    await store.put(["a"], "k", {}, false);
    await store.batch([{ namespace: ["a"], key: "l", value: {}, index: false }]);
    expect(foundKeys(await store.search(["a"], { query: "" }))).toEqual(["k", "l"]);
  });
});
