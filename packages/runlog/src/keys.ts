/** The names of a run's keys and channels. All carry the hash tag `{runId}`: one script, one Cluster slot. */
export const defaultPrefix = "tl";

/** What a log is read by: a run's, or another that is written in the same form. All in one Cluster slot. */
export interface LogKeys {
  /** Hash: status, epoch, head, first, earlier, and whatever else its writers keep there. */
  readonly run: string;
  /** Stream: an entry a batch, id `<offset of the last part>-0`, fields `n` (parts) and `b` (JSON array, a part a line). */
  readonly log: string;
  /**
   * Channel: `<first offset>:<parts>:<epoch>[:e]\n<the same JSON array>`; `e` marks the ending. `0:0:<epoch>\n`: the log
   * has a new epoch.
   */
  readonly live: string;
}

/** `run` holds the run's record as well: agent, thread, owner, attempt, … */
export interface RunKeys extends LogKeys {
  /** Channel: wakes the run's worker for a cancel. */
  readonly control: string;
  /** String: what the trimmed part of the log added up to. */
  readonly snapshot: string;
  /**
   * Sorted set: the gateways that somebody reads the run on, by until when that holds. Only of a run that ends when nobody
   * reads it. It expires with the last of them.
   */
  readonly readers: string;
}

export function runKeys(prefix: string, runId: string): RunKeys {
  const base = `${prefix}:{${runId}}:`;
  return {
    run: `${base}run`,
    log: `${base}log`,
    live: `${base}live`,
    control: `${base}control`,
    snapshot: `${base}snapshot`,
    readers: `${base}readers`,
  };
}
