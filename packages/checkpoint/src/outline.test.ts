import { HumanMessage, RemoveMessage } from "@langchain/core/messages";
import type { RunnableConfig } from "@langchain/core/runnables";
import { Annotation, entrypoint, interrupt, MessagesAnnotation, StateGraph } from "@langchain/langgraph";
import {
  type Checkpoint,
  DeltaSnapshot,
  emptyCheckpoint,
  JsonPlusSerializer,
  uuid6,
} from "@langchain/langgraph-checkpoint";
import type { FlatMessage } from "@throughline/protocol";
import { Redis } from "ioredis";
import { afterAll, describe, expect, test } from "vitest";
import { startPrivateRedis, testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { messageCount, readHistory, readOutlinePage } from "./history.ts";
import { RedisCheckpointSaver } from "./saver.ts";
import { readState, type ThreadState, writeState } from "./thread-state.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

const threadId = "t";
const metadata = { source: "update" as const };
const enough = 10_000_000;

function setup() {
  const prefix = testPrefix();
  const open = () => new RedisCheckpointSaver(redis, { prefix });
  return { prefix, saver: open(), open };
}

const at = (id?: string, ns = ""): RunnableConfig => ({
  configurable: { thread_id: threadId, checkpoint_ns: ns, ...(id && { checkpoint_id: id }) },
});
const text = (name: string, length = 300) => `${name} `.padEnd(length, "words ");
const said = (id: string, content = text(id)) => new HumanMessage({ id, content });

/** Puts a checkpoint of which these are the values. */
async function put(
  saver: RedisCheckpointSaver,
  parentId: string | undefined,
  values: Record<string, unknown>,
  { ns = "", ...marks }: { ns?: string; [mark: string]: unknown } = {},
): Promise<string> {
  const newVersions = Object.fromEntries(
    Object.keys(values).map((channel) => [channel, saver.getNextVersion(undefined)]),
  );
  const checkpoint: Checkpoint = {
    ...emptyCheckpoint(),
    id: uuid6(0),
    channel_values: values,
    channel_versions: newVersions,
  };
  await saver.put(
    at(parentId, ns),
    checkpoint,
    { source: "loop", step: 0, parents: {}, ...marks },
    newVersions,
  );
  return checkpoint.id;
}

const messagesOf = (state: ThreadState | null) => {
  const { messages } = state?.values ?? {};
  return Array.isArray(messages) ? (messages as FlatMessage[]) : [];
};

/** What the outline of a state must be, by the states themselves. */
async function outlineOf(saver: RedisCheckpointSaver, state: ThreadState): Promise<unknown> {
  const { parentId, ns } = state;
  const parent = parentId === null ? null : await readState(saver, { threadId, checkpointId: parentId, ns });
  const before = messagesOf(parent).map(({ id }) => id);
  const own = messagesOf(state);
  const added = own.map(({ id }) => id).filter((id) => id !== undefined && !before.includes(id));
  const tasks = state.tasks.map(({ result: _, ...task }) => task);
  return { ...state, values: {}, tasks, messages: { count: own.length, added } };
}

/** Compares all outlines with the states, for a reader that knows the thread and for one that does not. */
async function check(
  { saver, open }: Pick<ReturnType<typeof setup>, "saver" | "open">,
  ns: string[] = [],
): Promise<ThreadState[]> {
  const states = await readHistory(saver, { threadId, ns });
  const expected = await Promise.all(states.map((state) => outlineOf(saver, state)));
  expect(states.length).toBeGreaterThan(0);
  for (const reader of [open(), saver]) {
    const page = await readOutlinePage(reader, { threadId, limit: 1000, ns }, enough);
    expect(page).toEqual({ states: expected });
  }
  if (ns.length > 0) return states;
  for (const state of states) {
    expect(await messageCount(open(), threadId, state.checkpointId)).toBe(messagesOf(state).length);
  }
  return states;
}

const outlines = async (saver: RedisCheckpointSaver) =>
  (await readOutlinePage(saver, { threadId, limit: 100 }, enough)).states.map(({ messages }) => messages);

describe("the outlines of a thread", () => {
  test("say what each checkpoint has that its parent has not, on branches too", async () => {
    const it = setup();
    const base = Array.from({ length: 70 }, (_, i) => said(`m${i}`));
    const one = await put(it.saver, undefined, { messages: base });
    const two = await put(it.saver, one, { messages: [...base, said("a"), said("b")] });
    await put(it.saver, one, { messages: [...base.slice(0, 40), said("other"), ...base.slice(40)] });
    await put(it.saver, two, { messages: [...base, said("a"), said("b"), said("c", text("c", 9000))] });
    await check(it);
    expect(await outlines(it.open())).toEqual([
      { count: 73, added: ["c"] },
      { count: 71, added: ["other"] },
      { count: 72, added: ["a", "b"] },
      { count: 70, added: base.map(({ id }) => id) },
    ]);
  });

  test("do not call a message new that was edited, or moved, or that others were removed around", async () => {
    const it = setup();
    const update = (messages: unknown) => writeState(it.saver, { threadId, update: { messages }, metadata });
    await update(Array.from({ length: 40 }, (_, i) => said(`m${i}`)));
    await update([said("m3", text("edited")), said("m39", text("edited, too")), said("new")]);
    await update([new RemoveMessage({ id: "m5" }), new RemoveMessage({ id: "m20" })]);
    await update([said("m5", text("again"))]);
    await update([new RemoveMessage({ id: "m3" }), said("m3b")]);
    await check(it);
    expect((await outlines(it.open())).slice(0, 4)).toEqual([
      { count: 40, added: ["m3b"] },
      { count: 40, added: ["m5"] },
      { count: 39, added: [] },
      { count: 41, added: ["new"] },
    ]);
    const head = (await it.saver.getTuple(at()))!;
    const list = head.checkpoint.channel_values.messages as HumanMessage[];
    await put(it.saver, head.checkpoint.id, { messages: list.toReversed() });
    expect((await outlines(it.open()))[0]).toEqual({ count: 40, added: [] });
    await check(it);
  });

  test("read lists that are stored whole, beside those that are not", async () => {
    const it = setup();
    const short = [said("a", "1"), said("b", "2")];
    const long = [...short, said("c"), said("d")];
    const one = await put(it.saver, undefined, { messages: short });
    const two = await put(it.saver, one, { messages: long });
    const three = await put(it.saver, two, { messages: [said("d", "short"), said("e", "short")] });
    const four = await put(it.saver, three, { messages: [] });
    const five = await put(it.saver, four, { messages: [...long, { id: "plain", text: text("x") }, 7] });
    const six = await put(it.saver, five, { messages: "not a list" });
    const seven = await put(it.saver, six, { messages: new DeltaSnapshot(long) });
    const eight = await put(it.saver, seven, { note: "none" });
    await put(it.saver, "was-never-there", { messages: long });
    await put(it.saver, eight, { messages: [...long, said("a")] });
    const rest = await readHistory(it.saver, { threadId });
    expect(rest.map((state) => messagesOf(state).length)).toEqual([5, 4, 0, 4, 0, 6, 0, 2, 4, 2]);
    expect(await outlines(it.open())).toEqual([
      { count: 5, added: ["a", "b", "c", "d"] },
      { count: 4, added: ["a", "b", "c", "d"] },
      { count: 0, added: [] },
      { count: 4, added: ["a", "b", "c", "d"] },
      { count: 0, added: [] },
      { count: 6, added: ["a", "b", "c", "d", "plain"] },
      { count: 0, added: [] },
      { count: 2, added: ["e"] },
      { count: 4, added: ["c", "d"] },
      { count: 2, added: ["a", "b"] },
    ]);
  });

  test("are the same where another serializer has all of it stored whole", async () => {
    class Own extends JsonPlusSerializer {}
    const prefix = testPrefix();
    const open = () => new RedisCheckpointSaver(redis, { prefix, serde: new Own() });
    const it = { saver: open(), open };
    const base = Array.from({ length: 40 }, (_, i) => said(`m${i}`));
    const one = await put(it.saver, undefined, { messages: base });
    const two = await put(it.saver, one, { messages: [...base.slice(1), said("a")] });
    await put(it.saver, one, { messages: [said("m0", "edited"), said("b"), ...base] }, { shown: two });
    await put(it.saver, two, { messages: [said("a", "edited"), said("c")] });
    expect(await redis.hget(`${prefix}:{t}:blobs`, "#")).toBeNull();
    await check(it);
    expect((await outlines(it.open()))[0]).toEqual({ count: 2, added: ["c"] });
  });

  test("of a fork say what it shows, and what is shown beside", async () => {
    const it = setup();
    const list = Array.from({ length: 5 }, (_, i) => said(`m${i}`));
    const stood = await put(it.saver, undefined, { messages: list });
    const shown = await put(it.saver, stood, { messages: [...list, said("cut")] });
    const fork = await put(it.saver, shown, { messages: list }, { as: stood, shown, prepares: true });
    await put(it.saver, fork, { messages: [...list, said("whole")] });
    await put(it.saver, shown, { a: 1 }, { beside: { messages: [...list, said("beside")] } });
    await check(it);
    expect(await outlines(it.open())).toEqual([
      { count: 6, added: ["beside"] },
      { count: 6, added: ["whole"] },
      { count: 6, added: [] },
      { count: 6, added: ["cut"] },
      { count: 5, added: list.map(({ id }) => id) },
    ]);
  });

  test("have what a graph is about to do, waits for and failed at, and no results; of subgraphs too", async () => {
    const it = setup();
    const State = Annotation.Root({ ...MessagesAnnotation.spec, joined: Annotation<string> });
    const inner = new StateGraph(State)
      .addNode("say", () => ({ messages: [said("inner")] }))
      .addNode("ask", () => ({ messages: [said(interrupt("Really?") as string)] }))
      .addEdge("__start__", "say")
      .addEdge("say", "ask")
      .compile();
    const graph = new StateGraph(State)
      .addNode("one", () => ({ messages: [said("one")] }))
      .addNode("two", () => ({ joined: "two" }))
      .addNode("sub", inner)
      .addNode("fails", () => {
        throw new Error("broken");
      })
      .addEdge("__start__", "one")
      .addEdge("__start__", "two")
      .addEdge(["one", "two"], "sub")
      .addEdge(["one", "two"], "fails")
      .compile({ checkpointer: it.saver });
    const run = graph.invoke({ messages: [said("asked")] }, { configurable: { thread_id: threadId } });
    await expect(run).rejects.toThrow("broken");
    const states = await check(it);
    expect(new Set(states.flatMap(({ next }) => next))).toEqual(
      new Set(["__start__", "one", "two", "sub", "fails"]),
    );
    const [ns] = [...(await it.saver.heads(threadId)).keys()].filter((each) => each !== "");
    const below = await check(it, ns!.split("|"));
    expect(below.length).toBeGreaterThan(1);
    // Its tasks, as they stand with the checkpoint.
    const head = (await it.saver.getTuple(at()))!;
    const tasks = (head.pendingWrites ?? []).map(([id], i) => [id, `node-${i}`]);
    const marked = await put(it.saver, undefined, { messages: [said("x")] }, { tasks });
    for (const [task, channel, value] of head.pendingWrites ?? []) {
      await it.saver.putWrites(at(marked), [[channel, value]], task);
    }
    await it.saver.putWrites(at(marked), [["messages", [said("done")]]], "finished");
    const [first] = await check(it);
    expect(first?.tasks.some(({ error }) => error !== undefined)).toBe(true);
  });

  test("of a functional graph count the messages that it returned", async () => {
    const it = setup();
    const flow = entrypoint({ name: "flow", checkpointer: it.saver }, async (content: string) => ({
      messages: [said("a"), said("b", content)],
    }));
    const config = { configurable: { thread_id: threadId } };
    await flow.invoke("first", config);
    await flow.invoke("second", config);
    await check(it);
    expect((await outlines(it.open()))[0]?.count).toBe(2);
    const list = entrypoint({ name: "list", checkpointer: it.saver }, async () => [said("a"), said("b")]);
    await list.invoke("third", config);
    await check(it);
    expect((await outlines(it.open()))[0]?.count).toBe(0);
  });

  test("come by pages, of the size that is asked for, each once", async () => {
    const it = setup();
    const messages: HumanMessage[] = [];
    let parent: string | undefined;
    for (let i = 0; i < 150; i++) {
      messages.push(said(`m${i}`, text(`m${i}`, i % 50 === 0 ? 20_000 : 250)));
      parent = await put(it.saver, parent, { messages: [...messages] });
    }
    const all = (await readOutlinePage(it.open(), { threadId, limit: 1000 }, enough)).states;
    expect(all.map((state) => state.messages)).toEqual(
      messages.map(({ id }, i) => ({ count: i + 1, added: [id] })).toReversed(),
    );
    const page = (limit: number, before?: string, size = enough) =>
      readOutlinePage(it.open(), { threadId, limit, before }, size);
    expect(await page(70)).toEqual({ states: all.slice(0, 70) });
    expect(await page(3, all[69]!.checkpointId)).toEqual({ states: all.slice(70, 73) });
    expect(await page(9, all.at(-1)!.checkpointId)).toEqual({ states: [] });
    const found: ThreadState[] = [];
    let next: string | undefined;
    do {
      const { states, ...more } = await page(200, next, 5000);
      expect(states.slice(0, -1).reduce((sum, state) => sum + JSON.stringify(state).length, 0)).toBeLessThan(
        5000,
      );
      expect(more.next === undefined || more.next === states.at(-1)!.checkpointId).toBe(true);
      found.push(...states);
      next = more.next;
    } while (next !== undefined);
    expect(found).toEqual(all);
  });

  test("are right while others discard what they are made of", async () => {
    const it = setup();
    const base = Array.from({ length: 40 }, (_, i) => said(`m${i}`));
    const one = await put(it.saver, undefined, { messages: base });
    let isOver = false;
    const others = (async () => {
      const writer = it.open();
      for (let i = 0; i < 60; i++) {
        await put(writer, one, { messages: [...base, said(`run-${i}`)] }, { run_id: "run" });
        await writer.discardRun(threadId, "run", { head: one });
      }
      isOver = true;
    })();
    while (!isOver) {
      for (const { checkpointId, messages } of (
        await readOutlinePage(it.saver, { threadId, limit: 10 }, enough)
      ).states) {
        expect(messages?.count).toBe(checkpointId === one ? 40 : 41);
        expect(messages?.added).toHaveLength(checkpointId === one ? 40 : 1);
      }
    }
    await others;
    expect(await messageCount(it.saver, threadId)).toBe(40);
  });
});

describe("the number of a thread's messages", () => {
  test("is that of its head, and 0 where there is none", async () => {
    const { saver } = setup();
    expect(await messageCount(saver, threadId)).toBe(0);
    const bare = await put(saver, undefined, { a: 1 });
    expect(await messageCount(saver, threadId)).toBe(0);
    await put(saver, bare, { messages: Array.from({ length: 30 }, (_, i) => said(`m${i}`)) });
    expect(await messageCount(saver, threadId)).toBe(30);
    expect(await messageCount(saver, threadId, bare)).toBe(0);
    expect(await messageCount(saver, threadId, "nothing")).toBe(0);
    await saver.setHead(threadId, bare);
    expect(await messageCount(saver, threadId)).toBe(0);
  });

  test("is known without one of them being read", async () => {
    // Of its own: its count of bytes is of this test alone.
    const server = await startPrivateRedis();
    const own = new Redis(server.url);
    try {
      const prefix = testPrefix();
      const saver = new RedisCheckpointSaver(own, { prefix });
      const list = Array.from({ length: 400 }, (_, i) => said(`m${i}`, text(`m${i}`, 1000)));
      await put(saver, await put(saver, undefined, { messages: list }), { messages: [...list, said("new")] });
      const sent = async () => Number(/total_net_output_bytes:(\d+)/.exec(await own.info("stats"))![1]);
      const read = async (work: () => Promise<unknown>) => {
        const before = await sent();
        await work();
        return (await sent()) - before;
      };
      const reader = new RedisCheckpointSaver(own, { prefix });
      expect(await read(() => messageCount(reader, threadId))).toBeLessThan(20_000);
    } finally {
      own.disconnect();
      await server.stop();
    }
  });
});
