import { HumanMessage } from "@langchain/core/messages";
import type { RunnableConfig } from "@langchain/core/runnables";
import { type Checkpoint, emptyCheckpoint, RESUME, uuid6 } from "@langchain/langgraph-checkpoint";
import { Redis } from "ioredis";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { StaleAttemptError } from "./errors.ts";
import { threadKeys } from "./keys.ts";
import { RedisCheckpointSaver } from "./saver.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

let saver: RedisCheckpointSaver;
let prefix: string;
beforeEach(() => {
  prefix = testPrefix();
  saver = new RedisCheckpointSaver(redis, { prefix });
});

const root: RunnableConfig = { configurable: { thread_id: "t", checkpoint_ns: "" } };
const of = (runId: string, config: RunnableConfig) => ({ ...config, metadata: { run_id: runId } });
const idOf = (config: RunnableConfig): string => config.configurable?.checkpoint_id;

async function put(
  by: RedisCheckpointSaver,
  parent: RunnableConfig,
  value: unknown,
  id = uuid6(0),
): Promise<RunnableConfig> {
  const versions = { a: by.getNextVersion(undefined) };
  const checkpoint: Checkpoint = {
    ...emptyCheckpoint(),
    id,
    channel_values: { a: value },
    channel_versions: versions,
  };
  return await by.put(parent, checkpoint, { source: "loop", step: 0, parents: {} }, versions);
}

const valueAt = async (config: RunnableConfig) => (await saver.getTuple(config))?.checkpoint.channel_values.a;
const writesAt = async (config: RunnableConfig) =>
  (await saver.getTuple(config))?.pendingWrites?.map(([, channel, value]) => [channel, value]);

describe("discarding a run", () => {
  test("leaves a checkpoint that another run has put again since", async () => {
    const begin = await put(saver, of("before", root), 0);
    const shared = await put(saver, of("one", begin), 1);
    await put(saver, of("two", begin), 2, idOf(shared));
    const own = await put(saver, of("one", shared), 3);
    await saver.discardRun("t", "one", { head: idOf(shared) });
    expect(await valueAt(shared)).toBe(2);
    expect(await saver.getTuple(own)).toBeUndefined();
    expect(await saver.head("t")).toBe(idOf(shared));
    await saver.discardRun("t", "two", { head: idOf(begin) });
    expect(await saver.getTuple(shared)).toBeUndefined();
    expect(await valueAt(begin)).toBe(0);
  });

  test("leaves a write that another run has put in the place of its own since", async () => {
    const begin = await put(saver, of("before", root), 0);
    await saver.putWrites(of("one", begin), [[RESUME, "of one"]], "task");
    await saver.putWrites(of("two", begin), [[RESUME, "of two"]], "task");
    await saver.discardRun("t", "one", { head: idOf(begin) });
    expect(await writesAt(begin)).toEqual([[RESUME, "of two"]]);
    await saver.discardWrites("t", "one");
    expect(await writesAt(begin)).toEqual([[RESUME, "of two"]]);
  });
});

describe("a branch", () => {
  test("puts its writes to checkpoints of its own, and to no others", async () => {
    const begin = await put(saver, root, 0);
    await redis.set(`${prefix}:{t}:fence`, "run:1");
    const branch = saver.fenced({ runId: "run", fence: 1, branch: true });
    await branch.putWrites(begin, [["a", "never"]], "task");
    expect(await writesAt(begin)).toEqual([]);
    const own = await put(branch, begin, 1);
    await branch.putWrites(own, [["a", "always"]], "task");
    expect(await writesAt(own)).toEqual([["a", "always"]]);
    // What is no branch does write there.
    await saver.fenced({ runId: "run", fence: 1 }).putWrites(begin, [["a", "here"]], "task");
    expect(await writesAt(begin)).toEqual([["a", "here"]]);
  });
});

