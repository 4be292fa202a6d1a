/** A short round, as `npm run chaos` plays it: real processes, a fault a second, every check. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const program = fileURLToPath(new URL("../dist/chaos/main.js", import.meta.url));

test("P1–P8: a round of every fault breaks no promise", { timeout: 600_000 }, async () => {
  const args = [program, "--seed", "ci", "--minutes", "0.3", "--clients", "40"];
  const { code, output } = await new Promise<{ code: unknown; output: string }>((resolve) => {
    execFile(process.execPath, args, { maxBuffer: 1 << 26 }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : error.code, output: `${stdout}${stderr}` }),
    );
  });
  const [, runs, faults, violations] =
    /\*\*(\d+) runs, (\d+) faults, (\d+) violations\*\*/.exec(output) ?? [];
  expect({ code, violations }, output).toEqual({ code: 0, violations: "0" });
  expect(Number(runs), output).toBeGreaterThan(40);
  expect(Number(faults), output).toBeGreaterThan(10);
});
