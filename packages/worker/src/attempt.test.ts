import { Fold } from "@throughline/protocol";
import { afterEach, beforeEach, expect, test } from "vitest";
import { within } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { token } from "./agent.ts";
import { Attempt, RunCancelledError, WorkerStoppingError } from "./attempt.ts";

let shop: Workshop;
let attempt: Attempt;

beforeEach(async () => {
  shop = new Workshop();
  attempt = new Attempt(await shop.claimAndDie(await shop.start("nobody's")), new Fold());
});
afterEach(() => shop.stop());

test("P3: from the moment that it is stopped neither its log nor its fold takes anything", async () => {
  void attempt.take(token("before", { id: "m" }));
  attempt.stop(new RunCancelledError());
  expect(() => attempt.take(token("after", { id: "m" }))).toThrow(/no longer has run/);
  expect(attempt.fold.text()).toBe("before");
  await attempt.writer.flush();
  expect((await shop.record(attempt.runId)).head).toBe(1);
});

test("it stops for the first reason alone, and says so to all who wait", async () => {
  const reason = new RunCancelledError();
  attempt.stop(reason);
  attempt.stop(new WorkerStoppingError());
  expect(await within(attempt.stopped)).toBe(reason);
  expect([attempt.reason, attempt.signal.reason]).toEqual([reason, reason]);
});

test("P3: a cancel that an append's answer tells of stops it", async () => {
  await shop.dispatcher.cancel(attempt.runId, { keep: "thread" });
  void attempt.take(token("one"));
  expect(await within(attempt.stopped)).toMatchObject({ code: "run_cancelled" });
});

test("P4: so does the log's refusal", async () => {
  await shop.claimAndDie(attempt.runId);
  void attempt.take(token("one"));
  expect(await within(attempt.stopped)).toMatchObject({
    code: "attempt_lost",
    cause: { code: "stale_attempt" },
  });
});
