import type { RunnableConfig } from "@langchain/core/runnables";
import { type Checkpoint, emptyCheckpoint, RESUME, uuid6 } from "@langchain/langgraph-checkpoint";
import { Redis } from "ioredis";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
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
