import {
  AIMessage,
  AIMessageChunk,
  type BaseMessage,
  FunctionMessage,
  HumanMessage,
  RemoveMessage,
  SystemMessage,
  ToolMessage,
} from "@langchain/core/messages";
import type { RunnableConfig } from "@langchain/core/runnables";
import { MemorySaver } from "@langchain/langgraph";
import {
  type BaseCheckpointSaver,
  type Checkpoint,
  emptyCheckpoint,
  JsonPlusSerializer,
  uuid6,
} from "@langchain/langgraph-checkpoint";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type PrivateRedis,
  startPrivateRedis,
  testPrefix,
  testRedisUrl,
} from "../../../test/support/redis.ts";
import { StaleAttemptError } from "./errors.ts";
import { RedisCheckpointSaver, type SaverOptions } from "./saver.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

function setup(options: SaverOptions = {}) {
  const prefix = testPrefix();
  const open = () => new RedisCheckpointSaver(redis, { prefix, ...options });
  return { prefix, saver: open(), open, blobs: `${prefix}:{t}:blobs` };
}

const at = (id?: string, ns = ""): RunnableConfig => ({
  configurable: { thread_id: "t", checkpoint_ns: ns, ...(id && { checkpoint_id: id }) },
});
const idOf = (config: RunnableConfig): string => config.configurable?.checkpoint_id;

/** Puts a child of `parent` in which a channel has another value. */
async function put(
  saver: BaseCheckpointSaver,
  parent: RunnableConfig,
  value: unknown,
  { runId, channel = "messages" }: { runId?: string; channel?: string } = {},
): Promise<RunnableConfig> {
  const old = idOf(parent) ? (await saver.getTuple(parent))!.checkpoint : emptyCheckpoint();
  const newVersions = { [channel]: saver.getNextVersion(old.channel_versions[channel] as never) };
  const checkpoint: Checkpoint = {
    ...old,
    id: uuid6(0),
    channel_values: { ...old.channel_values, [channel]: value },
    channel_versions: { ...old.channel_versions, ...newVersions },
  };
  const metadata = { source: "loop" as const, step: 0, parents: {}, ...(runId && { run_id: runId }) };
  return await saver.put(parent, checkpoint, metadata, newVersions);
}

async function read(saver: BaseCheckpointSaver, config: RunnableConfig, channel = "messages") {
  return (await saver.getTuple(config))?.checkpoint.channel_values[channel] as BaseMessage[];
}

/** What a value is as LangGraph stores it: nothing that it says of a message is left out. */
async function plain(value: unknown): Promise<unknown> {
  const [, bytes] = await new JsonPlusSerializer().dumpsTyped(value);
  return JSON.parse(Buffer.from(bytes).toString());
}

const text = (name: string) => `${name} `.padEnd(300, "words ");
const said = (id: string, content = text(id)) => new HumanMessage({ id, content });

async function size(key: string): Promise<number> {
  const fields = await redis.hgetall(key);
  return Object.entries(fields).reduce((sum, [field, value]) => sum + field.length + value.length, 0);
}

