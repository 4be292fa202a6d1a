/**
 * Which failures of a Redis command pass by themselves, and how long to wait for that: what was asked for may be asked
 * for again, word for word.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { backoffDelay } from "@throughline/kit/timing";

/** Redis is there but cannot take the command now: it will be able to again. A script's error names the script first. */
const passing =
  /(?:^|: )(OOM|READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|NOREPLICAS|MISCONF|BUSY|NOSCRIPT)\b/;
/** The command got no answer: ioredis's words for it. Names would not do: agents' AbortErrors come by here too. */
const unanswered =
  /Connection is (closed|in)|isn't writeable|timed out|Socket timeout|due to connection close|max retries|All nodes failed|refresh slots cache|redirections|No (sharded )?subscriber|ECONN|EPIPE/i;

const retryMs = { min: 50, max: 1_000 } as const;

/** Redis cannot answer now, or the connection broke: the same command again is right where it is idempotent. */
export function isPassing(error: Error & { syscall?: unknown }): boolean {
  if (error.name === "ReplyError") return passing.test(error.message);
  return error.syscall !== undefined || unanswered.test(error.message);
}

/** How long to wait after so many failures in a row, ms. */
export function retryDelay(failures: number): number {
  return backoffDelay(retryMs, failures);
}

/** Runs `send` until Redis has answered it, whatever its connection goes through. */
export async function persist<T>(send: () => Promise<T>): Promise<T> {
  for (let failures = 0; ; failures++) {
    try {
      return await send();
    } catch (error) {
      if (!isPassing(error as Error)) throw error;
      await sleep(retryDelay(failures));
    }
  }
}
