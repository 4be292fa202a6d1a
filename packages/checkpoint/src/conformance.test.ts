/** LangGraph's own suite for checkpoint savers, with the one for delta channels that its entry leaves out. */
import { deltaChannelHistoryTests, validate } from "@langchain/langgraph-checkpoint-validation";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { RedisCheckpointSaver } from "./saver.ts";

// The suite takes vitest's functions from the globals.
Object.assign(globalThis, { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it });

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

const initializer = {
  checkpointerName: "@throughline/checkpoint",
  createCheckpointer: () => new RedisCheckpointSaver(redis, { prefix: testPrefix() }),
};
validate(initializer);
deltaChannelHistoryTests(initializer);
