/** Logs who was refused, and why: one line each, rate-limited. */
import type { Logger } from "@throughline/kit";
import { Allowance } from "./allowance.ts";

/** Lines a second, and how many seconds' worth at once. */
const linesPerSecond = 1;
const burstSeconds = 20;

export class Refusals {
  readonly #logger: Logger;
  readonly #lines = new Allowance(linesPerSecond, burstSeconds);
  #untold = 0;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  note(refusal: {
    code: number;
    reason: string;
    address: string | undefined;
    origin: string | undefined;
  }): void {
    if (!this.#lines.take()) {
      this.#untold++;
      return;
    }
    const untold = this.#untold === 0 ? {} : { untold: this.#untold };
    this.#untold = 0;
    this.#logger.warn({ ...refusal, ...untold }, "a socket was refused");
  }
}
