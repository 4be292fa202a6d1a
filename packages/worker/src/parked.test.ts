/** Runs that a worker gives back, and what waits behind them. */
import { defaultQueue, queuePrefix } from "@throughline/dispatch";
import { Queue } from "bullmq";
import { afterEach, beforeEach, expect, test } from "vitest";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";

let shop: Workshop;
let queue: Queue;

async function* known() {
  yield "known";
}
async function* rare() {
  yield "rare";
}

beforeEach(() => {
  shop = new Workshop();
  queue = new Queue(defaultQueue, { connection: shop.redis, prefix: queuePrefix(shop.prefix) });
});
afterEach(async () => {
  await queue.close();
  await shop.stop();
});

test("200 runs of an agent that a worker does not know keep it from nothing that it knows; who knows it has them all", async () => {
  const unknown = await Promise.all(Array.from({ length: 200 }, () => shop.start("rare")));
  await shop.serve({ known }, { concurrency: 5 });
  for (let i = 0; i < 10; i++) {
    expect((await shop.ended(await shop.start("known"))).record.status).toBe("completed");
  }
  await shop.serve({ rare });
  for (const runId of unknown) expect((await shop.ended(runId)).text).toBe("rare");
});

test("a run that is parked has no worker and no lock, and does not hold up its worker's end", async () => {
  const runId = await shop.start("rare");
  const worker = await shop.serve({ known });
  await until(async () => (await queue.getDelayedCount()) === 1);
  await worker.close();
  expect(await queue.getJobState(runId)).toMatch(/delayed|waiting/);
  expect(await shop.redis.exists(queue.toKey(`${runId}:lock`))).toBe(0);
  expect(await shop.dispatcher.runs.must(runId)).toMatchObject({ crashes: 0, record: { status: "queued" } });
  await shop.serve({ rare });
  expect((await shop.ended(runId)).record.status).toBe("completed");
});

test("what is parked is brought back once a pause, however many workers ask", async () => {
  const runId = await shop.start("rare");
  const park = async () => {
    await shop.redis.lrem(queue.toKey("wait"), 1, runId);
    await shop.redis.zadd(queue.toKey("delayed"), "1", runId);
  };
  await park();
  await shop.dispatcher.bringBack(defaultQueue);
  expect(await queue.getJobState(runId)).toBe("waiting");
  await park();
  const pause = queue.toKey("brought-back");
  expect(await shop.redis.pttl(pause)).not.toBe(-1);
  await shop.redis.set(pause, "1"); // For as long as this test is on its way.
  await Promise.all([1, 2, 3].map(() => shop.dispatcher.bringBack(defaultQueue)));
  expect(await queue.getJobState(runId)).toBe("delayed");
  await shop.redis.del(pause);
  await shop.dispatcher.bringBack(defaultQueue);
  expect(await queue.getJobState(runId)).toBe("waiting");
});
