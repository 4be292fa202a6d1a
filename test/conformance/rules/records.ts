/** run.get, run.list, thread.*, agent.list, auth.refresh */
import assert from "node:assert/strict";
import { answers, type ConformanceTest, ending, test, text } from "../suite.ts";

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
    const state = await socket.call("thread.get", { threadId });
    assert.equal(state.threadId, threadId);
    assert.deepEqual({ threadId, checkpointId: state.checkpointId }, ending(parts, "completed").checkpoint);
    assert.deepEqual(answers(state.values), [text]);
    assert.deepEqual([state.next, state.interrupts], [[], []]);
    assert.ok(Number.isFinite(Date.parse(state.createdAt)));
  }),

  test("R66", "answers thread.get with the state at the checkpoint that is named", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const first = await socket.call("thread.get", { threadId });
    await t.run(socket, { threadId });
    const second = await socket.call("thread.get", { threadId });
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
    assert.deepEqual(checkpoints[0], await socket.call("thread.get", { threadId }));
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

  test("R68", "writes a new checkpoint for thread.update", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const before = await socket.call("thread.get", { threadId });
    const values = { note: "by hand", messages: [{ type: "human", id: "note-1", content: "noted" }] };
    const written = await socket.call("thread.update", { threadId, values, asNode: "editor" });
    assert.equal(written.threadId, threadId);
    const after = await socket.call("thread.get", { threadId });
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
