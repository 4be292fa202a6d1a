/** Deleting a thread: nothing is left of it, wherever a crash came between, and whatever comes late. */
import { ProtocolError } from "@throughline/protocol";
import { LogWriter } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { until } from "../../../test/support/until.ts";
import { Dispatcher, type StartRequest } from "./dispatcher.ts";
import { defaultQueue, queuePrefix } from "./queue.ts";
import { ownerKey, threadKey } from "./thread-keys.ts";

let redis: Redis;
let prefix: string;
let dispatcher: Dispatcher;
let log: LogWriter;
const opened: Dispatcher[] = [];
const connections: Redis[] = [];

const make = (options: Partial<ConstructorParameters<typeof Dispatcher>[1]> = {}, on = redis) => {
  const made = new Dispatcher(on, { prefix, deleteWaitMs: 30, ...options });
  opened.push(made);
  return made;
};
const connect = () => {
  const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  connections.push(connection);
  return connection;
};

beforeEach(() => {
  redis = connect();
  prefix = testPrefix();
  dispatcher = make();
  log = new LogWriter(redis, { prefix });
});
afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()));
  for (const connection of connections.splice(0)) connection.disconnect();
});

/** Of what is another's: the checkpoints, as far as Redis has them. */
const checkpoints = (on = redis) => ({
  deleteThread: async (threadId: string) => {
    const names = ["head", "checkpoints", "blobs", "writes", "index"];
    await on.unlink(...names.map((name) => threadKey(prefix, "alice", threadId, name)));
  },
});
const start = (threadId: string, more: Partial<StartRequest> = {}) =>
  dispatcher.start({ agent: "a", owner: "alice", threadId, request: { queue: defaultQueue }, ...more });
async function claim(runId: string) {
  const claimed = await log.claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  return claimed.writer;
}
const key = (name: string, threadId = "doomed") => threadKey(prefix, "alice", threadId, name);

/** A thread with a run of every kind. Answers what names it: its id and those of its runs. */
async function populate(threadId = "doomed"): Promise<string[]> {
  await dispatcher.createThread("alice", { threadId, metadata: { title: "t" } });
  const runIds: string[] = [];
  const add = async (more: Partial<StartRequest> = {}) => {
    const { runId } = await start(threadId, more);
    runIds.push(runId);
    return runId;
  };
  const ended = await add({ idempotencyKey: `ended ${threadId}` });
  const writer = await claim(ended);
  await writer.finish({ event: "completed" });
  await dispatcher.ended("alice", threadId, ended, { messages: 1 });
  await redis.set(`${prefix}:{${ended}}:snapshot`, "{}");
  const expired = await add();
  await dispatcher.runs.remove(expired);
  await dispatcher.active("alice", threadId);
  await dispatcher.cancel(await add(), { keep: "branch" });
  const running = await add({ idempotencyKey: `running ${threadId}` });
  const lost = await claim(running);
  await dispatcher.threadsOf("alice").fence(threadId, running, lost.fence);
  await add({ idempotencyKey: `queued ${threadId}` });
  // Cancelled before it began: it waits for a worker to keep its input.
  const request = { queue: defaultQueue, input: { messages: [] } };
  await dispatcher.cancel(await add({ request }), { keep: "thread" });
  await redis.hset(key("head", threadId), "", "c", "sub|1", "d");
  for (const name of ["checkpoints", "blobs", "writes"]) await redis.hset(key(name, threadId), "f", "v");
  await redis.zadd(key("index", threadId), 0, "c");
  await dispatcher.patchThread("alice", threadId, { more: 1 });
  return [threadId, ...runIds];
}

/** Keys that name one of these, and entries of the owner's keys that do, but for those of the owner's log. */
async function left(names: string[]): Promise<string[]> {
  const found: string[] = [];
  const isNamed = (text: string) => names.some((name) => text.includes(name));
  for await (const page of redis.scanStream({ match: `*${prefix}*`, count: 1_000 })) {
    for (const each of page as string[]) if (isNamed(each)) found.push(each);
  }
  for (const name of ["runs", "active", "due", "listed"]) {
    const members = await redis.zrange(ownerKey(prefix, "alice", name), 0, "-1");
    found.push(...members.filter(isNamed));
  }
  for (const name of ["bytes", "threads", "shown"]) {
    found.push(...(await redis.hkeys(ownerKey(prefix, "alice", name))).filter(isNamed));
  }
  return found;
}
const idempotencyKeys = () => redis.keys(`${prefix}:*:idempotency`);

