import { setTimeout as sleep } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { until } from "../../../../test/support/until.ts";
import { Intake } from "./intake.ts";

/** A stream that is handed out with its first chunk, as LangGraph's. */
function pushed() {
  let controller!: ReadableStreamDefaultController<number>;
  let handOut!: (stream: AsyncIterable<number>) => void;
  let fail!: (error: Error) => void;
  const stream = new ReadableStream<number>({
    start: (own) => {
      controller = own;
    },
  });
  const source = new Promise<AsyncIterable<number>>((resolve, reject) => {
    handOut = resolve;
    fail = reject;
  });
  return { source, fail, push: (each: number) => controller.enqueue(each), handOut: () => handOut(stream) };
}

test("it has caught up when all that was pushed before has been dealt with", async () => {
  const { source, push, handOut } = pushed();
  const intake = new Intake<number>();
  const taken: number[] = [];
  void intake.read(source, (each) => taken.push(each));
  push(1);
  handOut();
  push(2);
  await intake.caughtUp();
  expect(taken).toEqual([1, 2]);
  push(3);
  await intake.caughtUp();
  expect(taken).toEqual([1, 2, 3]);
});

test("a stream that is long in coming is waited for without turning", async () => {
  const { source, push, handOut } = pushed();
  const intake = new Intake<number>();
  const taken: number[] = [];
  void intake.read(source, (each) => taken.push(each));
  const caughtUp = intake.caughtUp().then(() => [...taken]);
  const turns = vi.spyOn(globalThis, "setImmediate");
  await sleep(20);
  expect(turns).not.toHaveBeenCalled();
  turns.mockRestore();
  push(1);
  handOut();
  expect(await caughtUp).toEqual([1]);
});

test("P5: a stream that does not come at all keeps nobody waiting", async () => {
  const { source, fail } = pushed();
  const intake = new Intake<number>();
  const reading = intake.read(source, () => {}).catch((error: Error) => error.message);
  let caughtUp = false;
  void intake.caughtUp().then(() => {
    caughtUp = true;
  });
  fail(new Error("stopped before its first chunk"));
  expect(await reading).toBe("stopped before its first chunk");
  await until(() => caughtUp);
});
