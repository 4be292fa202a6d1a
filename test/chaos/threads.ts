/** What a thread must be when all its runs have ended: runs one after the other, and the head that they add up to. */
import { RedisCheckpointSaver, readState } from "@throughline/checkpoint";
import { Threads } from "@throughline/dispatch";
import type { FlatMessage } from "@throughline/protocol";
import type { Redis } from "ioredis";
import { nameOf } from "./audit.ts";
import type { KnownRun, Ledger } from "./ledger.ts";
import { isGraph } from "./text.ts";

/** Audits all threads. Every run has an outcome by now. */
export async function auditThreads(redis: Redis, ledger: Ledger): Promise<void> {
  const saver = new RedisCheckpointSaver(redis);
  const threads = new Threads(redis);
  for (const [threadId, runs] of ledger.byThread()) {
    const inLine = await redis.zrange(threads.runsKey(threadId), "0", "-1");
    // Runs that were let in within the same millisecond are in no known order; a client's own come one by one.
    const order = runs.toSorted((a, b) => inLine.indexOf(a.runId) - inLine.indexOf(b.runId));
    const problems = [...auditTurns(order)];
    const unknown = inLine.filter((runId) => !ledger.runs.has(runId));
    if (unknown.length > 0) problems.push(`there are runs that nobody started: ${unknown.join(", ")}`);
    const active = await threads.active(threadId);
    if (active !== null) problems.push(`${active} is still in its line`);
    const head = await readState(saver, { threadId });
    const failed = runs.filter(({ outcome }) => outcome?.record.status === "failed");
    // Of a graph that has failed, the steps stay that it had finished.
    const lost = failed.filter(({ turn }) => isGraph(turn.agent)).flatMap(({ outcome }) => outcome!.said);
    const found = ((head?.values.messages ?? []) as FlatMessage[])
      .map(nameOf)
      .filter((name) => !lost.includes(name));
    const expected = expectedHead(order);
    if (found.join() !== expected.join()) {
      problems.push(`its head has the messages ${found.join(", ")}; it should have ${expected.join(", ")}`);
    }
    for (const problem of problems) ledger.violation(`thread ${threadId}: ${problem}`);
    ledger.count("threads");
  }
}

/** No run begins before the one before it in line has ended. */
function* auditTurns(order: readonly KnownRun[]): Generator<string> {
  let last: { runId: string; endedAt: string } | undefined;
  for (const { runId, outcome } of order) {
    const { startedAt, endedAt } = outcome?.record ?? {};
    if (startedAt === undefined || endedAt === undefined) continue;
    if (last !== undefined && startedAt < last.endedAt) {
      yield `${runId} was begun at ${startedAt}, when ${last.runId} went on until ${last.endedAt}`;
    }
    last = { runId, endedAt };
  }
}

/** The names of the messages that the thread's line adds up to. */
function expectedHead(order: readonly KnownRun[]): string[] {
  return order.flatMap(({ outcome }) => {
    if (outcome === undefined) return [];
    const { record, said } = outcome;
    const { status } = record;
    const isKept =
      status === "completed" ||
      status === "interrupted" ||
      (status === "cancelled" && record.cancel?.keep === "thread");
    return isKept ? said : [];
  });
}
