/**
 * What any run log must do, whatever it is made of. Point it at an implementation:
 *
 *     describeRunLog("on Redis", async () => ({ store, log, reader, listen, close }));
 */
import { type LifecycleData, lifecycle, type Part } from "@throughline/protocol";
import type { LogReader, LogWriter, NewRun, Retention, RunStore, RunWriter } from "@throughline/runlog";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { until } from "../support/until.ts";

export interface RunLog {
  store: Pick<RunStore, "open" | "get" | "must" | "cancel" | "remove">;
  log: Pick<LogWriter, "claim">;
  /** The same, as another process has it. */
  another(): Pick<LogWriter, "claim">;
  reader: Pick<LogReader, "page" | "parts" | "snapshot">;
  /** Hears a run's live messages and its control channel from the moment that it resolves. */
  listen(runId: string): Promise<{ live: Buffer[]; control: Buffer[] }>;
  /** What is left of the life of each thing that is kept of the run, ms; Infinity where it has no end. */
  expiresIn(runId: string): Promise<number[]>;
  /** Has all that is kept of the run end that much sooner, as if the time had gone by. */
  age(runId: string, ms: number): Promise<void>;
  /** Takes back the last `count` acknowledged entries, as a store does that lost writes. */
  loseEntries(runId: string, count: number): Promise<void>;
  readonly retention: Retention;
  close(): Promise<void>;
}

const own = (i: unknown): Part => ({ type: "custom", ns: [], data: i as never });
const line = (part: Part) => JSON.stringify(part);

