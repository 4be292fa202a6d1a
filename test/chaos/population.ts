/** The clients of a round. */
import { setTimeout as sleep } from "node:timers/promises";
import { Door } from "./door.ts";
import type { Ledger } from "./ledger.ts";
import { Member } from "./member.ts";
import type { Random } from "./random.ts";
import { RawMember } from "./raw.ts";
import type { Instance } from "./service.ts";
import type { Stage } from "./stage.ts";

/** One in so many is a raw socket; one in so many of those holds every frame to its schema. */
const rawEvery = 3;
const validateEvery = 4;

export class Population {
  readonly #door: Door;
  readonly #members: (Member | RawMember)[];
  readonly #lives: Promise<unknown>[] = [];
  readonly #ledger: Ledger;
  #over = false;

  /** @param graphShare how many conversations are with graphs: 0 to 1 */
  constructor(clients: number, graphShare: number, random: Random, ledger: Ledger, stage: Stage) {
    this.#ledger = ledger;
    this.#door = new Door(stage, ledger);
    this.#members = Array.from({ length: clients }, (_, i) => {
      const own = random.fork(i);
      if (i % rawEvery !== rawEvery - 1) return new Member(`client${i}`, own, ledger, this.#door, graphShare);
      const validate = i % (rawEvery * validateEvery) === rawEvery - 1;
      return new RawMember(`raw${i}`, own, ledger, this.#door, { validate, graphShare });
    });
  }

  /** How many sockets are open. */
  get sockets(): number {
    return this.#door.size;
  }

  start(): void {
    for (const member of this.#members) {
      const life = member.live(() => this.#over);
      this.#lives.push(life.catch((error) => this.#ledger.violation(`${member.name} gave up: ${error}`)));
    }
  }

  /** Nothing new is begun. Resolves when what was begun has ended; false: not within `deadlineMs`. */
  async finish(deadlineMs: number): Promise<boolean> {
    this.#over = true;
    return await Promise.race([Promise.all(this.#lives).then(() => true), sleep(deadlineMs, false)]);
  }

  close(): void {
    for (const member of this.#members) member.close();
  }

  cut(instance: Instance): number {
    return this.#door.cut(instance);
  }

  pause(share: number, random: Random): () => void {
    return this.#door.pause(share, random);
  }

  /** A process is gone, or going: whoever waits for its next sign measures how long. */
  lost(instance: Instance, how: "killed" | "crashed" | "terminated"): void {
    const isGateway = instance.name.startsWith("gateway");
    if (isGateway && how === "killed") this.#door.gatewayKilled(instance);
    if (isGateway) return;
    for (const member of this.#members) {
      if (!(member instanceof Member)) continue;
      for (const view of member.views)
        view.workerLost(instance.pid, how === "terminated" ? "handOver" : "takeover");
    }
  }
}