describe("a conversation", () => {
  test("takes as much for a turn when it is long as when it is short", async () => {
    const { saver, blobs } = setup();
    let config = at();
    const messages: BaseMessage[] = [];
    const sizes: number[] = [];
    for (let i = 0; i < 200; i++) {
      messages.push(said(`m${i}`));
      config = await put(saver, config, [...messages]);
      if (i % 50 === 49) sizes.push(await size(blobs));
    }
    const [first, second, third, fourth] = sizes as [number, number, number, number];
    expect(fourth - third).toBeLessThan(1.1 * (second - first));
    expect(fourth).toBeLessThan(200 * 700);
    expect(await read(saver, config)).toEqual(messages);
  });

  test("is shared by all branches, and by whoever comes with a copy of it", async () => {
    const { saver, open, blobs } = setup();
    const messages = Array.from({ length: 100 }, (_, i) => said(`m${i}`));
    const base = await put(saver, at(), messages);
    const before = await size(blobs);
    for (let i = 0; i < 20; i++) {
      // Another process, which has seen nothing of it, and messages that were made anew.
      const copies = messages.map(({ id, content }) => said(id!, content as string));
      await put(open(), base, [...copies, said(`branch-${i}`)]);
    }
    expect((await size(blobs)) - before).toBeLessThan(20 * 700);
  });

  test("has in every version what it had there, whatever became of its messages", async () => {
    const { saver } = setup();
    const [first, second, third] = [said("1"), said("2"), said("3")];
    const versions: [RunnableConfig, unknown][] = [];
    let config = at();
    const store = async (list: BaseMessage[]) => {
      config = await put(saver, config, list);
      versions.push([config, await plain(list)]);
    };
    await store([first, second, third]);
    second.content = text("changed in place");
    await store([first, second, third]);
    (third.additional_kwargs as Record<string, unknown>).deep = { in: ["it"] };
    await store([first, second, third]);
    await store([third, first]);
    await store([said("0"), third, first, said("4")]);
    await store([first, first, first]);
    await store([]);
    await store([first]);
    for (const [config, list] of versions) expect(await plain(await read(saver, config))).toEqual(list);
  });
});

