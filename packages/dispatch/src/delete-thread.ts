/**
 * Deletes a thread with all that is of it, in steps, each of which can be repeated: a crash between them leaves a thread
 * that is marked, and whoever asks next carries it through.
 *
 * Invariants:
 * - from the mark on no run enters;
 * - a run's record goes before its thread: who finds the one and not the other knows that the thread was not deleted;
 * - the mark goes last, with all other keys of the thread, in one script. What comes later (a worker that ignored its
 *   signal) finds no line, no fence and no record, and writes nothing.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { backoffDelay } from "@throughline/kit/timing";
import { isEnding, type Keep } from "@throughline/protocol";
import { type RunStore, refusalOf } from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";
import type { Owners } from "./owners.ts";
import type { RunQueue } from "./queue.ts";
import type { Threads } from "./threads.ts";

export interface DeletionParts {
  redis: Redis | Cluster;
  runs: RunStore;
  queue: RunQueue;
  owners: Owners;
  /** How long what is active may take to end, ms. Then it goes all the same. */
  waitMs: number;
  cancel(runId: string, ask: { keep: Keep; reason: string }): Promise<unknown>;
  /** The key of an idempotency key, by its digest. */
  idempotencyKey(digest: string): string;
}

/** Of checkpoints, what a deletion needs. */
export interface DeletesCheckpoints {
  deleteThread(threadId: string): Promise<void>;
}

/** Runs that are removed at once. */
const removedAtOnce = 100;
const pollMs = { min: 5, max: 250 };

/** Answers whether there was such a thread. */
export async function deleteThread(
  parts: DeletionParts,
  threads: Threads,
  threadId: string,
  checkpoints: DeletesCheckpoints | undefined,
): Promise<boolean> {
  const begun = await threads.beginDelete(threadId);
  if (begun === null) return false;
  const until = performance.now() + parts.waitMs;
  // From the last on: none gets its turn because the one before it has gone.
  for (const runId of begun.line.toReversed()) {
    await parts.cancel(runId, { keep: "discard", reason: "its thread is deleted" }).catch(unlessFull);
  }
  await poll(until, async () => {
    const statuses = await parts.runs.statuses(await threads.line(threadId));
    return statuses.every((status) => status === null || isEnding(status));
  });
  const { queues } = begun;
  await removeRuns(parts, threads, await threads.line(threadId), queues, until);
  for (;;) {
    const runIds = await parts.redis.zrange(threads.runsKey(threadId), 0, `${removedAtOnce - 1}`);
    if (runIds.length === 0) break;
    await removeRuns(parts, threads, runIds, queues, until);
    await parts.redis.zrem(threads.runsKey(threadId), ...runIds);
  }
  await checkpoints?.deleteThread(threadId);
  await parts.owners.forgetThread(threads.owner, threadId);
  await threads.endDelete(threadId);
  return true;
}

/** Removes runs: their jobs, counts and idempotency keys, and last their records, by which all these are found. */
async function removeRuns(
  { redis, runs, queue, owners, idempotencyKey }: DeletionParts,
  { owner }: Threads,
  runIds: readonly string[],
  queues: readonly string[],
  until: number,
): Promise<void> {
  if (runIds.length === 0) return;
  // Marked before its job goes: who puts a job on its queue looks for the mark after that.
  await runs.markRemoved(runIds);
  const [listed, digests] = await Promise.all([runs.listed(runIds), runs.idempotencyDigests(runIds)]);
  await Promise.all(
    runIds.map(async (runId, i) => {
      // One whose record has expired may have left its job on any queue.
      const on = listed[i]?.queue === undefined ? queues : [listed[i].queue];
      // A worker that has ended it is about to close its job; one that goes on all the same finds no run, and closes it.
      await Promise.all(on.map((name) => poll(until, () => queue.remove(name, runId))));
    }),
  );
  await owners.forgetAll(owner, runIds);
  await Promise.all(digests.map((digest) => digest !== null && redis.del(idempotencyKey(digest))));
  await Promise.all(runIds.map((runId) => runs.remove(runId)));
}

/** A Redis that is full takes no cancel, and needs the room: what is not stopped is removed all the same. */
function unlessFull(error: Error): void {
  if (refusalOf(error) !== "OOM") throw error;
}

/** Waits until something is so, or the time has come. It is asked once at least. */
async function poll(until: number, isSo: () => Promise<boolean>): Promise<void> {
  for (let failures = 0; !(await isSo()) && performance.now() < until; failures++) {
    await sleep(backoffDelay(pollMs, failures));
  }
}
