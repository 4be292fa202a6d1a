import { setTimeout as sleep } from "node:timers/promises";
import type { FlatMessage, Keep, Result } from "@throughline/protocol";
import { type AgentContext, custom, token } from "@throughline/worker";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Gate } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import type { Transcript } from "../support/transcript.ts";
import { until } from "../support/until.ts";

let line: Line;
let client: TestClient;
let threads = 0;
const newThread = () => `thread-${threads++}`;

/** Code units one by one: every emoji is split between two tokens. */
const story = 'Once 👩‍🚀 upon 𝒂 time… 🎉🎉 \n "quoted" \\ \u2028 ';

async function* teller({ signal }: AgentContext) {
  for (let i = 0; ; i++) {
    yield story[i % story.length]!;
    if (i % 5 === 0) await sleep(1, undefined, { signal });
  }
}

/** Says nothing: a model that thinks before its first token. */
async function* thinker({ signal }: AgentContext) {
  await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  yield "never";
}

/** Yields, then waits for an upstream that knows nothing of signals, and goes on as if nothing had happened. */
const upstream = { calls: 0, gate: new Gate(), yielded: [] as string[] };
async function* deaf() {
  yield "before ";
  upstream.calls++;
  await upstream.gate.passed;
  for (const text of ["after ", "the ", "cancel"]) {
    upstream.yielded.push(text);
    yield text;
  }
}

async function* half({ signal }: AgentContext) {
  yield "half ";
  yield "🎉"[0]!;
  await sleep(60_000, undefined, { signal });
  yield "🎉"[1]!;
}

/** Says what it was told. */
async function* echo({ messages }: AgentContext) {
  yield custom(messages.map(({ type, content }) => `${type}:${content}`));
  yield token("echoed", { id: `echo-${messages.length}` });
}

beforeAll(async () => {
  line = await startLine({
    agents: { teller, thinker, half, deaf, echo },
    gateways: 2,
    env: { COMMANDS_PER_SECOND: "100000" },
  });
  client = await line.client();
});
afterAll(() => line.stop());

/** What must hold of every cancelled run, whenever it was cancelled (P3). */
async function expectStopped(run: Transcript, answer: Result<"run.cancel">, keep: Keep = "thread") {
  const ending = await run.ended();
  expect(ending).toMatchObject({ event: "cancelled", keep });
  expect(answer).toMatchObject({ runId: run.runId, status: "cancelled", offset: run.last });
  const record = await client.call("run.get", { runId: run.runId });
  expect(record).toMatchObject({ status: "cancelled", head: answer.offset });
  // The log holds exactly that, and will hold nothing more.
  const log = await line.redis.xrevrange(`${line.prefix}:{${run.runId}}:log`, "+", "-", "COUNT", 1);
  expect(log[0]![0]).toBe(`${answer.offset}-0`);
  expect((ending as { checkpoint?: unknown }).checkpoint ?? null).toEqual(answer.checkpoint ?? null);
}

async function thread(threadId: string, checkpointId?: string) {
  const { thread: _, ...state } = await client.call("thread.get", {
    threadId,
    ...(checkpointId === undefined ? {} : { checkpointId }),
  });
  return { ...state, messages: (state.values.messages ?? []) as FlatMessage[] };
}

const user = (content: string) => ({ messages: [{ role: "user", content }] });