describe("elements of a list", () => {
  const messages: Record<string, BaseMessage> = {
    human: said("1"),
    "human without an id": new HumanMessage(text("x")),
    ai: new AIMessage({ id: "2", content: text("ai"), response_metadata: { model: "m" } }),
    "with calls": new AIMessage({
      id: "3",
      content: "",
      tool_calls: [{ name: "f", args: { a: text("arg") }, id: "c" }],
      usage_metadata: { input_tokens: 1, output_tokens: 2, total_tokens: 3 } as never,
    }),
    "with broken calls": new AIMessage({
      content: text("ai"),
      invalid_tool_calls: [{ name: "f", args: "{", id: "c", error: "no" }],
    }),
    "calls only for its provider": new AIMessage({
      content: text("ai"),
      additional_kwargs: {
        tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{}" } }],
      },
      tool_calls: [],
    }),
    "a chunk": new AIMessageChunk({ id: "4", content: text("chunk") }).concat(
      new AIMessageChunk({
        id: "4",
        content: "more",
        tool_call_chunks: [{ name: "f", args: "{}", index: 0 }],
      }),
    ),
    blocks: new HumanMessage({ content: [{ type: "text", text: text("block") }] }),
    system: new SystemMessage(text("system")),
    tool: new ToolMessage({ content: text("tool"), tool_call_id: "c", status: "error", artifact: { a: 1 } }),
    "tool with nothing to show": new ToolMessage({
      content: text("tool"),
      tool_call_id: "c",
      artifact: null,
    }),
    function: new FunctionMessage({ content: text("function"), name: "f" }),
    remove: new RemoveMessage({ id: "5" }),
    "with a Map": new HumanMessage({
      content: text("map"),
      additional_kwargs: { map: new Map([[1, 2]]) } as never,
    }),
    "with bytes": new HumanMessage({
      content: text("bytes"),
      additional_kwargs: { at: new Uint8Array([1]) } as never,
    }),
    "with undefined": new HumanMessage({
      content: text("undefined"),
      additional_kwargs: { no: undefined } as never,
    }),
    "with what looks serialised": new HumanMessage({
      content: text("lc"),
      additional_kwargs: { lc: 1, type: "constructor", id: ["x"] } as never,
    }),
    "with odd characters": said("\ud800", `${text("\u2028\u0000\r\n")}\ud83d`),
    long: said("6", "long ".repeat(2_000)),
  };
  const values: Record<string, unknown> = {
    texts: [text("a"), text("b"), ""],
    numbers: Array.from({ length: 300 }, (_, i) => i / 7),
    objects: [{ a: { deep: [text("a"), null, true] } }, [], {}],
    "what JSON has no word for": [
      text("a"),
      undefined,
      -0,
      Number.NaN,
      new Date(0),
      new Set([1]),
      new Uint8Array(3),
    ],
    "lists of lists": [[said("1"), said("2")], [[text("a")]]],
    "what looks like our own": [
      text("@"),
      "@",
      "list\x001-2",
      "",
      "\n",
      "m{}",
      { lc: 2, type: "undefined", text: text("a") },
    ],
    "very long": ["long ".repeat(2_000), "@", "longer ".repeat(4_000)],
  };

  /** What the serializer makes of it when it is stored as a whole. */
  async function whole(value: unknown): Promise<unknown> {
    class AnotherSerializer extends JsonPlusSerializer {}
    const { saver } = setup({ serde: new AnotherSerializer() });
    return await read(saver, await put(saver, at(), value));
  }

  test.each(Object.entries({ ...messages }))("a message: %s", async (_, message) => {
    const { saver, open } = setup();
    const list = [message, said("behind")];
    const config = await put(saver, at(), list);
    const [before, after] = [await whole(list), await read(open(), config)];
    expect(after[0]!.constructor.name).toBe((before as BaseMessage[])[0]!.constructor.name);
    expect(await plain(after)).toEqual(await plain(before));
    const again = await put(open(), config, after);
    expect(await plain(await read(open(), again))).toEqual(await plain(before));
  });

  test.each(Object.entries(values))("%s", async (_, value) => {
    const { saver, open } = setup();
    const config = await put(saver, at(), value);
    const before = await whole(value);
    expect(await read(open(), config)).toEqual(before);
    const again = await put(open(), config, [...(before as unknown[]), "more"]);
    expect(await read(open(), again)).toEqual([...(before as unknown[]), "more"]);
    expect(await read(open(), config)).toEqual(before);
  });

  test("are stored once also where only the serializer knows what they are", async () => {
    const { saver, blobs } = setup();
    const list = Array.from(
      { length: 50 },
      (_, i) => new HumanMessage({ content: text(`${i}`), additional_kwargs: { map: new Map() } as never }),
    );
    let config = await put(saver, at(), list);
    // The serializer writes what it has read in another order, once.
    config = await put(saver, config, await read(saver, config));
    const before = await size(blobs);
    for (let i = 0; i < 10; i++) config = await put(saver, config, await read(saver, config));
    expect((await size(blobs)) - before).toBeLessThan(10 * 100);
  });

  test("are as LangGraph's own serializer has them, where another was chosen", async () => {
    class Sealed extends JsonPlusSerializer {
      override async dumpsTyped(value: unknown): Promise<[string, Uint8Array]> {
        const [type, bytes] = await super.dumpsTyped(value);
        return [type, Buffer.from(Buffer.from(bytes).toString("base64"))];
      }
      override async loadsTyped(type: string, data: Uint8Array | string) {
        return await super.loadsTyped(type, Buffer.from(String(Buffer.from(data as Uint8Array)), "base64"));
      }
    }
    const { saver, blobs } = setup({ serde: new Sealed() });
    const list = [said("secret"), said("too")];
    const config = await put(saver, at(), list);
    expect(await read(saver, config)).toEqual(list);
    expect(JSON.stringify(await redis.hgetall(blobs))).not.toContain("secret");
  });
});

test("what a reader makes of what it read is nobody else's, though it was known here", async () => {
  const { saver } = setup();
  const blocks = [{ type: "text" as const, text: text("block") }];
  const list = Array.from({ length: 70 }, (_, i) => [
    new HumanMessage({ id: `m${i}`, content: blocks, additional_kwargs: { deep: { of: [i] } } }),
    { object: { deep: [text(`${i}`)] } },
  ]).flat();
  const config = await put(saver, at(), list);
  const expected = await plain(list);
  for (const reader of [saver, saver, saver.flat(), saver.flat(), saver]) {
    const read_ = (await read(reader, config)) as unknown as Record<string, unknown>[];
    if (reader === saver) expect(await plain(read_)).toEqual(expected);
    for (const each of read_) {
      const { content, additional_kwargs: more, object } = each as never as Record<string, never>;
      if (content) (content as { text: string }[])[0]!.text = "changed";
      if (more) (more as { deep: { of: unknown[] } }).deep.of.push("changed");
      if (object) (object as { deep: unknown[] }).deep.push("changed");
      each.content = "changed";
    }
  }
});

