/** run.get, run.list, thread.*, agent.list, auth.refresh */
import assert from "node:assert/strict";
import { answers, type ConformanceTest, ending, headState, test, text } from "../suite.ts";

export const records: ConformanceTest[] = [
  test("R62", "answers run.get with the run's record", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId, epoch } = await t.startLong(socket, { metadata: { ticket: 17 } });
    const running = await socket.call("run.get", { runId });
    assert.deepEqual(
      [
        running.runId,
        running.threadId,
        running.agent,
        running.status,
        running.attempt,
        running.first,
        running.epoch,
      ],
      [runId, threadId, t.agent, "running", 1, 1, epoch],
    );
    assert.deepEqual(running.metadata, { ticket: 17 });
    assert.ok(running.head > 0 && running.startedAt !== undefined && running.endedAt === undefined);
    const { offset, checkpoint } = await socket.call("run.cancel", { runId, reason: "enough" });
    const ended = await socket.call("run.get", { runId });
    assert.equal(ended.status, "cancelled");
    assert.equal(ended.head, offset);
    assert.deepEqual(ended.checkpoint, checkpoint);
    assert.equal(ended.cancel?.reason, "enough");
    const times = [ended.createdAt, ended.startedAt!, ended.endedAt!].map((time) => Date.parse(time));
    assert.ok(times[0]! <= times[1]! && times[1]! <= times[2]!, "the times are not in order");
  }),

  test("R63", "lists runs newest first", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.run(socket);
    const runIds = [runId];
    for (let i = 0; i < 3; i++) runIds.unshift((await t.run(socket, { threadId })).runId);
    const { runs } = await socket.call("run.list", { threadId });
    assert.deepEqual(
      runs.map((run) => run.runId),
      runIds,
    );
    const mine = await socket.call("run.list", {});
    const known = mine.runs.map((run) => run.runId).filter((each) => runIds.includes(each));
    assert.deepEqual(known, runIds, "without a thread all of one's runs are listed");
  }),

  test("R64", "lists by thread, status, limit and before", [], async (t) => {
    const socket = await t.connect();
    const active = await t.startLong(socket);
    const { threadId } = active;
    const waiting = await t.start(socket, { text, tokensPerSecond: 0 }, { threadId });
    const list = async (params: object) =>
      (await socket.call("run.list", { threadId, ...params })).runs.map((run) => run.runId);
    assert.deepEqual(await list({ status: "running" }), [active.runId]);
    assert.deepEqual(await list({ status: "queued" }), [waiting.runId]);
    assert.deepEqual(await list({ status: "failed" }), []);
    assert.deepEqual(await list({ limit: 1 }), [waiting.runId]);
    assert.deepEqual(await list({ limit: 1, before: waiting.runId }), [active.runId]);
    assert.deepEqual(await list({ before: active.runId }), []);
    await socket.call("run.cancel", { runId: active.runId });
    await socket.ended(waiting.runId);
    assert.deepEqual(await list({ status: "cancelled" }), [active.runId]);
    assert.deepEqual(await list({ status: "completed" }), [waiting.runId]);
  }),

  test("R65", "answers thread.get with the thread's state", [], async (t) => {
    const socket = await t.connect();
    const { threadId, parts } = await t.run(socket);
    const state = await headState(socket, threadId);
    assert.equal(state.threadId, threadId);
    assert.deepEqual({ threadId, checkpointId: state.checkpointId }, ending(parts, "completed").checkpoint);
    assert.deepEqual(answers(state.values), [text]);
    assert.deepEqual([state.next, state.interrupts], [[], []]);
    assert.ok(Number.isFinite(Date.parse(state.createdAt)));
  }),

  test("R66", "answers thread.get with the state at the checkpoint that is named", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const first = await headState(socket, threadId);
    await t.run(socket, { threadId });
    const second = await headState(socket, threadId);
    assert.notEqual(second.checkpointId, first.checkpointId);
    assert.deepEqual(await socket.call("thread.get", { threadId, checkpointId: first.checkpointId }), first);
    const named = await socket.call("thread.get", { threadId, checkpointId: second.checkpointId });
    assert.deepEqual(named, second);
  }),

  test("R67", "answers thread.history newest first, by limit and before", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    for (let i = 0; i < 2; i++) await t.run(socket, { threadId });
    const { checkpoints } = await socket.call("thread.history", { threadId });
    assert.ok(checkpoints.length >= 3);
    assert.deepEqual(checkpoints[0], await headState(socket, threadId));
    const times = checkpoints.map(({ createdAt }) => Date.parse(createdAt));
    assert.deepEqual(
      times,
      times.toSorted((a, b) => b - a),
    );
    const ids = checkpoints.map(({ checkpointId }) => checkpointId);
    const page = async (params: object) =>
      (await socket.call("thread.history", { threadId, ...params })).checkpoints.map(
        (each) => each.checkpointId,
      );
    assert.deepEqual(await page({ limit: 2 }), ids.slice(0, 2));
    assert.deepEqual(await page({ before: ids[1] }), ids.slice(2));
    assert.deepEqual(await page({ before: ids[0], limit: 1 }), [ids[1]]);
  }),

  test("R143", "answers thread.history without values: counts and new ids of messages", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const [first] = (await socket.call("thread.history", { threadId })).checkpoints;
    await t.run(socket, { threadId });
    // A branch, on which one message has another text, and one is new.
    const [said] = first!.values.messages as { id: string }[];
    const messages = [
      { ...said, content: "edited" },
      { type: "human", id: "note-1", content: "noted" },
    ];
    const { checkpointId } = first!;
    await socket.call("thread.update", { threadId, values: { messages }, asNode: "editor", checkpointId });
    const { checkpoints: states } = await socket.call("thread.history", { threadId });
    const idsAt = (id: string | null) => {
      const state = states.find((each) => each.checkpointId === id);
      return ((state?.values.messages ?? []) as { id: string }[]).map((message) => message.id);
    };
    const expected = states.map((state) => {
      const [own, before] = [idsAt(state.checkpointId), idsAt(state.parentId)];
      const added = own.filter((id) => !before.includes(id));
      return { ...state, values: {}, messages: { count: own.length, added } };
    });
    assert.deepEqual(expected[0]?.messages.added, ["note-1"]);
    const page = async (params: object) =>
      (await socket.call("thread.history", { threadId, values: false, ...params })).checkpoints;
    assert.deepEqual(await page({}), expected);
    assert.deepEqual(await page({ before: states[0]!.checkpointId, limit: 1 }), expected.slice(1, 2));
    assert.deepEqual((await socket.call("thread.history", { threadId, values: true })).checkpoints, states);
  }),

  test("R68", "writes a new checkpoint for thread.update", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const before = await headState(socket, threadId);
    const values = { note: "by hand", messages: [{ type: "human", id: "note-1", content: "noted" }] };
    const written = await socket.call("thread.update", { threadId, values, asNode: "editor" });
    assert.equal(written.threadId, threadId);
    const after = await headState(socket, threadId);
    assert.deepEqual([after.checkpointId, after.parentId], [written.checkpointId, before.checkpointId]);
    assert.equal(after.values.note, "by hand");
    assert.equal((after.values.messages as { content: string }[]).at(-1)?.content, "noted");
    assert.deepEqual(answers(after.values), answers(before.values));
    // From an older one: a line of its own.
    const fork = { threadId, values: { note: "again" }, checkpointId: before.checkpointId };
    const forked = await socket.call("thread.update", fork);
    const state = await socket.call("thread.get", forked);
    assert.deepEqual([state.parentId, state.values.note], [before.checkpointId, "again"]);
    const bad = { threadId, values: { messages: [{ nonsense: true }] } };
    assert.equal((await socket.refused("thread.update", bad)).error, "invalid_argument");
  }),

  test("R108", "answers thread.get with the state of a subgraph", ["graph"], async (t) => {
    const socket = await t.connect();
    const { threadId, parts } = await t.run(socket, { agent: t.target.graph, input: {}, subgraphs: true });
    const { ns } = parts.find((part) => part.ns.length > 0)!;
    const inside = await socket.call("thread.get", { threadId, ns });
    assert.deepEqual([inside.ns, inside.values.trail], [ns, ["before", "one", "two"]]);
    assert.deepEqual(await socket.call("thread.get", { threadId, ns: ["inside"] }), inside);
    const { checkpointId } = inside;
    assert.deepEqual(await socket.call("thread.get", { threadId, ns: ["inside"], checkpointId }), inside);
    // The latest of its tasks.
    await t.run(socket, { agent: t.target.graph, input: {}, threadId });
    const { values } = await socket.call("thread.get", { threadId, ns: ["inside"] });
    assert.equal((values.trail as string[]).length, 7);
    assert.deepEqual(await socket.call("thread.get", { threadId, ns: ["inside"], checkpointId }), inside);
    const root = await headState(socket, threadId);
    const { thread: _, ...same } = await socket.call("thread.get", { threadId, ns: [] });
    assert.deepEqual(same, root);
    assert.deepEqual(root.ns, []);
    for (const wrong of [
      { ns: ["outside"] },
      { ns: ["inside", "one"] },
      { ns, checkpointId: root.checkpointId },
    ]) {
      assert.equal((await socket.refused("thread.get", { threadId, ...wrong })).error, "no_such_checkpoint");
    }
  }),

  test("R109", "answers thread.get with the tasks of the next step", ["graph"], async (t) => {
    const socket = await t.connect();
    const agent = t.target.graph;
    const { threadId, parts } = await t.run(socket, { agent, input: { ask: "Really?" } });
    const asked = ending(parts, "interrupted").interrupts as { id: string; value: unknown }[];
    assert.equal(asked[0]?.value, "Really?");
    const state = await headState(socket, threadId);
    const interrupts = asked.map((each) => ({ ...each, answered: false }));
    assert.deepEqual(
      state.tasks?.map(({ id: _, ...task }) => task),
      [{ name: "inside", interrupts }],
    );
    const { runId } = await socket.call("run.start", { agent, threadId, command: { resume: "yes" } });
    await socket.ended(runId);
    assert.deepEqual((await headState(socket, threadId)).tasks, []);
    const { checkpoints } = await socket.call("thread.history", { threadId });
    const earlier = checkpoints.find(({ checkpointId }) => checkpointId === state.checkpointId);
    const [task] = earlier?.tasks ?? [];
    assert.equal(task?.interrupts[0]?.answered, true);
    assert.deepEqual((task?.result as { trail?: unknown })?.trail, ["before", "one", "two"]);
  }),

  test("R110", "answers thread.history with the checkpoints of a subgraph", ["graph"], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket, { agent: t.target.graph, input: {} });
    const { checkpoints } = await socket.call("thread.history", { threadId, ns: ["inside"] });
    assert.deepEqual(checkpoints[0], await socket.call("thread.get", { threadId, ns: ["inside"] }));
    const last = checkpoints.slice(0, 2).map(({ values }) => (values.trail as string[]).at(-1));
    assert.deepEqual(last, ["two", "one"]);
    const ids = checkpoints.map(({ checkpointId }) => checkpointId);
    const page = { threadId, ns: ["inside"], before: ids[0]!, limit: 1 };
    const next = (await socket.call("thread.history", page)).checkpoints;
    assert.deepEqual(
      next.map(({ checkpointId }) => checkpointId),
      [ids[1]],
    );
    const unknown = await socket.refused("thread.history", { threadId, ns: ["outside"] });
    assert.equal(unknown.error, "no_such_checkpoint");
  }),

  test("R111", "writes to the state of a subgraph, which goes on from it", ["graph"], async (t) => {
    const socket = await t.connect();
    const agent = t.target.graph;
    const { threadId } = await t.run(socket, { agent, input: { ask: "Really?" } });
    const before = await socket.call("thread.get", { threadId, ns: ["inside"] });
    const values = { trail: ["by hand"] };
    const written = await socket.call("thread.update", { threadId, ns: ["inside"], values });
    const after = await socket.call("thread.get", { threadId, ns: ["inside"] });
    assert.deepEqual([after.checkpointId, after.parentId], [written.checkpointId, before.checkpointId]);
    assert.deepEqual(after.values.trail, ["before", "one", "by hand"]);
    const { runId } = await socket.call("run.start", { agent, threadId, command: { resume: "yes" } });
    await socket.ended(runId);
    const done = await headState(socket, threadId);
    assert.deepEqual(done.values.trail, ["before", "one", "by hand", "two", "after"]);
    for (const wrong of [{ ns: ["outside"] }, { ns: ["inside"], asNode: "three" }]) {
      const { error } = await socket.refused("thread.update", { threadId, values, ...wrong });
      assert.equal(error, wrong.asNode === undefined ? "no_such_checkpoint" : "invalid_argument");
    }
  }),

  test("R69", "lists the agents that live workers offer", [], async (t) => {
    const { agents } = await (await t.connect()).call("agent.list");
    const found = agents.find(({ name }) => name === t.agent);
    assert.ok(found?.modes.includes("messages"), `${t.agent} is not among ${agents.map(({ name }) => name)}`);
  }),

  test("R70", "answers auth.refresh with when the new token runs out", ["token", "freshToken"], async (t) => {
    const socket = await t.connect();
    const { expiresAt } = await socket.call("auth.refresh", { token: t.target.freshToken });
    assert.ok(expiresAt === null || Date.parse(expiresAt) > Date.now());
    assert.deepEqual(await socket.call("server.ping"), {});
  }),
];
