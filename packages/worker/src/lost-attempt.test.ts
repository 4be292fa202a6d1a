import { defaultQueue, queuePrefix } from "@throughline/dispatch";
import { Queue } from "bullmq";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import type { AgentContext } from "./agent.ts";

let shop: Workshop;
let gate: Gate;
let begun: string[];

/** Says one word, and the other once the gate is open. */
async function* teller({ runId }: AgentContext) {
  begun.push(runId);
  yield "one ";
  await gate.passed;
  yield "two";
}

beforeEach(() => {
  shop = new Workshop();
  gate = new Gate();
  begun = [];
});
afterEach(async () => {
  gate.open();
  await shop.stop();
});

test("P3, P4: what the log did not take any more is in no checkpoint", async () => {
  await shop.serve({ teller });
  const threadId = shop.newThread();
  const runId = await shop.start("teller", { input: "hi" }, { threadId });
  await shop.reached(runId, 2);
  // Another worker takes the run, and dies before it has the thread as well.
  await shop.claimAndDie(runId);
  gate.open();
  const { text } = await shop.ended(runId);
  expect(text).toBe("one two");
  const history = await shop.history(threadId);
  expect(history.map(({ metadata }) => [metadata.attempt, metadata.partial])).toEqual([
    [3, undefined],
    [3, "taken-over"],
  ]);
});

test("P4: a run whose thread has another one is not begun: it goes back as it was, and has lost nobody", async () => {
  await shop.serve({ teller });
  const threadId = shop.newThread();
  const first = await shop.start("teller", {}, { threadId });
  await shop.reached(first, 2);
  const second = await shop.start("teller", {}, { threadId });
  // It is not its turn, and its job is there all the same.
  const queue = new Queue(defaultQueue, { connection: shop.redis, prefix: queuePrefix(shop.prefix) });
  await queue.add("run", { runId: second, threadId }, { jobId: second, attempts: 100, backoff: 50 });
  await until(async () => {
    const { attempt, status } = await shop.record(second);
    return attempt > 0 && status === "queued";
  });
  expect(begun).toEqual([first]);
  expect((await shop.record(second)).head).toBe(0);
  gate.open();
  await shop.ended(first);
  const { record } = await shop.ended(second);
  expect(record.status).toBe("completed");
  expect(begun).toEqual([first, second]);
  expect((await shop.dispatcher.runs.must(second)).crashes).toBe(0);
  await queue.close();
});