test("a list that was stored whole, as all once were, is gone on from", async () => {
  const { saver, blobs } = setup();
  const list = Array.from({ length: 10 }, (_, i) => said(`m${i}`));
  const config = await put(saver, at(), list);
  const [type, bytes] = await new JsonPlusSerializer().dumpsTyped(list);
  const [field] = Object.keys(await redis.hgetall(blobs)).filter((name) => /\0messages\0\d/.test(name));
  await redis.del(blobs);
  await redis.hset(blobs, field!, Buffer.concat([Buffer.from(`${type}\0`), bytes]));
  expect(await read(saver, config)).toEqual(list);
  const next = await put(saver, config, [...list, said("next")]);
  expect(await read(saver, next)).toEqual([...list, said("next")]);
  expect(await read(saver, config)).toEqual(list);
});

describe("pending writes", () => {
  const list = Array.from({ length: 40 }, (_, i) => said(`m${i}`));

  test("of a whole conversation are not one more of it", async () => {
    const { saver, prefix } = setup();
    let config = await put(saver, at(), list);
    for (let i = 0; i < 10; i++) {
      const said = await read(saver, config);
      await saver.putWrites(config, [["messages", [...said, new AIMessage(`${i}`)]]], "task");
      config = await put(saver, config, [...said, new AIMessage(`${i}`)]);
    }
    expect(await size(`${prefix}:{t}:writes`)).toBeLessThan(10 * 1000);
    const { pendingWrites } = (await saver.getTuple((await saver.getTuple(config))!.parentConfig!))!;
    expect(await plain(pendingWrites![0]![2])).toEqual(await plain(await read(saver, config)));
  });

  test("are as they were when another process reads them, and when they come twice", async () => {
    const { saver, open } = setup();
    const config = await put(saver, at(), list);
    const written = [said("before"), ...list.slice(3, 20), said("1-5\n+3", text("1-999")), ...list.slice(21)];
    await saver.putWrites(config, [["messages", written]], "task");
    await saver.putWrites(config, [["messages", [said("another")]]], "task");
    const { pendingWrites } = (await open().getTuple(config))!;
    expect(pendingWrites).toEqual([["task", "messages", written]]);
  });

  test("of a delta channel are found on the way up", async () => {
    const { saver, open } = setup();
    const base = await put(saver, at(), list);
    await saver.putWrites(base, [["messages", [...list, said("delta")]]], "task");
    const child = await put(saver, base, [said("x")], { channel: "other" });
    const { messages } = await open().getDeltaChannelHistory({ config: child, channels: ["messages"] });
    expect(messages).toEqual({ seed: list, writes: [["task", "messages", [...list, said("delta")]]] });
  });
});

