/**
 * Which failures of a Redis command are transient, and how long to wait before the same command is sent again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { backoffDelay } from "@throughline/kit/timing";

/** Redis cannot take the command now, and will later. A script's error names the script first. */
const passing =
  /(?:^|: )(OOM|READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|NOREPLICAS|MISCONF|BUSY|NOSCRIPT)\b/;
/** ioredis's messages for a command without an answer. Error names do not tell: agents' AbortErrors get here too. */
const unanswered =
  /Connection is (closed|in)|isn't writeable|timed out|Socket timeout|due to connection close|max retries|All nodes failed|refresh slots cache|redirections|No (sharded )?subscriber|ECONN|EPIPE/i;

const retryMs = { min: 50, max: 1_000 } as const;

/** Whether Redis cannot answer now, or the connection broke: an idempotent command may be sent again. */
export function isPassing(error: Error & { syscall?: unknown }): boolean {
  if (error.name === "ReplyError") return passing.test(error.message);
  return error.syscall !== undefined || unanswered.test(error.message);
}

/** What Redis answered where it refused for now: `OOM`, `READONLY`, …; undefined for any other error. */
export function refusalOf(error: Error): string | undefined {
  return error.name === "ReplyError" ? passing.exec(error.message)?.[1] : undefined;
}

/**
 * Tells, in Redis' own words, of what it refuses for now: of each kind at once, and then again after `everyMs` at the
 * earliest. A connection that is away is told of by connectRedis, and not here. Log the words and not the error: ioredis
 * puts the command's arguments into it.
 *
 * @param everyMs @default 10_000
 */
export function refusalTeller(tell: (words: string) => void, everyMs = 10_000): (error: Error) => void {
  const toldAt = new Map<string, number>();
  return (error) => {
    const refusal = refusalOf(error);
    const now = performance.now();
    if (refusal === undefined || now - (toldAt.get(refusal) ?? Number.NEGATIVE_INFINITY) < everyMs) return;
    toldAt.set(refusal, now);
    tell(error.message);
  };
}

/** How long to wait after so many failures in a row, ms. */
export function retryDelay(failures: number): number {
  return backoffDelay(retryMs, failures);
}

/**
 * Runs `send` until Redis has answered it, whatever its connection goes through.
 *
 * @param onRetry hears of every failure that is followed by another try
 */
export async function persist<T>(send: () => Promise<T>, onRetry?: (error: Error) => void): Promise<T> {
  for (let failures = 0; ; failures++) {
    try {
      return await send();
    } catch (error) {
      if (!isPassing(error as Error)) throw error;
      onRetry?.(error as Error);
      await sleep(retryDelay(failures));
    }
  }
}
