/**
 * Breaks a real line on purpose, and checks that nobody could tell: see docs/reliability.md.
 *
 *     npm run chaos [-- --seed S --minutes M --faults a,b,… --runs N --clients N --graphs SHARE --gateways N --workers N --keep-logs]
 *
 * `--runs` plays that many rounds, with the seeds S-1, S-2, … Exits with 1 where a round broke a rule.
 */
import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { type FaultName, faultKinds, faultNames } from "./faults.ts";
import { defaultGraphShare } from "./plan.ts";
import { report } from "./report.ts";
import { playRound, type RoundOptions } from "./round.ts";

const usage = `usage: npm run chaos [-- --seed S --minutes M --faults a,b,… --runs N --clients N --graphs SHARE --gateways N --workers N --keep-logs]
faults: ${faultNames.join(", ")}; none: --faults none`;

const say = (line: string) => void process.stdout.write(`${line}\n`);

function readOptions(): { rounds: number; options: RoundOptions } {
  const { values } = parseArgs({
    options: {
      seed: { type: "string", default: randomBytes(4).toString("hex") },
      minutes: { type: "string", default: "2" },
      faults: { type: "string" },
      runs: { type: "string", default: "1" },
      clients: { type: "string", default: "200" },
      graphs: { type: "string", default: String(defaultGraphShare) },
      gateways: { type: "string", default: "3" },
      workers: { type: "string", default: "3" },
      "keep-logs": { type: "boolean", default: false },
    },
  });
  const number = (name: "minutes" | "runs" | "clients" | "graphs" | "gateways" | "workers") => {
    const value = Number(values[name]);
    if (!(value > 0)) throw new Error(`--${name} ${values[name]}: it should be a number above 0`);
    return value;
  };
  return {
    rounds: number("runs"),
    options: {
      seed: values.seed,
      minutes: number("minutes"),
      clients: number("clients"),
      graphs: number("graphs"),
      gateways: number("gateways"),
      workers: number("workers"),
      faults: readFaults(values.faults),
      keepLogs: values["keep-logs"],
      say,
    },
  };
}

function readFaults(given: string | undefined): FaultName[] {
  if (given === undefined) return faultNames.filter((name) => !("offByDefault" in faultKinds[name]));
  if (given === "none") return [];
  return given.split(",").map((name) => {
    if (!Object.hasOwn(faultKinds, name)) throw new Error(`there is no fault ${name}`);
    return name as FaultName;
  });
}

// With an orderly exit nothing that was started, or frozen, is left behind.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));

let violations = 0;
try {
  const { rounds, options } = readOptions();
  for (let i = 1; i <= rounds; i++) {
    const seed = rounds === 1 ? options.seed : `${options.seed}-${i}`;
    const round = { ...options, seed };
    say(`seed ${seed}`);
    const result = await playRound(round);
    violations += result.ledger.violations.length;
    say(report(round, result));
  }
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n${usage}\n`);
  process.exit(2);
}
process.exit(violations === 0 ? 0 : 1);