describe("what is discarded", () => {
  const list = Array.from({ length: 70 }, (_, i) => said(`m${i}`));

  test("takes its elements with it, and no others", async () => {
    const { saver, blobs, prefix } = setup();
    const base = await put(saver, at(), list, { runId: "kept" });
    const long = said("long", "long ".repeat(2_000));
    const doomed = await put(saver, base, [...list.slice(5), long, ...list.slice(0, 5), said("secret")], {
      runId: "gone",
    });
    await saver.putWrites(doomed, [["messages", [...list, said("secret too")]]], "task");
    await saver.discardRun("t", "gone", { head: idOf(base) });
    expect(JSON.stringify(await redis.hgetall(blobs))).not.toMatch(/secret|long long/);
    expect(await redis.hlen(`${prefix}:{t}:writes`)).toBe(0);
    expect(await read(saver, base)).toEqual(list);
    const next = await put(saver, base, [...list, said("next"), long]);
    expect(await read(saver, next)).toEqual([...list, said("next"), long]);
  });

  test("leaves what another run's branch, or another's write, still has of it", async () => {
    const { saver } = setup();
    const base = await put(saver, at(), list.slice(0, 10), { runId: "first" });
    const gone = await put(saver, base, list.slice(0, 40), { runId: "gone" });
    const branch = await put(saver, gone, list.slice(5, 30), { runId: "branch" });
    const written = list.slice(30, 35);
    await saver.putWrites(
      { configurable: { ...base.configurable, run_id: "other" } },
      [["messages", written]],
      "task",
    );
    await saver.discardRun("t", "gone", { head: idOf(branch) });
    expect(await read(saver, branch)).toEqual(list.slice(5, 30));
    const tuple = (await saver.getTuple(base))!;
    expect(tuple.checkpoint.channel_values.messages).toEqual(list.slice(0, 10));
    expect(tuple.pendingWrites).toEqual([["task", "messages", written]]);
  });

  test("is not named by a writer that still knows it", async () => {
    const { saver, open } = setup();
    const base = await put(saver, at(), list.slice(0, 10), { runId: "first" });
    const other = open();
    const gone = await put(other, base, list.slice(0, 40), { runId: "gone" });
    expect(await read(saver, gone)).toEqual(list.slice(0, 40));
    await other.discardRun("t", "gone", { head: idOf(base) });
    // From here on it is what `saver` remembers, not what is there.
    const checkpoint = { ...emptyCheckpoint(), channel_values: { messages: list.slice(0, 50) } };
    const versions = { messages: saver.getNextVersion(undefined) };
    const put_ = { ...checkpoint, id: uuid6(1), channel_versions: versions };
    const config = await saver.put(base, put_, { source: "loop", step: 1, parents: {} }, versions);
    expect(await read(open(), config)).toEqual(list.slice(0, 50));
    await saver.deleteThread("t");
    await saver.putWrites(config, [["messages", list.slice(0, 50)]], "task");
    const again = await saver.put(at(), put_, { source: "loop", step: 1, parents: {} }, versions);
    const { checkpoint: stored, pendingWrites } = (await open().getTuple(again))!;
    expect([stored.channel_values.messages, pendingWrites![0]![2]]).toEqual([
      list.slice(0, 50),
      list.slice(0, 50),
    ]);
  });

  test("is the whole thread: no key is left", async () => {
    const { saver, prefix } = setup();
    const first = await put(saver, at(), list, { runId: "run" });
    await put(saver, first, list.slice(1), { runId: "run" });
    await saver.discardRun("t", "run", { head: null });
    expect(await redis.keys(`${prefix}:*`)).toEqual([]);
  });
});

describe("a Redis that lost writes", () => {
  let server: PrivateRedis;
  let own: Redis;
  beforeAll(async () => {
    server = await startPrivateRedis();
    own = new Redis(server.url);
  });
  afterAll(async () => {
    own.disconnect();
    await server.stop();
  });

  /** What Redis has from here on is what it had then, as after a failover to a replica that lagged. */
  async function fallBack(prefix: string, dumps: [key: string, dump: Buffer][]): Promise<void> {
    await own.del(...(await own.keys(`${prefix}:*`)));
    for (const [key, dump] of dumps) await own.restore(key, 0, dump);
    await own.replicaof("127.0.0.1", 1);
    await own.call("REPLICAOF", "NO", "ONE");
  }

  test.each(["the same writer", "another", "a reader of before"])("gives numbers anew: %s", async (who) => {
    const prefix = testPrefix();
    const open = () => new RedisCheckpointSaver(own, { prefix });
    const [saver, other] = [open(), open()];
    const list = Array.from({ length: 40 }, (_, i) => said(`m${i}`));
    const base = await put(saver, at(), list);
    const keys = await own.keys(`${prefix}:*`);
    const dumps = await Promise.all(
      keys.map(async (key): Promise<[string, Buffer]> => [key, (await own.dumpBuffer(key))!]),
    );
    const lost = Array.from({ length: 40 }, (_, i) => said(`lost-${i}`));
    const gone = await put(saver, base, [...list, ...lost]);
    // Pages that are full, of which there is another version soon.
    expect(await read(saver, gone)).toEqual([...list, ...lost]);
    await fallBack(prefix, dumps);
    const fresh = Array.from({ length: 40 }, (_, i) => said(`new-${i}`));
    const writer = who === "the same writer" ? saver : other;
    const next = await put(writer, base, [...list, ...fresh]);
    // What it still has in its hands holds elements that Redis does not have any more.
    const checkpoint = { ...emptyCheckpoint(), channel_values: { messages: [...list, ...lost, said("z")] } };
    const versions = { messages: saver.getNextVersion(undefined) };
    const late = { ...checkpoint, id: uuid6(1), channel_versions: versions };
    const last = await saver.put(next, late, { source: "loop", step: 1, parents: {} }, versions);
    await saver.putWrites(last, [["messages", [...list, ...lost]]], "task");
    for (const reader of who === "a reader of before" ? [saver] : [saver, other, open()]) {
      expect(await read(reader, base)).toEqual(list);
      expect(await read(reader, next)).toEqual([...list, ...fresh]);
      expect(await read(reader, last)).toEqual([...list, ...lost, said("z")]);
      const { pendingWrites } = (await reader.getTuple(last))!;
      expect(pendingWrites).toEqual([["task", "messages", [...list, ...lost]]]);
    }
  });
});

