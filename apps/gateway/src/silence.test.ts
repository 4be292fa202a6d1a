import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Silence } from "./silence.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** After how many seconds of silence each look is due. */
function looks(silence: Silence, count: number): number[] {
  const waits: number[] = [];
  for (let seconds = 0; waits.length < count; seconds++) {
    if (silence.isDue(performance.now())) {
      waits.push(seconds);
      silence.looked();
      seconds = 0;
    }
    vi.advanceTimersByTime(1_000);
  }
  return waits;
}

test("a silence is looked into soon, and then ever more seldom", () => {
  expect(looks(new Silence(), 6)).toEqual([3, 6, 12, 24, 24, 24]);
});

test("what is heard begins a new one; what could not be looked at is due at once", () => {
  const silence = new Silence();
  looks(silence, 4);
  silence.broken();
  expect(looks(silence, 2)).toEqual([3, 6]);
  silence.failed();
  expect(silence.isDue(performance.now())).toBe(true);
});
