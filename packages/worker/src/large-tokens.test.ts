import { isEnding } from "@throughline/protocol";
import { afterAll, expect, test } from "vitest";
import { patienceMs, until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { token } from "./agent.ts";

const shop = new Workshop();
afterAll(() => shop.stop());

const tokens = 120;
const size = 1_000_000;

test("P4: a worker that has much to write keeps its lock on the run", async () => {
  async function* large() {
    for (let i = 0; i < tokens; i++) yield token(String(i % 10).repeat(size));
  }
  await shop.serve({ large });
  const threadId = shop.newThread();
  const runId = await shop.start("large", {}, { threadId });
  // Not by its parts: reading all of them here would keep the worker from its lock, in the same process.
  const record = await until(async () => {
    const found = await shop.record(runId);
    return isEnding(found.status) ? found : null;
  }, patienceMs);
  expect(record).toMatchObject({ status: "completed", attempt: 1, head: tokens + 2 });
  const [text, ...more] = await shop.messages(threadId);
  expect([text?.length, more.length]).toEqual(["ai:".length + tokens * size, 0]);
}, 120_000);
