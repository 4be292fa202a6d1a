/** How long things took, and percentiles of it. */

export const figureNames = {
  takeover: "worker killed → next part at a client",
  handOver: "worker drained: silence between its last part and the next one",
  resume: "socket opened → first missed part",
  gatewayKilled: "gateway killed → next part at its clients",
  gatewayDrained: "gateway drained → next part, beyond the announced delay",
  cancel: "cancel → answer, agents that obey their signal",
  cancelStubborn: "cancel → answer, agents that ignore it",
} as const;
export type FigureName = keyof typeof figureNames;

/** What a percentile in calm weather should be at most, ms. */
const targets: Partial<Record<FigureName, { p50?: number; p99?: number }>> = {
  takeover: { p50: 5_000, p99: 10_000 },
  handOver: { p99: 1_000 },
  gatewayKilled: { p50: 2_000 },
  gatewayDrained: { p99: 500 },
  cancel: { p50: 20, p99: 100 },
};

interface Sample {
  ms: number;
  /** Nothing else was broken at the time. */
  calm: boolean;
}

export interface FigureRow {
  name: string;
  weather: "calm" | "storm";
  n: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
  /** undefined: there is none, or there are no samples. */
  verdict: string | undefined;
}

export class Figures {
  readonly #samples = new Map<FigureName, Sample[]>();

  add(name: FigureName, ms: number, calm: boolean): void {
    const samples = this.#samples.get(name) ?? [];
    this.#samples.set(name, samples);
    samples.push({ ms, calm });
  }

  rows(): FigureRow[] {
    return (Object.keys(figureNames) as FigureName[]).flatMap((name) => {
      const samples = this.#samples.get(name) ?? [];
      const calm = samples.filter((each) => each.calm);
      const storm = samples.filter((each) => !each.calm);
      return [row(name, "calm", calm), row(name, "storm", storm)].filter(({ n }) => n > 0);
    });
  }
}

function row(name: FigureName, weather: FigureRow["weather"], samples: readonly Sample[]): FigureRow {
  const sorted = samples.map(({ ms }) => ms).sort((a, b) => a - b);
  // The nearest rank: a value that was measured.
  const at = (p: number) => sorted[Math.max(0, Math.ceil((p / 100) * sorted.length) - 1)] ?? Number.NaN;
  const figures = { n: sorted.length, p50: at(50), p90: at(90), p99: at(99), max: at(100) };
  return { name: figureNames[name], weather, ...figures, verdict: verdict(name, weather, figures) };
}

function verdict(
  name: FigureName,
  weather: FigureRow["weather"],
  figures: { n: number; p50: number; p99: number },
): string | undefined {
  const target = targets[name];
  if (target === undefined || weather === "storm" || figures.n === 0) return undefined;
  return (["p50", "p99"] as const)
    .flatMap((percentile) => {
      const most = target[percentile];
      if (most === undefined) return [];
      return [`${percentile} ≤ ${most}: ${figures[percentile] <= most ? "reached" : "FALLS SHORT"}`];
    })
    .join("; ");
}
