/** What outlives threads: the store that graphs and functions find, an owner's apart from all others'. */
import {
  Annotation,
  entrypoint,
  getStore,
  InMemoryStore,
  type LangGraphRunnableConfig,
  START,
  StateGraph,
  task,
} from "@langchain/langgraph";
import { RedisStore, readHistory } from "@throughline/checkpoint";
import { ownerScope } from "@throughline/dispatch";
import { type AgentContext, custom } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

const State = Annotation.Root({ seen: Annotation<string[]>() });
type State = typeof State.State;

/** Says what is remembered, and remembers who asked. */
async function remember(_: State, { store, configurable }: LangGraphRunnableConfig) {
  const items = await store!.search(["visits"], { limit: 100 });
  await store!.put(["visits"], String(configurable?.thread_id), { at: items.length });
  return { seen: items.map(({ key }) => key) };
}

const flat = (options: object = {}) =>
  new StateGraph(State).addNode("remember", remember).addEdge(START, "remember").compile(options);

async function seen(owner: string, agent = "graph"): Promise<{ seen: string[]; threadId: string }> {
  const threadId = shop.newThread();
  const { record } = await shop.ended(await shop.start(agent, { input: { seen: [] } }, { threadId, owner }));
  expect(record.error).toBeUndefined();
  const history = await readHistory(shop.saver.scoped(ownerScope(owner)), { threadId });
  const { values } = history[0]!;
  return { seen: values.seen as string[], threadId };
}

describe("the store", () => {
  test("is there by default, and each owner's own", async () => {
    await shop.serve({ graph: flat() });
    const first = await seen("alice");
    expect(first.seen).toEqual([]);
    expect((await seen("alice")).seen).toEqual([first.threadId]);
    expect((await seen("bob")).seen).toEqual([]);
    const store = new RedisStore(shop.redis, { prefix: shop.prefix, owner: "alice" });
    expect(await store.get(["visits"], first.threadId)).toMatchObject({ value: { at: 0 } });
  });

  test("is one for all where it is shared, and its items may expire", async () => {
    await shop.serve({ graph: flat() }, { store: { shared: true, ttl: { defaultMs: 60_000 } } });
    const first = await seen("alice");
    expect((await seen("bob")).seen).toEqual([first.threadId]);
    const left = await shop.redis.pttl(`${shop.prefix}:{store}:items`);
    expect(left).toBeGreaterThan(0);
    expect(left).toBeLessThanOrEqual(60_000);
  });

  test("may be one of their own, or none", async () => {
    const own = new InMemoryStore();
    await shop.serve({ graph: flat() }, { store: own });
    const { threadId } = await seen("alice");
    expect(await own.get(["visits"], threadId)).toMatchObject({ value: { at: 0 } });

    const other = new Workshop();
    try {
      await other.serve({ graph: flat() }, { store: false });
      const { record } = await other.ended(await other.start("graph", { input: { seen: [] } }));
      expect(record.error?.name).toBe("TypeError");
    } finally {
      await other.stop();
    }
  });

  test("of a graph that was compiled with one stays that one", async () => {
    const own = new InMemoryStore();
    await shop.serve({ graph: flat({ store: own }) });
    const { threadId } = await seen("alice");
    expect(await own.get(["visits"], threadId)).toMatchObject({ value: { at: 0 } });
  });

  test("of a graph that was compiled with one on Redis, too", async () => {
    const own = new RedisStore(shop.redis, { prefix: `${shop.prefix}-own` });
    await shop.serve({ graph: flat({ store: own }) });
    const { threadId } = await seen("alice");
    expect(await own.get(["visits"], threadId)).toMatchObject({ value: { at: 0 } });
  });

  test("is found everywhere: subgraphs, routers, functional tasks, by getStore", async () => {
    const found: [string, boolean][] = [];
    const note = (where: string, store: unknown) => found.push([where, store instanceof RedisStore]);
    const inner = new StateGraph(State)
      .addNode("deep", (_, { store }: LangGraphRunnableConfig) => {
        note("subgraph", store);
        return {};
      })
      .addEdge(START, "deep")
      .compile();
    const graph = new StateGraph(State)
      .addNode("top", () => {
        note("getStore", getStore());
        return {};
      })
      .addNode("inner", inner)
      .addEdge(START, "top")
      .addConditionalEdges(
        "top",
        (_, { store }: LangGraphRunnableConfig) => {
          note("router", store);
          return "inner";
        },
        ["inner"],
      )
      .compile();
    const count = task("count", async () => {
      const store = getStore()!;
      note("task", store);
      await store.put(["n"], "n", { n: 1 });
      return (await store.get(["n"], "n"))?.value.n;
    });
    const flow = entrypoint("flow", async (_: unknown, { store }: LangGraphRunnableConfig) => {
      note("entrypoint", store);
      return { n: await count() };
    });
    await shop.serve({ graph, flow });
    await shop.ended(await shop.start("graph", { input: { seen: [] } }));
    const threadId = shop.newThread();
    await shop.ended(await shop.start("flow", { input: {} }, { threadId }));
    expect((await shop.history(threadId))[0]?.values).toEqual({ n: 1 });
    const places = ["getStore", "router", "subgraph", "entrypoint", "task"];
    expect(found).toEqual(places.map((place) => [place, true]));
  });

  test("costs a graph nothing that does not use it", async () => {
    // LangGraph's own wrapper of a store goes round a timer of 0 ms as long as a graph runs.
    let ticks = 0;
    const { setTimeout: original } = globalThis;
    let release: () => void = () => {};
    const waiting = new Promise<void>((resolve) => {
      release = resolve;
    });
    let isIn = false;
    const graph = new StateGraph(State)
      .addNode("wait", async () => {
        isIn = true;
        await waiting;
        return {};
      })
      .addEdge(START, "wait")
      .compile();
    await shop.serve({ graph });
    const runId = await shop.start("graph", { input: { seen: [] } });
    while (!isIn) await new Promise((resolve) => original(resolve, 5));
    globalThis.setTimeout = ((run: () => void, ms?: number) => {
      if (ms === 0) ticks += 1;
      return original(run, ms);
    }) as never;
    try {
      await new Promise((resolve) => original(resolve, 200));
    } finally {
      globalThis.setTimeout = original;
    }
    release();
    await shop.ended(runId);
    expect(ticks).toBeLessThan(10);
  });

  test("is a function agent's as well", async () => {
    async function* count({ store }: AgentContext) {
      const before = (await store!.get(["count"], "n"))?.value.n ?? 0;
      await store!.put(["count"], "n", { n: before + 1 });
      yield custom(before + 1);
    }
    await shop.serve({ count });
    const told = async () => {
      const { parts } = await shop.ended(await shop.start("count", { input: null }));
      return parts.flatMap((part) => (part.type === "custom" ? [part.data] : []));
    };
    expect([await told(), await told()]).toEqual([[1], [2]]);
  });

  test("refuses what it cannot do, and that is an ordinary failure", async () => {
    const graph = new StateGraph(State)
      .addNode("seek", async (_, { store }: LangGraphRunnableConfig) => {
        await store!.search(["visits"], { query: "who was here?" });
        return {};
      })
      .addEdge(START, "seek")
      .compile();
    await shop.serve({ graph });
    const { record } = await shop.ended(await shop.start("graph", { input: { seen: [] } }));
    expect(record).toMatchObject({ status: "failed", error: { name: "NotSupportedError" } });
  });
});