test("nothing is left of a thread with runs of every kind, and another one is untouched", async () => {
  dispatcher = make({ limits: { maxRuns: 100, maxBytes: 1_000_000 } });
  await populate("stays");
  const before = (await redis.keys(`*${prefix}*`)).filter((each) => !each.includes("owner-")).sort();
  const record = await dispatcher.threadRecord("alice", "stays");
  const names = await populate();
  expect((await left(names)).length).toBeGreaterThan(20);
  await dispatcher.deleteThread("alice", "doomed", checkpoints());
  expect(await left(names)).toEqual([]);
  expect((await redis.keys(`*${prefix}*`)).filter((each) => !each.includes("owner-")).sort()).toEqual(before);
  expect(await dispatcher.threadRecord("alice", "stays")).toEqual(record);
  expect((await dispatcher.listThreads({ owner: "alice", limit: 9 })).threads).toEqual([record]);
  await expect(dispatcher.deleteThread("alice", "doomed", checkpoints())).rejects.toMatchObject({
    code: "no_such_thread",
  });
});

describe("a crash", () => {
  /** A connection whose `nth` command from now on, and all after it, fail. */
  function failing(nth: number) {
    const connection = connect();
    const send = connection.sendCommand.bind(connection);
    const state = { left: Number.POSITIVE_INFINITY, failed: false };
    connection.sendCommand = ((command: Parameters<Redis["sendCommand"]>[0], ...rest: []) => {
      if (--state.left >= 0 || /^(script|info|client)$/i.test(command.name)) return send(command, ...rest);
      state.failed = true;
      command.reject(new Error("the process is gone"));
      return command.promise;
    }) as Redis["sendCommand"];
    return { connection, state, arm: () => Object.assign(state, { left: nth }) };
  }

  test.each(["thread.delete", "thread.list"])(
    "between any two commands is carried through by the next %s",
    async (next) => {
      let steps = 0;
      for (let nth = 0; ; nth++) {
        const names = await populate();
        const { connection, state, arm } = failing(nth);
        const dying = make({ deleteWaitMs: 0 }, connection);
        // Its connection is set up: what is counted are the commands of the deletion.
        await dying.threadRecord("alice", "doomed");
        arm();
        await dying.deleteThread("alice", "doomed", checkpoints(connection)).catch(() => {});
        const isMarked = (await redis.hexists(key("thread"), "deleting")) === 1;
        const isThere = (await redis.exists(key("thread"))) === 1;
        if (isMarked) {
          expect(await dispatcher.threadRecord("alice", "doomed")).toBeNull();
          await expect(start("doomed")).rejects.toMatchObject({ code: "thread_busy" });
          await expect(dispatcher.patchThread("alice", "doomed", {})).rejects.toMatchObject({
            code: "thread_busy",
          });
          await expect(dispatcher.createThread("alice", { threadId: "doomed" })).rejects.toMatchObject({
            code: "thread_busy",
          });
        }
        const healer = make({ deleteWaitMs: 0, givenUpMs: 0 });
        if (next === "thread.delete" || !isMarked) {
          await healer.deleteThread("alice", "doomed", checkpoints()).catch((error) => {
            expect(error).toBeInstanceOf(ProtocolError);
            expect(isThere).toBe(false);
          });
        } else {
          expect((await healer.listThreads({ owner: "alice", limit: 5 })).threads).toEqual([]);
          // One that is out of the list already goes with whoever asks for it.
          await healer.threadRecord("alice", "doomed");
          await until(async () => (await redis.exists(key("thread"))) === 0);
        }
        expect(await left(names)).toEqual([]);
        expect(await idempotencyKeys()).toEqual([]);
        connection.disconnect();
        if (!state.failed) break;
        steps = nth;
      }
      expect(steps).toBeGreaterThan(20);
    },
    120_000,
  );
});

