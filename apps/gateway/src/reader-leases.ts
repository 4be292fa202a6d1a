/**
 * Says in Redis which runs somebody reads on this gateway: of those only that end when nobody reads them.
 *
 * A lease: a gateway that is gone says nothing any more, and what it said runs out. Nobody decides here that a run ends;
 * the worker that has it does, when no gateway's lease is left.
 *
 * Invariant: a run without readers here is not renewed; one with readers is, until it has ended.
 */
import type { RunStore } from "@throughline/runlog";
import type { Logger } from "pino";

/** How long a gateway that says nothing more is believed to have readers, and how often it says so, ms. */
const leaseMs = 10_000;
const renewMs = 3_000;

export interface ReaderLeaseOptions {
  gatewayId: string;
  /** How long a run without readers is given them back, ms. */
  graceMs: number;
}

export class ReaderLeases {
  readonly #runs: RunStore;
  readonly #options: ReaderLeaseOptions;
  readonly #logger: Logger;
  readonly #read = new Set<string>();
  readonly #renewing: NodeJS.Timeout;
  readonly #underWay = new Set<Promise<void>>();
  #isLeaving = false;

  constructor(runs: RunStore, options: ReaderLeaseOptions, logger: Logger) {
    this.#runs = runs;
    this.#options = options;
    this.#logger = logger;
    this.#renewing = setInterval(() => {
      for (const runId of this.#read) this.#say(runId, leaseMs);
    }, renewMs);
  }

  /** A run has its first reader here. */
  arrive(runId: string): void {
    this.#read.add(runId);
    this.#say(runId, leaseMs);
  }

  /** A run has lost its last reader here. */
  leave(runId: string): void {
    if (this.#read.delete(runId)) this.#say(runId, this.#isLeaving ? leaseMs : this.#options.graceMs);
  }

  /** A run has ended. */
  end(runId: string): void {
    this.#read.delete(runId);
  }

  /** The gateway goes: from here on who leaves was sent away, and gets the time that a lease has to come back elsewhere. */
  drain(): void {
    this.#isLeaving = true;
  }

  /** Resolves when all was said. */
  async close(): Promise<void> {
    clearInterval(this.#renewing);
    await Promise.all(this.#underWay);
  }

  #say(runId: string, ms: number): void {
    const said = this.#runs.lease(runId, this.#options.gatewayId, ms).then(
      (goesOn) => {
        if (!goesOn) this.#read.delete(runId);
      },
      (error: unknown) => {
        this.#logger.debug({ err: error, runId }, "could not say that a run is read; it is said again");
      },
    );
    this.#underWay.add(said);
    void said.then(() => this.#underWay.delete(said));
  }
}
