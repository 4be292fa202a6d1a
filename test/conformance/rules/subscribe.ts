/** run.subscribe, run.unsubscribe, and the events of a subscription. */
import assert from "node:assert/strict";
import { type Filter, Fold, type Part } from "@throughline/protocol";
import type { Seen, Socket } from "../client.ts";
import { type ConformanceTest, ending, streamedText, test, text } from "../suite.ts";

const partsOf = (seen: readonly Seen[]) => seen.map(({ part }) => part);

/** Subscribes anew, and answers what comes until the run's end. */
async function follow(
  socket: Socket,
  runId: string,
  params: Record<string, unknown> = {},
): Promise<{ seen: Seen[]; from: number }> {
  const from = socket.frames.length;
  await socket.call("run.subscribe", { runId, ...params });
  return { seen: await socket.ended(runId, from), from };
}

/** Subscribes with a filter; asserts that what matches comes, and that the rest stands as null. */
async function filtered(
  socket: Socket,
  { runId, parts }: { runId: string; parts: Part[] },
  filter: Filter,
  matching: (part: Exclude<Part, { type: "lifecycle" }>) => boolean,
): Promise<void> {
  const expected = parts.map((part) => (part.type === "lifecycle" || matching(part) ? part : null));
  const kept = expected.filter((part) => part !== null).length;
  assert.ok(kept > 2 && kept < parts.length, "this filter tells nothing of these parts");
  const { seen } = await follow(socket, runId, { filter });
  assert.deepEqual(partsOf(seen), expected, JSON.stringify(filter));
}

const nodesOf = (part: Part): unknown[] => {
  if (part.type === "messages") return [part.data[1].langgraph_node];
  return part.type === "updates" ? Object.keys(part.data as object) : [];
};
const tagsOf = (part: Part) => (part.type === "messages" ? ((part.data[1].tags ?? []) as string[]) : []);

