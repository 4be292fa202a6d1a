import { emptyCheckpoint, uuid6 } from "@langchain/langgraph-checkpoint";
import { Redis } from "ioredis";
import { afterAll, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { StaleAttemptError } from "./errors.ts";
import { GraphSaver } from "./graph-saver.ts";
import { RedisCheckpointSaver } from "./saver.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

const config = { configurable: { thread_id: "t" } };
const put = (saver: GraphSaver, values = {}, versions = {}) =>
  saver.put(
    config,
    { ...emptyCheckpoint(), id: uuid6(0), channel_values: values, channel_versions: versions },
    { source: "loop", step: 0, parents: {} },
    versions,
  );

test("a graph's saver writes and reads like the one below, until an error, which it tells once", async () => {
  const prefix = testPrefix();
  const fence = `${prefix}:{t}:fence`;
  await redis.set(fence, "run:1");
  const view = new RedisCheckpointSaver(redis, { prefix }).fenced({ runId: "run", fence: 1 });
  const errors: unknown[] = [];
  const saver = new GraphSaver(view, (error) => errors.push(error));

  const first = await put(saver, { a: 1 }, { a: 1 });
  await saver.putWrites(first, [["a", 2]], "task");
  const second = await saver.put(
    first,
    { ...emptyCheckpoint(), id: uuid6(0) },
    { source: "loop", step: 1, parents: {} },
    {},
  );
  expect((await saver.getTuple(config))?.config).toEqual(second);
  expect(await saver.getDeltaChannelHistory({ config: second, channels: ["a"] })).toEqual({
    a: { seed: 1, writes: [["task", "a", 2]] },
  });

  await redis.set(fence, "run:2");
  await Promise.all([put(saver), saver.putWrites(second, [["a", 2]], "late"), put(saver)]);
  expect(errors).toEqual([expect.any(StaleAttemptError)]);
  // Not even where it would be let in again: it would be a child of what was not stored.
  await redis.set(fence, "run:1");
  await put(saver);
  let stored = 0;
  for await (const _ of saver.list(config)) stored += 1;
  expect(stored).toBe(2);
  await saver.deleteThread("t");
  expect(await saver.getTuple(config)).toBeUndefined();
});
