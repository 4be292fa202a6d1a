import { AIMessage, HumanMessage, RemoveMessage } from "@langchain/core/messages";
import { emptyCheckpoint, INTERRUPT, uuid6 } from "@langchain/langgraph-checkpoint";
import type { FlatMessage } from "@throughline/protocol";
import { Redis } from "ioredis";
import { afterAll, describe, expect, test, vi } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { HeadMovedError, InvalidArgumentError, NoSuchCheckpointError, StaleAttemptError } from "./errors.ts";
import { readHistory, readHistoryPage } from "./history.ts";
import { flattenMessage } from "./messages.ts";
import { RedisCheckpointSaver } from "./saver.ts";
import { childCheckpoint, readState, writeState } from "./thread-state.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

const threadId = "t";
const metadata = { source: "update" as const };

function setup() {
  const prefix = testPrefix();
  return { prefix, saver: new RedisCheckpointSaver(redis, { prefix }) };
}

const texts = (values: Record<string, unknown> | undefined) =>
  (values?.messages as FlatMessage[] | undefined)?.map((message) => message.content);

describe("writeState", () => {
  test("starts a thread and goes on from its head", async () => {
    const { saver } = setup();
    expect(await readState(saver, { threadId })).toBeNull();
    const one = await writeState(saver, {
      threadId,
      update: { messages: { role: "user", content: "hi" }, topic: "greetings" },
      metadata: { source: "input", run_id: "run", next: ["answer"] },
    });
    const two = await writeState(saver, {
      threadId,
      update: { messages: [new AIMessage({ id: "ai", content: "hello" })] },
      metadata: { source: "loop", run_id: "run" },
    });
    expect(await readState(saver, { threadId, checkpointId: one.checkpointId })).toMatchObject({
      parentId: null,
      next: ["answer"],
      metadata: { source: "input", step: -1, run_id: "run", parents: {} },
    });
    const state = (await readState(saver, { threadId }))!;
    expect(state).toEqual({
      threadId,
      ns: [],
      tasks: [],
      checkpointId: two.checkpointId,
      parentId: one.checkpointId,
      values: {
        messages: [
          { type: "human", content: "hi", id: expect.any(String) },
          { type: "ai", content: "hello", id: "ai" },
        ],
        topic: "greetings",
      },
      next: [],
      interrupts: [],
      metadata: { source: "loop", step: 0, run_id: "run", parents: {} },
      createdAt: expect.any(String),
    });
    expect(new Date(state.createdAt).toISOString()).toBe(state.createdAt);
    expect(JSON.parse(JSON.stringify(state))).toEqual(state);
  });

  test("keeps what LangGraph stored, and raises the versions of what changed only", async () => {
    const { saver } = setup();
    const old = {
      ...emptyCheckpoint(),
      channel_values: {
        messages: [new HumanMessage({ id: "1", content: "hi" })],
        topic: "old",
        "branch:to:llm": null,
      },
      channel_versions: { __start__: 2.25, messages: 3.5, topic: 1.125, "branch:to:llm": 3.75 },
      versions_seen: { __input__: {}, __start__: { __start__: 1.5 } },
    };
    const config = await saver.put(
      { configurable: { thread_id: threadId } },
      old,
      { source: "loop", step: 7, parents: {} },
      old.channel_versions,
    );
    await saver.putWrites(config, [["messages", "pending"]], "task");
    await writeState(saver, { threadId, update: { topic: "new", left: undefined }, metadata });
    const tuple = (await saver.getTuple({ configurable: { thread_id: threadId } }))!;
    expect(tuple.checkpoint.v).toBe(4);
    expect(tuple.checkpoint.versions_seen).toEqual(old.versions_seen);
    const { topic, ...others } = tuple.checkpoint.channel_versions;
    expect(others).toEqual({ __start__: 2.25, messages: 3.5, "branch:to:llm": 3.75 });
    expect(topic).toBeGreaterThan(3.75);
    expect(tuple.checkpoint.channel_values).toMatchObject({ topic: "new", "branch:to:llm": null });
    expect(tuple.checkpoint.channel_values).not.toHaveProperty("left");
    expect((tuple.checkpoint.channel_values.messages as HumanMessage[])[0]).toBeInstanceOf(HumanMessage);
    expect(tuple.metadata).toMatchObject({ step: 8, source: "update" });
    expect(tuple.parentConfig).toEqual(config);
    expect(tuple.pendingWrites).toEqual([]);
    // Nothing changed, nothing counted: the child is the parent once more.
    await writeState(saver, { threadId, update: { messages: [] }, metadata });
    const again = (await saver.getTuple({ configurable: { thread_id: threadId } }))!;
    expect(again.checkpoint.channel_versions).toEqual(tuple.checkpoint.channel_versions);
  });

  test("merges messages like LangGraph: in place, appended, removed", async () => {
    const { saver } = setup();
    const write = async (messages: unknown) => {
      await writeState(saver, { threadId, update: { messages }, metadata });
      return texts((await readState(saver, { threadId }))?.values);
    };
    expect(
      await write([
        { type: "human", id: "1", content: "a" },
        { type: "ai", id: "2", content: "b" },
      ]),
    ).toEqual(["a", "b"]);
    expect(await write({ type: "human", id: "1", content: "A" })).toEqual(["A", "b"]);
    expect(await write(new RemoveMessage({ id: "1" }))).toEqual(["b"]);
    expect(
      await write([
        { type: "remove", id: "2" },
        { role: "user", content: "c" },
      ]),
    ).toEqual(["c"]);
    await expect(write({ type: "remove", id: "gone" })).rejects.toThrow(InvalidArgumentError);
  });

  test("keeps a partial answer byte for byte, with its mark", async () => {
    const { saver } = setup();
    const partial = flattenMessage(
      new AIMessage({ id: "1", content: "so f\ud83d", additional_kwargs: { cancelled: true } }),
    );
    await writeState(saver, {
      threadId,
      update: { messages: [JSON.parse(JSON.stringify(partial))] },
      metadata,
    });
    expect((await readState(saver, { threadId }))?.values.messages).toEqual([partial]);
  });

  test("a page of a history ends where it is large enough, and says where to go on", async () => {
    const { saver } = setup();
    for (let i = 0; i < 12; i++)
      await writeState(saver, { threadId, update: { pad: "x".repeat(1_000), i }, metadata });
    const all = await readHistory(saver, { threadId });
    const list = vi.spyOn(saver, "list");
    const pages: number[][] = [];
    for (let before: string | undefined; ; ) {
      const { states, next } = await readHistoryPage(saver, { threadId, limit: 12, before }, 4_500);
      pages.push(states.map(({ values }) => values.i as number));
      before = next;
      if (next === undefined) break;
    }
    expect(pages.flat()).toEqual(all.map(({ values }) => values.i));
    for (const page of pages.slice(0, -1)) expect(page.length).toBeLessThan(6);
    // Never more at once than what was seen lets expect.
    for (const [, options] of list.mock.calls) expect(options?.limit).toBeLessThan(6);
    const { states, next } = await readHistoryPage(saver, { threadId, limit: 3 }, 1_000_000);
    expect([states.length, next]).toEqual([3, undefined]);
  });

  test("branches off where it is told", async () => {
    const { saver, prefix } = setup();
    const write = (parentId?: string | null, view = saver) =>
      writeState(view, {
        threadId,
        update: { messages: "more" },
        metadata,
        ...(parentId !== undefined && { parentId }),
      });
    const one = await write();
    const two = await write();
    await redis.set(`${prefix}:{t}:fence`, "run:1");
    const branch = saver.fenced({ runId: "run", fence: 1, branch: true });
    const side = await write(one.checkpointId, branch);
    expect(await saver.head(threadId)).toBe(two.checkpointId);
    const alone = await write(null, branch);
    const history = await readHistory(saver, { threadId });
    expect(history.map((state) => [state.checkpointId, state.parentId])).toEqual([
      [alone.checkpointId, null],
      [side.checkpointId, one.checkpointId],
      [two.checkpointId, one.checkpointId],
      [one.checkpointId, null],
    ]);
    expect(history.map((state) => texts(state.values)?.length)).toEqual([1, 2, 2, 1]);
    expect(history[1]?.metadata.run_id).toBe("run");
    const page = await readHistory(saver, { threadId, limit: 1, before: side.checkpointId });
    expect(page.map((state) => state.checkpointId)).toEqual([two.checkpointId]);
    await expect(write("nowhere")).rejects.toThrow(NoSuchCheckpointError);
    await write(one.checkpointId);
    expect(await saver.head(threadId)).not.toBe(two.checkpointId);
  });

  test("is fenced where the saver is", async () => {
    const { saver, prefix } = setup();
    await redis.set(`${prefix}:{t}:fence`, "run:2");
    const old = saver.fenced({ runId: "run", fence: 1 });
    await expect(writeState(old, { threadId, update: { a: 1 }, metadata })).rejects.toThrow(
      StaleAttemptError,
    );
    expect(await redis.keys(`${prefix}:*`)).toEqual([`${prefix}:{t}:fence`]);
  });

  test("loses nobody's message when many write at once", async () => {
    const { saver, prefix } = setup();
    const others = Array.from({ length: 8 }, () => redis.duplicate());
    await Promise.all(
      others.map((connection, i) =>
        writeState(new RedisCheckpointSaver(connection, { prefix }), {
          threadId,
          update: { messages: { role: "user", content: `${i}` } },
          metadata,
        }),
      ),
    );
    for (const connection of others) connection.disconnect();
    const state = await readState(saver, { threadId });
    expect(texts(state?.values)?.sort()).toEqual(["0", "1", "2", "3", "4", "5", "6", "7"]);
    expect(state?.metadata.step).toBe(6);
  });

  test("gives up where others move the head before each of its tries", async () => {
    const { saver, prefix } = setup();
    const busy = new RedisCheckpointSaver(redis, { prefix });
    let reads = 0;
    const getTuple = busy.getTuple.bind(busy);
    vi.spyOn(busy, "getTuple").mockImplementation(async (config) => {
      const tuple = await getTuple(config);
      await writeState(saver, { threadId, update: { others: ++reads }, metadata });
      return tuple;
    });
    await expect(writeState(busy, { threadId, update: { own: 1 }, metadata })).rejects.toThrow(
      HeadMovedError,
    );
    expect(reads).toBe(10);
    expect((await readState(saver, { threadId }))?.values).toEqual({ others: 10 });
  });

  test("counts versions of more channels than a call takes arguments", () => {
    const { saver } = setup();
    const channel_versions = Object.fromEntries(Array.from({ length: 200_000 }, (_, i) => [`k${i}`, i + 1]));
    const parent = { ...emptyCheckpoint(), channel_versions };
    const { version } = childCheckpoint(parent, 1, new Map([["a", 1]]), saver);
    expect(Math.floor(Number(version))).toBe(200_001);
  });

  test.each([
    { __start__: 1 },
    { "branch:to:tools": null },
    JSON.parse('{"__proto__":1}'),
    { a: [{ lc: 1, type: "constructor", id: ["langchain_core", "prompts", "PromptTemplate"], kwargs: {} }] },
    { messages: { role: "user", content: [{ lc: 1, type: "secret", id: ["PATH"] }] } },
    { messages: null },
  ])("refuses %j", async (update) => {
    const { saver, prefix } = setup();
    await expect(writeState(saver, { threadId, update, metadata })).rejects.toThrow(InvalidArgumentError);
    expect(await redis.keys(`${prefix}:*`)).toEqual([]);
  });
});

