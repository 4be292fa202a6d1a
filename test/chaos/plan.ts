/**
 * The plan of a round, all of it drawn from the seed: which fault strikes when and for how long, and what each client
 * does in its n-th turn. What then happens depends on the machine; what is tried does not.
 */
import type { Filter, Keep, MultitaskStrategy } from "@throughline/protocol";

import { type FaultName, faultKinds } from "./faults.ts";
import type { Random } from "./random.ts";
import { type AgentName, type GraphName, isGraph, type Lines, type Telling } from "./text.ts";

export interface PlannedFault {
  /** From the beginning of the round, ms. */
  at: number;
  name: FaultName;
  /** Until it is undone, ms. */
  holdMs: number;
  /** Draws the target. */
  random: Random;
}

/**
 * Faults come in storms. Behind each there is calm, and in it one fault by itself, whose consequences are measured
 * undisturbed; then calm again. All in ms.
 */
const stormMs = 25_000;
const calmMs = 12_000;
const watchMs = 11_000;
/** A fault every so often in a storm, on the average. */
const faultEveryMs = 850;
/** The line is left alone while it starts. */
const firstStormAt = 3_000;

/** What strikes alone, in turn: the faults that have figures. */
const alone = ["worker-kill", "gateway-kill", "worker-term", "gateway-term"] as const satisfies FaultName[];

export function planFaults(random: Random, totalMs: number, names: readonly FaultName[]): PlannedFault[] {
  if (names.length === 0) return [];
  const weights = Object.fromEntries(names.map((name) => [name, faultKinds[name].weight]));
  const soloists = alone.filter((name) => names.includes(name));
  const faults: PlannedFault[] = [];
  const add = (at: number, end: number, name: FaultName) => {
    const [least, most] = faultKinds[name].holdMs;
    const holdMs = random.int(least, most);
    // What holds for long strikes earlier: with its storm it is over.
    faults.push({ at: Math.min(at, end - holdMs), name, holdMs, random: random.fork(faults.length) });
  };
  const cycleMs = stormMs + calmMs + watchMs;
  for (let cycle = 0; firstStormAt + cycle * cycleMs < totalMs; cycle++) {
    const storm = firstStormAt + cycle * cycleMs;
    const end = Math.min(storm + stormMs, totalMs);
    for (let at = storm + spread(random); at < end; at += spread(random)) {
      add(at, end, random.weighted(weights as Record<FaultName, number>));
    }
    const soloist = soloists[cycle % soloists.length];
    const solo = end + calmMs;
    if (soloist !== undefined && solo < totalMs) add(solo, solo + watchMs, soloist);
  }
  return faults.filter(({ at }) => at > 0).sort((a, b) => a.at - b.at);
}

function spread(random: Random): number {
  return Math.round(faultEveryMs * (0.2 + 1.6 * random.next()));
}

/** How far apart the tokens of a busy run are at the most, ms: there a silence is a silence. */
export const busyPaceMs = 200;

export interface PlannedCancel {
  /** After the start was answered, ms. */
  afterMs: number;
  keep: Keep;
  /** Asked for again right behind the first, with another `keep`. */
  twice: boolean;
}

/** One run that a client starts, and how it follows it. */
export interface PlannedTurn extends Telling {
  strategy: MultitaskStrategy;
  /** Does not wait for this run's end before the thread's next one starts, but so many ms. */
  overlapMs: number | undefined;
  /** Sends the start again, with the same key. */
  repeated: boolean;
  cancel: PlannedCancel | undefined;
  reading: PlannedReading;
}

/** How somebody follows a run. */
export interface PlannedReading {
  filter: Filter | undefined;
  /** When the cable is cut, ms after the beginning. */
  drops: number[];
  /** Stops reading: when, and for how long, ms. */
  pause: { afterMs: number; forMs: number } | undefined;
}