test("a namespace that has what another has stores it not once more", async () => {
  const { saver, blobs } = setup();
  const list = Array.from({ length: 100 }, (_, i) => said(`m${i}`));
  const base = await put(saver, at(), list);
  const before = await size(blobs);
  for (let i = 0; i < 10; i++) {
    const inner = await put(saver, at(undefined, `sub:${i}`), [...list, said(`inner-${i}`)], {
      runId: `run-${i}`,
    });
    expect(await read(saver, inner)).toEqual([...list, said(`inner-${i}`)]);
  }
  expect((await size(blobs)) - before).toBeLessThan(10 * 1_000);
  await saver.discardRun("t", "run-5", { head: idOf(base) });
  expect(await read(saver, base)).toEqual(list);
  expect(await read(saver, at(undefined, "sub:6"))).toEqual([...list, said("inner-6")]);
  expect(JSON.stringify(await redis.hgetall(blobs))).not.toContain("inner-5");
});

test("a list of any size grows by what is new", async () => {
  const { saver, blobs } = setup();
  const image = (i: number) => said(`m${i}`, `${i}`.padEnd(1_000_000, "x"));
  const list = Array.from({ length: 20 }, (_, i) => image(i));
  let config = await put(saver, at(), list);
  // Others come between, and push it out of what is remembered.
  await put(saver, { configurable: { thread_id: "other", checkpoint_ns: "" } }, list);
  const before = await size(blobs);
  for (let i = 20; i < 23; i++) config = await put(saver, config, [...(await read(saver, config)), image(i)]);
  expect((await size(blobs)) - before).toBeLessThan(3 * 1_010_000);
}, 60_000);

test("a copy of a thread has all of its lists, and goes its own way", async () => {
  const { saver } = setup();
  const list = Array.from({ length: 40 }, (_, i) => said(`m${i}`));
  const config = await put(saver, at(), list);
  await saver.copyThread("t", "copy");
  await put(saver, config, [...list, said("theirs")]);
  const copy: RunnableConfig = { configurable: { ...config.configurable, thread_id: "copy" } };
  const next = await put(saver, copy, [...list, said("ours")]);
  expect(await read(saver, next)).toEqual([...list, said("ours")]);
});

