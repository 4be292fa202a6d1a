import { setTimeout as sleep } from "node:timers/promises";
import type { FlatMessage } from "@throughline/protocol";
import { type AgentContext, agent, custom, token, update } from "@throughline/worker";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { count, countText } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";

let line: Line;
let client: TestClient;
let threads = 0;
const newThread = () => `thread-${threads++}`;

/** Says what it was told of its thread. */
async function* mirror({ messages, checkpoint, metadata, config, input }: AgentContext) {
  yield custom({
    messages: messages.map(({ type, content }) => `${type}:${content}`),
    values: checkpoint?.values ?? null,
    metadata,
    config,
    input: input ?? null,
  });
  yield token("seen", { id: `seen-${messages.length}` });
  yield update({ seen: messages.length });
}

async function* slow({ signal }: AgentContext) {
  yield "slow";
  await sleep(60_000, undefined, { signal });
}

beforeAll(async () => {
  line = await startLine({
    agents: {
      count,
      mirror,
      slow,
      described: agent(count, { description: "Counts.", modes: ["messages"] }),
    },
    gateways: 2,
  });
  client = await line.client();
});
afterAll(() => line.stop());

const user = (content: string) => ({ messages: [{ role: "user", content }] });

async function told(params: Record<string, unknown>) {
  const run = await client.start({ agent: "mirror", ...params });
  expect(await run.ended()).toMatchObject({ event: "completed" });
  return run.parts.find(({ type }) => type === "custom")!.data as {
    messages: string[];
    values: Record<string, unknown> | null;
  };
}

describe("run.start", () => {
  test("hands input, metadata and config to the agent, and makes a thread where none is named", async () => {
    const params = { metadata: { a: [1] }, config: { b: "c" }, input: { x: { y: null } } };
    expect(await told(params)).toEqual({ ...params, messages: [], values: null });
    const { threadId, created } = await client.call("run.start", { agent: "count", input: { n: 1 } });
    expect(threadId).toMatch(/^thread_/);
    expect(created).toBe(true);
  });

  test.each([
    ["a string", "hi", ["human:hi"]],
    ["a message with a role", user("hi"), ["human:hi"]],
    ["a flat message", { messages: [{ type: "ai", content: "hi" }] }, ["ai:hi"]],
    ["one message that is not in a list", { messages: { type: "system", content: "hi" } }, ["system:hi"]],
    ["something else", { question: "hi" }, []],
  ])("takes %s for input", async (_, input, messages) => {
    expect((await told({ input })).messages).toEqual(messages);
  });

  test.each([
    ["no messages at all", { messages: 5 }],
    ["a message of no kind", { messages: [{ role: "nobody", content: "hi" }] }],
    ["a message without content", { messages: [{ role: "user" }] }],
    ["null", { messages: [null] }],
  ])("P5: messages that are none (%s) end the run as failed, and the thread goes on", async (_, input) => {
    const threadId = newThread();
    const run = await client.start({ agent: "mirror", threadId, input });
    expect(await run.ended()).toMatchObject({ event: "failed" });
    expect((await told({ threadId, input: user("next") })).messages.at(-1)).toBe("human:next");
  });

  test("the conversation goes on from what the run before left", async () => {
    const threadId = newThread();
    await told({ threadId, input: user("one") });
    const second = await told({ threadId, input: user("two") });
    expect(second.messages).toEqual(["human:one", "ai:seen", "human:two"]);
    expect(second.values).toMatchObject({ seen: 1 });
  });

  test("modes: only what was asked for is in the log, and the state has all the same", async () => {
    const threadId = newThread();
    const run = await client.start({ agent: "mirror", threadId, modes: ["custom"], input: user("hi") });
    await run.ended();
    expect(run.parts.map(({ type }) => type)).toEqual(["lifecycle", "custom", "lifecycle"]);
    const { values } = await client.call("thread.get", { threadId });
    expect(values).toMatchObject({ seen: 1 });
    expect((values.messages as FlatMessage[]).map(({ content }) => content)).toEqual(["hi", "seen"]);
  });

  test("idempotencyKey: the same key is the same run, whichever gateway it is sent to", async () => {
    const other = await line.client(1);
    const start = { agent: "count", input: { n: 5 }, idempotencyKey: "once", subscribe: false } as const;
    const answers = await Promise.all([
      client.call("run.start", start),
      other.call("run.start", start),
      client.call("run.start", start),
    ]);
    expect(new Set(answers.map(({ runId }) => runId)).size).toBe(1);
    expect(answers.filter(({ created }) => created)).toHaveLength(1);
    const run = await client.follow(answers[0]!.runId);
    await run.ended();
    const late = await client.call("run.start", start);
    expect(late).toMatchObject({ runId: run.runId, created: false, status: "completed" });
    expect(run.text).toBe(countText(5));
  });

  test("multitaskStrategy: reject, enqueue, interrupt, rollback", async () => {
    const threadId = newThread();
    await told({ threadId, input: user("first") });
    const active = await client.start({ agent: "slow", threadId, input: user("to be kept") });
    const busy = await client.refusal("run.start", {
      agent: "mirror",
      threadId,
      multitaskStrategy: "reject",
    });
    expect(busy).toMatchObject({
      code: "thread_busy",
      retryable: true,
      details: { activeRunId: active.runId },
    });
    const kept = await told({ threadId, input: user("second"), multitaskStrategy: "interrupt" });
    expect(await active.ended()).toMatchObject({ event: "cancelled", keep: "thread" });
    expect(kept.messages).toEqual(["human:first", "ai:seen", "human:to be kept", "ai:slow", "human:second"]);
    const undone = await client.start({ agent: "slow", threadId, input: user("to be undone") });
    const queued = await client.start({ agent: "mirror", threadId, input: user("queued") });
    const after = await told({ threadId, input: user("third"), multitaskStrategy: "rollback" });
    expect(await undone.ended()).toMatchObject({ event: "cancelled", keep: "discard" });
    expect(await queued.ended()).toMatchObject({ event: "cancelled", keep: "discard" });
    expect(after.messages).toEqual([...kept.messages, "ai:seen", "human:third"]);
  });
});

