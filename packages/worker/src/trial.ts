/**
 * A run whose workers crashed is tried alone before it is failed: the other runs of its process are handed to other
 * workers, and none begins meanwhile. If the process crashes during the trial, no other run can be the cause.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Attempt, WorkerStoppingError } from "./attempt.ts";

/** How long a run has to run alone to be cleared, ms. Four times as long with each trial. */
const firstTrialMs = 1_000;
const longestTrialMs = 300_000;
const pollMs = 10;

export class Trial {
  readonly #active: ReadonlyMap<string, Attempt>;
  #runId: string | undefined;
  #passes: NodeJS.Timeout | undefined;

  /** @param active the attempts of this process, by run */
  constructor(active: ReadonlyMap<string, Attempt>) {
    this.#active = active;
  }

  /** Whether another run is tried. */
  excludes(runId: string): boolean {
    return this.#runId !== undefined && this.#runId !== runId;
  }

  /** Resolves when the attempt is alone in this process, or is to stop. `trials`: those that its run has had. */
  async begin(attempt: Attempt, trials: number): Promise<void> {
    const { runId, writer } = attempt;
    this.#runId = runId;
    for (const [id, other] of this.#active) if (id !== runId) other.stop(new WorkerStoppingError());
    while (this.#active.size > 1 && attempt.reason === undefined) await sleep(pollMs);
    if (attempt.reason !== undefined) return;
    await writer.tried("alone");
    const lasts = Math.min(firstTrialMs * 4 ** trials, longestTrialMs);
    this.#passes = setTimeout(() => {
      this.end(runId);
      // If Redis does not take this, the run may have to stand one more trial.
      void writer.tried("cleared").catch(() => {});
    }, lasts);
  }

  /** Ends the trial: the run was cleared, or its attempt is over. */
  end(runId: string): void {
    if (this.#runId !== runId) return;
    clearTimeout(this.#passes);
    this.#runId = undefined;
  }
}
