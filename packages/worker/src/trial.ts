/**
 * A run that has lost workers is tried alone, before anybody is blamed: the others of its process are handed to other
 * workers, and none begins while it is tried. Who goes down with it then was taken down by it, or by nobody's run.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Attempt, WorkerStoppingError } from "./attempt.ts";

/** How long a run has to last alone to be no suspect any more, ms: four times as long with each trial. */
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
      // Where Redis does not take that, it is tried once more, should it come to that.
      void writer.tried("cleared").catch(() => {});
    }, lasts);
  }

  /** The run has stood its trial, or its attempt is over. */
  end(runId: string): void {
    if (this.#runId !== runId) return;
    clearTimeout(this.#passes);
    this.#runId = undefined;
  }
}
