/** Has the planned faults strike, and undoes them. */
import { setTimeout as sleep } from "node:timers/promises";
import { type FaultKind, faultKinds, type Scene } from "./faults.ts";
import type { Ledger } from "./ledger.ts";
import type { PlannedFault } from "./plan.ts";

export class Director {
  readonly #scene: Scene;
  readonly #ledger: Ledger;
  readonly #going = new Set<Promise<void>>();
  #redisBusy = false;

  constructor(scene: Scene, ledger: Ledger) {
    this.#scene = scene;
    this.#ledger = ledger;
  }

  /** Plays the plan, from now on. Resolves when all of it is undone. */
  async play(plan: readonly PlannedFault[]): Promise<void> {
    const beginning = Date.now();
    for (const planned of plan) {
      await sleep(Math.max(0, beginning + planned.at - Date.now()));
      const going: Promise<void> = this.#strike(planned)
        .catch((error) => this.#ledger.violation(`the fault ${planned.name} could not be played: ${error}`))
        .finally(() => this.#going.delete(going));
      this.#going.add(going);
    }
    await Promise.all(this.#going);
  }

  async #strike({ name, holdMs, random }: PlannedFault): Promise<void> {
    const kind: FaultKind = faultKinds[name];
    const ofRedis = kind.ofRedis === true;
    if (ofRedis && this.#redisBusy)
      return this.#ledger.count("faults passed over: Redis was busy with another");
    if (ofRedis) this.#redisBusy = true;
    try {
      const struck = await kind.strike(this.#scene, random);
      if (struck === undefined) return this.#ledger.count("faults passed over: nothing to strike");
      const { aftermathMs, renewsEpochs = false } = kind;
      const record = this.#ledger.strike({ name, detail: struck.detail, ofRedis, renewsEpochs, aftermathMs });
      await sleep(holdMs);
      await struck.undo();
      record.until = Date.now();
    } finally {
      if (ofRedis) this.#redisBusy = false;
    }
  }
}
