/** A thread that is busy, asked from several gateways at once: one run at a time, in order, and none is lost. */

import { setTimeout as sleep } from "node:timers/promises";
import { Annotation, type LangGraphRunnableConfig, START, StateGraph } from "@langchain/langgraph";
import { threadKey } from "@throughline/dispatch";
import { isEnding, type Params } from "@throughline/protocol";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Gate } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import { until, within } from "../support/until.ts";

let line: Line;
let clients: TestClient[];
let threads = 0;
const newThread = () => `thread-${threads++}`;

/** By thread: runs that are in their agent now, the most there were at once, and the order in which they came. */
const active = new Map<string, number>();
const most = new Map<string, number>();
const order = new Map<string, number[]>();
let gate = new Gate();

const State = Annotation.Root({ n: Annotation<number>, waits: Annotation<boolean | undefined> });
const busy = new StateGraph(State)
  .addNode("work", async ({ n, waits }, { configurable, signal }: LangGraphRunnableConfig) => {
    const threadId = String(configurable?.thread_id);
    const now = (active.get(threadId) ?? 0) + 1;
    active.set(threadId, now);
    most.set(threadId, Math.max(most.get(threadId) ?? 0, now));
    order.set(threadId, [...(order.get(threadId) ?? []), n]);
    try {
      const passed = waits ? gate.passed : sleep(5, undefined, { signal: signal! });
      const aborted = new Promise((_, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      });
      await Promise.race([passed, aborted]);
    } finally {
      active.set(threadId, active.get(threadId)! - 1);
    }
    return { waits: false };
  })
  .addEdge(START, "work")
  .compile();

beforeAll(async () => {
  line = await startLine({ agents: { busy }, gateways: 3, workers: 2 });
  clients = await Promise.all([0, 1, 2].map((i) => line.client(i)));
});
afterAll(() => line.stop());

function start(by: number, threadId: string, n: number, more: Partial<Params<"run.start">> = {}) {
  const input = { n, waits: n === 0 };
  return clients[by % 3]!.start({ agent: "busy", threadId, input, ...more });
}

test("enqueue: the runs of three gateways go one after the other, in the order in which they were answered", async () => {
  const threadId = newThread();
  gate = new Gate();
  const runs = [];
  for (let n = 0; n < 9; n++) runs.push(await start(n, threadId, n));
  await until(() => active.get(threadId) === 1);
  gate.open();
  for (const run of runs) expect(await run.ended()).toMatchObject({ event: "completed" });
  expect(order.get(threadId)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  expect(most.get(threadId)).toBe(1);
});

test("cancel of a queued run: it ends at once and never runs, and those behind it go on in order", async () => {
  const threadId = newThread();
  gate = new Gate();
  const runs = [];
  for (let n = 0; n < 4; n++) runs.push(await start(n, threadId, n));
  await until(() => active.get(threadId) === 1);
  const { runId } = runs[2]!;
  expect(await within(clients[0]!.call("run.cancel", { runId }))).toMatchObject({
    status: "cancelled",
  });
  expect(await runs[2]!.ended()).toMatchObject({ event: "cancelled" });
  expect(runs[0]!.ending).toBeUndefined();
  gate.open();
  for (const i of [0, 1, 3]) expect(await runs[i]!.ended()).toMatchObject({ event: "completed" });
  expect(order.get(threadId)).toEqual([0, 1, 3]);
});

test("reject, from three gateways at once: one is in, all others are told which", async () => {
  const threadId = newThread();
  gate = new Gate();
  const tries = await Promise.allSettled(
    Array.from({ length: 12 }, (_, n) =>
      clients[n % 3]!.call("run.start", {
        agent: "busy",
        threadId,
        input: { n, waits: true },
        multitaskStrategy: "reject",
      }),
    ),
  );
  const started = tries.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
  const refused = tries.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
  expect(started).toHaveLength(1);
  const { runId } = started[0]!;
  expect(refused).toHaveLength(11);
  for (const error of refused)
    expect(error).toMatchObject({ code: "thread_busy", details: { activeRunId: runId } });
  gate.open();
  expect(await (await clients[0]!.follow(runId)).ended()).toMatchObject({ event: "completed" });
});

test.each(["interrupt", "rollback"] as const)(
  "%s, from three gateways at once: one at a time, every run ends, the last of the line completes",
  async (multitaskStrategy) => {
    const threadId = newThread();
    gate = new Gate();
    const first = await start(0, threadId, 0);
    await until(() => active.get(threadId) === 1);
    const runs = await Promise.all(
      Array.from({ length: 9 }, (_, i) => start(i, threadId, i + 1, { multitaskStrategy })),
    );
    const keep = multitaskStrategy === "interrupt" ? "thread" : "discard";
    expect(await first.ended()).toMatchObject({ event: "cancelled", keep });
    const endings = await Promise.all(runs.map((run) => run.ended()));
    const completed = endings.filter(({ event }) => event === "completed");
    expect(completed.length).toBeGreaterThan(0);
    for (const ending of endings) {
      if (ending.event !== "completed") expect(ending).toMatchObject({ event: "cancelled", keep });
    }
    expect(most.get(threadId)).toBe(1);
    // The thread is free again, and what ran last is what it has.
    const { runs: records } = await clients[0]!.call("run.list", { threadId });
    expect(records.every(({ status }) => isEnding(status))).toBe(true);
    const last = order.get(threadId)!.at(-1);
    const { values } = await clients[1]!.call("thread.get", { threadId });
    expect(values.n).toBe(last);
  },
);

test("all strategies at once, from three gateways: never two at a time, every run ends once", async () => {
  const threadId = newThread();
  gate = new Gate();
  gate.open();
  const strategies = ["enqueue", "reject", "interrupt", "rollback"] as const;
  const tries = await Promise.allSettled(
    Array.from({ length: 24 }, (_, n) =>
      start(n, threadId, n + 1, { multitaskStrategy: strategies[n % 4]! }),
    ),
  );
  const runs = tries.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
  expect(runs.length).toBeGreaterThanOrEqual(18);
  for (const run of runs) expect(["completed", "cancelled"]).toContain((await run.ended()).event);
  expect(most.get(threadId)).toBe(1);
  await until(async () => (await line.redis.llen(threadKey(line.prefix, "local", threadId, "line"))) === 0);
});
