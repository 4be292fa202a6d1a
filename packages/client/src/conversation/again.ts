/** Work that is done again whenever it is due, one at a time, and after a pause where it failed but may succeed later. */
import { backoffDelay } from "@throughline/protocol";
import { systemClock } from "../platform.ts";

export class Again {
  readonly #work: () => Promise<void>;
  readonly #failed: (error: Error) => void;
  #isDue = false;
  #isWorking = false;
  #isStopped = false;
  #failures = 0;
  #timer: unknown;

  constructor(work: () => Promise<void>, failed: (error: Error) => void) {
    this.#work = work;
    this.#failed = failed;
  }

  /** It is done from now on, all of it: what is under way does not count. */
  due(): void {
    this.#isDue = true;
    if (this.#isWorking || this.#isStopped) return;
    this.#isWorking = true;
    this.#isDue = false;
    systemClock.clearTimeout(this.#timer);
    this.#work().then(
      () => this.#done(0),
      (error: Error & { retryable?: boolean }) => {
        if (error.retryable === true) this.#done(this.#failures + 1);
        else {
          this.#done(0);
          if (!this.#isStopped) this.#failed(error);
        }
      },
    );
  }

  stop(): void {
    this.#isStopped = true;
    systemClock.clearTimeout(this.#timer);
  }

  #done(failures: number): void {
    this.#failures = failures;
    this.#isWorking = false;
    if (this.#isDue) this.due();
    else if (failures > 0 && !this.#isStopped) {
      const ms = backoffDelay(failures - 1);
      this.#timer = systemClock.setTimeout(() => this.due(), ms);
    }
  }
}
