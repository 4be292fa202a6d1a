/** Log before checkpoint, with a log that is slow to answer: sessions of graphs by themselves, on a gated connection. */
import { Annotation, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { readState } from "@throughline/checkpoint";
import { requestOf } from "@throughline/dispatch";
import { Fold, lifecycle } from "@throughline/protocol";
import { LogWriter } from "@throughline/runlog";
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { saying } from "../../../../test/support/graphs.ts";
import { testLogger } from "../../../../test/support/logger.ts";
import { testRedisUrl } from "../../../../test/support/redis.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";
import { agent, type Graph } from "../agent.ts";
import { Attempt, RunCancelledError } from "../attempt.ts";
import { GraphSession } from "./graph-session.ts";
import { prepareForGraphs } from "./prepare.ts";

let shop: Workshop;
/** The log's own connection: its appends wait at the gate. */
let redis: Redis;
let gate: Gate;
let ran: string[];

beforeEach(() => {
  shop = new Workshop();
  redis = new Redis(testRedisUrl());
  gate = new Gate();
  ran = [];
});
afterEach(async () => {
  gate.open();
  redis.disconnect();
  await shop.stop();
});

type Point = "before it begins" | "before it answers";

const steps = (at: (name: string, point: Point) => void = () => {}) => {
  const node = (name: string) => async () => {
    at(name, "before it begins");
    const answer = await saying(`${name} `).invoke("x");
    ran.push(name);
    at(name, "before it answers");
    return { messages: [answer] };
  };
  return new StateGraph(MessagesAnnotation)
    .addNode("one", node("one"))
    .addNode("two", node("two"))
    .addNode("three", node("three"))
    .addEdge(START, "one")
    .addEdge("one", "two")
    .addEdge("two", "three")
    .compile();
};

/** An attempt at a run of this graph, as the runner makes one. */
async function attemptAt(graph: Graph, input: unknown = "hi") {
  const threadId = shop.newThread();
  const runId = await shop.start("graph", { input, modes: ["messages", "updates"] }, { threadId });
  const log = new LogWriter(redis, {
    prefix: shop.prefix,
  });
  const claimed = await log.claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  const { run, writer } = claimed;
  await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.fence);
  const append = redis.tlAppend.bind(redis);
  redis.tlAppend = (async (...args: Parameters<typeof append>) => {
    await gate.passed;
    return await append(...args);
  }) as never;
  const attempt = new Attempt(writer, new Fold());
  const work = {
    run,
    request: requestOf(run),
    attempt,
    saver: shop.saver,
    store: undefined,
    logger: testLogger,
  };
  prepareForGraphs();
  const session = await GraphSession.open(agent(graph), work);
  void attempt.take(lifecycle({ event: "started", attempt: 1 }));
  return { threadId, runId, attempt, session };
}

test("P6: no checkpoint is there before what it holds is in the log", async () => {
  const { threadId, session } = await attemptAt(steps());
  const running = session.run();
  await until(() => ran.length === 3);
  expect(await shop.saver.head(threadId)).toBeNull();
  gate.open();
  expect(await running).toEqual({ event: "completed" });
  expect(await shop.messages(threadId)).toEqual(["human:hi", "ai:one ", "ai:two ", "ai:three "]);
});

test.each([
  ["one", "before it answers"],
  ["two", "before it begins"],
  ["two", "before it answers"],
  ["three", "before it begins"],
] as const)("P3: stopped in %s, %s: the thread has what the log has, and no more", async (node, when) => {
  let stop = () => {};
  const { threadId, runId, attempt, session } = await attemptAt(
    steps((name, point) => {
      if (name === node && point === when) stop();
    }),
  );
  stop = () => attempt.stop(new RunCancelledError());
  gate.open();
  await session.run().catch(() => {});
  await attempt.writer.flush();
  await session.save({ cancelled: "thread" });
  const told: string[] = [];
  for await (const { part } of shop.reader.parts(runId)) {
    if (part.type === "messages") told.push(String(part.data[0].content));
  }
  const { values } = (await readState(shop.saver, { threadId }))!;
  const saved = (values.messages as { content: string }[]).map(({ content }) => content);
  expect(saved).toEqual(["hi", ...told]);
});

test("P3: stopped when a node's writes are on their way to the saver, and its update to the log: neither is kept", async () => {
  const graph = new StateGraph(Annotation.Root({ n: Annotation<number> }))
    .addNode("one", () => ({ n: 1 }))
    .addEdge(START, "one")
    .compile();
  let stop = () => {};
  const fenced = shop.saver.fenced.bind(shop.saver);
  shop.saver.fenced = (fence) => {
    const view = fenced(fence);
    const putWrites = view.putWrites.bind(view);
    view.putWrites = (config, writes, taskId) => {
      if (writes.some(([channel, value]) => channel === "n" && value === 1)) stop();
      return putWrites(config, writes, taskId);
    };
    return view;
  };
  const { threadId, runId, attempt, session } = await attemptAt(graph, { n: 0 });
  stop = () => attempt.stop(new RunCancelledError());
  gate.open();
  await session.run().catch(() => {});
  expect(attempt.reason).toBeDefined();
  await attempt.writer.flush();
  await session.save({ cancelled: "thread" });
  const told: string[] = [];
  for await (const { part } of shop.reader.parts(runId)) told.push(part.type);
  expect(told).toEqual(["lifecycle"]);
  expect((await readState(shop.saver, { threadId }))?.values).toEqual({ n: 0 });
});
