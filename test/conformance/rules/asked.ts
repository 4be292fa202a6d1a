/** What a run tells of what it was asked, where it begins, and what becomes of it when nobody reads it or a worker is lost. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import type { FlatMessage, RunRecord } from "@throughline/protocol";
import type { Socket } from "../client.ts";
import { answers, type ConformanceTest, type Context, ending, test, text } from "../suite.ts";

/** An input that brings two messages, beside what it says to the agent. */
const messages = [
  { role: "user", content: "Tell me a story." },
  { type: "human", id: "conformance-asked", content: "A short one." },
];
const input = { messages, text, tokensPerSecond: 0 };
/** Runs for minutes where nobody stops it. */
const endless = { text: `${text} `.repeat(200), tokensPerSecond: 10 };
const pollMs = 100;

const contents = (list: unknown) => (list as FlatMessage[]).map(({ content }) => content);

/** Asks for a run's record until it is as it should be. */
async function untilRecord(
  socket: Socket,
  runId: string,
  holds: (record: RunRecord) => boolean,
): Promise<RunRecord> {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const record = await socket.call("run.get", { runId });
    if (holds(record)) return record;
    assert.ok(performance.now() < deadline, `the run is still ${record.status}`);
    await sleep(pollMs);
  }
}

/** What of a record says what the run was asked. */
function askedOf({ input, inputCut, from, modes, subgraphs, onDisconnect }: RunRecord): object {
  return { input, inputCut, from, modes, subgraphs, onDisconnect };
}

async function recordOf(t: Context, socket: Socket, params: Record<string, unknown>, asked: unknown) {
  const { runId, threadId } = await t.start(socket, asked, params);
  await socket.ended(runId);
  const record = await socket.call("run.get", { runId });
  const { runs } = await socket.call("run.list", { threadId, limit: 1 });
  assert.deepEqual(askedOf(runs[0]!), askedOf(record), "run.list tells what run.get tells");
  return record;
}

