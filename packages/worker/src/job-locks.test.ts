import { lockTimes } from "@throughline/dispatch";
import { type Job, Queue, WaitingError, Worker } from "bullmq";
import { Redis } from "ioredis";
import { expect, test } from "vitest";
import { testPrefix, testRedisUrl } from "../../../test/support/redis.ts";
import { until } from "../../../test/support/until.ts";
import { JobLocks } from "./job-locks.ts";

test("the lock of a job that this process gave back and has again is renewed, whenever its first round is over", async () => {
  const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const common = { connection, prefix: `{${testPrefix()}}` };
  const queue = new Queue("q", common);
  const lockMs = lockTimes.lockDuration;
  let [rounds, firstIsOver] = [0, false];
  const lost: string[] = [];
  let second: Job | undefined;
  const round = async (job: Job) => {
    if (++rounds > 1) {
      second = job;
      // BullMQ takes a job whose lock has run out from us after a lock's time.
      await until(() => firstIsOver);
      await new Promise((resolve) => setTimeout(resolve, 2 * lockMs));
      return;
    }
    await job.moveToWait(job.token);
    await until(() => second !== undefined);
    setTimeout(() => {
      firstIsOver = true;
    });
    throw new WaitingError();
  };
  const worker: Worker = new Worker("q", (job) => locks.during(job, () => round(job)), {
    ...common,
    ...lockTimes,
    concurrency: 2,
    skipLockRenewal: true,
  });
  const locks = new JobLocks(worker, lockMs, (id) => lost.push(id));
  try {
    await queue.add("job", {}, { jobId: "one", removeOnComplete: true });
    await until(async () => (await queue.getJob("one")) === undefined, 20_000);
    expect([rounds, lost]).toEqual([2, []]);
  } finally {
    await worker.close();
    locks.close();
    await queue.close();
    connection.disconnect();
  }
});

test("one that another process has is told of", async () => {
  const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const common = { connection, prefix: `{${testPrefix()}}` };
  const queue = new Queue("q", common);
  let isLost = false;
  const round = async (job: Job) => {
    await connection.set(queue.toKey(`${job.id}:lock`), "another's");
    await until(() => isLost);
  };
  const worker: Worker = new Worker("q", (job) => locks.during(job, () => round(job)), {
    ...common,
    ...lockTimes,
    skipLockRenewal: true,
  });
  worker.on("error", () => {});
  const locks = new JobLocks(worker, lockTimes.lockDuration, (id) => {
    isLost = id === "one";
  });
  try {
    await queue.add("job", {}, { jobId: "one" });
    await until(() => isLost);
  } finally {
    await worker.close();
    locks.close();
    await queue.close();
    connection.disconnect();
  }
});