export const subscribe: ConformanceTest[] = [
  test("R41", "answers run.subscribe first, then sends from the offset after `after`", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    const record = await socket.call("run.get", { runId: run.runId });
    for (const after of [undefined, 0, 1, run.seen - 1, run.seen]) {
      const from = socket.frames.length;
      const id = socket.ask("run.subscribe", { runId: run.runId, ...(after === undefined ? {} : { after }) });
      const result = await socket.answer(id, "run.subscribe");
      const { runId, status, first, head, epoch } = record;
      assert.deepEqual(result, { runId, status, first, head, epoch });
      const seen = await socket.ended(run.runId, from);
      assert.deepEqual(partsOf(seen), run.parts.slice(after ?? 0));
      if (seen.length > 0) assert.equal(seen[0]!.offset, (after ?? 0) + 1);
      const events = socket.frames.slice(from).map((frame) => frame.type);
      assert.equal(events[0], "success", "an event came before the result");
    }
    // A run that is under way: many at once join it at different offsets.
    const { runId } = await t.startLong(socket);
    const joined = await Promise.all(
      [0, 1, 2, 3].map(async (after) => {
        const joiner = await t.connect();
        await joiner.call("run.subscribe", { runId, after });
        return { joiner, after };
      }),
    );
    await socket.call("run.cancel", { runId });
    const all = await socket.ended(runId);
    for (const { joiner, after } of joined) assert.deepEqual(await joiner.ended(runId), all.slice(after));
  }),

  test("R102", "sends nothing of a subscription before its result", [], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.startLong(socket, { subscribe: false });
    const watcher = await t.connect();
    await watcher.call("run.subscribe", { runId });
    await watcher.until("some parts", () => watcher.parts(runId).length > 3);
    for (let i = 0; i < 20; i++) {
      const joiner = await t.connect();
      const id = joiner.ask("run.subscribe", { runId });
      await joiner.event("run.parts", runId);
      const [hello, first] = joiner.frames;
      assert.ok(hello?.type === "event" && hello.method === "server.hello");
      assert.ok(first?.type === "success" && first.id === id, "parts came before the result");
      joiner.close();
    }
  }),

  test("R42", 'sends only what is new after "head"', [], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.startLong(socket);
    const late = await t.connect();
    const { head } = await late.call("run.subscribe", { runId, after: "head" });
    assert.ok(head > 0);
    await socket.call("run.cancel", { runId });
    const all = await socket.ended(runId);
    assert.deepEqual(await late.ended(runId), all.slice(head));
  }),

  test("R43", "filters by modes", ["variedRun"], async (t) => {
    const socket = await t.connect();
    const run = await t.target.variedRun();
    const types =
      (...modes: string[]) =>
      (part: Part) =>
        modes.includes(part.type);
    await filtered(socket, run, { modes: ["messages"] }, types("messages"));
    await filtered(socket, run, { modes: ["updates", "custom"] }, types("updates", "custom"));
  }),

  test("R44", "filters by a prefix of ns", ["variedRun"], async (t) => {
    const socket = await t.connect();
    const run = await t.target.variedRun();
    const prefixes = run.parts.map(({ ns }) => ns).filter((ns) => ns.length > 0);
    assert.ok(prefixes.some((ns) => ns.length > 1));
    for (const prefix of [prefixes[0]!.slice(0, 1), prefixes.find((ns) => ns.length > 1)!]) {
      await filtered(socket, run, { ns: prefix }, ({ ns }) => prefix.every((each, i) => ns[i] === each));
    }
  }),

  test("R45", "filters by depth below the prefix", ["variedRun"], async (t) => {
    const socket = await t.connect();
    const run = await t.target.variedRun();
    await filtered(socket, run, { depth: 0 }, ({ ns }) => ns.length === 0);
    await filtered(socket, run, { depth: 1 }, ({ ns }) => ns.length <= 1);
    const prefix = run.parts.find(({ ns }) => ns.length > 0)!.ns.slice(0, 1);
    await filtered(socket, run, { ns: prefix, depth: 0 }, ({ ns }) => ns.length === 1 && ns[0] === prefix[0]);
  }),

  test("R46", "filters by nodes", ["variedRun"], async (t) => {
    const socket = await t.connect();
    const run = await t.target.variedRun();
    for (const node of new Set(run.parts.flatMap(nodesOf) as string[])) {
      await filtered(socket, run, { nodes: [node, "none"] }, (part) => nodesOf(part).includes(node));
    }
  }),

  test("R47", "filters by tags", ["variedRun"], async (t) => {
    const socket = await t.connect();
    const run = await t.target.variedRun();
    const [tag] = run.parts.flatMap(tagsOf);
    await filtered(socket, run, { tags: ["none", tag!] }, (part) => tagsOf(part).includes(tag!));
  }),

  test("R48", "sends only what matches all that a filter names", ["variedRun"], async (t) => {
    const socket = await t.connect();
    const run = await t.target.variedRun();
    const inner = run.parts.find((part) => part.type === "messages" && part.ns.length > 0)!;
    const [node] = nodesOf(inner) as string[];
    const filter: Filter = { modes: ["messages"], ns: inner.ns, nodes: [node!] };
    await filtered(
      socket,
      run,
      filter,
      (part) =>
        part.type === "messages" &&
        inner.ns.every((each, i) => part.ns[i] === each) &&
        nodesOf(part).includes(node),
    );
    const { seen } = await follow(socket, run.runId, { filter: { ...filter, tags: ["none"] } });
    assert.ok(partsOf(seen).every((part) => part === null || part.type === "lifecycle"));
  }),

  test("R49", "replaces a run's subscription where the same socket subscribes again", [], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.startLong(socket);
    const from = socket.frames.length;
    const ids = [3, 1, 2, 0].map((after) => socket.ask("run.subscribe", { runId, after }));
    for (const id of ids) await socket.answer(id, "run.subscribe");
    await socket.call("run.cancel", { runId });
    await socket.event("run.unsubscribed", runId, from);
    await socket.call("server.ping");
    const frames = socket.frames.slice(from);
    const answered = frames.findLastIndex((frame) => frame.type === "success" && ids.includes(frame.id));
    const seen = socket.parts(runId, from + answered);
    ending(partsOf(seen), "cancelled");
    // Contiguous, hence one subscription; the last to be answered, hence from one of their offsets on.
    assert.ok(seen[0]!.offset <= 4);
    const ends = frames.filter((frame) => frame.type === "event" && frame.method === "run.unsubscribed");
    assert.equal(ends.length, 1, "a subscription that was replaced went on");
  }),

  test("R50", "resets, then begins at 1, where `after` is above the head", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    const { seen, from } = await follow(socket, run.runId, { after: run.seen + 1 });
    const reset = socket.frames
      .slice(from)
      .find((frame) => frame.type === "event" && frame.method !== "server.draining");
    assert.ok(reset?.type === "event" && reset.method === "run.reset", "the first event is no run.reset");
    assert.equal(reset.params.epoch, run.epoch);
    assert.equal(seen[0]?.offset, 1);
    assert.deepEqual(partsOf(seen), run.parts);
  }),

  test("R51", "resets, then begins at 1, where the epoch is another", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    const { seen, from } = await follow(socket, run.runId, { after: 2, epoch: `not-${run.epoch}` });
    assert.equal((await socket.event("run.reset", run.runId, from)).epoch, run.epoch);
    assert.deepEqual(partsOf(seen), run.parts);
    const same = await follow(socket, run.runId, { after: 2, epoch: run.epoch });
    assert.deepEqual(partsOf(same.seen), run.parts.slice(2));
    const resets = socket.frames
      .slice(same.from)
      .filter((frame) => frame.type === "event" && frame.method === "run.reset");
    assert.deepEqual(resets, []);
  }),

  test(
    "R52",
    "sends a snapshot of what the log no longer holds, and goes on from there",
    ["trimmedRun"],
    async (t) => {
      const socket = await t.connect();
      const { runId, first, head } = await t.target.trimmedRun();
      assert.ok(first > 2 && head > first);
      for (const after of [0, first - 2]) {
        const { seen, from } = await follow(socket, runId, { after });
        const snapshot = await socket.event("run.snapshot", runId, from);
        assert.ok(snapshot.offset >= first - 1);
        assert.equal(seen[0]?.offset, snapshot.offset + 1);
        assert.equal(seen.at(-1)?.offset, head);
        const methods = socket.frames.slice(from).map((frame) => frame.type === "event" && frame.method);
        assert.ok(methods.indexOf("run.snapshot") < methods.indexOf("run.parts"));
      }
      const { seen, from } = await follow(socket, runId, { after: first - 1 });
      assert.equal(seen[0]?.offset, first);
      assert.ok(
        socket.frames.slice(from).every((frame) => frame.type !== "event" || frame.method !== "run.snapshot"),
        "a snapshot came where the log holds all",
      );
    },
  ),

  test(
    "R117",
    "sends a snapshot that is larger than a frame in pages to a client that takes them",
    ["largeTrimmedRun"],
    async (t) => {
      const { runId, first, head, text: whole } = await t.target.largeTrimmedRun();
      const socket = await t.connect();
      let largest = 0;
      socket.ws.on("message", (data: Buffer) => {
        largest = Math.max(largest, data.length);
      });
      for (const after of [0, first - 2]) {
        const { seen, from } = await follow(socket, runId, { after, pages: true });
        const came = socket.frames.slice(from).flatMap((frame) => (frame.type === "event" ? [frame] : []));
        const pages = came.flatMap((event) => (event.method === "run.page" ? [event.params] : []));
        assert.ok(pages.length > 1);
        assert.deepEqual(
          pages.map(({ offset, page, pages: of }) => [offset, page, of]),
          pages.map((_, i) => [first - 1, i + 1, pages.length]),
        );
        assert.ok(came.slice(0, pages.length).every(({ method }) => method === "run.page"));
        const { offset, messages, values } = JSON.parse(pages.map((page) => page.text).join(""));
        assert.equal(offset, first - 1);
        assert.equal(seen[0]?.offset, first);
        assert.equal(seen.at(-1)?.offset, head);
        const fold = Fold.from({ offset, messages, values });
        for (const each of seen) fold.add(each.part!, each.offset);
        assert.ok(fold.text() === whole, "the pages do not add up to what the run said");
      }
      assert.ok(largest <= 1024 * 1024, `a frame has ${largest} bytes`);
    },
  ),

  test(
    "R118",
    "refuses a snapshot that is larger than a frame to a client that takes no pages",
    ["largeTrimmedRun", "trimmedRun"],
    async (t) => {
      const { runId, first, head } = await t.target.largeTrimmedRun();
      const socket = await t.connect();
      for (const params of [{}, { after: first - 2 }, { pages: false }]) {
        const { error, retryable } = await socket.refused("run.subscribe", { runId, ...params });
        assert.deepEqual({ error, retryable }, { error: "payload_too_large", retryable: false });
      }
      // It has the rest all the same, and snapshots that fit.
      const { seen } = await follow(socket, runId, { after: first - 1 });
      assert.deepEqual([seen[0]?.offset, seen.at(-1)?.offset], [first, head]);
      const small = await t.target.trimmedRun();
      for (const pages of [false, true]) {
        const { from } = await follow(socket, small.runId, { pages });
        await socket.event("run.snapshot", small.runId, from);
      }
    },
  ),

  test("R53", "says run.unsubscribed, reason ended, once the ending was delivered", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    ending(run.parts, "completed");
    const mine = socket.frames.filter((frame) => frame.type === "event" && "runId" in frame.params);
    const last = mine.at(-1);
    assert.deepEqual(last, {
      type: "event",
      method: "run.unsubscribed",
      params: { runId: run.runId, reason: "ended" },
    });
    // One that has all of it already is told so, too.
    const { seen } = await follow(socket, run.runId, { after: run.seen });
    assert.deepEqual(seen, []);
  }),

  test("R107", "filters by the names of nodes in ns", ["variedRun"], async (t) => {
    const socket = await t.connect();
    const run = await t.target.variedRun();
    const deep = run.parts.find(({ ns }) => ns.length > 1)!.ns;
    const names = deep.map((segment) => segment.slice(0, segment.indexOf(":")));
    assert.ok(deep.every((segment) => /.:./.test(segment)));
    for (const length of [1, 2]) {
      const path = deep.slice(0, length);
      const below = ({ ns }: Part) => path.every((each, i) => ns[i] === each);
      await filtered(socket, run, { ns: names.slice(0, length) }, below);
      await filtered(socket, run, { ns: [...path.slice(0, -1), names[length - 1]!] }, below);
      const part = path.at(-1)!.slice(0, -1);
      const { seen } = await follow(socket, run.runId, { filter: { ns: [...path.slice(0, -1), part] } });
      assert.ok(
        partsOf(seen).every((each) => each === null || each.type === "lifecycle"),
        `${part} is no name`,
      );
    }
  }),

  test("R54", "sends nothing of a run after run.unsubscribe is answered", [], async (t) => {
    const [socket, watcher] = [await t.connect(), await t.connect()];
    const { runId } = await t.startLong(socket);
    await watcher.call("run.subscribe", { runId });
    const id = socket.ask("run.unsubscribe", { runId });
    assert.deepEqual(await socket.answer(id, "run.unsubscribe"), {});
    const answered = socket.frames.findIndex((frame) => frame.type === "success" && frame.id === id);
    const offset = watcher.parts(runId).length;
    await watcher.until("more parts", () => watcher.parts(runId).length > offset + 3);
    await socket.call("server.ping");
    assert.deepEqual(socket.parts(runId, answered), []);
    assert.deepEqual(await socket.call("run.unsubscribe", { runId }), {}, "once more is no error");
    assert.equal((await socket.call("run.get", { runId })).status, "running", "unsubscribing is no cancel");
    await watcher.call("run.cancel", { runId });
  }),
];