test("run.get and run.list: records, newest first, by thread and status, page by page", async () => {
  const threadId = newThread();
  const runIds: string[] = [];
  for (let n = 0; n < 7; n++) {
    const run = await client.start({ agent: "count", threadId, input: { n }, metadata: { n } });
    await run.ended();
    runIds.unshift(run.runId);
  }
  const record = await client.call("run.get", { runId: runIds[0]! });
  expect(record).toMatchObject({
    threadId,
    agent: "count",
    status: "completed",
    attempt: 1,
    first: 1,
    head: 8,
    metadata: { n: 6 },
    checkpoint: { threadId },
  });
  expect(Date.parse(record.createdAt)).toBeLessThanOrEqual(Date.parse(record.startedAt!));
  expect(Date.parse(record.startedAt!)).toBeLessThanOrEqual(Date.parse(record.endedAt!));
  const ids = async (params: Record<string, unknown>) =>
    ((await client.command("run.list", params)) as { runs: { runId: string }[] }).runs.map(
      ({ runId }) => runId,
    );
  expect(await ids({ threadId })).toEqual(runIds);
  expect(await ids({ threadId, limit: 3 })).toEqual(runIds.slice(0, 3));
  expect(await ids({ threadId, limit: 3, before: runIds[2] })).toEqual(runIds.slice(3, 6));
  expect(await ids({ threadId, before: runIds[6] })).toEqual([]);
  expect(await ids({ threadId, status: "completed", limit: 2 })).toEqual(runIds.slice(0, 2));
  expect(await ids({ threadId, status: "failed" })).toEqual([]);
  expect((await ids({ limit: 200 })).slice(0, 7)).toEqual(runIds);
});

test("thread.get, thread.history and thread.update", async () => {
  const threadId = newThread();
  await told({ threadId, input: user("one") });
  const first = await client.state(threadId);
  expect(first).toMatchObject({ threadId, parentId: null, next: [], interrupts: [] });
  const updated = await client.call("thread.update", {
    threadId,
    values: { mood: "good", messages: [{ role: "user", content: "by hand" }] },
    asNode: "editor",
  });
  const second = await client.state(threadId);
  expect(second).toMatchObject({ checkpointId: updated.checkpointId, parentId: first.checkpointId });
  expect(second.values).toMatchObject({ mood: "good", seen: 1 });
  expect(second.metadata).toMatchObject({ source: "update", as_node: "editor" });
  expect(await client.state(threadId, first.checkpointId)).toEqual(first);
  // A run sees it; one that goes on from the checkpoint before it does not.
  expect((await told({ threadId })).messages).toEqual(["human:one", "ai:seen", "human:by hand"]);
  const off = await told({ threadId, checkpointId: first.checkpointId, input: user("instead") });
  expect(off.messages).toEqual(["human:one", "ai:seen", "human:instead"]);
  const { checkpoints } = await client.call("thread.history", { threadId });
  expect(checkpoints).toHaveLength(4);
  expect(checkpoints.slice(2)).toEqual([second, first]);
  const page = await client.call("thread.history", {
    threadId,
    limit: 1,
    before: checkpoints[1]!.checkpointId,
  });
  expect(page.checkpoints).toEqual([second]);
});

test("thread.update refuses what is no state, and a thread with an active run", async () => {
  const threadId = newThread();
  await told({ threadId, input: user("one") });
  for (const values of [{ messages: 5 }, { messages: [{ role: "nobody" }] }, { __pregel_tasks: [] }]) {
    expect(await client.refusal("thread.update", { threadId, values })).toMatchObject({
      code: "invalid_argument",
    });
  }
  expect(
    await client.refusal("thread.update", { threadId, values: {}, checkpointId: "1ef00000-none" }),
  ).toMatchObject({ code: "no_such_checkpoint" });
  const run = await client.start({ agent: "slow", threadId });
  expect(await client.refusal("thread.update", { threadId, values: { a: 1 } })).toMatchObject({
    code: "thread_busy",
    details: { activeRunId: run.runId },
  });
  await client.call("run.cancel", { runId: run.runId });
});

test("agent.list: what live workers offer, and only while they live", async () => {
  const extra = await line.addWorker({ queue: "other", agents: { only: count } });
  const names = async () => (await client.call("agent.list", {})).agents.map(({ name }) => name);
  expect(await names()).toEqual(["count", "described", "mirror", "only", "slow"]);
  const { agents } = await client.call("agent.list", {});
  expect(agents.find(({ name }) => name === "described")).toEqual({
    name: "described",
    description: "Counts.",
    modes: ["messages"],
  });
  const run = await client.start({ agent: "only", input: { n: 2 } });
  await run.ended();
  await extra.close();
  expect(await names()).toEqual(["count", "described", "mirror", "slow"]);
});

test("server.ping and auth.refresh", async () => {
  expect(await client.call("server.ping", {})).toEqual({});
  expect(await client.call("auth.refresh", { token: "anything" })).toEqual({ expiresAt: null });
});
