/** Agents for tests: what they yield follows from their input, so that a test can say what must come. */
import { setTimeout as sleep } from "node:timers/promises";
import { type AgentContext, custom, token, update } from "@throughline/worker";

/** A gate that a test opens when it likes. */
export class Gate {
  #open!: () => void;
  isOpen = false;
  readonly passed: Promise<void> = new Promise((resolve) => {
    this.#open = resolve;
  });
  open(): void {
    this.isOpen = true;
    this.#open();
  }
}

export interface CountInput {
  /** How many tokens. */
  n: number;
  /** Between tokens, ms; 0: none, but for a turn of the event loop. Left out: not even that. */
  ms?: number;
  /** Characters that each token is padded to. */
  pad?: number;
}

/** The n-th token of `count`. */
export function countToken(i: number, pad = 0): string {
  return `${i} `.padEnd(pad, "·");
}

/** All that `count` says. */
export function countText(n: number, pad = 0): string {
  return Array.from({ length: n }, (_, i) => countToken(i, pad)).join("");
}

/** Yields n tokens: "0 1 2 …". */
export async function* count({ input, signal }: AgentContext<CountInput>) {
  for (let i = 0; i < input.n; i++) {
    if (input.ms !== undefined) await sleep(input.ms, undefined, { signal });
    yield countToken(i, input.pad);
  }
}

/** Parts of every kind that a filter can tell apart, three rounds of them. */
export async function* colourful({ input }: AgentContext<{ rounds: number } | undefined>) {
  for (let i = 0; i < (input?.rounds ?? 3); i++) {
    yield token(`a${i} `, { node: "writer", tags: ["draft"], id: "first" });
    yield { ...token(`b${i} `, { node: "critic", id: "second" }), ns: ["review:1"] };
    yield { ...custom({ i }), ns: ["review:1", "deep:2"] };
    yield custom({ progress: i });
    yield update({ round: i }, "planner");
  }
}
