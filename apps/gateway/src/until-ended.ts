/** Waits for the end of a run. */
import type { Batch } from "./batch.ts";
import type { Feed, FeedReader } from "./feed.ts";

/**
 * Follows a run while `work` is under way: an end cannot be missed, however soon it comes. `ended` resolves with whether
 * the run has ended within so many ms.
 */
export async function whileFollowing<T>(
  feed: Feed,
  work: (ended: (ms: number) => Promise<boolean>) => Promise<T>,
): Promise<T> {
  const acquired = feed.acquire();
  acquired.catch(() => {});
  try {
    return await work((ms) => untilEnded(feed, acquired, ms));
  } finally {
    // Not waited for: with Redis out of reach it is not acquired until Redis is back.
    void acquired.then(
      () => feed.release(),
      () => {},
    );
  }
}

/** How often a run that is awaited looks at its log, for an ending whose message was lost. */
const lookMs = 1_000;

/** `heard`: resolves when the feed's live batches come in. */
async function untilEnded(feed: Feed, heard: Promise<void>, ms: number): Promise<boolean> {
  return await new Promise<boolean>((resolve) => {
    const finish = (ended: boolean) => {
      clearTimeout(deadline);
      clearInterval(looking);
      feed.leave(reader);
      resolve(ended);
    };
    const look = () => {
      if (feed.ended) finish(true);
    };
    const refresh = () => void feed.refresh().catch(() => {}); // The next look is soon.
    const reader: FeedReader = { onBatch: (_: Batch) => look(), onWake: look, onHead: look };
    const deadline = setTimeout(finish, ms, false);
    const looking = setInterval(refresh, lookMs);
    feed.join(reader);
    // What ended before the subscription was acknowledged was not heard.
    heard.then(refresh, refresh);
    look();
  });
}