export function describeRunLog(name: string, make: () => Promise<RunLog>): void {
  describe(`the run log ${name}`, () => {
    let it: RunLog;
    let runs = 0;
    beforeEach(async () => {
      it = await make();
    });
    afterEach(() => it.close());

    const newRun = (over: Partial<NewRun> = {}): NewRun => ({
      runId: `run-${runs++}`,
      threadId: "thread",
      agent: "agent",
      owner: "alice",
      epoch: "first",
      request: '{"queue":"q","input":"{}"}',
      ...over,
    });
    const open = async (over: Partial<NewRun> = {}) => {
      const run = newRun(over);
      await it.store.open(run);
      return run.runId;
    };
    const claim = async (runId: string, log = it.log): Promise<RunWriter> => {
      const claimed = await log.claim(runId);
      if (claimed.outcome !== "claimed") throw new Error(`${runId} is ${claimed.outcome}`);
      return claimed.writer;
    };
    /** Writes parts, each in a batch of its own. */
    const writeEach = async (writer: RunWriter, parts: readonly Part[]) => {
      for (const part of parts) {
        void writer.write(part);
        await writer.flush();
      }
    };
    const all = async (runId: string, after = 0) => {
      const found: { offset: number; part: Part }[] = [];
      for await (const each of it.reader.parts(runId, after)) found.push(each);
      return found;
    };
    const completed: LifecycleData = { event: "completed" };

    describe("open", () => {
      test("creates a queued run with all that it was given", async () => {
        const run = newRun({ metadata: '{"a":1}' });
        expect(await it.store.open(run)).toEqual({ created: true });
        const stored = await it.store.must(run.runId);
        expect(stored).toMatchObject({ owner: "alice", request: run.request, crashes: 0 });
        expect(stored.record).toMatchObject({
          runId: run.runId,
          threadId: "thread",
          agent: "agent",
          status: "queued",
          attempt: 0,
          first: 1,
          head: 0,
          epoch: "first",
          metadata: { a: 1 },
        });
      });

      test("is idempotent: what is there stays as it is, and is told", async () => {
        const run = newRun();
        await it.store.open(run);
        const writer = await claim(run.runId);
        await writeEach(writer, [own(1)]);
        const again = await it.store.open({ ...run, owner: "mallory", epoch: "second", request: "{}" });
        expect(again).toEqual({
          created: false,
          owner: "alice",
          threadId: "thread",
          status: "running",
          epoch: "first",
        });
        expect(await it.store.must(run.runId)).toMatchObject({ owner: "alice", record: { head: 1 } });
      });

      test("remove takes one away, and no other", async () => {
        const [a, b] = [await open(), await open()];
        await it.store.remove(a);
        expect(await it.store.get(a)).toBeNull();
        expect((await it.store.get(b))?.record.runId).toBe(b);
        await expect(it.store.must(a)).rejects.toMatchObject({ code: "no_such_run" });
      });
    });

    describe("claim", () => {
      test("of a run that is not there, or has ended, says so", async () => {
        expect(await it.log.claim("nobody")).toEqual({ outcome: "missing" });
        const runId = await open();
        await (await claim(runId)).finish(completed);
        expect(await it.log.claim(runId)).toEqual({ outcome: "ended", status: "completed" });
      });

      test("counts attempts, and those that were lost", async () => {
        const runId = await open();
        await claim(runId);
        expect(await it.store.must(runId)).toMatchObject({
          crashes: 0,
          record: { attempt: 1, status: "running" },
        });
        await claim(runId, it.another());
        const released = await claim(runId, it.another());
        expect(await it.store.must(runId)).toMatchObject({ crashes: 2, record: { attempt: 3 } });
        await released.release();
        expect(await it.store.must(runId)).toMatchObject({ record: { status: "queued" } });
        await claim(runId);
        // One that was given back did not crash.
        expect(await it.store.must(runId)).toMatchObject({ crashes: 2, record: { attempt: 4 } });
      });

      test("a process that claims its own run once more has not died", async () => {
        const runId = await open();
        await claim(runId);
        await claim(runId);
        expect(await it.store.must(runId)).toMatchObject({ crashes: 0, record: { attempt: 2 } });
        // Unless it says that it could not go on: else it would try for ever.
        await it.log.claim(runId, true);
        expect(await it.store.must(runId)).toMatchObject({ crashes: 1, record: { attempt: 3 } });
      });

      test("of a run that is tried alone says so when it takes its process down, and only then", async () => {
        const runId = await open();
        await claim(runId, it.another());
        const alone = await claim(runId, it.another());
        expect(await it.store.must(runId)).toMatchObject({ crashes: 1, blamed: false, trials: 0 });
        await alone.tried("alone");
        const next = await claim(runId, it.another());
        expect(await it.store.must(runId)).toMatchObject({ crashes: 2, blamed: true, trials: 1 });
        await next.tried("alone");
        await next.tried("cleared");
        expect(await it.store.must(runId)).toMatchObject({ crashes: 0, trials: 2 });
        await claim(runId, it.another());
        expect(await it.store.must(runId)).toMatchObject({ crashes: 1, blamed: false });
        await expect(next.tried("alone")).rejects.toMatchObject({ code: "stale_attempt" });
      });

      test("P4: fences: an earlier attempt can neither append nor finish nor release nor trim", async () => {
        const runId = await open();
        const old = await claim(runId);
        await writeEach(old, [own("old")]);
        const now = await claim(runId);
        expect(now.offset).toBe(1);
        let told: Error | undefined;
        old.onFailure = (error) => {
          told = error;
        };
        void old.write(own("too late"));
        await expect(old.flush()).rejects.toMatchObject({ code: "stale_attempt" });
        expect(told).toMatchObject({ code: "stale_attempt" });
        expect(() => old.write(own("later still"))).toThrow(/no longer has run/);
        await expect(old.finish(completed)).rejects.toMatchObject({ code: "stale_attempt" });
        await expect(old.release()).rejects.toMatchObject({ code: "stale_attempt" });
        await expect(old.trim(1, "{}")).rejects.toMatchObject({ code: "stale_attempt" });
        await writeEach(now, [own("new")]);
        await now.finish(completed);
        expect((await all(runId)).map(({ part }) => part.data)).toEqual(["old", "new", completed]);
      });

      test("P4: an old attempt cannot end a run over the head of a new one", async () => {
        const runId = await open();
        const old = await claim(runId);
        const now = await claim(runId);
        await expect(old.finish(completed)).rejects.toMatchObject({ code: "stale_attempt" });
        expect(await it.store.must(runId)).toMatchObject({ record: { status: "running", head: 0 } });
        expect(await now.finish({ event: "failed", error: { name: "E", message: "m" } })).toBe(1);
      });

      test("P4: many claim at once: attempts are all different, and one of them can write", async () => {
        const runId = await open();
        const writers = await Promise.all(Array.from({ length: 10 }, () => claim(runId)));
        expect(new Set(writers.map(({ attempt }) => attempt)).size).toBe(10);
        for (const writer of writers) void writer.write(own(writer.attempt));
        const outcomes = await Promise.allSettled(writers.map((writer) => writer.flush()));
        expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
        expect((await all(runId)).map(({ part }) => part.data)).toEqual([10]);
      });
    });

    describe("append", () => {
      test("gives offsets 1, 2, 3, … and acknowledges them", async () => {
        const runId = await open();
        const writer = await claim(runId);
        for (let i = 1; i <= 5; i++) {
          void writer.write(own(i));
          expect(writer.offset).toBe(i);
        }
        expect(writer.acknowledged).toBe(0);
        await writer.flush();
        expect(writer.acknowledged).toBe(5);
        expect(await all(runId)).toEqual([1, 2, 3, 4, 5].map((i) => ({ offset: i, part: own(i) })));
      });

      test("collects what comes while one is in flight: fewer batches than parts", async () => {
        const runId = await open();
        const { live } = await it.listen(runId);
        const writer = await claim(runId);
        for (let i = 0; i < 1000; i++) void writer.write(own(i));
        await writer.flush();
        await until(() => live.length > 0);
        expect(live.length).toBeLessThan(10);
        expect(await all(runId)).toHaveLength(1000);
      });

      test("asks its agent to wait over the high-water mark, and lets it go on below", async () => {
        const runId = await open();
        const writer = await claim(runId);
        const big = own("x".repeat(100_000));
        let waits = 0;
        for (let i = 0; i < 40; i++) {
          const wait = writer.write(big);
          if (wait === undefined) continue;
          waits++;
          await wait;
          expect(writer.offset - writer.acknowledged).toBeLessThan(10);
        }
        expect(waits).toBeGreaterThan(3);
        await writer.flush();
        expect(await all(runId)).toHaveLength(40);
      });

      test("a part over the limit is refused, and costs nothing else", async () => {
        const runId = await open();
        const writer = await claim(runId);
        void writer.write(own("before"));
        expect(() => writer.write(own("x".repeat(9 * 1024 * 1024)))).toThrow(/the limit/);
        void writer.write(own("after"));
        await writer.flush();
        expect((await all(runId)).map(({ part }) => part.data)).toEqual(["before", "after"]);
      });

      test("P3: answers that a cancel was asked for, once, whatever became of the message", async () => {
        const runId = await open();
        const writer = await claim(runId);
        let cancels = 0;
        writer.onCancel = () => cancels++;
        await writeEach(writer, [own(1)]);
        expect(cancels).toBe(0);
        await it.store.cancel(runId, { keep: "thread" });
        await writeEach(writer, [own(2), own(3)]);
        expect(cancels).toBe(1);
      });

      test("P3: a silent attempt finds out by asking, without writing", async () => {
        const runId = await open();
        const writer = await claim(runId);
        let cancels = 0;
        writer.onCancel = () => cancels++;
        await it.store.cancel(runId, { keep: "thread" });
        writer.check();
        await until(() => cancels === 1);
        expect((await it.store.must(runId)).record.head).toBe(0);
        const next = await claim(runId);
        let lost: Error | undefined;
        writer.onFailure = (error) => {
          lost = error;
        };
        writer.check();
        await until(() => lost !== undefined);
        expect(lost).toMatchObject({ code: "stale_attempt" });
        expect(next.failure).toBeUndefined();
      });

      test("of a run that has expired says so", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await it.store.remove(runId);
        void writer.write(own(1));
        await expect(writer.flush()).rejects.toMatchObject({ code: "no_such_run" });
        await expect(writer.finish(completed)).rejects.toMatchObject({ code: "no_such_run" });
        expect(await it.store.get(runId)).toBeNull();
      });

      test.each([1, 2])(
        "finds out that %i acknowledged parts were lost, and writes no hole",
        async (count) => {
          const runId = await open();
          const writer = await claim(runId);
          await writeEach(writer, [own(1), own(2), own(3)]);
          await it.loseEntries(runId, count);
          void writer.write(own(4));
          await expect(writer.flush()).rejects.toMatchObject({ code: "lost_writes" });
          expect((await all(runId)).map(({ offset }) => offset)).toEqual([1, 2].slice(0, 3 - count));
        },
      );

      test("after seal nothing is taken, and what was taken is written", async () => {
        const runId = await open();
        const writer = await claim(runId);
        void writer.write(own(1));
        writer.seal();
        expect(() => writer.write(own(2))).toThrow();
        await writer.flush();
        expect(await all(runId)).toHaveLength(1);
      });
    });

    describe("finish", () => {
      test("P5: appends the terminal part, sets status and what it ends with", async () => {
        const runId = await open();
        const writer = await claim(runId);
        void writer.write(own(1));
        const checkpoint = { threadId: "thread", checkpointId: "c" };
        const error = { name: "E", message: "m" };
        expect(await writer.finish({ event: "failed", error, checkpoint }, { error, checkpoint })).toBe(2);
        const { record } = await it.store.must(runId);
        expect(record).toMatchObject({ status: "failed", head: 2, error, checkpoint });
        expect(record.endedAt).toBeDefined();
        expect((await all(runId)).at(-1)).toEqual({
          offset: 2,
          part: lifecycle({ event: "failed", error, checkpoint }),
        });
      });

      test("P5: exactly once: repeated by the same attempt it answers, and changes nothing", async () => {
        const runId = await open();
        const { live } = await it.listen(runId);
        const writer = await claim(runId);
        expect(await writer.finish(completed)).toBe(1);
        await expect(writer.finish({ event: "cancelled", keep: "thread" })).resolves.toBeDefined();
        await until(() => live.length === 1);
        expect(await all(runId)).toEqual([{ offset: 1, part: lifecycle(completed) }]);
        expect((await it.store.must(runId)).record).toMatchObject({ status: "completed", head: 1 });
      });

      test("P5: nothing is written after the end", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await writer.finish(completed);
        expect(() => writer.write(own("after"))).toThrow();
        let refused: Error | undefined;
        writer.onFailure = (error) => {
          refused = error;
        };
        writer.check();
        await until(() => refused !== undefined);
        expect(refused).toMatchObject({ code: "stale_attempt" });
        expect(await it.log.claim(runId)).toEqual({ outcome: "ended", status: "completed" });
        expect(await it.store.cancel(runId, { keep: "thread" })).toMatchObject({
          outcome: "ended",
          now: false,
        });
        expect(await all(runId)).toHaveLength(1);
      });

      test("of a log that is behind what it had acknowledged is refused, and leaves the run as it is", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(writer, [own(1), own(2), own(3)]);
        await it.loseEntries(runId, 2);
        await expect(writer.finish(completed)).rejects.toMatchObject({ code: "lost_writes" });
        expect((await all(runId)).map(({ offset }) => offset)).toEqual([1]);
        expect((await it.store.must(runId)).record).toMatchObject({ status: "running", head: 1 });
      });

      test("writes what was still to be written first", async () => {
        const runId = await open();
        const writer = await claim(runId);
        for (let i = 0; i < 100; i++) void writer.write(own(i));
        expect(await writer.finish(completed)).toBe(101);
        expect(await all(runId)).toHaveLength(101);
      });
    });

    describe("cancel", () => {
      test("of a run that is queued ends it on the spot, and says so to who listens", async () => {
        const runId = await open();
        const { live } = await it.listen(runId);
        const ask = { owner: "alice", keep: "branch", reason: "why not" } as const;
        expect(await it.store.cancel(runId, ask)).toEqual({
          outcome: "ended",
          now: true,
          status: "cancelled",
          offset: 1,
          checkpoint: null,
        });
        const ending = lifecycle({ event: "cancelled", keep: "branch", reason: "why not" });
        const { record } = await it.store.must(runId);
        expect(record).toMatchObject({
          status: "cancelled",
          head: 1,
          attempt: 0,
          cancel: { keep: "branch" },
        });
        expect(record.endedAt).toBe(record.cancel?.requestedAt);
        expect(await all(runId)).toEqual([{ offset: 1, part: ending }]);
        await until(() => live.length === 1);
        expect(live[0]!.toString()).toBe(`1:1:first:e\n[${line(ending)}]`);
        expect(await it.log.claim(runId)).toEqual({ outcome: "ended", status: "cancelled" });
      });

      test("of a run that a worker has is recorded, and wakes it; the first one's keep and reason hold", async () => {
        const runId = await open();
        const writer = await claim(runId);
        const { control } = await it.listen(runId);
        expect(await it.store.cancel(runId, { keep: "branch", reason: "first" })).toEqual({
          outcome: "requested",
        });
        expect(await it.store.cancel(runId, { keep: "discard", reason: "second" })).toEqual({
          outcome: "requested",
        });
        await until(() => control.length === 2);
        const { record } = await it.store.must(runId);
        expect(record).toMatchObject({ status: "cancelling", cancel: { keep: "branch", reason: "first" } });
        // A worker that takes over learns of it with the claim.
        const claimed = await it.log.claim(runId);
        expect(claimed).toMatchObject({
          outcome: "claimed",
          run: { record: { cancel: { keep: "branch" } } },
        });
        expect((await it.store.must(runId)).record.status).toBe("cancelling");
        expect(writer.attempt).toBe(1);
      });

      test("of a run that was given back is recorded too", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(writer, [own(1)]);
        await writer.release();
        expect(await it.store.cancel(runId, { keep: "thread" })).toEqual({ outcome: "requested" });
        expect((await it.store.must(runId)).record.status).toBe("cancelling");
      });

      test("of a run that has ended answers that ending, twice the same", async () => {
        const runId = await open();
        const checkpoint = { threadId: "thread", checkpointId: "c" };
        await (await claim(runId)).finish({ event: "completed", checkpoint }, { checkpoint });
        const answer = { outcome: "ended", now: false, status: "completed", offset: 1, checkpoint };
        expect(await it.store.cancel(runId, { keep: "thread" })).toEqual(answer);
        expect(await it.store.cancel(runId, { keep: "discard" })).toEqual(answer);
      });

      test("twice on a queued run ends it once", async () => {
        const runId = await open();
        const answers = await Promise.all([
          it.store.cancel(runId, { keep: "thread" }),
          it.store.cancel(runId, { keep: "thread" }),
        ]);
        expect(answers.map((answer) => answer.outcome === "ended" && answer.now).sort()).toEqual([
          false,
          true,
        ]);
        expect(await all(runId)).toHaveLength(1);
      });

      test("of another owner's run, or of none, finds nothing and changes nothing", async () => {
        const runId = await open();
        expect(await it.store.cancel(runId, { owner: "mallory", keep: "thread" })).toEqual({
          outcome: "missing",
        });
        expect(await it.store.cancel("nobody", { keep: "thread" })).toEqual({ outcome: "missing" });
        expect((await it.store.must(runId)).record).toMatchObject({ status: "queued", head: 0 });
      });
    });

    test("whatever a writer asks of a run that has expired is answered so, and leaves nothing", async () => {
      const asks: ((writer: RunWriter) => Promise<unknown>)[] = [
        (writer) => writer.finish(completed),
        (writer) => writer.release(),
        (writer) => writer.renew("second"),
        (writer) => writer.trim(1, "{}"),
        (writer) => writer.tried("alone"),
        (writer) => writer.tried("cleared"),
      ];
      for (const ask of asks) {
        const runId = await open();
        const writer = await claim(runId);
        await it.store.remove(runId);
        await expect(ask(writer)).rejects.toMatchObject({ code: "no_such_run" });
        expect(await it.expiresIn(runId)).toEqual([]);
      }
    });

    test.each(["completed", "interrupted", "cancelled", "failed"] as const)(
      "P5: a run that is %s takes no claim and no cancel, and keeps its times",
      async (event) => {
        const began = Date.now();
        const runId = await open();
        const writer = await claim(runId);
        const endings: Record<typeof event, LifecycleData> = {
          completed,
          interrupted: { event: "interrupted", interrupts: [{ id: "i", value: 1 }] },
          cancelled: { event: "cancelled", keep: "thread" },
          failed: { event: "failed", error: { name: "E", message: "m" } },
        };
        await writer.finish(endings[event]);
        const { record } = await it.store.must(runId);
        expect(record.status).toBe(event);
        const times = [record.createdAt, record.startedAt!, record.endedAt!].map((time) => Date.parse(time));
        expect(times).toEqual([...times].sort((a, b) => a - b));
        expect(times[0]).toBeGreaterThanOrEqual(began);
        expect(times[2]).toBeLessThanOrEqual(Date.now());
        expect(await it.log.claim(runId)).toEqual({ outcome: "ended", status: event });
        expect(await it.store.cancel(runId, { keep: "discard" })).toEqual({
          outcome: "ended",
          now: false,
          status: event,
          offset: 1,
          checkpoint: null,
        });
        expect((await it.store.must(runId)).record).toEqual(record);
      },
    );

    describe("release", () => {
      test("gives the run back to the queue, once; who gave it back writes no more", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(writer, [own(1)]);
        await writer.release();
        await writer.release();
        expect((await it.store.must(runId)).record).toMatchObject({ status: "queued", head: 1 });
        void writer.write(own(2));
        await expect(writer.flush()).rejects.toMatchObject({ code: "stale_attempt" });
        await expect(writer.finish(completed)).rejects.toMatchObject({ code: "stale_attempt" });
        const next = await claim(runId, it.another());
        // Told once more, for its answer may have been lost: that is nothing to the one who has the run now.
        await writer.release();
        await writeEach(next, [own(3)]);
        expect((await it.store.must(runId)).record.status).toBe("running");
        expect((await all(runId)).map(({ part }) => part.data)).toEqual([1, 3]);
      });

      test("P3: of a run that is being cancelled takes nothing back of the cancel", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await it.store.cancel(runId, { keep: "branch" });
        await writer.release();
        expect((await it.store.must(runId)).record).toMatchObject({
          status: "cancelling",
          cancel: { keep: "branch" },
        });
      });
    });

    describe("renew", () => {
      /** A run of three parts, of which the log has only the first left. */
      const lost = async () => {
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(writer, [own(1), own(2), own(3)]);
        await it.loseEntries(runId, 2);
        return { runId, writer };
      };

      test("gives the log a new epoch, says how far the old one goes, and the run back", async () => {
        const { runId, writer } = await lost();
        const { live } = await it.listen(runId);
        await writer.renew("second");
        const page = await it.reader.page(runId, 0, 1);
        expect(page).toMatchObject({ epoch: "second", earlier: { epoch: "first", upTo: 1 }, head: 1 });
        expect(page).toMatchObject({ status: "queued", first: 1, last: 1 });
        await until(() => live.length === 1);
        expect(live[0]!.toString()).toBe("0:0:second\n");
        void writer.write(own(4));
        await expect(writer.flush()).rejects.toMatchObject({ code: "stale_attempt" });
        const next = await claim(runId, it.another());
        expect(await it.store.must(runId)).toMatchObject({ crashes: 0, record: { epoch: "second" } });
        await writeEach(next, [own("new")]);
        await until(() => live.length === 2);
        expect(live[1]!.toString()).toMatch(/^2:1:second\n/);
      });

      test("twice is once: readers have one new epoch", async () => {
        const { runId, writer } = await lost();
        await writer.renew("second");
        await writer.renew("third");
        const page = await it.reader.page(runId, 0, 1);
        expect(page).toMatchObject({ epoch: "second", earlier: { epoch: "first", upTo: 1 } });
      });

      test("P4: by an attempt that has lost the run is refused, and changes nothing", async () => {
        const { runId, writer } = await lost();
        const next = await claim(runId, it.another());
        await expect(writer.renew("second")).rejects.toMatchObject({ code: "stale_attempt" });
        expect((await it.store.must(runId)).record).toMatchObject({ status: "running", epoch: "first" });
        await writeEach(next, [own(2)]);
        await it.store.remove(runId);
        await expect(next.renew("second")).rejects.toMatchObject({ code: "no_such_run" });
      });

      test("P3: of a run that is being cancelled takes nothing back of the cancel", async () => {
        const { runId, writer } = await lost();
        await it.store.cancel(runId, { keep: "discard" });
        await writer.renew("second");
        expect((await it.store.must(runId)).record).toMatchObject({
          status: "cancelling",
          epoch: "second",
          cancel: { keep: "discard" },
        });
      });
    });

    describe("trim and snapshot", () => {
      test("drops the beginning and keeps what it added up to; offsets go on", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(writer, [1, 2, 3, 4].map(own));
        expect(await it.reader.snapshot(runId)).toBeNull();
        const snapshot = { offset: 2, messages: [], values: { sum: 3 } };
        await writer.trim(2, JSON.stringify(snapshot));
        expect(await it.reader.snapshot(runId)).toEqual(snapshot);
        expect((await all(runId)).map(({ offset }) => offset)).toEqual([3, 4]);
        expect((await it.store.must(runId)).record).toMatchObject({ first: 3, head: 4 });
        expect(await it.reader.page(runId, 0, 1)).toMatchObject({ logFirst: 3, first: 3, last: 3, head: 4 });
        await writeEach(writer, [own(5)]);
        expect((await all(runId)).map(({ offset }) => offset)).toEqual([3, 4, 5]);
        expect(await writer.finish(completed)).toBe(6);
      });
    });

    describe("pages", () => {
      test("P1: at every `after` a page begins at or before the next offset, and pages add up to the log", async () => {
        const runId = await open();
        const writer = await claim(runId);
        let written = 0;
        for (const size of [1, 3, 1, 7, 2, 20, 1, 1, 5, 11]) {
          for (let i = 0; i < size; i++) void writer.write(own(`${++written}`.repeat((written % 5) + 1)));
          await writer.flush();
        }
        const parts = (await all(runId)).map(({ part }) => part);
        expect(parts).toHaveLength(written);
        for (let after = 0; after <= written; after++) {
          for (const maxBytes of [1, 300, 1 << 20]) {
            const page = (await it.reader.page(runId, after, maxBytes))!;
            expect(page).toMatchObject({ status: "running", epoch: "first", head: written, logFirst: 1 });
            if (after === written) {
              expect(page).toMatchObject({ first: 0, last: 0 });
              expect(page.body.toString()).toBe("");
              continue;
            }
            expect(page.first).toBeLessThanOrEqual(after + 1);
            expect(page.last).toBeGreaterThan(after);
            expect(JSON.parse(page.body.toString())).toEqual(parts.slice(page.first - 1, page.last));
            // One part per line.
            expect(page.body.toString().split("\n")).toHaveLength(page.last - page.first + 1);
          }
          expect((await all(runId, after)).map(({ offset }) => offset)).toEqual(
            Array.from({ length: written - after }, (_, i) => after + 1 + i),
          );
        }
      });

      test("stop at the limit of bytes, and hold one batch at least", async () => {
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(
          writer,
          Array.from({ length: 50 }, () => own("x".repeat(1000))),
        );
        for (const maxBytes of [1, 5_000, 20_000, 1_000_000]) {
          const page = (await it.reader.page(runId, 0, maxBytes))!;
          const batch = 1_040;
          expect(page.body.length).toBeLessThan(maxBytes + 2 * batch);
          expect(page.last).toBe(Math.min(50, Math.ceil(maxBytes / batch) || 1));
        }
      });

      test("of a run that is not there is null; of one without parts is empty", async () => {
        expect(await it.reader.page("nobody", 0, 1)).toBeNull();
        const runId = await open();
        expect(await it.reader.page(runId, 0, 1)).toMatchObject({ status: "queued", head: 0, first: 0 });
      });

      test("hold the bytes as they were written: no number, key order or escape is changed", async () => {
        const runId = await open();
        const { live } = await it.listen(runId);
        const writer = await claim(runId);
        const awkward = [
          own(1e21),
          own(-0),
          own(0.1 + 0.2),
          own({ b: 1, a: [[], {}], "10": 1, "9": 2 }),
          own('",\n"'),
          own("\u2028\u2029\u0000\ud83d"),
          own("👩‍🚀 é ﷽"),
          own(null),
          own(",\n[]"),
        ];
        for (const part of awkward) void writer.write(part);
        await writer.flush();
        const expected = `[${awkward.map(line).join(",\n")}]`;
        expect((await it.reader.page(runId, 0, 1 << 20))!.body.toString()).toBe(expected);
        await until(() => live.length > 0);
        expect(live[0]!.toString()).toBe(`1:9:first\n${expected}`);
      });
    });

    test("P2: live messages are the log: same bytes, same offsets, the ending marked", async () => {
      const runId = await open();
      const { live } = await it.listen(runId);
      const writer = await claim(runId);
      for (let i = 0; i < 200; i++) {
        void writer.write(own(i));
        if (i % 13 === 0) await writer.flush();
      }
      const head = await writer.finish(completed);
      await until(() => live.at(-1)?.toString().startsWith(`${head}:1:first:e\n`));
      let next = 1;
      const bodies = live.map((message) => {
        const text = message.toString();
        const [, first, count, ending] = /^(\d+):(\d+):first(:e)?\n/.exec(text)!;
        expect(Number(first)).toBe(next);
        next += Number(count);
        expect(ending !== undefined).toBe(next === head + 1);
        return text.slice(text.indexOf("\n") + 1);
      });
      const pages: string[] = [];
      for (let after = 0; after < head; ) {
        const page = (await it.reader.page(runId, after, 1))!;
        pages.push(page.body.toString());
        after = page.last;
      }
      expect(bodies).toEqual(pages);
    });

    describe("what is kept has an end", () => {
      const passed = 50_000;
      /** So many things are kept of the run, and each of them ends in `ms`, give or take what a test may last. */
      const near = async (runId: string, ms: number, count: number) => {
        const left = await it.expiresIn(runId);
        expect(left).toHaveLength(count);
        for (const each of left) {
          expect(each).toBeGreaterThan(ms - 0.8 * passed);
          expect(each).toBeLessThanOrEqual(ms);
        }
      };
      afterEach(() => void vi.useRealTimers());

      test("while nothing happens: from the opening and from each claim on", async () => {
        const { idleMs } = it.retention;
        const runId = await open();
        await near(runId, idleMs, 1);
        await it.age(runId, passed);
        await near(runId, idleMs - passed, 1);
        const writer = await claim(runId);
        await near(runId, idleMs, 1);
        await writeEach(writer, [own(1), own(2)]);
        await near(runId, idleMs, 2);
        await writer.trim(1, "{}");
        await near(runId, idleMs, 3);
        await it.age(runId, passed);
        await near(runId, idleMs - passed, 3);
        await (await claim(runId)).trim(1, "{}");
        await near(runId, idleMs, 3);
      });

      test("which a run that is written to pushes out, once a minute", async () => {
        const { idleMs } = it.retention;
        vi.useFakeTimers({ toFake: ["performance"] });
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(writer, [own(1), own(2)]);
        await writer.trim(1, "{}");
        for (const minute of [1, 2]) {
          await it.age(runId, passed);
          await writeEach(writer, [own(minute)]);
          await near(runId, idleMs - passed, 3);
          vi.advanceTimersByTime(60_000);
          await writeEach(writer, [own(minute)]);
          await until(() => near(runId, idleMs, 3).then(() => true));
        }
        // One that only waits is not to be forgotten either.
        await it.age(runId, passed);
        vi.advanceTimersByTime(60_000);
        writer.check();
        await until(() => near(runId, idleMs, 3).then(() => true));
      });

      test("after the ending", async () => {
        const { idleMs, endedMs } = it.retention;
        expect(idleMs).toBeGreaterThan(endedMs + passed);
        const runId = await open();
        const writer = await claim(runId);
        await writeEach(writer, [own(1), own(2)]);
        await writer.trim(1, "{}");
        await writer.finish(completed);
        await near(runId, endedMs, 3);
        const queued = await open();
        await it.store.cancel(queued, { keep: "thread" });
        await near(queued, endedMs, 2);
      });
    });

    test("P1: whatever sizes parts have and however they come, the log is what was written", async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.record({
              size: fc.oneof(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 10_000, max: 60_000 })),
              next: fc.constantFrom("nothing", "turn", "flush", "check"),
            }),
            { minLength: 1, maxLength: 60 },
          ),
          async (writes) => {
            const runId = await open();
            const { live } = await it.listen(runId);
            const writer = await claim(runId);
            const expected: Part[] = [];
            for (const [i, { size, next }] of writes.entries()) {
              const part = own(`${i}:${"é".repeat(size)}`);
              expected.push(part);
              const wait = writer.write(part);
              if (wait !== undefined) await wait;
              if (next === "turn") await new Promise((resolve) => setImmediate(resolve));
              else if (next === "flush") await writer.flush();
              else if (next === "check") writer.check();
            }
            const head = await writer.finish(completed);
            expected.push(lifecycle(completed));
            expect(await all(runId)).toEqual(expected.map((part, i) => ({ offset: i + 1, part })));
            expect(head).toBe(expected.length);
            await until(() => live.at(-1)?.includes(":e\n"));
            const heard = live.flatMap((message) =>
              JSON.parse(message.subarray(message.indexOf("\n") + 1).toString()),
            );
            expect(heard).toEqual(expected);
          },
        ),
        { numRuns: 25, endOnFailure: true },
      );
    });
  });
}
