/** What the agents of the chaos worker say. It follows from a run's input, so that the checks know it as well. */
import { hash } from "./random.ts";

export const agentNames = [
  "story",
  "draft",
  "stubborn",
  "colourful",
  "quiet",
  "bulky",
  "fragile",
  "failing",
] as const;
export type AgentName = (typeof agentNames)[number];

/** The input of every agent of the cast. */
export interface Lines {
  /** What the user says. */
  messages: { type: "human"; content: string }[];
  /** What the text is made from. */
  seed: string;
  /** How many tokens, or rounds. */
  tokens: number;
  /** Between tokens, ms, on the average. */
  paceMs: number;
  /** `bulky`: characters of each of its parts. */
  bulk?: number;
  /** `fragile` dies, and `failing` throws, when it comes to this token. */
  until?: number;
}

const words = [
  "amber",
  "böse",
  "cloud",
  "d’été",
  "ember",
  "fjörd",
  "漢字",
  "harbour",
  "🙂🙃",
  "\n",
  "\"k'",
  "lake",
];

/** The text of token `i`. The number in it says where a story went wrong. */
export function tokenAt(seed: string, i: number): string {
  return `${i}:${words[hash(`${seed}#${i}`) % words.length]} `;
}

/** The first `tokens` tokens. */
export function textOf(seed: string, tokens: number): string {
  let text = "";
  for (let i = 0; i < tokens; i++) text += tokenAt(seed, i);
  return text;
}

/** How many tokens make up this text. undefined: it is not the beginning of the story, or ends within a token. */
export function tokensIn(seed: string, text: string): number | undefined {
  let i = 0;
  for (let at = 0; at < text.length; i++) {
    const token = tokenAt(seed, i);
    if (!text.startsWith(token, at)) return undefined;
    at += token.length;
  }
  return i;
}

/** How long token `i` takes, ms: around the pace, never the same. */
export function delayAt({ seed, paceMs }: Lines, i: number): number {
  return paceMs * (0.5 + (hash(`${seed}~${i}`) % 1000) / 1000);
}

export const plannedFailure = "planned failure";

/** The streamed messages of a run that comes to its end, by id. */
export function wholeStory(agent: AgentName, runId: string, { seed, tokens }: Lines): Map<string, string> {
  if (agent !== "colourful") return new Map([[`${runId}-answer`, textOf(seed, tokens)]]);
  return new Map([
    [`${runId}-writer`, textOf(`${seed}-writer`, tokens)],
    [`${runId}-critic`, textOf(`${seed}-critic`, tokens)],
  ]);
}
