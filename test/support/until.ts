import { setTimeout as sleep } from "node:timers/promises";

/** Between two looks at a condition, ms: soon at first, then ever more seldom, for each costs others their time. */
const pollMs = { first: 2, longest: 25 };
/** When a test is held to hang, ms. No bound on what is tested: it is far longer than a slow machine takes for anything. */
export const patienceMs = 60_000;

/**
 * Waits until `condition` answers something that is not false, null or undefined, and answers that. A condition that
 * throws does not hold yet.
 *
 * @throws Error with `what`, or with what the condition last threw, once `deadlineMs` are over
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  deadlineMs = patienceMs,
  what = "the condition",
): Promise<Exclude<T, false | null | undefined>> {
  const deadline = performance.now() + deadlineMs;
  for (let tries = 0; ; tries++) {
    let failure: unknown;
    try {
      const answer = await condition();
      if (answer !== false && answer !== null && answer !== undefined) {
        return answer as Exclude<T, false | null | undefined>;
      }
    } catch (error) {
      failure = error;
    }
    if (performance.now() > deadline) {
      throw new Error(`${what} did not hold within ${deadlineMs} ms`, { cause: failure });
    }
    await sleep(Math.min(pollMs.first + tries / 4, pollMs.longest));
  }
}

/** The promise's value, or an error once `deadlineMs` are over: nothing in a test waits for ever. */
export async function within<T>(
  promise: Promise<T>,
  deadlineMs = patienceMs,
  what = "the answer",
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${deadlineMs} ms`)), deadlineMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
