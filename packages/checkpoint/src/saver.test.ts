import type { RunnableConfig } from "@langchain/core/runnables";
import {
  type Checkpoint,
  type CheckpointMetadata,
  type CheckpointTuple,
  emptyCheckpoint,
  INTERRUPT,
  RESUME,
  uuid6,
} from "@langchain/langgraph-checkpoint";
import { Redis } from "ioredis";
import { afterAll, describe, expect, test } from "vitest";
import { startPrivateRedis, testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import {
  HeadMovedError,
  InvalidArgumentError,
  NoSuchCheckpointError,
  NoSuchThreadError,
  StaleAttemptError,
  ThreadExistsError,
} from "./errors.ts";
import { RedisCheckpointSaver } from "./saver.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

function setup() {
  const prefix = testPrefix();
  const saver = new RedisCheckpointSaver(redis, { prefix });
  return {
    prefix,
    saver,
    hold: (token: string, threadId = "t") => redis.set(`${prefix}:{${threadId}}:fence`, token),
  };
}

const at = (id?: string, ns = "", threadId = "t"): RunnableConfig => ({
  configurable: { thread_id: threadId, checkpoint_ns: ns, ...(id && { checkpoint_id: id }) },
});

const idOf = (config: RunnableConfig | undefined): string => config?.configurable?.checkpoint_id;

/** Puts a child of `parent` in which `values` are new, as LangGraph would: other channels carry over. */
async function putChild(
  saver: RedisCheckpointSaver,
  parent: RunnableConfig,
  values: Record<string, unknown>,
  metadata: Record<string, unknown> = {},
): Promise<RunnableConfig> {
  const old = idOf(parent) ? (await saver.getTuple(parent))!.checkpoint : emptyCheckpoint();
  const newVersions = Object.fromEntries(
    Object.keys(values).map((channel) => [
      channel,
      saver.getNextVersion(old.channel_versions[channel] as number),
    ]),
  );
  const checkpoint: Checkpoint = {
    ...old,
    id: uuid6(0),
    channel_values: { ...old.channel_values, ...values },
    channel_versions: { ...old.channel_versions, ...newVersions },
  };
  return saver.put(parent, checkpoint, { source: "loop", step: 0, parents: {}, ...metadata }, newVersions);
}

const valuesOf = async (saver: RedisCheckpointSaver, config: RunnableConfig) =>
  (await saver.getTuple(config))?.checkpoint.channel_values;

async function listed(saver: RedisCheckpointSaver, ...args: Parameters<RedisCheckpointSaver["list"]>) {
  const tuples: CheckpointTuple[] = [];
  for await (const tuple of saver.list(...args)) tuples.push(tuple);
  return tuples;
}

/** All that the keys hold, whatever Redis' encoding of it. */
async function everything(prefix: string): Promise<Record<string, unknown>> {
  const contents: Record<string, unknown> = {};
  for (const key of (await redis.keys(`${prefix}:*`)).sort()) {
    const type = await redis.type(key);
    if (type === "string") contents[key] = await redis.get(key);
    else if (type === "zset") contents[key] = await redis.zrange(key, "0", "-1");
    else contents[key] = await redis.hgetallBuffer(key);
  }
  return contents;
}

describe("a checkpoint", () => {
  test("is written in one round trip and read in one", async () => {
    // Of its own: MONITOR tells of everybody's commands, and scripts that others flush are sent once more.
    const server = await startPrivateRedis();
    const own = new Redis(server.url);
    const watch = own.duplicate();
    const monitor = await watch.monitor();
    try {
      const saver = new RedisCheckpointSaver(own, { prefix: testPrefix() });
      const config = await putChild(saver, at(), { a: 1 });
      await saver.putWrites(config, [["a", 2]], "task");
      await saver.getTuple(config);
      const seen: string[] = [];
      const done = new Promise<void>((resolve) => {
        monitor.on("monitor", (_time: string, [command, text]: string[], source: string) => {
          // What a script calls is told of as well.
          if (source === "lua") return;
          if (command !== "ping") seen.push(command!);
          else if (text === "begin") seen.length = 0;
          else resolve();
        });
      });
      await own.ping("begin");
      const child = await saver.put(config, { ...emptyCheckpoint(), id: uuid6(0) }, meta(), {});
      await saver.putWrites(child, [["a", 2]], "task");
      await saver.getTuple(at());
      await own.ping("end");
      await done;
      expect(seen).toEqual(["evalsha", "evalsha", "evalsha"]);
    } finally {
      for (const each of [monitor, watch, own]) each.disconnect();
      await server.stop();
    }
  });

  test("keeps text byte for byte: lone surrogates, NUL, any language", async () => {
    const { saver } = setup();
    const text = "\ud83d half \udc00 \0 \u2028 héllo 日本 👩‍👩‍👧";
    const config = await putChild(saver, at(), { text, list: [text], bytes: new Uint8Array([0, 255, 10]) });
    await saver.putWrites(config, [["text", text]], "task");
    const tuple = await saver.getTuple(config);
    expect(tuple?.checkpoint.channel_values.text).toBe(text);
    expect(tuple?.checkpoint.channel_values.list).toEqual([text]);
    expect(tuple?.checkpoint.channel_values.bytes).toEqual(new Uint8Array([0, 255, 10]));
    expect(tuple?.pendingWrites).toEqual([["task", "text", text]]);
  });

  test("stores what the caller gave, even if it changes right after", async () => {
    const { saver } = setup();
    const list = [1];
    const checkpoint = { ...emptyCheckpoint(), channel_values: { list }, channel_versions: { list: 1 } };
    const stored = saver.put(at(), checkpoint, meta(), { list: 1 });
    list.push(2);
    checkpoint.channel_versions.list = 9;
    expect(await valuesOf(saver, await stored)).toEqual({ list: [1] });
  });

  test("gets the run id of the config, and keeps one of its own", async () => {
    const { saver } = setup();
    const runId = async (config: RunnableConfig, metadata = {}) => {
      const stored = await saver.put(
        config,
        { ...emptyCheckpoint(), id: uuid6(0) },
        { ...meta(), ...metadata },
        {},
      );
      return ((await saver.getTuple(stored))!.metadata as { run_id?: string }).run_id;
    };
    expect(await runId(at())).toBeUndefined();
    expect(await runId({ ...at(), metadata: { run_id: "a" } })).toBe("a");
    expect(await runId({ configurable: { thread_id: "t", run_id: "b" } })).toBe("b");
    expect(await runId({ ...at(), metadata: { run_id: "a" } }, { run_id: "c" })).toBe("c");
  });

  test("does not share values with a branch that counts from the same version", async () => {
    const { saver } = setup();
    const parent = await putChild(saver, at(), { a: "parent" });
    const one = await putChild(saver, parent, { a: "one" });
    const two = await putChild(saver, parent, { a: "two" });
    expect(await valuesOf(saver, parent)).toEqual({ a: "parent" });
    expect(await valuesOf(saver, one)).toEqual({ a: "one" });
    expect(await valuesOf(saver, two)).toEqual({ a: "two" });
  });

  test("takes names that mean something elsewhere", async () => {
    const { saver } = setup();
    const config = await putChild(saver, at(undefined, "a:1|b*[x]"), { constructor: 1, "branch:to:x": 2 });
    await saver.putWrites(config, [["toString", 3]], "hasOwnProperty");
    const tuple = await saver.getTuple(at(undefined, "a:1|b*[x]"));
    expect(tuple?.checkpoint.channel_values).toEqual({ constructor: 1, "branch:to:x": 2 });
    expect(tuple?.pendingWrites).toEqual([["hasOwnProperty", "toString", 3]]);
    expect(await saver.head("t")).toBeNull();
  });

  test.each(["", "a}b", "{a", "a\0b"])("is refused for the thread id %j", async (threadId) => {
    const { saver, prefix } = setup();
    await expect(putChild(saver, at(undefined, "", threadId), {})).rejects.toThrow(InvalidArgumentError);
    expect(await everything(prefix)).toEqual({});
  });

  test("keeps to keys with the thread as their hash tag", async () => {
    const { saver, prefix } = setup();
    const config = await putChild(saver, at(), { a: 1 });
    await saver.putWrites(config, [["a", 2]], "task");
    for (const key of await redis.keys(`${prefix}:*`)) expect(key.startsWith(`${prefix}:{t}:`)).toBe(true);
  });
});

describe("pending writes", () => {
  test("stay once they are stored, except the special ones; they come by task and position", async () => {
    const { saver } = setup();
    const config = await putChild(saver, at(), {});
    const many = Array.from({ length: 12 }, (_, i): [string, unknown] => ["c", i]);
    await saver.putWrites(
      config,
      [
        ["c", "b"],
        [RESUME, "first"],
      ],
      "b",
    );
    await saver.putWrites(config, many, "a");
    await saver.putWrites(
      config,
      [
        ["c", "other"],
        [RESUME, "second"],
      ],
      "b",
    );
    expect((await saver.getTuple(config))?.pendingWrites).toEqual([
      ...many.map(([channel, value]) => ["a", channel, value]),
      ["b", RESUME, "second"],
      ["b", "c", "b"],
    ]);
  });

  test("may come before their checkpoint", async () => {
    const { saver } = setup();
    const checkpoint = emptyCheckpoint();
    await saver.putWrites(at(checkpoint.id), [["a", 1]], "task");
    expect(await saver.getTuple(at(checkpoint.id))).toBeUndefined();
    await saver.put(at(), checkpoint, meta(), {});
    expect((await saver.getTuple(at()))?.pendingWrites).toEqual([["task", "a", 1]]);
  });
});

describe("the head", () => {
  test("is what was put last, whatever its id", async () => {
    const { saver } = setup();
    expect(await saver.head("t")).toBeNull();
    const later = { ...emptyCheckpoint(), id: "2f000000-0000-6000-8000-000000000000" };
    const ahead = await saver.put(at(), later, meta(), {});
    const next = await putChild(saver, ahead, { a: 1 });
    expect(idOf(next) < later.id).toBe(true);
    expect(await saver.head("t")).toBe(idOf(next));
    expect(idOf((await saver.getTuple(at()))?.config)).toBe(idOf(next));
  });

  test("can be put elsewhere, and taken away, per namespace", async () => {
    const { saver } = setup();
    const one = await putChild(saver, at(), { a: 1 });
    const two = await putChild(saver, one, { a: 2 });
    const inner = await putChild(saver, at(undefined, "inner"), { b: 1 });
    await saver.setHead("t", idOf(one));
    expect(await valuesOf(saver, at())).toEqual({ a: 1 });
    await expect(saver.setHead("t", "nowhere")).rejects.toThrow(NoSuchCheckpointError);
    await saver.setHead("t", null);
    expect(await saver.getTuple(at())).toBeUndefined();
    expect(await saver.getTuple(two)).toBeDefined();
    expect(await saver.head("t", "inner")).toBe(idOf(inner));
    await saver.setHead("t", null, "inner");
    expect(await saver.head("t", "inner")).toBeNull();
  });

  test("can be a condition of a put", async () => {
    const { saver, prefix } = setup();
    const put = (ifHead: string | null, checkpoint = { ...emptyCheckpoint(), id: uuid6(0) }) =>
      saver.put(at(), checkpoint, meta(), {}, { ifHead });
    const first = { ...emptyCheckpoint(), id: uuid6(0) };
    await put(null, first);
    const before = await everything(prefix);
    await expect(put(null)).rejects.toThrow(HeadMovedError);
    await expect(put("other")).rejects.toThrow(HeadMovedError);
    expect(await everything(prefix)).toEqual(before);
    // The same again is a put whose answer was lost.
    await put(null, first);
    const second = await put(first.id);
    expect(await saver.head("t")).toBe(idOf(second));
  });
});

describe("list", () => {
  test("goes newest first, in pages, up to a limit, below a checkpoint", async () => {
    const { saver } = setup();
    const ids: string[] = [];
    let config = at();
    for (let i = 0; i < 40; i += 1) {
      config = await putChild(saver, config, { i }, { step: i, even: { is: i % 2 === 0 } });
      ids.unshift(idOf(config));
      await putChild(saver, at(undefined, "other"), { i });
    }
    const found = async (options?: Parameters<RedisCheckpointSaver["list"]>[1]) =>
      (await listed(saver, at(), options)).map((tuple) => tuple.checkpoint.id);
    expect(await found()).toEqual(ids);
    expect(await found({ limit: 17 })).toEqual(ids.slice(0, 17));
    expect(await found({ limit: 0 })).toEqual([]);
    expect(await found({ before: at(ids[5]), limit: 2 })).toEqual(ids.slice(6, 8));
    expect(await found({ filter: { even: { is: true } }, limit: 19 })).toEqual(
      ids.filter((_, i) => i % 2 === 1).slice(0, 19),
    );
    expect((await listed(saver, at(ids[7]))).map((tuple) => tuple.checkpoint.id)).toEqual([ids[7]]);
    expect(await listed(saver, { configurable: { thread_id: "t" } })).toHaveLength(80);
  });
});

describe("a fence", () => {
  test("that is another's refuses every write, and nothing is written", async () => {
    const { saver, prefix, hold } = setup();
    const config = await putChild(saver, at(), { a: 1 }, { run_id: "run" });
    await saver.putWrites(config, [["a", 2]], "task");
    const view = saver.fenced({ runId: "run", fence: 1 });
    const writes: [string, () => Promise<unknown>][] = [
      ["put", () => putChild(view, config, { a: 3 })],
      ["putWrites", () => view.putWrites(config, [["a", 4]], "other")],
      ["setHead", () => view.setHead("t", null)],
      ["discardRun", () => view.discardRun("t", "run", { head: null })],
      ["deleteThread", () => view.deleteThread("t")],
      ["copyThread", () => view.copyThread("t", "copy")],
    ];
    for (const token of [undefined, "run:2", "run:11", "other:1"]) {
      if (token) await hold(token);
      const before = await everything(prefix);
      for (const [name, write] of writes) {
        await expect(write(), `${name} under ${token}`).rejects.toThrow(StaleAttemptError);
      }
      expect(await everything(prefix)).toEqual(before);
    }
    expect(await valuesOf(view, at())).toEqual({ a: 1 });
  });

  test("that is held lets every write through, and marks what is written as the run's", async () => {
    const { saver, hold } = setup();
    await hold("run:1");
    const view = saver.fenced({ runId: "run", fence: 1 });
    const config = await putChild(view, at(), { a: 1 });
    await view.putWrites(config, [["a", 2]], "task");
    expect((await saver.getTuple(at()))?.metadata).toMatchObject({ run_id: "run" });
    await hold("run:1", "copy");
    await view.copyThread("t", "copy");
    await view.setHead("t", null);
    await view.setHead("t", idOf(config));
    await view.discardRun("t", "run", { head: null });
    await view.deleteThread("copy");
    expect(await listed(saver, {})).toEqual([]);
  });

  test("that changes hands in the middle of it all stops the old attempt for good", async () => {
    const { saver, prefix, hold } = setup();
    await hold("run:1");
    const old = saver.fenced({ runId: "run", fence: 1 });
    const config = await putChild(old, at(), { a: 0 });
    const other = redis.duplicate();
    const puts = Array.from({ length: 200 }, () =>
      old.put(config, { ...emptyCheckpoint(), id: uuid6(0) }, meta(), {}),
    );
    await other.set(`${prefix}:{t}:fence`, "run:2");
    other.disconnect();
    // They went down one connection, in order: once one is refused, all after it are.
    const outcomes = (await Promise.allSettled(puts)).map((put) => {
      if (put.status === "rejected") expect(put.reason).toBeInstanceOf(StaleAttemptError);
      return put.status;
    });
    const written = outcomes.filter((status) => status === "fulfilled").length;
    expect(outcomes.slice(written)).not.toContain("fulfilled");
    expect(await listed(saver, at())).toHaveLength(1 + written);
    await expect(putChild(old, config, {})).rejects.toThrow(StaleAttemptError);
    await putChild(saver.fenced({ runId: "run", fence: 2 }), config, { a: "new" });
    expect(await valuesOf(saver, at())).toEqual({ a: "new" });
  });

  test("of a branch leaves the head", async () => {
    const { saver, hold } = setup();
    await hold("run:1");
    const main = await putChild(saver, at(), { a: 1 });
    const branch = saver.fenced({ runId: "run", fence: 1, branch: true });
    const side = await putChild(branch, main, { a: 2 });
    const further = await putChild(branch, side, { a: 3 });
    expect(await saver.head("t")).toBe(idOf(main));
    expect(await valuesOf(branch, at())).toEqual({ a: 1 });
    expect(await valuesOf(saver, further)).toEqual({ a: 3 });
    expect(await listed(saver, at())).toHaveLength(3);
  });
});

describe("discardRun", () => {
  test("of all there was leaves no key", async () => {
    const { saver, prefix } = setup();
    const mine = { metadata: { run_id: "run" } };
    const one = await putChild(saver, { ...at(), ...mine }, { a: 1, b: [1] });
    await saver.putWrites(
      { ...one, ...mine },
      [
        ["a", 1],
        [INTERRUPT, { id: "i", value: 1 }],
      ],
      "task",
    );
    await putChild(saver, { ...one, ...mine }, { a: 2 });
    await putChild(saver, { ...at(undefined, "inner:1"), ...mine }, { c: 1 });
    // Written, but its checkpoint never came: the worker died in between.
    await saver.putWrites({ ...at(uuid6(0)), ...mine }, [["a", 1]], "task");
    await saver.discardRun("t", "run", { head: null });
    expect(await everything(prefix)).toEqual({});
  });

  test("leaves a thread as it was before the run", async () => {
    const { saver, prefix, hold } = setup();
    const one = await putChild(saver, at(), { a: 1, b: 1 }, { run_id: "before" });
    const inner = await putChild(saver, at(undefined, "inner"), { c: 1 }, { run_id: "before" });
    await saver.putWrites(
      { ...one, metadata: { run_id: "before" } },
      [
        ["x", 1],
        [RESUME, ["yes"]],
      ],
      "task",
    );
    await hold("run:1");
    const before = await everything(prefix);

    const view = saver.fenced({ runId: "run", fence: 1 });
    // A resume: the run's first writes go to the checkpoint of the run before it.
    await view.putWrites(one, [["y", 1]], "new task");
    await view.putWrites(one, [[RESUME, ["yes", "no"]]], "task");
    await view.putWrites(one, [[RESUME, ["yes", "no", "maybe"]]], "task");
    const two = await putChild(view, one, { a: 2 });
    await view.putWrites(two, [["a", 3]], "task");
    await putChild(view, two, { b: 3, new: 1 });
    await putChild(view, inner, { c: 2 });
    expect(await everything(prefix)).not.toEqual(before);
    await view.discardRun("t", "run", { head: idOf(one) });
    expect(await everything(prefix)).toEqual(before);
    expect(await saver.head("t", "inner")).toBe(idOf(inner));
  });

  test("keeps the values that a checkpoint of a later run shares", async () => {
    const { saver, prefix } = setup();
    const one = await putChild(saver, at(), { a: 1 }, { run_id: "before" });
    const two = await putChild(saver, one, { a: 2, b: 2 }, { run_id: "run" });
    const three = await putChild(saver, two, { a: 3 }, { run_id: "after" });
    await saver.discardRun("t", "run", { head: idOf(three) });
    expect(await saver.getTuple(two)).toBeUndefined();
    expect(await valuesOf(saver, three)).toEqual({ a: 3, b: 2 });
    expect(await valuesOf(saver, one)).toEqual({ a: 1 });
    expect(await redis.hlen(`${prefix}:{t}:blobs`)).toBe(3);
  });

  test("refuses a head that is unknown or about to go, and then discards nothing", async () => {
    const { saver, prefix } = setup();
    const one = await putChild(saver, at(), { a: 1 }, { run_id: "run" });
    const before = await everything(prefix);
    for (const head of ["nowhere", idOf(one)]) {
      await expect(saver.discardRun("t", "run", { head })).rejects.toThrow(NoSuchCheckpointError);
    }
    expect(await everything(prefix)).toEqual(before);
  });

  test("of a run that wrote nothing puts the head back all the same", async () => {
    const { saver } = setup();
    const one = await putChild(saver, at(), { a: 1 });
    await putChild(saver, one, { a: 2 });
    await saver.discardRun("t", "run", { head: idOf(one) });
    expect(await saver.head("t")).toBe(idOf(one));
  });
});

describe("a thread", () => {
  test("is copied whole, and the copy lives on its own", async () => {
    const { saver } = setup();
    const one = await putChild(saver, at(), { a: 1 });
    await saver.putWrites(one, [["a", 2]], "task");
    const two = await putChild(saver, one, { a: 2 });
    await saver.setHead("t", idOf(one));
    await saver.copyThread("t", "copy");
    await expect(saver.copyThread("t", "copy")).rejects.toThrow(ThreadExistsError);
    await expect(saver.copyThread("nobody", "other")).rejects.toThrow(NoSuchThreadError);
    await saver.deleteThread("t");
    const tuple = await saver.getTuple(at(undefined, "", "copy"));
    expect(tuple?.config).toEqual(at(idOf(one), "", "copy"));
    expect(tuple?.pendingWrites).toEqual([["task", "a", 2]]);
    expect(await valuesOf(saver, at(idOf(two), "", "copy"))).toEqual({ a: 2 });
  });

  test("is deleted to the last key, but for the fence", async () => {
    const { saver, prefix, hold } = setup();
    const config = await putChild(saver, at(), { a: 1 });
    await saver.putWrites(config, [["a", 2]], "task");
    await putChild(saver, at(undefined, "", "other"), { a: 1 });
    await hold("run:1");
    await saver.deleteThread("t");
    expect(await redis.keys(`${prefix}:{t}:*`)).toEqual([`${prefix}:{t}:fence`]);
    expect(await valuesOf(saver, at(undefined, "", "other"))).toEqual({ a: 1 });
  });
});

describe("concurrency", () => {
  test("no reader ever sees half a checkpoint, while others put, write and discard", async () => {
    const { saver, prefix } = setup();
    const base = await putChild(saver, at(), { a: "base", b: "base" }, { run_id: "base" });
    const others = [redis.duplicate(), redis.duplicate()];
    let writing = true;
    const reader = async (connection: Redis) => {
      const view = new RedisCheckpointSaver(connection, { prefix });
      let reads = 0;
      while (writing) {
        const tuple = (await view.getTuple(at()))!;
        const { a, b } = tuple.checkpoint.channel_values;
        expect(a).toBe(b);
        expect(a).toBeDefined();
        reads += 1;
      }
      return reads;
    };
    const readers = others.map(reader);
    try {
      for (let i = 0; i < 60; i += 1) {
        const run = { metadata: { run_id: `run${i}` } };
        const one = await putChild(saver, { ...base, ...run }, { a: i, b: i });
        await saver.putWrites({ ...one, ...run }, [["a", i]], "task");
        await putChild(saver, { ...one, ...run }, { a: -i, b: -i });
        await saver.discardRun("t", `run${i}`, { head: idOf(base) });
      }
    } finally {
      writing = false;
      for (const reads of await Promise.all(readers)) expect(reads).toBeGreaterThan(0);
      for (const connection of others) connection.disconnect();
    }
    expect(await listed(saver, at())).toHaveLength(1);
    expect(await redis.hlen(`${prefix}:{t}:blobs`)).toBe(2);
  });
});

describe("delta channels", () => {
  test("are followed for longer than one page of ancestors, on their own line only", async () => {
    const { saver } = setup();
    const put = (parent: RunnableConfig, values = {}, versions = {}) =>
      saver.put(
        parent,
        { ...emptyCheckpoint(), id: uuid6(0), channel_values: values, channel_versions: versions },
        meta(),
        versions,
      );
    let config = await put(at(), { d: "seed" }, { d: 1 });
    const root = config;
    for (let i = 0; i < 600; i += 1) {
      await saver.putWrites(
        config,
        [
          ["d", i],
          ["e", i],
        ],
        "task",
      );
      config = await put(config);
    }
    await saver.putWrites(root, [["d", "branch"]], "x");
    const history = await saver.getDeltaChannelHistory({ config: at(), channels: ["d", "e", "f"] });
    expect(history.d?.seed).toBe("seed");
    expect(history.d?.writes.map(([, , value]) => value)).toEqual([
      0,
      "branch",
      ...Array.from({ length: 599 }, (_, i) => i + 1),
    ]);
    expect(history.e?.writes).toHaveLength(600);
    expect(history.e).not.toHaveProperty("seed");
    expect(history.f).toEqual({ writes: [] });
  });
});

function meta(): CheckpointMetadata {
  return { source: "loop", step: 0, parents: {} };
}

describe("values that no JSON has", () => {
  const stored = async (value: unknown) => {
    const { saver } = setup();
    const config = await putChild(saver, at(), { a: value, b: 1 });
    await saver.putWrites(config, [["a", value]], "task");
    const { checkpoint, pendingWrites } = (await saver.getTuple(config))!;
    expect(checkpoint.channel_values.b).toBe(1);
    return { value: checkpoint.channel_values.a, write: pendingWrites?.[0]?.[2] };
  };

  test.each<[string, unknown]>([
    ["a BigInt", 12345678901234567890n],
    ["BigInts in depth", { a: [1n, new Map([["b", new Set([2n])]])], c: "x" }],
    ["a Map, a Set, an Error", [new Map([[1, { a: 2 }]]), new Set(["a"]), new Error("no")]],
  ])("%s comes back as it was", async (_, value) => {
    expect(await stored(value)).toEqual({ value, write: value });
  });

  test.each<[string, unknown]>([
    ["a function", () => 1],
    ["a symbol", Symbol("s")],
  ])("%s is left out, and the rest is there", async (_, value) => {
    expect(await stored(value)).toEqual({ value: undefined, write: undefined });
    expect(await stored({ f: value, x: 1 })).toMatchObject({ value: { x: 1 } });
  });

  test("what contains itself, beside a BigInt", async () => {
    const one: Record<string, unknown> = { n: 1n };
    one.self = one;
    expect((await stored(one)).value).toEqual({ n: 1n, self: "[Circular]" });
  });

  test("a value that was stored as nothing at all costs the thread only itself", async () => {
    const { saver, prefix } = setup();
    const config = await putChild(saver, at(), { a: 1, b: 2 });
    const blobs = `${prefix}:{t}:blobs`;
    const field = (await redis.hkeys(blobs)).find((each) => each.startsWith("\0a\0"))!;
    await redis.hset(blobs, field, "json\0");
    expect(await valuesOf(saver, config)).toEqual({ b: 2 });
  });
});
