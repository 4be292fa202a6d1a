import { HumanMessage } from "@langchain/core/messages";
import type { RunnableConfig } from "@langchain/core/runnables";
import { Annotation, Command, interrupt, StateGraph } from "@langchain/langgraph";
import { type Checkpoint, emptyCheckpoint, INTERRUPT, RESUME, uuid6 } from "@langchain/langgraph-checkpoint";
import { Redis } from "ioredis";
import { afterAll, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { NoSuchCheckpointError, NoSuchThreadError, ThreadExistsError } from "./errors.ts";
import { ForkView } from "./fork-view.ts";
import { threadKeys } from "./keys.ts";
import { RedisCheckpointSaver } from "./saver.ts";
import { withScripts } from "./scripts.ts";

const redis = new Redis(testRedisUrl());
afterAll(() => redis.disconnect());

function setup() {
  const prefix = testPrefix();
  const open = () => new RedisCheckpointSaver(redis, { prefix });
  return { prefix, saver: open(), open };
}

const at = (id?: string, ns = "", threadId = "t"): RunnableConfig => ({
  configurable: { thread_id: threadId, checkpoint_ns: ns, ...(id && { checkpoint_id: id }) },
});
const idOf = (config: RunnableConfig): string => config.configurable?.checkpoint_id;
const inCopy = (config: RunnableConfig): RunnableConfig => ({
  configurable: { ...config.configurable, thread_id: "copy" },
});

/** Puts a child of `parent` in which `values` are new: the other channels carry over. */
async function put(
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

const text = (name: string, length = 300) => `${name} `.padEnd(length, "words ");
const said = (id: string, length?: number) => new HumanMessage({ id, content: text(id, length) });
const list = (name: string, count: number) => Array.from({ length: count }, (_, i) => said(`${name}-${i}`));

const valuesAt = async (saver: RedisCheckpointSaver, config: RunnableConfig) =>
  (await saver.getTuple(config))?.checkpoint.channel_values;
const writesAt = async (saver: RedisCheckpointSaver, config: RunnableConfig) =>
  (await saver.getTuple(config))?.pendingWrites;

async function idsOf(saver: RedisCheckpointSaver, threadId: string, ns = ""): Promise<string[]> {
  const ids: string[] = [];
  for await (const tuple of saver.list(at(undefined, ns, threadId))) ids.push(tuple.checkpoint.id);
  return ids;
}

/** All that a thread's keys hold, as one text. */
async function contents(prefix: string, threadId: string): Promise<string> {
  const parts: string[] = [];
  for (const key of threadKeys(prefix, threadId).slice(1)) {
    if ((await redis.type(key)) === "zset") parts.push(...(await redis.zrange(key, "0", "-1")));
    else parts.push(...Object.entries(await redis.hgetall(key)).flat());
  }
  return parts.join("\n");
}

describe("a copy up to a checkpoint", () => {
  test("has what leads to it, and nothing of what comes behind it or beside it", async () => {
    const { saver, prefix, open } = setup();
    const base = list("base", 40);
    const one = await put(saver, at(), { messages: base, note: "of all", short: ["of all"] });
    await saver.putWrites(one, [["messages", [...base, said("written")]]], "task");
    const two = await put(saver, one, { messages: [...base, said("ours")], note: "ours" });
    await saver.putWrites(two, [["note", "waits"]], "task");
    const theirs = [...base, said("theirs-1"), said("theirs-2", 9000), ...list("theirs", 70)];
    const three = await put(saver, one, { messages: theirs, note: "theirs-note", other: list("theirs", 3) });
    await saver.putWrites(three, [["messages", [...theirs, said("theirs-3")]]], "task");
    await put(saver, two, { messages: [...base, said("ours"), said("theirs-later")], note: "theirs-later" });

    await saver.copyThread("t", "copy", { checkpointId: idOf(two) });
    expect(await contents(prefix, "t")).toContain("theirs");
    expect(await contents(prefix, "copy")).not.toContain("theirs");
    const reader = open();
    expect(await reader.head("copy")).toBe(idOf(two));
    expect(await idsOf(reader, "copy")).toEqual([idOf(two), idOf(one)]);
    for (const config of [one, two]) {
      expect(await valuesAt(reader, inCopy(config))).toEqual(await valuesAt(saver, config));
      expect(await writesAt(reader, inCopy(config))).toEqual(await writesAt(saver, config));
    }
    expect((await reader.getTuple(at(undefined, "", "copy")))?.parentConfig).toEqual(inCopy(one));
    expect(await reader.getTuple(inCopy(three))).toBeUndefined();
    // Nothing of a list that only others have: not its counter either.
    expect(await contents(prefix, "copy")).not.toContain("\u0001\0other");
  });

  test.each([1, 2, 3, 4])(
    "of any tree has all that its checkpoints have, and not a word more: %i",
    async (seed) => {
      const { saver, prefix, open } = setup();
      let state = seed;
      const random = (below: number) => {
        state = (state * 48_271) % 2_147_483_647;
        return state % below;
      };
      let words = 0;
      // Short ones that are stored whole, some among others, and some alone in their fields.
      const fresh = () => said(`word-${words++}-`, [30, 300, 300, 6000][random(4)]);
      const tree: { config: RunnableConfig; parent: number; messages: HumanMessage[] }[] = [];
      for (let i = 0; i < 40; i++) {
        const parent = i === 0 ? -1 : random(3) === 0 ? random(i) : i - 1;
        const messages = [...(tree[parent]?.messages ?? [])];
        for (let n = random(8); n > 0; n--) messages.splice(random(messages.length + 1), random(2), fresh());
        const metadata = { run_id: `run-${random(9)}` };
        const config = await put(
          saver,
          tree[parent]?.config ?? at(),
          { messages, note: fresh().content },
          metadata,
        );
        tree.push({ config, parent, messages });
        if (random(3) > 0) continue;
        const writes: [string, unknown][] = [
          ["messages", [...messages, fresh()]],
          ["note", "written"],
        ];
        await saver.putWrites({ ...config, metadata }, writes, `task-${random(3)}`);
      }
      const used = (text: string) => new Set(text.match(/word-\d+-/g));
      for (const i of [39, random(39), random(39), random(39)]) {
        const copyId = `copy-${i}`;
        await saver.deleteThread(copyId);
        await saver.copyThread("t", copyId, { checkpointId: idOf(tree[i]!.config) });
        const line: RunnableConfig[] = [];
        for (let at = i; at !== -1; at = tree[at]!.parent) line.push(tree[at]!.config);
        expect(await idsOf(saver, copyId)).toEqual(line.map(idOf));
        let known = "";
        for (const config of line) {
          const original = (await saver.getTuple(config))!;
          const copied = (await open().getTuple(at(idOf(config), "", copyId)))!;
          expect(copied.checkpoint).toEqual(original.checkpoint);
          expect(original.pendingWrites).toEqual(expect.arrayContaining(copied.pendingWrites!));
          known += JSON.stringify([copied.checkpoint, copied.pendingWrites]);
        }
        expect(used(await contents(prefix, copyId))).toEqual(used(known));
      }
    },
  );

  test("goes on as any thread, for those who knew the original too", async () => {
    const { saver, open } = setup();
    const base = list("base", 45);
    const one = await put(saver, at(), { messages: base });
    const two = await put(saver, one, { messages: [...base, ...list("gone", 30)] });
    await saver.copyThread("t", "copy", { checkpointId: idOf(one) });
    for (const by of [saver, open()]) {
      const longer = [...base, ...list("new", 40)];
      const next = await put(by, inCopy(one), { messages: longer });
      expect((await valuesAt(open(), next))?.messages).toEqual(longer);
      expect((await valuesAt(open(), inCopy(one)))?.messages).toEqual(base);
    }
    expect((await valuesAt(open(), two))?.messages).toHaveLength(75);
  });

  test("of a checkpoint, a thread or a place that is not there is refused, and leaves nothing", async () => {
    const { saver, prefix } = setup();
    const one = await put(saver, at(), { a: 1 });
    const inner = await put(saver, at(undefined, "inner"), { a: 1 });
    const copy = (from: string, checkpointId: string) => saver.copyThread(from, "copy", { checkpointId });
    await expect(copy("t", "nothing")).rejects.toThrow(NoSuchCheckpointError);
    await expect(copy("t", "")).rejects.toThrow(NoSuchCheckpointError);
    await expect(copy("t", idOf(inner))).rejects.toThrow(NoSuchCheckpointError);
    await expect(copy("nobody", idOf(one))).rejects.toThrow(NoSuchThreadError);
    expect(await redis.keys(`${prefix}:{copy}:*`)).toEqual([]);
    await copy("t", idOf(one));
    const before = await contents(prefix, "copy");
    await expect(copy("t", idOf(one))).rejects.toThrow(ThreadExistsError);
    expect(await contents(prefix, "copy")).toBe(before);
  });

  test("that is sent again because its answer was lost is made once", async () => {
    const { saver, prefix } = setup();
    await put(saver, at(), { a: 1 });
    const [dumps] = await withScripts(redis).tlCheckpointDumpBuffer(...threadKeys(prefix, "t"), "");
    const restore = (generation: string) =>
      withScripts(redis).tlCheckpointRestore(
        ...threadKeys(prefix, "copy"),
        "",
        generation,
        ...dumps.map((dump) => dump ?? ""),
        "0",
      );
    expect(await restore("one")).toBe(1);
    await put(saver, at(undefined, "", "copy"), { a: 2 });
    expect(await restore("one")).toBe(1);
    expect(await restore("other")).toBe(-4);
    expect(await valuesAt(saver, at(undefined, "", "copy"))).toEqual({ a: 2 });
  });

  test("at a fork has what the fork shows and what it stands for, and goes on as it would", async () => {
    const { saver } = setup();
    const run = (run_id: string, more: object = {}) => ({ run_id, ...more });
    const stood = await put(saver, at(), { a: "stood" }, run("one"));
    const inner = (parent: RunnableConfig, a: string, by: string) =>
      put(saver, parent, { a }, run(by, { parents: { "": idOf(stood) } }));
    const innerStood = await inner(at(undefined, "sub:task"), "inner stood", "one");
    const innerShown = await inner(innerStood, "inner shown", "one");
    const stop = { at: idOf(stood), nested: { "sub:task": idOf(innerShown) } };
    const shown = await put(saver, stood, { a: "shown" }, run("one", { stop }));
    const innerFork = await inner(innerShown, "inner fork", "two");
    const fork = await put(saver, shown, { a: "stood" }, run("two", { as: idOf(stood), shown: idOf(shown) }));
    await saver.putWrites(fork, [["a", "done"]], "task");
    const innerOn = await inner(innerFork, "inner on", "two");
    await put(saver, fork, { a: "on" }, run("two"));

    await saver.copyThread("t", "copy", { checkpointId: idOf(fork) });
    expect(await idsOf(saver, "copy")).toEqual([fork, shown, stood].map(idOf));
    const seen = await new ForkView(saver).getTuple(at(undefined, "", "copy"));
    expect(seen?.checkpoint.id).toBe(idOf(stood));
    expect(seen?.pendingWrites).toEqual([["task", "a", "done"]]);
    // Below, the fork goes by the id of what it stands for.
    expect(await saver.head("copy", "sub:task")).toBe(idOf(innerOn));

    // Where it was stopped: what came of it later is not there.
    await saver.copyThread("t", "stopped", { checkpointId: idOf(shown) });
    expect(await idsOf(saver, "stopped", "sub:task")).toEqual([innerShown, innerStood].map(idOf));
    expect(await saver.head("stopped", "sub:task")).toBe(idOf(innerShown));
  });

  test("leaves out what runs of other branches wrote to its checkpoints, and brings back what that replaced", async () => {
    const { saver, prefix } = setup();
    const of = (runId: string, config: RunnableConfig) => ({ ...config, metadata: { run_id: runId } });
    const begin = await put(saver, of("one", at()), { a: 0 });
    await saver.putWrites(of("one", begin), [[INTERRUPT, "Really?"]], "task");
    // It answered half of what was asked, and came no further.
    await saver.putWrites(of("two", begin), [["a", "half"]], "half");
    await saver.putWrites(of("two", begin), [[INTERRUPT, "Sure?"]], "task");
    await saver.putWrites(of("theirs", begin), [[INTERRUPT, "theirs"]], "task");
    await saver.putWrites(of("theirs", begin), [[RESUME, "theirs"]], "task");
    await saver.putWrites(of("theirs", begin), [["a", "theirs"]], "task");
    await put(saver, of("theirs", begin), { a: 1 });
    await saver.copyThread("t", "copy", { checkpointId: idOf(begin) });
    expect(await writesAt(saver, inCopy(begin))).toEqual([
      ["half", "a", "half"],
      ["task", INTERRUPT, "Sure?"],
    ]);
    expect(await contents(prefix, "copy")).not.toContain("theirs");
  });

  test("of a graph that waits in a subgraph waits there, and takes another answer", async () => {
    const { saver, open, prefix } = setup();
    const State = Annotation.Root({
      trail: Annotation<string[]>({ reducer: (a, b) => [...a, ...b], default: () => [] }),
    });
    const inner = (keepsState: boolean) =>
      new StateGraph(State)
        .addNode("first", () => ({ trail: ["first"] }))
        .addNode("ask", () => ({ trail: [interrupt("Which?") as string] }))
        .addEdge("__start__", "first")
        .addEdge("first", "ask")
        .compile(keepsState ? { checkpointer: true } : {});
    for (const keepsState of [false, true]) {
      const graph = new StateGraph(State)
        .addNode("sub", inner(keepsState))
        .addEdge("__start__", "sub")
        .compile({ checkpointer: saver });
      const threadId = `asks-${keepsState}`;
      const copyId = `${threadId}-copy`;
      const config = (thread: string, run_id: string, checkpoint_id?: string) => ({
        configurable: { thread_id: thread, ...(checkpoint_id && { checkpoint_id }) },
        metadata: { run_id },
      });
      await graph.invoke({ trail: ["in"] }, config(threadId, "one"));
      const waiting = (await saver.head(threadId))!;
      const { trail } = await graph.invoke(new Command({ resume: "yes" }), config(threadId, "two"));
      expect(trail).toContain("yes");
      const [ns] = [...(await saver.heads(threadId)).keys()].filter((each) => each !== "");
      const said = (await saver.getTuple(at(undefined, ns, threadId)))?.checkpoint.channel_values.trail;
      expect(said).toContain("yes");

      const copying = open();
      await copying.copyThread(threadId, copyId, { checkpointId: waiting });
      expect(await contents(prefix, copyId)).not.toContain("yes");
      const copied = (await copying.getTuple(at(undefined, ns, copyId)))?.checkpoint.channel_values.trail;
      expect(copied).toEqual(["in", "first"]);
      const again = await graph.invoke(new Command({ resume: "no" }), config(copyId, "three"));
      expect(again.trail.filter((each) => ["yes", "no"].includes(each))).toEqual(["no"]);
      // A copy of where it ended has the subgraph as it ended.
      await copying.copyThread(threadId, `${copyId}-end`, { checkpointId: (await saver.head(threadId))! });
      const end = await copying.getTuple(at(undefined, ns, `${copyId}-end`));
      expect(end?.checkpoint.channel_values.trail).toEqual(said);
    }
  });
});
