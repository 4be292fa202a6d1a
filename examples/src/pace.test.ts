import { getEventListeners } from "node:events";
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Pace } from "./pace.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** When each of `count` tokens came, in ms since the first; `work` ms pass after each. */
async function times(rate: number, count: number, work = (_i: number) => 0): Promise<number[]> {
  const pace = new Pace(rate, new AbortController().signal);
  const start = performance.now();
  const all: number[] = [];
  let done = false;
  const telling = (async () => {
    for (let i = 0; i < count; i++) {
      const due = pace.next();
      if (due !== undefined) await due;
      all.push(performance.now() - start);
      const busy = work(i);
      if (busy > 0) await new Promise((resolve) => setTimeout(resolve, busy));
    }
    done = true;
  })();
  while (!done) {
    await vi.runAllTimersAsync();
    // The event loop's own round is a real one.
    await setImmediate();
  }
  await telling;
  return all;
}

describe("Pace", () => {
  it("gives the first token at once, and the others one by one", async () => {
    expect(await times(40, 5)).toEqual([0, 25, 50, 75, 100]);
  });

  it("does not drift: fractions of a millisecond add up to none", async () => {
    const all = await times(30, 301);
    expect(all.at(-1)).toBe(10_000);
    for (const [i, at] of all.entries()) {
      expect(at).toBeGreaterThanOrEqual((i * 1000) / 30 - 1e-6);
      expect(at).toBeLessThan((i * 1000) / 30 + 1);
    }
  });

  it("makes up for what took long", async () => {
    const all = await times(10, 21, (i) => (i === 4 ? 750 : 0));
    expect(all[5]).toBe(1150);
    expect(all[11]).toBe(1150);
    expect(all[12]).toBe(1200);
    expect(all[20]).toBe(2000);
  });

  it("keeps rates above what timers can do", async () => {
    const all = await times(5000, 10_001);
    expect(all.at(-1)).toBe(2000);
  });

  it("waits for nothing at rate 0, but for the event loop now and then", async () => {
    const pace = new Pace(0, new AbortController().signal);
    let waits = 0;
    for (let i = 0; i < 100_000; i++) if (pace.next() !== undefined) waits++;
    expect(waits).toBe(0);
    vi.advanceTimersByTime(100);
    for (let i = 0; i < 256; i++) {
      const due = pace.next();
      if (due === undefined) continue;
      waits++;
      vi.advanceTimersByTime(1);
      await due;
    }
    expect(waits).toBe(1);
  });

  it("stops waiting when aborted, with the signal's reason, and leaves no timer and no listener", async () => {
    const controller = new AbortController();
    const pace = new Pace(0.001, controller.signal);
    expect(pace.next()).toBeUndefined();
    const due = pace.next();
    expect(vi.getTimerCount()).toBe(1);
    const reason = new Error("cancelled by the user");
    controller.abort(reason);
    await expect(due).rejects.toBe(reason);
    expect(vi.getTimerCount()).toBe(0);
    expect(getEventListeners(controller.signal, "abort")).toHaveLength(0);
    expect(() => pace.next()).toThrow(reason);
  });

  it("leaves no listener behind after a wait", async () => {
    const { signal } = new AbortController();
    const pace = new Pace(1000, signal);
    expect(pace.next()).toBeUndefined();
    const due = pace.next();
    expect(getEventListeners(signal, "abort")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    await due;
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });
});
