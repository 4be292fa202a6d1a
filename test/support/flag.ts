/** A gate for agents in other processes: a file that there is once it is open. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class Flag {
  readonly #dir = mkdtempSync(join(tmpdir(), "throughline-flag-"));
  readonly path = join(this.#dir, "raised");

  raise(): void {
    writeFileSync(this.path, "");
  }

  remove(): void {
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
