/** A run's key is not there: it never was, or it has expired. */
export class NoSuchRunError extends Error {
  override readonly name = "NoSuchRunError";
  readonly code = "no_such_run";
  constructor(runId: string) {
    super(`there is no run ${runId}`);
  }
}

/** Another attempt has the run, or it has ended: nothing was written, and nothing of this attempt's ever will be. */
export class StaleAttemptError extends Error {
  override readonly name = "StaleAttemptError";
  readonly code = "stale_attempt";
  constructor(runId: string, attempt: number) {
    super(`attempt ${attempt} no longer has run ${runId}`);
  }
}

/** Redis acknowledged parts that it no longer has: it came back, or failed over, with an older log. */
export class LostWritesError extends Error {
  override readonly name = "LostWritesError";
  readonly code = "lost_writes";
  constructor(runId: string, offset: number) {
    super(`the log of run ${runId} ends before offset ${offset}, which Redis had acknowledged`);
  }
}

/** A part that is larger than the log takes. */
export class PartTooLargeError extends Error {
  override readonly name = "PartTooLargeError";
  readonly code = "part_too_large";
  constructor(bytes: number, limit: number) {
    super(`a part of ${bytes} characters was yielded; the limit is ${limit}: split it`);
  }
}