describe("what comes late", () => {
  test("a worker that ignores its signal brings no key back", async () => {
    const { runId } = await start("doomed");
    const writer = await claim(runId);
    const threads = dispatcher.threadsOf("alice");
    const run = { runId, agent: "a", status: "running" as const };
    expect(await threads.fence("doomed", runId, writer.fence, run)).toBe(true);
    await dispatcher.deleteThread("alice", "doomed", checkpoints());
    const keys = (await redis.keys(`*${prefix}*`)).sort();
    void writer.write({ type: "custom", ns: [], data: "late" });
    await expect(writer.flush()).rejects.toThrow();
    await expect(writer.finish({ event: "completed" })).rejects.toThrow();
    expect(await threads.fence("doomed", runId, writer.fence + 1, run)).toBe(false);
    await dispatcher.ended("alice", "doomed", runId, { messages: 5 });
    await dispatcher.revive(runId);
    await dispatcher.cancel(runId, { keep: "thread" });
    await dispatcher.active("alice", "doomed");
    expect(await dispatcher.runs.number(runId, 7)).toBe(false);
    expect((await redis.keys(`*${prefix}*`)).sort()).toEqual(keys);
  });

  test("who saw a run before it was removed does not make its thread again", async () => {
    const { runId } = await start("doomed");
    const threads = dispatcher.threadsOf("alice");
    const mayMake = async () => (await dispatcher.runs.statuses([runId]))[0] !== null;
    await dispatcher.deleteThread("alice", "doomed", checkpoints());
    const run = { runId, agent: "a", status: "queued" as const };
    expect((await threads.enter("doomed", run, { mayMake })).outcome).toBe("deleting");
    expect(await left(["doomed", runId])).toEqual([]);
    // A thread that was lost, though, is made again: its run is there.
    const lost = await start("lost");
    await redis.del(...["thread", "line", "runs"].map((name) => key(name, "lost")));
    await dispatcher.revive(lost.runId);
    expect(await dispatcher.active("alice", "lost")).toBe(lost.runId);
  });

  test("a thread comes back by its id, and is another", async () => {
    const names = await populate();
    await dispatcher.deleteThread("alice", "doomed", checkpoints());
    const again = await start("doomed", { idempotencyKey: "ended doomed" });
    expect(again.created).toBe(true);
    expect(names.includes(again.runId)).toBe(false);
    expect(await dispatcher.threadRecord("alice", "doomed")).toMatchObject({
      runs: 1,
      metadata: {},
      messages: 0,
    });
    const { threads } = await dispatcher.listThreads({ owner: "alice", limit: 5 });
    expect(threads).toEqual([await dispatcher.threadRecord("alice", "doomed")]);
  });

  test("who is refused because of a deletion that was given up carries it through: a create, a patch, a copy", async () => {
    const copies = {
      copyThread: async () => {},
      size: async () => 0,
      head: async () => ({ messages: 0, asks: false }),
    };
    await dispatcher.createThread("alice", { threadId: "from" });
    const healer = make({ givenUpMs: 0 });
    const asks: (() => Promise<unknown>)[] = [
      () => healer.createThread("alice", { threadId: "doomed" }),
      () => healer.patchThread("alice", "doomed", { a: 1 }),
      () => healer.copyThread("alice", "from", { to: "doomed" }, copies),
    ];
    for (const ask of asks) {
      await dispatcher.createThread("alice", { threadId: "doomed" });
      const threads = dispatcher.threadsOf("alice");
      await threads.beginDelete("doomed");
      // As if it had been killed before its last step: no list has the thread any more.
      const { birth } = (await threads.look("doomed"))!.state;
      await threads.index.remove("doomed", birth, undefined);
      await expect(ask()).rejects.toMatchObject({ code: "thread_busy" });
      await until(async () => (await left(["doomed"])).length === 0);
    }
  });

  test("one who goes on late leaves a thread alone that has come back meanwhile", async () => {
    await dispatcher.createThread("alice", { threadId: "doomed" });
    const threads = dispatcher.threadsOf("alice");
    const remove = threads.index.remove.bind(threads.index);
    threads.index.remove = async (...all) => {
      await remove(...all);
      await make().deleteThread("alice", "doomed", checkpoints());
      await dispatcher.createThread("alice", { threadId: "doomed", metadata: { again: 1 } });
    };
    await threads.beginDelete("doomed");
    await threads.endDelete("doomed");
    expect(await dispatcher.threadRecord("alice", "doomed")).toMatchObject({ metadata: { again: 1 } });
  });

  test("an end that is repeated is told once", async () => {
    await dispatcher.createThread("alice", { threadId: "doomed" });
    const threads = dispatcher.threadsOf("alice");
    await threads.beginDelete("doomed");
    threads.index.remove = async () => {
      throw new Error("the process is gone");
    };
    for (let i = 0; i < 2; i++) await expect(threads.endDelete("doomed")).rejects.toThrow("gone");
    expect(await redis.hgetall(key("told"))).toMatchObject({ head: "2", status: "deleted" });
  });

  test("who puts a run's job back while it is being removed takes it off again", async () => {
    const { runId } = await start("doomed");
    const [deleting, healing] = [make({ deleteWaitMs: 0 }), make()];
    const remove = deleting.runs.remove.bind(deleting.runs);
    let healed = 0;
    deleting.runs.remove = async (each) => {
      // Nobody has cancelled it for the one who heals: as if that had looked at it long before.
      await redis.hset(`${prefix}:{${runId}}:run`, "status", "queued");
      await redis.rpush(key("line"), runId);
      if ((await healing.active("alice", "doomed")) === runId) healed++;
      await remove(each);
    };
    await deleting.deleteThread("alice", "doomed", checkpoints());
    expect(healed).toBeGreaterThan(0);
    expect(await left(["doomed", runId])).toEqual([]);
  });

  test("two who delete at once: both are done, it is told once", async () => {
    await populate();
    const both = [dispatcher, make()].map((each) => each.deleteThread("alice", "doomed", checkpoints()));
    for (const result of await Promise.allSettled(both)) {
      if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "no_such_thread" });
    }
    const events = (await redis.xrange(ownerKey(prefix, "alice", "events"), "-", "+")).map(
      ([, [, , , body]]) => body,
    );
    expect(events.filter((body) => body!.includes('"event":"deleted"'))).toHaveLength(1);
    expect(await redis.exists(`${queuePrefix(prefix)}:${defaultQueue}:wait`)).toBe(0);
  });
});