describe("P3: a cancel, and when it comes", () => {
  test("while the run is queued: it ends on the spot, and the one before it goes on", async () => {
    const threadId = newThread();
    const active = await client.start({ agent: "teller", threadId });
    const queued = await client.start({ agent: "echo", threadId, input: user("hi") });
    await until(() => active.last > 2);
    const answer = await client.call("run.cancel", { runId: queued.runId, reason: "changed my mind" });
    await expectStopped(queued, answer);
    expect(answer.offset).toBe(1);
    expect(queued.ending).toMatchObject({ reason: "changed my mind" });
    expect((await client.call("run.get", { runId: active.runId })).status).toBe("running");
    await expectStopped(active, await client.call("run.cancel", { runId: active.runId }));
    // The line has moved on, past the one that never ran.
    const next = await client.start({ agent: "echo", threadId, input: user("hello") });
    expect(await next.ended()).toMatchObject({ event: "completed" });
  });

  test("before the first token", async () => {
    const threadId = newThread();
    const run = await client.start({ agent: "thinker", threadId, input: user("think") });
    await until(() => run.last === 1);
    const answer = await client.call("run.cancel", { runId: run.runId });
    await expectStopped(run, answer);
    expect(run.lifecycle.map(({ event }) => event)).toEqual(["started", "cancelled"]);
    expect(run.text).toBe("");
    expect((await thread(threadId)).messages).toMatchObject([{ type: "human", content: "think" }]);
  });

  test.each(Array.from({ length: 12 }, (_, i) => i * 17 + 3))(
    "in the middle, after about %i parts: the checkpoint's text is the streamed text, code unit for code unit",
    async (parts) => {
      const threadId = newThread();
      const run = await client.start({ agent: "teller", threadId, input: user("tell") });
      await until(() => run.last >= parts);
      const answer = await client.call("run.cancel", { runId: run.runId });
      await expectStopped(run, answer);
      expect(answer.checkpoint?.threadId).toBe(threadId);
      const state = await thread(threadId);
      expect(state.checkpointId).toBe(answer.checkpoint?.checkpointId);
      expect(state.messages).toHaveLength(2);
      const [input, partial] = state.messages as [FlatMessage, FlatMessage];
      expect(input).toMatchObject({ type: "human", content: "tell" });
      expect(partial.type).toBe("ai");
      expect(partial.content).toBe(run.text);
      expect(partial.additional_kwargs).toMatchObject({ cancelled: true });
      expect(story.repeat(100).startsWith(run.text)).toBe(true);
      expect(run.text).toHaveLength(run.last - 2);
    },
  );

  test("between the two halves of an emoji: both the stream and the checkpoint end in one half", async () => {
    const threadId = newThread();
    const run = await client.start({ agent: "half", threadId });
    await until(() => run.last === 3);
    await expectStopped(run, await client.call("run.cancel", { runId: run.runId }));
    expect(run.text).toBe("half \ud83c");
    expect((await thread(threadId)).messages[0]!.content).toBe("half \ud83c");
  });

  test("during a slow upstream call that ignores its signal: it ends without it, and takes nothing more", async () => {
    upstream.gate = new Gate();
    upstream.calls = 0;
    upstream.yielded.length = 0;
    const threadId = newThread();
    const run = await client.start({ agent: "deaf", threadId, input: user("call") });
    await until(() => upstream.calls === 1 && run.last === 2);
    const answer = await client.call("run.cancel", { runId: run.runId });
    await expectStopped(run, answer);
    expect(answer.offset).toBe(3);
    // The upstream answers at last: the agent yields once more, and nobody takes it.
    upstream.gate.open();
    await until(() => upstream.yielded.length > 0);
    const next = await client.start({ agent: "echo", threadId });
    await next.ended();
    expect(upstream.yielded).toEqual(["after "]);
    await expectStopped(run, answer);
    expect((await thread(threadId)).messages.map(({ content }) => content)).toEqual([
      "call",
      "before ",
      "echoed",
    ]);
  });

  test("after the end: it answers that ending", async () => {
    const run = await client.start({ agent: "echo", threadId: newThread() });
    const ending = await run.ended();
    for (let i = 0; i < 2; i++) {
      const answer = await client.call("run.cancel", { runId: run.runId, keep: "discard" });
      expect(answer).toEqual({
        runId: run.runId,
        status: "completed",
        offset: run.last,
        checkpoint: (ending as { checkpoint?: unknown }).checkpoint,
      });
    }
    expect(run.ending?.event).toBe("completed");
  });

  test("twice at once from two sockets on two gateways: once, and both hear of it", async () => {
    const others = await Promise.all([line.client(0), line.client(1)]);
    for (let round = 0; round < 5; round++) {
      const run = await client.start({ agent: "teller", threadId: newThread() });
      await until(() => run.last > 3);
      const keeps = ["branch", "thread"] as const;
      const [one, two] = await Promise.all(
        others.map((each, i) => each.call("run.cancel", { runId: run.runId, keep: keeps[i]! })),
      );
      await run.ended();
      expect(one).toEqual(two);
      // The first one's `keep` holds, whichever that was.
      await expectStopped(run, one!, (run.ending as { keep: Keep }).keep);
      const third = await client.call("run.cancel", { runId: run.runId });
      expect(third).toEqual(one);
    }
  });

  test("from a third socket, of a run that was started on one gateway and is followed on another", async () => {
    const [starter, follower, stopper] = [await line.client(0), await line.client(1), await line.client(1)];
    const run = await starter.start({ agent: "teller", threadId: newThread() });
    const followed = await follower.follow(run.runId);
    await until(() => followed.last > 20 && run.last > 20);
    const answer = await stopper.call("run.cancel", { runId: run.runId });
    await expectStopped(run, answer);
    await followed.ended();
    expect(followed.delivered).toEqual(run.delivered);
  });

  test("and the socket is closed: the run goes on", async () => {
    const leaving = await line.client();
    const threadId = newThread();
    const { runId, last } = await leaving.start({ agent: "teller", threadId });
    await leaving.close();
    const run = await client.follow(runId);
    await until(() => run.last > last + 50);
    expect((await client.call("run.get", { runId })).status).toBe("running");
    await client.call("run.cancel", { runId });
    await run.ended();
  });
});