describe("deleting a thread", () => {
  const list = (name: string, count: number, size: number) =>
    Array.from(
      { length: count },
      (_, i) => new HumanMessage({ id: `${name}-${i}`, content: "x".repeat(size) }),
    );
  const keysOf = async (threadId: string) => (await redis.keys(`${prefix}:{${threadId}}:*`)).sort();

  /** Writes all that there is to write: each of the thread's keys has something. */
  async function fill(by: RedisCheckpointSaver, thread: RunnableConfig): Promise<RunnableConfig> {
    const begin = await put(by, of("one", thread), list("long", 3, 9000));
    const next = await put(by, of("one", begin), [...list("long", 3, 9000), ...list("short", 70, 100)]);
    const below = { configurable: { ...thread.configurable, checkpoint_ns: "sub:task" } };
    const inner = await put(by, of("two", below), list("inner", 40, 300));
    await put(by, of("two", { configurable: { ...below.configurable, checkpoint_ns: "sub:task|deep" } }), 1);
    for (const config of [next, inner]) {
      await by.putWrites(of("one", config), [["a", list("written", 3, 300)]], "task");
      await by.putWrites(of("one", config), [[RESUME, "first"]], "task");
      await by.putWrites(of("two", config), [[RESUME, "second"]], "task");
    }
    // To one that is not there.
    await by.putWrites(
      of("two", { configurable: { ...thread.configurable, checkpoint_id: uuid6(0) } }),
      [["a", 1]],
      "t",
    );
    const gone = await put(by, of("gone", next), list("gone", 40, 300));
    await by.discardRun("t", "gone", { head: idOf(next) });
    return gone;
  }

  test("leaves none of its keys, whatever was written, and nothing of other threads", async () => {
    await fill(saver, root);
    const [fence, ...checkpoints] = threadKeys(prefix, "t");
    expect(await keysOf("t")).toEqual(checkpoints.toSorted());
    await saver.copyThread("t", "copy");
    await redis.set(fence, "run:1");
    await saver.fenced({ runId: "run", fence: 1 }).deleteThread("t");
    expect(await keysOf("t")).toEqual([fence]);
    expect(await saver.getTuple(root)).toBeUndefined();
    expect((await saver.heads("copy")).size).toBe(3);
    await saver.deleteThread("copy");
    await redis.del(fence);
    expect(await redis.keys(`${prefix}:*`)).toEqual([]);
  });

  test("stops who had it: what comes behind it is refused, and brings no key back", async () => {
    const token = "run:1";
    const [fence] = threadKeys(prefix, "t");
    await redis.set(fence, token);
    await redis.set(`${prefix}:{t}:line`, "run");
    const attempt = saver.fenced({ runId: "run", fence: 1 });
    await fill(attempt, root);
    const head = (await attempt.getTuple(root))!.config;
    // Under way when the thread goes: its lists are known, and its place in it was checked.
    let arrive = () => {};
    const deleted = new Promise<void>((resolve) => {
      arrive = resolve;
    });
    const late = saver.fenced({
      runId: "run",
      fence: 1,
      before: async () => {
        await deleted;
        return {};
      },
    });
    const known = list("long", 3, 9000);
    const putting = put(late, head, [...known, ...list("late", 3, 300)]);
    const writing = late.putWrites(head, [["a", [...known, "late"]]], "late");
    await saver.deleteThread("t");
    await redis.del(fence, `${prefix}:{t}:line`);
    arrive();
    const writes: [string, Promise<unknown>][] = [
      ["put under way", putting],
      ["putWrites under way", writing],
      ["put", put(attempt, head, known)],
      ["the first put", put(attempt, root, known)],
      ["putWrites", attempt.putWrites(head, [["a", known]], "task")],
      ["setHead", attempt.setHead("t", null)],
      ["discardRun", attempt.discardRun("t", "run", { head: null })],
      ["discardWrites", attempt.discardWrites("t", "run")],
      ["deleteThread", attempt.deleteThread("t")],
    ];
    await Promise.all(writes.map(([name, write]) => expect(write, name).rejects.toThrow(StaleAttemptError)));
    expect(await keysOf("t")).toEqual([]);
    // Nor where another run has the thread by then.
    await redis.set(fence, "other:1");
    await expect(put(attempt, root, known)).rejects.toThrow(StaleAttemptError);
    expect(await keysOf("t")).toEqual([fence]);
    // Who has it begins anew, with nothing of the old elements.
    const fresh = await put(saver.fenced({ runId: "other", fence: 1 }), root, [
      ...known,
      ...list("short", 70, 100),
    ]);
    expect(await valueAt(fresh)).toHaveLength(73);
  });
});
