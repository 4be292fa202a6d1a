/** What the benchmark says: both sides' medians, their ratio, and whether it is what was asked for. */
import { median } from "./processes.ts";

/** What one side did in one round. */
export type Figures = Record<string, number>;

export interface Judged {
  name: string;
  /** Figure, its target as a ratio to the floor (or absolute), and which side of it is good. */
  targets: { figure: string; at: number; good: "above" | "below"; absolute?: boolean }[];
}

export interface Result {
  floor: Figures;
  line: Figures;
  verdicts: string[];
}

/** Prints a scenario's table, from the rounds of either side. */
export function print(scenario: Judged, floors: readonly Figures[], lines: readonly Figures[]): Result {
  const [floor, line] = [medians(floors), medians(lines)];
  console.log(`\n${scenario.name}  (medians of ${lines.length} interleaved rounds)`);
  console.log(
    `  ${"".padEnd(16)}${"floor".padStart(12)}${"line".padStart(12)}${"ratio".padStart(9)}   min–max of the line`,
  );
  for (const [figure, ours] of Object.entries(line)) {
    const theirs = floor[figure];
    const all = lines.map((each) => each[figure]!);
    const ratio = theirs ? (ours / theirs).toFixed(2) : "";
    console.log(
      `  ${figure.padEnd(16)}${round(theirs).padStart(12)}${round(ours).padStart(12)}${ratio.padStart(9)}   ${round(Math.min(...all))}–${round(Math.max(...all))}`,
    );
  }
  const verdicts = scenario.targets.map(({ figure, at, good, absolute }) => {
    const value = absolute ? line[figure]! : line[figure]! / floor[figure]!;
    const reached = good === "above" ? value >= at : value <= at;
    const sign = good === "above" ? "≥" : "≤";
    return `${reached ? "reached    " : "FALLS SHORT"} ${figure} ${sign} ${at}${absolute ? "" : " × floor"}: ${value.toFixed(2)}`;
  });
  for (const verdict of verdicts) console.log(`  ${verdict}`);
  return { floor, line, verdicts };
}

function medians(all: readonly Figures[]): Figures {
  return Object.fromEntries(Object.keys(all[0]!).map((key) => [key, median(all.map((each) => each[key]!))]));
}

function round(value: number | undefined): string {
  if (value === undefined) return "";
  return value >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(2);
}