/** How many conversations are with graphs, where nobody says. */
export const defaultGraphShare = 0.25;
const graphWeights: Record<Exclude<GraphName, "flow">, number> = {
  essay: 3,
  asking: 2,
  team: 3,
  calling: 2,
  tooling: 2,
};
/** How many of these are with the functional API. */
const flowShare = 0.2;

const agentWeights: Record<Exclude<AgentName, GraphName>, number> = {
  story: 30,
  draft: 20,
  stubborn: 8,
  colourful: 18,
  quiet: 6,
  bulky: 8,
  fragile: 0.1,
  failing: 5,
};

/**
 * A conversation is with graphs all along, or with functions: a graph's thread has its state. Those of state graphs are
 * all alike; a functional graph has its own.
 */
export function planConversation(
  random: Random,
  name: string,
  graphShare = defaultGraphShare,
): PlannedTurn[] {
  const turns = random.int(1, 4);
  const withGraphs = random.chance(graphShare);
  const withFlow = withGraphs && random.chance(flowShare);
  const agentFor = () => {
    if (withFlow) return "flow";
    return withGraphs ? random.weighted(graphWeights) : random.weighted(agentWeights);
  };
  return Array.from({ length: turns }, (_, i) => {
    const agent = agentFor();
    const turn = planTurn(random, agent, `${name}-${i}`, i < turns - 1);
    if (agent !== "asking") return [turn];
    // It is answered when it has come to its question.
    const answer = planTurn(random, agent, `${name}-${i}`, i < turns - 1);
    const input = { ...turn.input, messages: [] };
    return [
      { ...turn, overlapMs: undefined },
      { ...answer, input, answers: true, strategy: "enqueue" as const },
    ];
  }).flat();
}

function planTurn(random: Random, agent: AgentName, name: string, hasNext: boolean): PlannedTurn {
  const overlap = hasNext && random.chance(0.4);
  return {
    agent,
    answers: false,
    input: planLines(random, agent, name),
    // Where it comes second in its thread, and the first one is still active.
    strategy: random.weighted({ enqueue: 5, interrupt: 3, rollback: 2, reject: 1 }),
    overlapMs: overlap ? random.int(0, 3_000) : undefined,
    repeated: random.chance(0.15),
    cancel: random.chance(0.3)
      ? {
          afterMs: random.chance(0.2) ? 0 : random.int(1, 6_000),
          keep: random.weighted({ thread: 5, branch: 2, discard: 3 }),
          twice: random.chance(0.2),
        }
      : undefined,
    reading: planReading(random),
  };
}

function planLines(random: Random, agent: AgentName, seed: string): Lines {
  const lines: Lines = {
    messages: [{ type: "human", content: `Tell me ${seed}` }],
    seed,
    tokens: random.int(20, 90),
    paceMs: random.int(40, 160),
  };
  if (isGraph(agent)) return { ...lines, tokens: random.int(3, 25) };
  if (agent === "quiet") return { ...lines, tokens: random.int(2, 4), paceMs: random.int(2_000, 5_000) };
  if (agent === "colourful") return { ...lines, tokens: random.int(5, 30), paceMs: random.int(100, 300) };
  if (agent === "bulky") return { ...lines, tokens: random.int(20, 60), bulk: random.int(5_000, 20_000) };
  if (agent === "fragile" || agent === "failing") return { ...lines, until: random.int(1, lines.tokens - 1) };
  return lines;
}

const filters: Filter[] = [
  { modes: ["messages"] },
  { modes: ["custom", "updates"] },
  { nodes: ["critic"] },
  { tags: ["draft"] },
  { ns: ["review:1"] },
  { depth: 0 },
];

export function planReading(random: Random): PlannedReading {
  const drops = random.chance(0.35)
    ? Array.from({ length: random.int(1, 3) }, () => random.int(0, 8_000))
    : [];
  return {
    filter: random.chance(0.15) ? random.pick(filters) : undefined,
    drops: drops.sort((a, b) => a - b),
    pause: random.chance(0.1) ? { afterMs: random.int(0, 3_000), forMs: random.int(500, 6_000) } : undefined,
  };
}