describe("what becomes of the partial", () => {
  /** A thread with one finished exchange, and then a run that was cancelled with `keep`. */
  async function cancelled(keep: Keep) {
    const threadId = newThread();
    await (await client.start({ agent: "echo", threadId, input: user("first") })).ended();
    const before = await thread(threadId);
    const run = await client.start({ agent: "teller", threadId, input: user("second") });
    await until(() => run.last > 40);
    const answer = await client.call("run.cancel", { runId: run.runId, keep });
    await expectStopped(run, answer, keep);
    return { threadId, before, run, answer };
  }

  /** What an agent that runs now on the thread is told. */
  async function told(threadId: string, checkpointId?: string): Promise<string[]> {
    const run = await client.start({
      agent: "echo",
      threadId,
      input: user("third"),
      ...(checkpointId === undefined ? {} : { checkpointId }),
    });
    await run.ended();
    return run.parts.find((part) => part.type === "custom")!.data as string[];
  }

  test("P3: thread: the conversation goes on from it", async () => {
    const { threadId, run, answer } = await cancelled("thread");
    expect((await thread(threadId)).checkpointId).toBe(answer.checkpoint?.checkpointId);
    expect(await told(threadId)).toEqual([
      "human:first",
      "ai:echoed",
      "human:second",
      `ai:${run.text}`,
      "human:third",
    ]);
  });

  test("P3: branch: the head stays, and the story goes on from its checkpointId alone", async () => {
    const { threadId, before, run, answer } = await cancelled("branch");
    const branch = answer.checkpoint!.checkpointId;
    expect((await thread(threadId)).checkpointId).toBe(before.checkpointId);
    const kept = await thread(threadId, branch);
    expect(kept.parentId).toBe(before.checkpointId);
    expect(kept.messages.at(-1)!.content).toBe(run.text);
    expect(await told(threadId)).toEqual(["human:first", "ai:echoed", "human:third"]);
    expect(await told(threadId, branch)).toEqual([
      "human:first",
      "ai:echoed",
      "human:second",
      `ai:${run.text}`,
      "human:third",
    ]);
    // The head follows the new line.
    expect((await thread(threadId)).messages.map(({ content }) => content)).toContain(run.text);
  });

  test("P3: discard: the thread is as it was before", async () => {
    const { threadId, before, answer } = await cancelled("discard");
    expect(answer.checkpoint ?? null).toBeNull();
    expect(await thread(threadId)).toEqual(before);
    const { checkpoints } = await client.call("thread.history", { threadId });
    expect(checkpoints.map(({ checkpointId }) => checkpointId)).toEqual([before.checkpointId]);
    expect(await told(threadId)).toEqual(["human:first", "ai:echoed", "human:third"]);
  });

  test("P3, P6: discard after a takeover leaves no trace of either attempt", async () => {
    const threadId = newThread();
    await (await client.start({ agent: "echo", threadId, input: user("first") })).ended();
    const before = await thread(threadId);
    const run = await client.start({ agent: "teller", threadId, input: user("second") });
    await until(() => run.last > 40);
    // The worker hands its run to another at once.
    const [worker] = line.workers.splice(0, 1);
    await line.addWorker();
    await worker!.close();
    await until(() => run.lifecycle.some(({ event }) => event === "rewound"));
    const answer = await client.call("run.cancel", { runId: run.runId, keep: "discard" });
    await expectStopped(run, answer, "discard");
    expect(await thread(threadId)).toEqual(before);
    const { checkpoints } = await client.call("thread.history", { threadId });
    expect(checkpoints.map(({ checkpointId }) => checkpointId)).toEqual([before.checkpointId]);
  });
});
