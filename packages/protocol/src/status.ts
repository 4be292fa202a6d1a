/** What a run and a thread can be. No zod here, so that a client pays for nothing else. */

/** The statuses of a run. The last four are its endings, and none of them is ever left. */
export const runStatuses = [
  "queued",
  "running",
  "cancelling",
  "completed",
  "interrupted",
  "cancelled",
  "failed",
] as const;

export const endings = ["completed", "interrupted", "cancelled", "failed"] as const;
export type Ending = (typeof endings)[number];

/** Whether a run with this status, or a lifecycle part with this event, has ended. */
export function isEnding(statusOrEvent: string): statusOrEvent is Ending {
  return (endings as readonly string[]).includes(statusOrEvent);
}

/** The statuses of a thread. `busy`: a run of it has not ended; else how it stands. */
export const threadStatuses = ["idle", "busy", "interrupted", "failed"] as const;
