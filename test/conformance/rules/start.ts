/** run.start */
import assert from "node:assert/strict";
import { isEnding } from "@throughline/protocol";
import { answers, type ConformanceTest, ending, streamedText, test, text } from "../suite.ts";

export const start: ConformanceTest[] = [
  test("R27", "answers run.start with the run's ids, status and epoch", [], async (t) => {
    const socket = await t.connect();
    const started = await t.start(socket);
    assert.equal(started.created, true);
    assert.ok(started.runId.length > 0 && started.threadId.length > 0 && started.epoch.length > 0);
    const record = await socket.call("run.get", { runId: started.runId });
    const { runId, threadId, epoch, agent } = record;
    assert.deepEqual(
      { runId, threadId, epoch, agent },
      { runId: started.runId, threadId: started.threadId, epoch: started.epoch, agent: t.agent },
    );
  }),

  test("R28", "produces the modes that were asked for, and lifecycle", [], async (t) => {
    const socket = await t.connect();
    const types = async (modes: string[]) => {
      const { parts } = await t.run(socket, { modes });
      return [...new Set(parts.map(({ type }) => type))].sort();
    };
    assert.deepEqual(await types(["messages"]), ["lifecycle", "messages"]);
    assert.deepEqual(await types(["custom"]), ["lifecycle"]);
    assert.deepEqual(await types(["updates"]), ["lifecycle", "updates"]);
  }),

  test("R29", "produces messages, updates and custom where no modes are given", [], async (t) => {
    const socket = await t.connect();
    const unasked = await t.run(socket);
    const asked = await t.run(socket, { modes: ["messages", "updates", "custom"] });
    const types = (parts: typeof asked.parts) => parts.map(({ type }) => type);
    assert.ok(types(unasked.parts).includes("messages"));
    assert.deepEqual(types(unasked.parts), types(asked.parts));
  }),

  test("R30", "makes a new thread where none is named", [], async (t) => {
    const socket = await t.connect();
    const [one, two] = [await t.run(socket), await t.run(socket)];
    assert.notEqual(one.threadId, two.threadId);
    assert.deepEqual(answers((await socket.call("thread.get", { threadId: two.threadId })).values), [text]);
  }),

  test(
    "R31",
    "makes an unknown thread under the id that is named, and goes on with a known one",
    [],
    async (t) => {
      const socket = await t.connect();
      const threadId = `conformance-${Math.random().toString(36).slice(2)}`;
      const one = await t.run(socket, { threadId });
      assert.equal(one.threadId, threadId);
      await t.run(socket, { threadId });
      assert.deepEqual(answers((await socket.call("thread.get", { threadId })).values), [text, text]);
    },
  ),

  test("R32", "continues from the checkpoint that is named, and the thread's head follows", [], async (t) => {
    const socket = await t.connect();
    const first = await t.run(socket);
    const { threadId } = first;
    const { checkpointId } = await socket.call("thread.get", { threadId });
    await t.run(socket, { threadId });
    assert.equal(answers((await socket.call("thread.get", { threadId })).values).length, 2);
    const fork = await t.run(socket, { threadId, checkpointId });
    const head = await socket.call("thread.get", { threadId });
    assert.equal(answers(head.values).length, 2, "the new line begins after the first run");
    assert.deepEqual(ending(fork.parts, "completed").checkpoint, {
      threadId,
      checkpointId: head.checkpointId,
    });
    const { checkpoints } = await socket.call("thread.history", { threadId });
    const line: string[] = [];
    for (let id: string | null = head.checkpointId; id !== null; ) {
      line.push(id);
      id = checkpoints.find((each) => each.checkpointId === id)?.parentId ?? null;
    }
    assert.ok(line.includes(checkpointId!), "the head's line goes back to the checkpoint that was named");
  }),

  test("R33", "takes a command in place of input, never both", [], async (t) => {
    const socket = await t.connect();
    const agent = t.agent;
    const both = await socket.refused("run.start", { agent, input: {}, command: { resume: 1 } });
    assert.equal(both.error, "invalid_argument");
    const { runId } = await socket.call("run.start", { agent, command: { resume: "yes" }, subscribe: false });
    await socket.call("run.cancel", { runId, keep: "discard" });
  }),

  test("R103", "goes to nodes with inputs of their own", ["graph"], async (t) => {
    const socket = await t.connect();
    const agent = t.target.graph;
    const { threadId } = await t.run(socket, { agent, input: {} });
    const trail = async (goto: unknown) => {
      const { runId } = await socket.call("run.start", { agent, threadId, command: { goto } });
      ending(
        (await socket.ended(runId)).map(({ part }) => part),
        "completed",
      );
      return (await socket.call("thread.get", { threadId })).values.trail;
    };
    const whole = ["before", "one", "two", "after"];
    assert.deepEqual(await trail("after"), [...whole, "after"]);
    const sends = ["x", "y"].map((called) => ({ node: "after", input: { called } }));
    assert.deepEqual(await trail(sends[0]), [...whole, "after", "x"]);
    const all = await trail([...sends, "after"]);
    assert.deepEqual((all as string[]).slice(6).toSorted(), ["after", "x", "y"]);
    const nobody = { agent, threadId, command: { goto: { node: "after" } } };
    assert.equal((await socket.refused("run.start", nobody)).error, "invalid_argument");
  }),

  test("R104", "refuses a config that no graph takes with invalid_argument", [], async (t) => {
    const socket = await t.connect();
    const wrong: Record<string, unknown>[] = [
      { maxConcurrency: 0 },
      { maxConcurrency: -1 },
      { max_concurrency: 1.5 },
      { recursionLimit: 0 },
      { recursionLimit: 1e9 },
      { recursion_limit: "25" },
      { durability: "always" },
      { tags: "one" },
      { metadata: [] },
      { configurable: "user" },
    ];
    for (const config of wrong) {
      const { error, message } = await socket.refused("run.start", {
        agent: t.agent,
        input: { text },
        config,
      });
      assert.equal(error, "invalid_argument", JSON.stringify(config));
      assert.ok(message.includes(Object.keys(config)[0]!), message);
    }
    const config = {
      configurable: { user: { id: 1 } },
      recursionLimit: 50,
      max_concurrency: 2,
      own: [1, null],
    };
    ending((await t.run(socket, { config })).parts, "completed");
  }),

  test(
    "R105",
    "ends a run interrupted before or after the nodes that are named, and goes on there",
    ["graph"],
    async (t) => {
      const socket = await t.connect();
      const agent = t.target.graph;
      const { threadId, parts } = await t.run(socket, { agent, input: {}, interruptBefore: ["inside"] });
      assert.deepEqual(ending(parts, "interrupted").interrupts, []);
      const state = () => socket.call("thread.get", { threadId });
      assert.deepEqual([(await state()).values.trail, (await state()).next], [["before"], ["inside"]]);
      const rest = await t.run(socket, { agent, threadId, input: null, interruptAfter: ["inside"] });
      assert.deepEqual(ending(rest.parts, "interrupted").interrupts, []);
      assert.deepEqual(
        [(await state()).values.trail, (await state()).next],
        [["before", "one", "two"], ["after"]],
      );
      ending((await t.run(socket, { agent, threadId, input: null })).parts, "completed");
      assert.deepEqual((await state()).values.trail, ["before", "one", "two", "after"]);
      const everywhere = await t.run(socket, { agent, input: {}, interruptBefore: "*" });
      assert.deepEqual(ending(everywhere.parts, "interrupted").interrupts, []);
      const nowhere = await t.run(socket, { agent, input: {}, interruptBefore: ["nowhere"] });
      assert.match(JSON.stringify(ending(nowhere.parts, "failed").error), /nowhere.*before, inside, after/);
    },
  ),

  test("R106", "ends a run that takes longer than timeoutMs with failed, RunTimeoutError", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.startLong(socket, { timeoutMs: 1_500 });
    const seen = (await socket.ended(runId)).map(({ part }) => part);
    const { error, checkpoint } = ending(seen, "failed");
    assert.deepEqual(error, {
      name: "RunTimeoutError",
      message: "the run took longer than its timeoutMs, 1500",
    });
    const { values } = await socket.call(
      "thread.get",
      checkpoint as { threadId: string; checkpointId: string },
    );
    assert.deepEqual(answers(values), [streamedText(seen)]);
    assert.equal((await socket.call("thread.get", { threadId })).checkpointId, null);
    const late = await t.run(socket, { timeoutMs: 60_000 });
    ending(late.parts, "completed");
    for (const timeoutMs of [0, -1, 1.5, 1e9]) {
      const params = { agent: t.agent, input: { text }, timeoutMs };
      assert.equal((await socket.refused("run.start", params)).error, "invalid_argument");
    }
  }),

  test("R34", "refuses with thread_busy under reject while the thread has an active run", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.startLong(socket);
    const params = { agent: t.agent, input: { text }, threadId, multitaskStrategy: "reject" };
    assert.equal((await socket.refused("run.start", params)).error, "thread_busy");
    await socket.call("run.cancel", { runId });
    await socket.ended(runId);
    const next = await t.run(socket, { threadId, multitaskStrategy: "reject" });
    ending(next.parts, "completed");
    const { runs } = await socket.call("run.list", { threadId });
    assert.equal(runs.length, 2, "the refused run left nothing behind");
  }),

  test("R35", "lets a run wait for the thread's active one under enqueue, the default", [], async (t) => {
    const socket = await t.connect();
    const first = await t.startLong(socket);
    const { threadId } = first;
    const waiting = await t.start(socket, { text, tokensPerSecond: 0 }, { threadId });
    assert.equal(waiting.status, "queued");
    const last = await t.start(
      socket,
      { text, tokensPerSecond: 0 },
      { threadId, multitaskStrategy: "enqueue" },
    );
    // The first still streams, and neither of the others has begun.
    const offset = socket.parts(first.runId).length;
    await socket.until("more of the first", () => socket.parts(first.runId).length > offset + 2);
    for (const { runId } of [waiting, last]) {
      assert.equal((await socket.call("run.get", { runId })).status, "queued");
      assert.deepEqual(socket.parts(runId), []);
    }
    await socket.call("run.cancel", { runId: first.runId });
    for (const { runId } of [waiting, last]) {
      ending(
        (await socket.ended(runId)).map(({ part }) => part),
        "completed",
      );
    }
    const ended = socket.frames.flatMap((frame) =>
      frame.type === "event" && frame.method === "run.unsubscribed" ? [frame.params.runId] : [],
    );
    assert.ok(ended.indexOf(waiting.runId) < ended.indexOf(last.runId), "the line was not kept in order");
  }),

  test("R36", "cancels the active run and keeps its partial under interrupt", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.startLong(socket);
    const next = await t.run(socket, { threadId, multitaskStrategy: "interrupt" });
    const seen = (await socket.ended(runId)).map(({ part }) => part);
    assert.equal(ending(seen, "cancelled").keep, "thread");
    ending(next.parts, "completed");
    const { values } = await socket.call("thread.get", { threadId });
    assert.deepEqual(answers(values), [streamedText(seen), text]);
  }),

  test("R37", "cancels the active run and discards it under rollback", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.startLong(socket);
    const next = await t.run(socket, { threadId, multitaskStrategy: "rollback" });
    const seen = (await socket.ended(runId)).map(({ part }) => part);
    assert.equal(ending(seen, "cancelled").keep, "discard");
    ending(next.parts, "completed");
    const { values } = await socket.call("thread.get", { threadId });
    assert.deepEqual(answers(values), [text]);
  }),

  test(
    "R38",
    "starts nothing for an idempotency key that it knows, and answers the first run",
    [],
    async (t) => {
      const idempotencyKey = `conformance-${Math.random()}`;
      const socket = await t.connect();
      const one = await t.run(socket, { idempotencyKey });
      const other = await t.connect();
      const two = await t.run(other, { idempotencyKey });
      assert.deepEqual([two.runId, two.threadId, two.created], [one.runId, one.threadId, false]);
      assert.ok(isEnding(two.status));
      assert.deepEqual(two.parts, one.parts, "the second is subscribed to the first's run");
      const { runs } = await socket.call("run.list", { threadId: one.threadId });
      assert.equal(runs.length, 1);
      const third = await t.run(socket, { idempotencyKey: `${idempotencyKey}-other` });
      assert.notEqual(third.runId, one.runId);
      // Two at once, as a client makes them that sends again what it may have sent.
      const both = {
        agent: t.agent,
        input: { text, tokensPerSecond: 0 },
        idempotencyKey: `${idempotencyKey}-both`,
      };
      const [left, right] = await Promise.all([
        socket.call("run.start", both),
        other.call("run.start", both),
      ]);
      assert.equal(left.runId, right.runId);
      assert.equal(left.threadId, right.threadId);
      assert.equal([left, right].filter(({ created }) => created).length, 1);
      await socket.ended(left.runId);
    },
  ),

  test("R39", "subscribes to the run that it starts, from its first part on", [], async (t) => {
    const socket = await t.connect();
    const id = socket.ask("run.start", { agent: t.agent, input: { text, tokensPerSecond: 0 } });
    const { runId } = await socket.answer(id, "run.start");
    const seen = await socket.ended(runId);
    assert.equal(seen[0]?.offset, 1);
    assert.equal(streamedText(seen.map(({ part }) => part)), text);
    const answer = socket.frames.findIndex((frame) => frame.type === "success" && frame.id === id);
    const first = socket.frames.findIndex((frame) => frame.type === "event" && frame.method === "run.parts");
    assert.ok(answer < first, "parts came before the result");
  }),

  test("R40", "sends nothing of a run that was started with subscribe: false", [], async (t) => {
    const [quiet, watcher] = [await t.connect(), await t.connect()];
    const { runId } = await t.start(quiet, { text, tokensPerSecond: 0 }, { subscribe: false });
    await watcher.call("run.subscribe", { runId });
    await watcher.ended(runId);
    await quiet.call("server.ping");
    assert.deepEqual(
      quiet.frames.filter((frame) => frame.type === "event").length,
      1,
      "hello is its only event",
    );
  }),
];
