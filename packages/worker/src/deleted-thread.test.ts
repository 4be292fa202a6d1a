/** A thread is deleted while real workers have its runs: nothing is left of it, and nothing comes back. */
import { END, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { ownerScope } from "@throughline/dispatch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { saying } from "../../../test/support/graphs.ts";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { agent } from "./agent.ts";

let shop: Workshop;
let gate: Gate;

beforeEach(() => {
  shop = new Workshop();
  gate = new Gate();
});
afterEach(async () => {
  gate.open();
  await shop.stop();
});

async function* stuck() {
  yield "begun";
  await gate.passed;
  yield "late";
}
async function* quick() {
  yield "done";
}

/** A graph with a subgraph that has checkpoints of its own. */
function nested() {
  const say = async (state: typeof MessagesAnnotation.State) => ({
    messages: [await saying("in", "side").invoke(state.messages)],
  });
  const inner = new StateGraph(MessagesAnnotation).addNode("say", say).addEdge(START, "say").compile({
    checkpointer: true,
  });
  return new StateGraph(MessagesAnnotation)
    .addNode("inner", inner)
    .addEdge(START, "inner")
    .addEdge("inner", END)
    .compile();
}

async function keysOf(names: string[]): Promise<string[]> {
  const found: string[] = [];
  for await (const page of shop.redis.scanStream({ match: `*${shop.prefix}*`, count: 1_000 })) {
    found.push(...(page as string[]).filter((key) => names.some((name) => key.includes(name))));
  }
  return found.sort();
}

test("ended, branched, running, queued, parked: all of it goes; the worker that ignored its signal writes nothing", async () => {
  await shop.serve({ stuck, quick, nested: agent(nested()) });
  const more = { threadId: "doomed" };
  const input = { messages: [{ role: "user", content: "hi" }] };
  const runIds: string[] = [];
  const start = async (name: string) => {
    const runId = await shop.start(name, { input }, { ...more, idempotencyKey: `${runIds.length}` });
    runIds.push(runId);
    return runId;
  };
  for (const name of ["quick", "nested", "quick"]) await shop.ended(await start(name));
  const branched = await start("stuck");
  await shop.reached(branched, 2);
  await shop.dispatcher.cancel(branched, { keep: "branch", owner: "alice" });
  await shop.ended(branched);
  await shop.dispatcher.patchThread("alice", "doomed", { title: "t" });
  const running = await start("stuck");
  await shop.reached(running, 2);
  await start("quick");
  await start("of no worker");
  const names = ["doomed", ...runIds];
  expect((await keysOf(names)).length).toBeGreaterThan(20);
  const saver = shop.saver;
  await shop.dispatcher.deleteThread("alice", "doomed", { deleteThread: (id) => saver.deleteThread(id) });
  expect(await keysOf(names)).toEqual([]);
  gate.open();
  // Another run of the same worker comes after whatever it may still do for the old one.
  await shop.ended(await shop.start("quick"));
  expect(await keysOf(names)).toEqual([]);
  expect((await shop.dispatcher.listThreads({ owner: "alice", limit: 5 })).threads).toHaveLength(1);
});

test("parked: the job of an agent that nobody knows goes as well", async () => {
  await shop.serve({ quick });
  const runId = await shop.start("of no worker", {}, { threadId: "doomed" });
  await until(async () => (await shop.record(runId)).attempt > 0);
  await shop.dispatcher.deleteThread("alice", "doomed", {
    deleteThread: (id) => shop.saver.deleteThread(id),
  });
  await until(async () => (await keysOf(["doomed", runId])).length === 0);
  await shop.ended(await shop.start("quick"));
  expect(await keysOf(["doomed", runId])).toEqual([]);
});

test("a worker that does not end its run in time loses it: its writes are refused, its job goes", async () => {
  await shop.serve({ stuck, quick }, { cancelGraceMs: 60_000 });
  const runId = await shop.start("stuck", {}, { threadId: "doomed" });
  await shop.reached(runId, 2);
  const { Dispatcher } = await import("@throughline/dispatch");
  const hasty = new Dispatcher(shop.redis, { prefix: shop.prefix, deleteWaitMs: 50 });
  await hasty.deleteThread("alice", "doomed", { deleteThread: (id) => shop.saver.deleteThread(id) });
  await hasty.close();
  const ofThread = `{${ownerScope("alice")}doomed}`;
  expect(await keysOf([ofThread, `{${runId}}`])).toEqual([]);
  gate.open();
  // Its job is BullMQ's until the worker has closed it.
  await until(async () => (await keysOf(["doomed", runId])).length === 0);
  await shop.ended(await shop.start("quick"));
  expect(await keysOf(["doomed", runId])).toEqual([]);
});

test("watchers are told when a worker begins and ends a run", async () => {
  await shop.serve({ quick });
  const runId = await shop.start("quick", {}, { threadId: "t" });
  await shop.ended(runId);
  await until(async () => (await shop.dispatcher.threadRecord("alice", "t"))?.status === "idle");
  const entries = await shop.redis.xrange(`${shop.prefix}:{${ownerScope("alice")}t}:events`, "-", "+");
  const events = entries.map(([, [, , , body]]) => JSON.parse(body!)[0]);
  expect(events.map(({ event, run }) => run?.status ?? event)).toEqual([
    "created",
    "queued",
    "running",
    "completed",
  ]);
  expect(events[2].run).toMatchObject({ runId, agent: "quick", ordinal: 1 });
  const checkpoint = (await shop.record(runId)).checkpoint;
  expect(events[3]).toMatchObject({
    run: { checkpoint },
    thread: { checkpointId: checkpoint!.checkpointId },
  });
});
