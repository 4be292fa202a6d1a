/** What a round is summed up in: Markdown, to be pasted. */
import type { FigureRow } from "./figures.ts";
import type { RoundOptions, RoundResult } from "./round.ts";

const shownViolations = 50;

export function report(options: RoundOptions, { ledger, grown, logs }: RoundResult): string {
  const { seed, minutes, clients, gateways, workers } = options;
  const { violations, faults, runs, counts } = ledger;
  const lines = [
    `seed ${seed}: ${minutes} min, ${clients} clients, ${gateways} gateways, ${workers} workers`,
    "",
    `**${runs.size} runs, ${faults.length} faults, ${violations.length} violations**`,
    "",
    ...table(["fault", "struck"], [...tally(faults.map(({ name }) => name))]),
    "",
    ...table(["counted", ""], Object.entries(counts).sort()),
    "",
    ...table(
      ["figure, ms", "weather", "n", "p50", "p90", "p99", "max", "target"],
      ledger.figures.rows().map(figureCells),
    ),
    "",
    ...table(
      ["held at the end beyond a fresh process", "MiB"],
      [...grown].map(([name, bytes]) => [name, (bytes / (1 << 20)).toFixed(1)]),
    ),
  ];
  for (const violation of violations.slice(0, shownViolations)) lines.push("", `VIOLATION ${violation}`);
  if (violations.length > shownViolations) lines.push("", `and ${violations.length - shownViolations} more`);
  if (logs !== undefined) lines.push("", `the processes' logs: ${logs}`);
  return `${lines.join("\n")}\n`;
}

function figureCells({ name, weather, n, p50, p90, p99, max, verdict }: FigureRow): (string | number)[] {
  return [name, weather, n, ...[p50, p90, p99, max].map(Math.round), verdict ?? ""];
}

function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string[] {
  const isNumber = (column: number) =>
    rows.length > 0 && rows.every((row) => typeof row[column] === "number");
  const rule = head.map((_, i) => (isNumber(i) ? "---:" : "---"));
  return [head, rule, ...rows].map((cells) => `| ${cells.join(" | ")} |`);
}

function tally(names: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const name of [...names].sort()) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}