describe("copy", () => {
  const copies = (more = {}) => ({
    size: async () => 0,
    copyThread: async (from: string, to: string) => {
      for (const name of ["head", "checkpoints"]) {
        await redis.restore(key(name, to), 0, (await redis.dumpBuffer(key(name, from)))!);
      }
    },
    head: async () => ({ messages: 3, asks: false }),
    ...more,
  });
  beforeEach(async () => {
    await dispatcher.createThread("alice", { threadId: "from", metadata: { a: 1 } });
    await redis.hset(key("head", "from"), "", "c");
    await redis.hset(key("checkpoints", "from"), "c", "…");
    await dispatcher.headMoved("alice", "from", { status: "interrupted", messages: 3 });
  });

  test("is a thread of its own, with the original's metadata or others", async () => {
    const copy = await dispatcher.copyThread("alice", "from", {}, copies());
    expect(copy).toMatchObject({
      status: "interrupted",
      metadata: { a: 1 },
      messages: 3,
      runs: 0,
      checkpointId: "c",
    });
    expect(await dispatcher.threadRecord("alice", copy.threadId)).toEqual(copy);
    const asked: unknown[] = [];
    const copyThread = async (...all: unknown[]) => void asked.push(all);
    const other = { to: "copy1", checkpointId: "b", metadata: { b: 2 } };
    const named = await dispatcher.copyThread("alice", "from", other, copies({ copyThread }));
    expect(named).toMatchObject({ threadId: "copy1", status: "idle", metadata: { b: 2 } });
    expect(asked).toEqual([["from", "copy1", { checkpointId: "b" }]]);
    const { threads } = await dispatcher.listThreads({ owner: "alice", limit: 5 });
    expect(threads.map(({ threadId }) => threadId)).toEqual(["copy1", copy.threadId, "from"]);
    const [, [, , , body]] = (await redis.xrange(key("events", "copy1"), "-", "+"))[0]!;
    expect(JSON.parse(body!)).toEqual([{ event: "created", thread: named }]);
  });

  test("counts with what is in it: one too many is refused, and nothing of it stays; deleted ones give back what they had", async () => {
    dispatcher = make({ limits: { maxBytes: 10_000 } });
    const size = async () => 4_000;
    const copy = (to: string) => dispatcher.copyThread("alice", "from", { to }, copies({ size }));
    await copy("copy1");
    await copy("copy2");
    await expect(copy("copy3")).rejects.toMatchObject({ code: "payload_too_large" });
    expect(await redis.keys(`${prefix}:{*/copy3}:*`)).toEqual([]);
    await dispatcher.deleteThread("alice", "copy1", { deleteThread: async () => {} });
    await copy("copy3");
  });

  test("of a thread that is empty is empty; what it has counts", async () => {
    dispatcher = make({ limits: { maxBytes: 1_000 } });
    await dispatcher.createThread("alice", { threadId: "empty" });
    const never = async () => {
      throw new Error("there are no checkpoints");
    };
    const empty = copies({ copyThread: never, head: never });
    const metadata = { x: "x".repeat(600) };
    const copy = await dispatcher.copyThread("alice", "empty", { metadata }, empty);
    expect(copy).toMatchObject({ checkpointId: null, messages: 0, metadata });
    const again = dispatcher.copyThread("alice", copy.threadId, { to: "copy1" }, empty);
    await expect(again).rejects.toMatchObject({ code: "payload_too_large" });
    expect(await left(["copy1"])).toEqual([]);
  });

  test("up to a checkpoint of a thread that has none is refused; one whose head asks waits for a person", async () => {
    await dispatcher.createThread("alice", { threadId: "empty" });
    const copy = (from: string, more = {}) =>
      dispatcher.copyThread("alice", from, { to: "copy1", checkpointId: "b" }, copies(more));
    await expect(copy("empty")).rejects.toMatchObject({ code: "no_such_checkpoint" });
    expect(await left(["copy1"])).toEqual([]);
    const asks = { head: async () => ({ messages: 1, asks: true }) };
    expect(await copy("from", asks)).toMatchObject({ status: "interrupted", messages: 1 });
  });

  test("refuses what it cannot: no thread, one that is there, one that is busy", async () => {
    const copy = (from: string, to = "copy1") => dispatcher.copyThread("alice", from, { to }, copies());
    await expect(copy("none")).rejects.toMatchObject({ code: "no_such_thread" });
    await expect(copy("from", "from")).rejects.toMatchObject({ code: "invalid_argument" });
    await start("from");
    await expect(copy("from")).rejects.toMatchObject({ code: "thread_busy" });
    expect(await left(["none", "copy1"])).toEqual([]);
  });

  test("that fails leaves nothing; one whose process died goes with the next list", async () => {
    const copyThread = async (_: string, to: string) => {
      await redis.hset(key("head", to), "", "c");
      await expect(start("copy1")).rejects.toMatchObject({ code: "thread_busy" });
      expect(await dispatcher.threadRecord("alice", "copy1")).toBeNull();
      throw new Error("no");
    };
    const copy = dispatcher.copyThread("alice", "from", { to: "copy1" }, copies({ copyThread }));
    await expect(copy).rejects.toThrow("no");
    expect(await left(["copy1"])).toEqual([]);
    const birth = await dispatcher.threadsOf("alice").reserve("copy1");
    expect((await dispatcher.listThreads({ owner: "alice", limit: 5 })).threads).toHaveLength(1);
    await make({ givenUpMs: 0 }).listThreads({ owner: "alice", limit: 5 });
    await until(async () => (await left(["copy1"])).length === 0);
    const late = { metadata: "{}", status: "idle" as const, messages: 0 };
    expect(await dispatcher.threadsOf("alice").copied("copy1", birth, late)).toBeNull();
    // One that comes with its checkpoints when it was given up takes these with it.
    const tooLate = async (_: string, to: string) => {
      await make().deleteThread("alice", to, checkpoints());
      await redis.hset(key("checkpoints", to), "c", "…");
    };
    const slow = dispatcher.copyThread("alice", "from", { to: "copy1" }, copies({ copyThread: tooLate }));
    await expect(slow).rejects.toMatchObject({ code: "unavailable" });
    expect(await left(["copy1"])).toEqual([]);
    // Nobody was ever told of it.
    const bodies = (await redis.xrange(ownerKey(prefix, "alice", "events"), "-", "+")).map(
      ([, [, , , body]]) => body,
    );
    expect(bodies.filter((body) => body!.includes('"copy1"'))).toEqual([]);
  });
});