export const events: ConformanceTest[] = [
  test("R71", "sends contiguous frames, each offset once", [], async (t) => {
    const socket = await t.connect();
    if (t.target.lossyRun !== undefined) {
      const lossy = await t.target.lossyRun();
      await socket.call("run.subscribe", { runId: lossy.runId });
      await socket.until("the first part", () => socket.parts(lossy.runId).length === 1);
      await lossy.append();
      const all = await socket.ended(lossy.runId);
      assert.deepEqual(
        all.map(({ offset }) => offset),
        all.map((_, i) => i + 1),
        "what was lost on the way to the gateway is not made good",
      );
    }
    const long = { text: `${text} `.repeat(100), tokensPerSecond: 0 };
    const { runId } = await t.start(socket, long);
    const seen = await socket.ended(runId);
    assert.deepEqual(
      seen.map(({ offset }) => offset),
      seen.map((_, i) => i + 1),
    );
    assert.equal((await socket.call("run.get", { runId })).head, seen.length);
    assert.equal(streamedText(partsOf(seen)), long.text);
  }),

  test("R72", "stands null, or a number of skipped ones, for what a filter leaves out", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    const from = socket.frames.length;
    const { seen } = await follow(socket, run.runId, { filter: { modes: ["custom"] } });
    assert.deepEqual(
      seen,
      run.parts.map((part, i) => ({ offset: i + 1, part: part.type === "lifecycle" ? part : null })),
    );
    for (const frame of socket.frames.slice(from)) {
      if (frame.type !== "event" || frame.method !== "run.parts" || frame.params.skipped === undefined)
        continue;
      assert.deepEqual(frame.params.parts, []);
    }
    // While it runs, too.
    const { runId } = await t.startLong(socket, { subscribe: true });
    const watcher = await t.connect();
    await watcher.call("run.subscribe", { runId, filter: { modes: ["custom"] } });
    await watcher.until("offsets", () => watcher.parts(runId).length > 5);
    await socket.call("run.cancel", { runId });
    const all = await socket.ended(runId);
    assert.deepEqual(
      await watcher.ended(runId),
      all.map(({ offset, part }) => ({ offset, part: part?.type === "lifecycle" ? part : null })),
    );
  }),

  test("R74", "sends as a snapshot what the offsets up to it added up to", ["trimmedRun"], async (t) => {
    const socket = await t.connect();
    const { runId, text: whole } = await t.target.trimmedRun();
    const { seen, from } = await follow(socket, runId);
    const { offset, messages, values = {} } = await socket.event("run.snapshot", runId, from);
    assert.ok(messages.length > 0);
    const fold = Fold.from({ offset, messages, values });
    for (const each of seen) fold.add(each.part!, each.offset);
    assert.equal(fold.text(), whole);
  }),
];