export const asked: ConformanceTest[] = [
  test("R139", "has in a run's record what it was asked, and its number in its thread", [], async (t) => {
    const socket = await t.connect();
    const plain = { text, tokensPerSecond: 0 };
    const nothing = { inputCut: undefined, from: undefined, subgraphs: undefined, onDisconnect: undefined };
    const first = await recordOf(t, socket, {}, plain);
    assert.deepEqual(askedOf(first), { ...nothing, input: plain, modes: undefined });
    const { threadId, checkpoint } = first;
    const from = checkpoint!.checkpointId;
    const asks = { modes: ["values", "messages"], subgraphs: true, onDisconnect: "continue" };
    const second = await recordOf(t, socket, { threadId, checkpointId: from, ...asks }, plain);
    assert.deepEqual(askedOf(second), { ...nothing, ...asks, input: plain, from });
    // To come here: `ordinal`, 1 of `first` and 2 of `second`.
    const large = {
      ...plain,
      list: Array.from({ length: 500 }, (_, i) => ({ i })),
      note: "🧵".repeat(5_000),
    };
    const cut = await recordOf(t, socket, { threadId, checkpointId: null }, large);
    assert.equal(cut.from, null);
    assert.equal(cut.inputCut, true);
    assert.ok(JSON.stringify(cut.input).length <= 4_096);
    assert.equal((cut.input as typeof large).text, text, "what is short is there");
    assert.ok(large.note.startsWith((cut.input as typeof large).note.slice(0, 10)));
    const whole = { ...plain, note: "x".repeat(4_096 - JSON.stringify({ ...plain, note: "" }).length - 200) };
    assert.deepEqual(askedOf(await recordOf(t, socket, {}, whole)), {
      ...nothing,
      input: whole,
      modes: undefined,
    });
  }),

  test("R140", "begins a run with the messages that its input brings", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.start(socket, input);
    const seen = await socket.ended(runId);
    const first = seen[0]!;
    assert.equal(first.offset, 1);
    assert.ok(first.part?.type === "lifecycle" && first.part.data.event === "started");
    const told = first.part.data.messages ?? [];
    assert.deepEqual(
      told.map(({ type, content }) => [type, content]),
      messages.map(({ content }) => ["human", content]),
    );
    assert.equal(told[1]!.id, "conformance-asked");
    assert.equal(typeof told[0]!.id, "string");
    const { values } = await socket.call("thread.get", { threadId });
    assert.deepEqual((values.messages as FlatMessage[]).slice(0, 2), told, "the thread has them so");
    // A run that brings none tells of none.
    const bare = await t.run(socket, { threadId });
    assert.ok(bare.parts[0]?.type === "lifecycle" && !("messages" in bare.parts[0].data));
  }),

  test("R141", "begins the values of a run with the messages that its input brings", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const params = { threadId, modes: ["values", "messages"] };
    const { runId } = await t.start(socket, input, params);
    const parts = (await socket.ended(runId)).map(({ part }) => part);
    const begun = parts.find((part) => part?.type === "values" && part.ns.length === 0);
    assert.ok(begun?.type === "values", "there are no values");
    const { messages: list } = begun.data as { messages?: unknown };
    assert.deepEqual(contents(list), [text, ...messages.map(({ content }) => content)]);
    const { values } = await socket.call("thread.get", { threadId });
    const ids = (values.messages as FlatMessage[]).map(({ id }) => id);
    assert.deepEqual(
      (list as FlatMessage[]).map(({ id }) => id),
      ids.slice(0, 3),
    );
  }),

  test("R142", "begins from nothing where the checkpoint is null", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const before = await socket.call("thread.get", { threadId });
    const { runId, parts } = await t.run(socket, { threadId, checkpointId: null });
    const after = await socket.call("thread.get", { threadId });
    assert.equal(
      after.checkpointId,
      (ending(parts, "completed").checkpoint as { checkpointId: string }).checkpointId,
    );
    assert.deepEqual(answers(after.values), [text], "nothing of what the thread had");
    const line = await socket.call("thread.history", { threadId });
    const own = line.checkpoints.filter(({ metadata }) => metadata.run_id === runId);
    assert.ok(own.some(({ parentId }) => parentId === null));
    // What was there is there, and can be gone on from.
    const { checkpointId } = before;
    assert.deepEqual(
      (await socket.call("thread.get", { threadId, checkpointId: checkpointId! })).values,
      before.values,
    );
    await t.run(socket, { threadId, checkpointId });
    assert.deepEqual(answers((await socket.call("thread.get", { threadId })).values), [text, text]);
    // On a new thread it is as if it had not been said.
    const anew = await t.run(socket, { checkpointId: null });
    assert.deepEqual(answers((await socket.call("thread.get", { threadId: anew.threadId })).values), [text]);
  }),

  test("R144", "cancels a run that nobody reads where it was started so, and no other", [], async (t) => {
    const [reader, watcher] = [await t.connect(), await t.connect()];
    const begin = async (params: object) => (await t.start(reader, endless, { ...params })).runId;
    const left = await begin({ onDisconnect: "cancel" });
    const watched = await begin({ onDisconnect: "cancel" });
    const others = [await begin({ onDisconnect: "continue" }), await begin({})];
    await watcher.call("run.subscribe", { runId: watched });
    for (const runId of [left, watched, ...others]) {
      await untilRecord(watcher, runId, ({ status, head }) => status === "running" && head > 3);
    }
    reader.close();
    const ended = await untilRecord(watcher, left, ({ status }) => status === "cancelled");
    assert.equal(ended.cancel?.keep, "thread");
    const { values } = await watcher.call("thread.get", { threadId: ended.threadId });
    assert.equal(answers(values).length, 1, "its partial is in the thread");
    for (const runId of [watched, ...others]) {
      assert.equal((await watcher.call("run.get", { runId })).status, "running");
    }
    // Whoever leaves by a command leaves as well.
    await watcher.call("run.unsubscribe", { runId: watched });
    await untilRecord(watcher, watched, ({ status }) => status === "cancelled");
    for (const runId of others) await watcher.call("run.cancel", { runId, keep: "discard" });
  }),

  test("R145", "never rewinds below a step that is done", ["steppedRun"], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.target.steppedRun();
    await socket.call("run.subscribe", { runId });
    let [stepped, rewinds] = [0, 0];
    for (const { offset, part } of await socket.ended(runId)) {
      if (part?.type !== "lifecycle") continue;
      if (part.data.event === "stepped") stepped = offset;
      if (part.data.event !== "rewound") continue;
      rewinds++;
      assert.ok(part.data.to >= stepped, `rewound to ${part.data.to}, below the step at ${stepped}`);
    }
    assert.ok(stepped > 0 && rewinds > 0, "the run had steps, and lost a worker");
  }),
];