test("a copy in the place of one that was deleted is not taken for it", async () => {
  const { saver } = setup();
  const more = (name: string) => Array.from({ length: 40 }, (_, i) => said(`${name}-${i}`));
  const base = await put(saver, at(), more("base"));
  const copyOf = (config: RunnableConfig) => ({
    configurable: { ...config.configurable, thread_id: "copy" },
  });
  await saver.copyThread("t", "copy");
  const first = await put(saver, copyOf(base), [...more("base"), ...more("first")]);
  expect(await read(saver, first)).toHaveLength(80);
  await saver.deleteThread("copy");
  const next = await put(saver, base, [...more("base"), ...more("second")]);
  await saver.copyThread("t", "copy");
  expect(await read(saver, copyOf(next))).toEqual([...more("base"), ...more("second")]);
  const last = await put(saver, copyOf(next), [...more("base"), ...more("first")]);
  expect(await read(saver, last)).toEqual([...more("base"), ...more("first")]);
});

test("a stale attempt stores no element", async () => {
  const { saver, prefix, blobs } = setup();
  await redis.set(`${prefix}:{t}:fence`, "run:2");
  const stale = saver.fenced({ runId: "run", fence: 1 });
  const list = Array.from({ length: 10 }, (_, i) => said(`m${i}`));
  await expect(put(stale, at(), list)).rejects.toThrow(StaleAttemptError);
  expect(await redis.exists(blobs)).toBe(0);
});

/** A generator of numbers that gives the same ones for the same seed. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("whatever is done to a thread, every version is what LangGraph's own saver has", () => {
  test.each([1, 2, 3, 4, 5, 6])("round %i", async (seed) => {
    const next = random(seed);
    const { open } = setup();
    const savers = [open(), open(), open()];
    const model = new MemorySaver();
    const versions: { config: RunnableConfig; run: string; parent: RunnableConfig }[] = [];
    let made = 0;
    const fresh = () => {
      made++;
      const content = next(8) === 0 ? `${made} `.repeat(3_000) : text(`${made}`);
      return next(2) === 0
        ? said(`m${made}`, content)
        : new AIMessage({ id: `m${made}`, content, tool_calls: [] });
    };
    for (let step = 0; step < 60; step++) {
      const saver = savers[next(savers.length)]!;
      const from = versions[Math.max(0, versions.length - 1 - next(4))];
      const parent = from?.config ?? at();
      const list = from ? [...(await read(saver, parent))] : [];
      for (let i = next(12); i >= 0; i--)
        list.splice(next(4) === 0 ? next(list.length + 1) : list.length, 0, fresh());
      if (list.length > 20 && next(3) === 0) list.splice(next(list.length), next(10));
      if (next(3) === 0) list[next(list.length)]!.content = text(`edited ${step}`);
      const run = `run-${next(6)}`;
      const config = await put(saver, parent, list, { runId: run });
      const { checkpoint, metadata } = (await savers[0]!.getTuple(config))!;
      await model.put(parent, { ...checkpoint, channel_values: { messages: list } }, metadata!);
      versions.push({ config, run, parent });
      if (next(3) === 0) {
        await saver.putWrites(config, [["messages", [...list, fresh()]]], `task-${step}`);
      }
      if (next(12) === 0) {
        // A run whose checkpoints nobody's are made of.
        const gone = `run-${next(6)}`;
        const isParent = (config: RunnableConfig) =>
          versions.some(({ parent, run }) => run !== gone && idOf(parent) === idOf(config));
        const left = versions.filter((each) => each.run !== gone);
        if (left.length > 0 && !versions.some((each) => each.run === gone && isParent(each.config))) {
          await saver.discardRun("t", gone, { head: idOf(left.at(-1)!.config) });
          versions.splice(0, versions.length, ...left);
        }
      }
      const looked = versions[next(versions.length)]!.config;
      expect(await plain(await read(saver, looked))).toEqual(await plain(await read(model, looked)));
    }
    for (const { config } of versions) {
      expect(await plain(await read(open(), config))).toEqual(await plain(await read(model, config)));
    }
    const listed: unknown[] = [];
    for await (const { checkpoint } of open().list(at()))
      listed.push(await plain(checkpoint.channel_values.messages));
    const expected = versions.map(({ config }) => config).sort((a, b) => (idOf(a) < idOf(b) ? 1 : -1));
    expect(listed).toEqual(
      await Promise.all(expected.map(async (config) => plain(await read(model, config)))),
    );
  });
});
