/** What a thread must be when all its runs have ended: runs one after the other, and the head that they add up to. */
import { RedisCheckpointSaver, readState } from "@throughline/checkpoint";
import { ownerScope, Threads } from "@throughline/dispatch";
import type { FlatMessage } from "@throughline/protocol";
import type { Redis } from "ioredis";
import { nameOf } from "./audit.ts";
import type { KnownRun, Ledger } from "./ledger.ts";
import { isGraph } from "./text.ts";

/** Audits all threads. Every run has an outcome by now. */
export async function auditThreads(redis: Redis, ledger: Ledger): Promise<void> {
  const saver = new RedisCheckpointSaver(redis, { scope: ownerScope("local") });
  const threads = new Threads(redis, "local");
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
      .filter(({ type }) => type !== "tool")
      .map(nameOf)
      .filter((name) => !lost.includes(name));
    const expected = runs[0]?.turn.agent === "flow" ? expectedTurn(order) : expectedHead(order);
    if (found.join() !== expected.join()) {
      problems.push(`its head has the messages ${found.join(", ")}; it should have ${expected.join(", ")}`);
    }
    const { heard } = (head?.values ?? {}) as { heard?: string[] };
    if (heard !== undefined && heard.join() !== expectedHeard(order).join()) {
      problems.push(`it heard ${heard.join(", ")}; it should have heard ${expectedHeard(order).join(", ")}`);
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
  return order.filter(isKept).flatMap(({ outcome }) => outcome!.said);
}

/** A functional graph answers its last turn; those that were stopped since are shown beside it. */
function expectedTurn(order: readonly KnownRun[]): string[] {
  const kept = order.filter(isKept);
  const last = kept.findLastIndex(isAnswered);
  return expectedHead(kept.slice(Math.max(last, 0)));
}

/**
 * What its last turn had heard: all that came before, from its first answer on. What it saves has no shape that anybody
 * knows until it has saved something.
 */
function expectedHeard(order: readonly KnownRun[]): string[] {
  const kept = order.filter(isKept);
  return expectedHead(kept.slice(kept.findIndex(isAnswered), kept.findLastIndex(isAnswered)));
}

/** The functional graph has come to its end, whether or not somebody stopped the run then. */
function isAnswered({ outcome }: KnownRun): boolean {
  return outcome !== undefined && "heard" in outcome.values;
}

function isKept({ outcome }: KnownRun): boolean {
  if (outcome === undefined) return false;
  const { status, cancel } = outcome.record;
  if (status === "cancelled") return cancel?.keep === "thread";
  return status === "completed" || status === "interrupted";
}
