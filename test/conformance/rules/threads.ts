/** Threads: their records, and what those who watch them are told. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { Part, ThreadEvent, ThreadRecord } from "@throughline/protocol";
import type { Socket, Told } from "../client.ts";
import { answers, type ConformanceTest, type Context, ending, headState, test, text } from "../suite.ts";

const newThread = () => `thread-${randomUUID()}`;

/** An event in words. */
function word(event: ThreadEvent | null): string {
  if (event === null) return "-";
  return event.event === "run" ? `run ${event.run.status}` : event.event;
}

const words = (told: readonly Told[]) => told.map(({ event }) => word(event));

/** Waits until that many events of a thread came, and answers all that came. */
async function heard(socket: Socket, threadId: string | undefined, count: number, from = 0): Promise<Told[]> {
  return await socket.until(`${count} events of ${threadId}`, () => {
    const told = socket.told(threadId, from);
    return told.length >= count && told;
  });
}

/** Waits until the thread stands so, and answers its record. */
async function stands(
  socket: Socket,
  threadId: string,
  status: ThreadRecord["status"],
): Promise<ThreadRecord> {
  for (;;) {
    const { thread } = await socket.call("thread.get", { threadId });
    if (thread!.status === status) return thread!;
    // Whatever comes next may be the change: a run's end is told before its thread has moved on.
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const ids = (threads: readonly ThreadRecord[]) => threads.map(({ threadId }) => threadId);

/** All the pages of a list, and how many there were. */
async function listAll(
  socket: Socket,
  query: Record<string, unknown>,
): Promise<{ ids: string[]; pages: number }> {
  const found: string[] = [];
  let before: string | undefined;
  let pages = 0;
  do {
    const { threads, next } = await socket.call("thread.list", { ...query, ...(before && { before }) });
    found.push(...ids(threads));
    before = next;
    pages++;
  } while (before !== undefined);
  return { ids: found, pages };
}

/** A run that has ended, of a thread of its own, with its record when that is idle. */
async function settled(t: Context, socket: Socket): Promise<ThreadRecord> {
  const { threadId } = await t.run(socket);
  return await stands(socket, threadId, "idle");
}

const texts = (parts: readonly (Part | null)[]) =>
  parts.flatMap((part) => (part?.type === "messages" ? [part.data[0].content] : []));

const records: ConformanceTest[] = [
  test("R123", "makes a thread, and answers one that is there as it is", [], async (t) => {
    const socket = await t.connect();
    const threadId = newThread();
    const metadata = { title: "Bees", at: { depth: [1, null] } };
    const made = await socket.call("thread.create", { threadId, metadata });
    assert.equal(made.created, true);
    const { createdAt, updatedAt, ...rest } = made.thread;
    const none = { checkpointId: null, messages: 0, runs: 0, active: [] };
    assert.deepEqual(rest, { threadId, status: "idle", metadata, ...none });
    assert.ok(Number.isFinite(Date.parse(createdAt)) && Number.isFinite(Date.parse(updatedAt)));
    const again = await socket.call("thread.create", { threadId, metadata: { title: "Cats" } });
    assert.deepEqual(again, { thread: made.thread, created: false });
    // Its id may be left to the gateway; a run makes the same.
    const named = await socket.call("thread.create");
    assert.ok(named.thread.threadId.length > 0 && named.created);
    const run = await t.run(socket);
    const { thread, created } = await socket.call("thread.create", { threadId: run.threadId });
    assert.deepEqual([created, thread.metadata, thread.runs], [false, {}, 1]);
    const large = { metadata: { text: "x".repeat(16 * 1024) } };
    assert.equal((await socket.refused("thread.create", large)).error, "payload_too_large");
  }),

  test(
    "R124",
    "lists threads, newest activity first, by status, agent, metadata, limit and before",
    [],
    async (t) => {
      const socket = await t.connect();
      const batch = randomUUID();
      const threadIds = [newThread(), newThread(), newThread(), newThread()] as const;
      for (const [i, threadId] of threadIds.entries()) {
        await socket.call("thread.create", { threadId, metadata: { batch, i } });
      }
      const [first, second, third, fourth] = threadIds;
      const list = async (query: object = {}) =>
        (await listAll(socket, { metadata: { batch }, ...query })).ids;
      assert.deepEqual(await list(), [fourth, third, second, first]);
      assert.deepEqual(await list({ metadata: { batch, i: 2 } }), [third]);
      assert.deepEqual(await list({ metadata: { batch, i: "2" } }), []);
      // What happens to one brings it before the others.
      const { runId } = await t.startLong(socket, { threadId: second });
      assert.deepEqual(await list(), [second, fourth, third, first]);
      assert.deepEqual(await list({ status: "busy" }), [second]);
      assert.deepEqual(await list({ status: "idle" }), [fourth, third, first]);
      assert.deepEqual(await list({ agent: t.agent }), [second]);
      assert.deepEqual(await list({ agent: "nobody" }), []);
      await socket.call("run.cancel", { runId });
      await stands(socket, second, "idle");
      await socket.call("thread.patch", { threadId: first, metadata: { seen: true } });
      assert.deepEqual(await list(), [first, second, fourth, third]);
      const paged = await listAll(socket, { metadata: { batch }, limit: 1 });
      assert.deepEqual(paged.ids, [first, second, fourth, third]);
      assert.ok(paged.pages >= 4);
    },
  ),

  test("R125", "merges what thread.patch brings, and takes away what is null", [], async (t) => {
    const socket = await t.connect();
    const { thread } = await socket.call("thread.create", { metadata: { a: 1, b: { c: 2 }, d: 3 } });
    const { threadId } = thread;
    const patch = { threadId, metadata: { b: { e: 4 }, d: null, f: "5", none: null } };
    const patched = await socket.call("thread.patch", patch);
    assert.deepEqual(patched.metadata, { a: 1, b: { e: 4 }, f: "5" });
    const { thread: now } = await socket.call("thread.get", { threadId });
    assert.deepEqual(now, patched);
    assert.deepEqual(
      (await socket.call("thread.patch", { threadId, metadata: {} })).metadata,
      patched.metadata,
    );
    const none = { threadId: newThread(), metadata: {} };
    assert.equal((await socket.refused("thread.patch", none)).error, "no_such_thread");
  }),

  test("R126", "deletes a thread with all that is of it, whatever was under way", [], async (t) => {
    const socket = await t.connect();
    const follower = await t.connect();
    const { threadId, runId: ended } = await t.run(socket);
    const { runId } = await t.startLong(socket, { threadId });
    const { runId: waiting } = await t.start(socket, undefined, { threadId });
    await follower.call("run.subscribe", { runId });
    await follower.call("run.subscribe", { runId: waiting });
    assert.deepEqual(await socket.call("thread.delete", { threadId }), {});
    for (const each of [runId, waiting]) await follower.event("run.unsubscribed", each);
    for (const each of [ended, runId, waiting]) {
      assert.equal((await socket.refused("run.get", { runId: each })).error, "no_such_run");
      assert.equal((await socket.refused("run.subscribe", { runId: each })).error, "no_such_run");
    }
    for (const method of ["thread.get", "thread.history", "run.list", "thread.watch", "thread.delete"]) {
      assert.equal((await socket.refused(method, { threadId })).error, "no_such_thread", method);
    }
    // One that comes under its id has nothing of it.
    const { parts } = await t.run(socket, { threadId });
    ending(parts, "completed");
    assert.deepEqual(answers((await headState(socket, threadId)).values), [text]);
    assert.equal((await stands(socket, threadId, "idle")).runs, 1);
  }),

  test("R127", "copies a thread, whole or up to a checkpoint", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await settled(t, socket);
    await socket.call("thread.patch", { threadId, metadata: { title: "Bees" } });
    const first = await headState(socket, threadId);
    const { runId } = await t.startLong(socket, { threadId });
    assert.equal((await socket.refused("thread.copy", { threadId })).error, "thread_busy");
    await socket.call("run.cancel", { runId, keep: "discard" });
    await t.run(socket, { threadId });
    const original = await stands(socket, threadId, "idle");
    const head = await headState(socket, threadId);

    const to = newThread();
    const copy = await socket.call("thread.copy", { threadId, to });
    assert.deepEqual(
      [copy.threadId, copy.status, copy.metadata, copy.messages, copy.runs, copy.active],
      [to, "idle", { title: "Bees" }, original.messages, 0, []],
    );
    assert.deepEqual(answers((await headState(socket, to)).values), answers(head.values));
    const count = async (id: string) =>
      (await socket.call("thread.history", { threadId: id, limit: 200 })).checkpoints.length;
    assert.equal(await count(to), await count(threadId));
    assert.deepEqual((await socket.call("run.list", { threadId: to })).runs, []);
    // Each goes on by itself.
    await t.run(socket, { threadId: to });
    assert.deepEqual(await headState(socket, threadId), head);

    const part = await socket.call("thread.copy", {
      threadId,
      checkpointId: first.checkpointId,
      metadata: { title: "Cats" },
    });
    assert.deepEqual(
      [part.metadata, part.messages],
      [{ title: "Cats" }, (first.values.messages as unknown[]).length],
    );
    assert.deepEqual(answers((await headState(socket, part.threadId)).values), [text]);
    assert.ok((await count(part.threadId)) < (await count(threadId)));

    assert.equal((await socket.refused("thread.copy", { threadId, to })).error, "invalid_argument");
    const unknown = { threadId, checkpointId: "none" };
    assert.equal((await socket.refused("thread.copy", unknown)).error, "no_such_checkpoint");
    assert.equal((await socket.refused("thread.copy", { threadId: newThread() })).error, "no_such_thread");
  }),

  test("R128", "says how a thread stands: idle, busy, interrupted, failed", ["graph"], async (t) => {
    const socket = await t.connect();
    const idle = await settled(t, socket);
    const { threadId } = idle;
    assert.deepEqual([idle.agent, idle.runs, idle.active], [t.agent, 1, []]);
    const head = await headState(socket, threadId);
    assert.deepEqual(
      [idle.checkpointId, idle.messages],
      [head.checkpointId, (head.values.messages as unknown[]).length],
    );
    const { runId } = await t.startLong(socket, { threadId });
    const { runId: next } = await t.start(socket, undefined, { threadId });
    const busy = await stands(socket, threadId, "busy");
    assert.deepEqual([busy.active, busy.runs], [[runId, next], 3]);
    assert.ok(Date.parse(busy.updatedAt) >= Date.parse(idle.updatedAt));
    await socket.call("run.cancel", { runId });
    await socket.ended(next);
    await stands(socket, threadId, "idle");

    const asked = await t.run(socket, { agent: t.target.graph, input: { ask: "Really?" } });
    await stands(socket, asked.threadId, "interrupted");
    const { runId: answer } = await socket.call("run.start", {
      agent: t.target.graph,
      threadId: asked.threadId,
      command: { resume: "yes" },
    });
    await socket.ended(answer);
    await stands(socket, asked.threadId, "idle");
    const { runId: slow } = await t.start(
      socket,
      { text: text.repeat(50), tokensPerSecond: 50 },
      { threadId, timeoutMs: 300 },
    );
    await socket.ended(slow);
    await stands(socket, threadId, "failed");
  }),

  test(
    "R138",
    "answers the state of a thread without a checkpoint, and the record with a head",
    [],
    async (t) => {
      const socket = await t.connect();
      const { thread } = await socket.call("thread.create", { metadata: { a: 1 } });
      const { threadId, createdAt } = thread;
      assert.deepEqual(await socket.call("thread.get", { threadId }), {
        threadId,
        checkpointId: null,
        parentId: null,
        ns: [],
        values: {},
        next: [],
        interrupts: [],
        tasks: [],
        metadata: {},
        createdAt,
        thread,
      });
      assert.equal(
        (await socket.refused("thread.get", { threadId, checkpointId: "none" })).error,
        "no_such_checkpoint",
      );
      await t.run(socket, { threadId });
      await stands(socket, threadId, "idle");
      const head = await socket.call("thread.get", { threadId });
      assert.equal(head.thread?.checkpointId, head.checkpointId);
      assert.deepEqual(head.thread?.metadata, { a: 1 });
      const named = await socket.call("thread.get", { threadId, checkpointId: head.checkpointId });
      assert.deepEqual([named.checkpointId, named.thread], [head.checkpointId, undefined]);
    },
  ),
];

const watches: ConformanceTest[] = [
  test(
    "R129",
    "answers thread.watch with the record, then tells what happens from `after` on, each offset once",
    [],
    async (t) => {
      const socket = await t.connect();
      const { thread } = await socket.call("thread.create");
      const { threadId } = thread;
      const result = await socket.call("thread.watch", { threadId });
      assert.deepEqual([result.threadId, result.thread, result.runs], [threadId, thread, []]);
      assert.equal(socket.told(threadId).length, 0);
      await socket.call("thread.patch", { threadId, metadata: { n: 1 } });
      await socket.call("thread.patch", { threadId, metadata: { n: 2 } });
      const told = await heard(socket, threadId, 2);
      assert.deepEqual(words(told), ["metadata", "metadata"]);
      assert.equal(told[0]!.offset, result.head + 1);
      // Another has what it missed: everything, or what comes after the last that it has.
      const late = await t.connect();
      const { head, epoch, thread: now } = await late.call("thread.watch", { threadId, after: 0 });
      assert.deepEqual([head, now?.metadata], [result.head + 2, { n: 2 }]);
      const all = await heard(late, threadId, head);
      assert.deepEqual(words(all), ["created", "metadata", "metadata"]);
      assert.deepEqual(
        all.map(({ offset }) => offset),
        [1, 2, 3],
      );
      const from = late.frames.length;
      // Again on the same socket: in the place of the one that there was.
      await late.call("thread.watch", { threadId, after: 2, epoch });
      await heard(late, threadId, 1, from);
      await socket.call("thread.patch", { threadId, metadata: { n: 3 } });
      const rest = await heard(late, threadId, 2, from);
      assert.deepEqual(
        rest.map(({ offset }) => offset),
        [3, 4],
      );
      assert.equal((await socket.refused("thread.watch", { threadId: newThread() })).error, "no_such_thread");
    },
  ),

  test("R130", "tells a thread's watchers of runs that come, begin and end", [], async (t) => {
    const [socket, watcher] = [await t.connect(), await t.connect()];
    const { threadId } = (await socket.call("thread.create")).thread;
    await watcher.call("thread.watch", { threadId });
    const { runId } = await t.run(socket, { threadId });
    const told = await heard(watcher, threadId, 3);
    assert.deepEqual(words(told), ["run queued", "run running", "run completed"]);
    const runs = told.map(({ event }) => (event?.event === "run" ? event : assert.fail("not of a run")));
    for (const { run } of runs) assert.deepEqual([run.runId, run.agent], [runId, t.agent]);
    assert.deepEqual(
      runs.map(({ thread }) => [thread.status, thread.active]),
      [
        ["busy", [runId]],
        ["busy", [runId]],
        ["idle", []],
      ],
    );
    const state = await headState(socket, threadId);
    assert.deepEqual(runs[2]!.run.checkpoint, { threadId, checkpointId: state.checkpointId });
    assert.equal(runs[2]!.thread.checkpointId, state.checkpointId);
  }),

  test("R131", "tells a thread's watchers of a head that moved, and of metadata", [], async (t) => {
    const [socket, watcher] = [await t.connect(), await t.connect()];
    const { threadId } = (await socket.call("thread.create")).thread;
    await watcher.call("thread.watch", { threadId });
    const values = { messages: [{ role: "user", content: "noted" }] };
    const { checkpointId } = await socket.call("thread.update", { threadId, values });
    await socket.call("thread.patch", { threadId, metadata: { title: "Bees" } });
    const told = await heard(watcher, threadId, 2);
    assert.deepEqual(words(told), ["head", "metadata"]);
    const seen = told.map(({ event }) => (event as { thread: ThreadRecord }).thread);
    assert.deepEqual(
      seen.map((each) => [each.checkpointId, each.messages]),
      [
        [checkpointId, 1],
        [checkpointId, 1],
      ],
    );
    assert.deepEqual(seen[1]!.metadata, { title: "Bees" });
  }),

  test(
    "R132",
    "subscribes a watcher to the thread's runs, from their first part on or from what it has",
    ["tight"],
    async (t) => {
      const [socket, watcher] = [await t.connect(), await t.connect()];
      const { threadId, runId } = await t.startLong(socket);
      const { runId: next } = await t.start(socket, undefined, { threadId });
      const { runs } = await watcher.call("thread.watch", { threadId, runs: {} });
      assert.deepEqual(
        runs?.map((run) => run.runId),
        [runId, next],
      );
      await watcher.until("parts", () => watcher.parts(runId).length > 0);
      assert.equal(watcher.parts(runId)[0]!.offset, 1);
      // One that knows the run goes on where it was, with a filter; one that follows it already is left as it is.
      const informed = await t.connect();
      const wanted = { filter: { modes: ["custom"] }, known: { [runId]: { after: 2 } } };
      await informed.call("thread.watch", { threadId, runs: wanted });
      await informed.until("parts", () => informed.parts(runId).length > 0);
      assert.equal(informed.parts(runId)[0]!.offset, 3);
      const follower = await t.connect();
      await follower.call("run.subscribe", { runId, after: 1 });
      await follower.call("thread.watch", { threadId, runs: {} });
      await socket.call("run.cancel", { runId });
      for (const each of [watcher, informed, follower]) {
        for (const id of [runId, next]) await each.ended(id);
      }
      assert.deepEqual(texts(informed.parts(runId).map(({ part }) => part)), []);
      assert.equal(follower.parts(runId)[0]!.offset, 2);
      assert.deepEqual(watcher.parts(next), socket.parts(next));
      // One that comes: behind the event that names it.
      const last = await t.run(socket, { threadId });
      await watcher.ended(last.runId);
      assert.deepEqual(watcher.parts(last.runId), socket.parts(last.runId));
      const frameOf = (method: string) =>
        watcher.frames.findIndex(
          (frame) =>
            frame.type === "event" && frame.method === method && JSON.stringify(frame).includes(last.runId),
        );
      const [named, began] = [frameOf("thread.events"), frameOf("run.parts")];
      assert.ok(named >= 0 && named < began, `named in frame ${named}, and begun in ${began}`);
      // No room for it: the watcher is told, and has it from nowhere.
      const { url, maxSubscriptions } = await t.target.tight();
      const full = await t.connect({ url });
      for (let i = 1; i < maxSubscriptions; i++) {
        const { runId: held } = await t.startLong(socket, { subscribe: false });
        await full.call("run.subscribe", { runId: held, after: "head" });
      }
      await full.call("thread.watch", { threadId, runs: {} });
      const { runId: over } = await t.start(socket, undefined, { threadId });
      const refused = await full.event("run.unsubscribed", over);
      assert.equal(refused.reason, "too_many_subscriptions");
      assert.deepEqual(full.parts(over), []);
      assert.equal((await socket.refused("thread.watch", { runs: {} })).error, "invalid_argument");
    },
  ),

  test(
    "R133",
    "tells a watcher only the events that it asked for, with offsets that go on",
    [],
    async (t) => {
      const [socket, watcher] = [await t.connect(), await t.connect()];
      const { threadId } = (await socket.call("thread.create")).thread;
      await watcher.call("thread.watch", { threadId, after: 0, events: ["metadata"] });
      await t.run(socket, { threadId });
      await socket.call("thread.patch", { threadId, metadata: { a: 1 } });
      await socket.call("thread.delete", { threadId });
      await watcher.event("thread.unwatched");
      const all = watcher.told(threadId);
      assert.deepEqual(
        all.map(({ offset }) => offset),
        all.map((_, i) => i + 1),
      );
      assert.deepEqual(
        words(all).filter((each) => each !== "-"),
        ["metadata", "deleted"],
      );
      // created, three of the run, metadata, deleted
      assert.equal(all.length, 6);
    },
  ),

  test("R134", "tells a watcher of all threads which of them changed", ["otherToken"], async (t) => {
    const [socket, watcher] = [await t.connect(), await t.connect()];
    const stranger = await t.connect({ token: t.target.otherToken });
    const result = await watcher.call("thread.watch");
    assert.deepEqual([result.threadId, result.thread, result.runs], [undefined, undefined, undefined]);
    await stranger.call("thread.watch");
    const { threadId } = (await socket.call("thread.create")).thread;
    await socket.call("thread.patch", { threadId, metadata: { a: 1 } });
    await t.run(socket, { threadId });
    const other = (await socket.call("thread.create")).thread.threadId;
    const of = (id: string) =>
      watcher.told().filter(({ event }) => JSON.stringify(event).includes(`"threadId":"${id}"`));
    await watcher.until("both", () => words(of(threadId)).includes("run completed") && of(other).length > 0);
    // Of runs those that come and that end.
    assert.deepEqual(words(of(threadId)), ["created", "metadata", "run queued", "run completed"]);
    assert.ok(of(threadId).every(({ offset }) => offset > result.head));
    await socket.call("thread.delete", { threadId });
    await watcher.until("deleted", () => words(of(threadId)).includes("deleted"));
    // It is not over for that.
    await socket.call("thread.patch", { threadId: other, metadata: { b: 2 } });
    await watcher.until("metadata", () => words(of(other)).includes("metadata"));
    assert.equal(
      stranger.told().some(({ event }) => JSON.stringify(event).includes(threadId)),
      false,
    );
  }),

  test("R135", "resets a watch whose offset or epoch the thread's events do not have", [], async (t) => {
    const [socket, watcher] = [await t.connect(), await t.connect()];
    const { threadId } = (await socket.call("thread.create")).thread;
    const { head, epoch } = await socket.call("thread.watch", { threadId });
    for (const stale of [
      { after: head + 1, epoch },
      { after: head, epoch: "another" },
    ]) {
      const from = watcher.frames.length;
      const result = await watcher.call("thread.watch", { threadId, ...stale });
      const reset = await watcher.event("thread.reset", undefined, from);
      assert.deepEqual(
        [result.epoch, reset.threadId, reset.epoch, reset.offset],
        [epoch, threadId, epoch, head],
      );
    }
    const from = watcher.frames.length;
    await socket.call("thread.patch", { threadId, metadata: { a: 1 } });
    const [next] = await heard(watcher, threadId, 1, from);
    assert.deepEqual([next!.offset, word(next!.event)], [head + 1, "metadata"]);
    // What a client has is not void for having been told long ago, as long as nothing came behind it.
    const again = watcher.frames.length;
    await watcher.call("thread.watch", { threadId, after: head + 1, epoch });
    await socket.call("thread.patch", { threadId, metadata: { a: 2 } });
    await heard(watcher, threadId, 1, again);
    assert.ok(
      watcher.frames.slice(again).every((frame) => frame.type !== "event" || frame.method !== "thread.reset"),
    );
  }),

  test("R136", "says that a thread was deleted, then thread.unwatched", [], async (t) => {
    const [socket, watcher] = [await t.connect(), await t.connect()];
    const { threadId } = (await socket.call("thread.create")).thread;
    await watcher.call("thread.watch", { threadId });
    await socket.call("thread.delete", { threadId });
    assert.deepEqual(await watcher.event("thread.unwatched"), { threadId, reason: "deleted" });
    const told = watcher.told(threadId);
    assert.deepEqual(told.at(-1)?.event, { event: "deleted", threadId });
    // One that comes under its id is another.
    const from = watcher.frames.length;
    await socket.call("thread.create", { threadId });
    await watcher.call("server.ping");
    assert.deepEqual(watcher.told(threadId, from), []);
  }),

  test("R137", "tells nothing of a thread after thread.unwatch is answered", [], async (t) => {
    const [socket, watcher] = [await t.connect(), await t.connect()];
    const { threadId, runId } = await t.startLong(socket);
    await watcher.call("thread.watch", { threadId, runs: {} });
    await watcher.call("thread.watch");
    await watcher.until("parts", () => watcher.parts(runId).length > 0);
    await watcher.call("thread.unwatch", { threadId });
    const from = watcher.frames.length;
    await socket.call("thread.patch", { threadId, metadata: { a: 1 } });
    await watcher.until("the owner's", () => watcher.told(undefined, from).length > 0);
    await watcher.call("thread.unwatch");
    const last = watcher.frames.length;
    await socket.call("run.cancel", { runId });
    // The run goes on being told.
    ending(
      (await watcher.ended(runId)).map(({ part }) => part),
      "cancelled",
    );
    await stands(socket, threadId, "idle");
    await watcher.call("server.ping");
    assert.deepEqual([watcher.told(threadId, from), watcher.told(undefined, last)], [[], []]);
    assert.deepEqual(await watcher.call("thread.unwatch", { threadId: newThread() }), {});
  }),
];

export const threads: ConformanceTest[] = [...records, ...watches];
