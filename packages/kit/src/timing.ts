/** Deadlines, and delays between tries. */

/** A promise that resolves with `false` after so many ms, unless it is cleared before. Clear it: it keeps the process up. */
export function deadline(ms: number): { passed: Promise<false>; clear(): void } {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, ms, false);
  });
  return { passed, clear: () => clearTimeout(timer) };
}

/** Whether the promise resolves within so many ms. Rejects with what it rejects with, if it does so in time. */
export async function isDoneWithin(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { passed, clear } = deadline(ms);
  try {
    return await Promise.race([promise.then(() => true), passed]);
  } finally {
    clear();
  }
}

/** Bounds of the delays between tries, ms. */
export interface Backoff {
  readonly min: number;
  readonly max: number;
}

/** How long to wait after so many failures in a row, from 0: `min`, then twice as long each time, up to `max`. */
export function backoffDelay({ min, max }: Backoff, failures: number): number {
  return Math.min(max, min * 2 ** Math.min(failures, 30));
}