describe("readState", () => {
  test("shows interrupts, and not what is LangGraph's own", async () => {
    const { saver } = setup();
    const values = { messages: [], __start__: 1, "branch:to:x": null, "join:a:b": [], topic: "t" };
    const checkpoint = {
      ...emptyCheckpoint(),
      id: uuid6(0),
      channel_values: values,
      channel_versions: Object.fromEntries(Object.keys(values).map((key) => [key, 1])),
    };
    const config = await saver.put(
      { configurable: { thread_id: threadId } },
      checkpoint,
      { source: "loop", step: 1, parents: {} },
      checkpoint.channel_versions,
    );
    await saver.putWrites(
      config,
      [[INTERRUPT, { id: "i1", value: new HumanMessage({ id: "1", content: "ok?" }) }]],
      "a",
    );
    await saver.putWrites(config, [[INTERRUPT, [{ id: "i2", value: 2 }, { value: 3 }]]], "b");
    const state = await readState(saver, { threadId });
    expect(state?.values).toEqual({ messages: [], topic: "t" });
    expect(state?.interrupts).toEqual([
      { id: "i1", value: { type: "human", id: "1", content: "ok?" } },
      { id: "i2", value: 2 },
      { id: "b", value: 3 },
    ]);
    expect(await readState(saver, { threadId, checkpointId: "nowhere" })).toBeNull();
  });
});
