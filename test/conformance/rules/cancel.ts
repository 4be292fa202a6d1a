/** run.cancel */
import assert from "node:assert/strict";
import type { Keep } from "@throughline/protocol";
import {
  answers,
  type ConformanceTest,
  type Context,
  ending,
  headState,
  longInput,
  streamedText,
  test,
  text,
} from "../suite.ts";

/** Cancels the second run of a thread while it streams. Answers all that is to be known of it. */
async function cancelMidway(t: Context, keep?: Keep) {
  const socket = await t.connect();
  const { threadId } = await t.run(socket);
  const before = await headState(socket, threadId);
  const { runId } = await t.startLong(socket, { threadId });
  const answer = await socket.call("run.cancel", { runId, ...(keep === undefined ? {} : { keep }) });
  const parts = (await socket.ended(runId)).map(({ part }) => part);
  const after = await headState(socket, threadId);
  return { socket, before, after, runId, threadId, answer, parts };
}

export const cancel: ConformanceTest[] = [
  test(
    "R55",
    "answers run.cancel when the run has ended, with the offset of its last part",
    [],
    async (t) => {
      const { socket, runId, answer, parts } = await cancelMidway(t);
      assert.equal(answer.runId, runId);
      assert.equal(answer.status, "cancelled");
      assert.equal(answer.offset, parts.length);
      ending(parts, "cancelled");
      assert.ok(streamedText(parts).length < longInput.text.length);
      const record = await socket.call("run.get", { runId });
      assert.deepEqual([record.status, record.head], ["cancelled", answer.offset]);
      // One that still waits for its turn ends at once.
      const active = await t.startLong(socket);
      const waiting = await t.start(socket, { text }, { threadId: active.threadId });
      const queued = await socket.call("run.cancel", { runId: waiting.runId });
      assert.deepEqual([queued.status, queued.offset], ["cancelled", 1]);
      ending(
        (await socket.ended(waiting.runId)).map(({ part }) => part),
        "cancelled",
      );
    },
  ),

  test("R56", "keeps the partial in the thread: keep thread, the default", [], async (t) => {
    for (const keep of [undefined, "thread"] as const) {
      const { threadId, after, answer, parts } = await cancelMidway(t, keep);
      assert.equal(ending(parts, "cancelled").keep, "thread");
      assert.deepEqual(answers(after.values), [text, streamedText(parts)]);
      assert.deepEqual(answer.checkpoint, { threadId, checkpointId: after.checkpointId });
      assert.deepEqual(ending(parts, "cancelled").checkpoint, answer.checkpoint);
    }
  }),

  test("R57", "keeps the partial off the thread's head: keep branch", [], async (t) => {
    const { socket, before, after, answer, parts } = await cancelMidway(t, "branch");
    assert.equal(ending(parts, "cancelled").keep, "branch");
    assert.equal(after.checkpointId, before.checkpointId);
    assert.deepEqual(answers(after.values), [text]);
    const branch = await socket.call("thread.get", answer.checkpoint!);
    assert.notEqual(branch.checkpointId, before.checkpointId);
    assert.deepEqual(answers(branch.values), [text, streamedText(parts)]);
  }),

  test("R58", "leaves the thread as it was before the run: keep discard", [], async (t) => {
    const { socket, threadId, before, after, answer, parts } = await cancelMidway(t, "discard");
    assert.equal(ending(parts, "cancelled").keep, "discard");
    assert.ok(streamedText(parts).length > 0);
    assert.deepEqual(after, before);
    assert.equal(answer.checkpoint ?? null, null);
    const { checkpoints } = await socket.call("thread.history", { threadId });
    assert.ok(
      checkpoints.every(({ values }) => answers(values).length < 2),
      "the partial is in the history",
    );
  }),

  test("R59", "answers every cancel of a run alike: the first one's `keep` holds", [], async (t) => {
    const [socket, other] = [await t.connect(), await t.connect()];
    const { runId } = await t.startLong(socket);
    const first = socket.ask("run.cancel", { runId, keep: "branch" });
    const both = await Promise.all([socket.answer(first, "run.cancel"), other.call("run.cancel", { runId })]);
    const later = await other.call("run.cancel", { runId, keep: "discard" });
    const seen = await socket.ended(runId);
    for (const answer of [...both, later]) {
      assert.equal(answer.status, "cancelled");
      assert.equal(answer.offset, seen.length);
      assert.deepEqual(answer.checkpoint, both[0].checkpoint);
    }
    ending(
      seen.map(({ part }) => part),
      "cancelled",
    );
    await other.call("run.subscribe", { runId });
    assert.deepEqual(await other.ended(runId), seen, "the log moved after the answer");
  }),

  test("R112", "keeps the messages of a run that was cancelled before it began", [], async (t) => {
    const socket = await t.connect();
    const said = (content: string) => ({ messages: [{ type: "human", content }], text, tokensPerSecond: 0 });
    const first = await t.startLong(socket);
    const { threadId } = first;
    const waiting: string[] = [];
    for (const content of ["one", "two", "three"]) {
      waiting.push((await t.start(socket, said(content), { threadId })).runId);
    }
    const answer = await socket.call("run.cancel", { runId: waiting[0]! });
    assert.deepEqual([answer.status, answer.offset], ["cancelled", 1]);
    await socket.call("run.cancel", { runId: waiting[1]!, keep: "discard" });
    assert.equal((await socket.call("run.get", { runId: first.runId })).status, "running");
    await socket.call("run.cancel", { runId: first.runId });
    await socket.ended(waiting[2]!);
    const { values } = await socket.call("thread.get", { threadId });
    const messages = values.messages as { type: string; content: string }[];
    const partial = streamedText((await socket.ended(first.runId)).map(({ part }) => part));
    assert.deepEqual(
      messages.map(({ content }) => content),
      [partial, "one", "three", text],
    );
  }),

  test(
    "R113",
    "marks what is said for a tool or a router, and keeps it out of the conversation",
    ["graph"],
    async (t) => {
      const socket = await t.connect();
      const input = { aside: text, messages: [] };
      const { runId, threadId } = await t.start(socket, input, { agent: t.target.graph });
      await socket.until(
        "all that the model says",
        () => streamedText(socket.parts(runId).map(({ part }) => part)) === text,
      );
      await socket.call("run.cancel", { runId });
      const parts = (await socket.ended(runId)).map(({ part }) => part);
      assert.equal(streamedText(parts), text);
      for (const part of parts) {
        if (part?.type === "messages") assert.deepEqual(part.data[1].aside, { tool_call_id: "aside" });
      }
      const { values } = await socket.call("thread.get", { threadId });
      assert.deepEqual([values.messages, values.trail], [[], ["before", "one", "two"]]);
    },
  ),

  test("R60", "answers the cancel of a run that ended otherwise with that ending", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    const answer = await socket.call("run.cancel", { runId: run.runId, keep: "discard" });
    assert.deepEqual(answer, {
      runId: run.runId,
      status: "completed",
      offset: run.seen,
      checkpoint: ending(run.parts, "completed").checkpoint,
    });
    assert.deepEqual(answers((await socket.call("thread.get", { threadId: run.threadId })).values), [text]);
  }),

  test("R61", "answers status cancelling after 10 s, and the cancel still holds", ["hungRun"], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.target.hungRun();
    const asked = performance.now();
    const answer = await socket.call("run.cancel", { runId, keep: "branch" });
    const took = performance.now() - asked;
    assert.equal(answer.status, "cancelling");
    assert.equal(answer.offset, undefined);
    assert.ok(took > 9_000, `it was answered after ${took} ms`);
    const record = await socket.call("run.get", { runId });
    assert.equal(record.status, "cancelling");
    assert.equal(record.cancel?.keep, "branch");
  }),
];
