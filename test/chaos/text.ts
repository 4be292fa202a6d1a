/** What the agents of the chaos worker say. It follows from a run's input, so that the checks know it as well. */
import { hash } from "./random.ts";

/** Agents that are graphs, of one state. */
export const stateGraphNames = ["essay", "asking", "team", "calling", "tooling"] as const;
/** All agents that are graphs. */
export const graphNames = [...stateGraphNames, "flow"] as const;
export type GraphName = (typeof graphNames)[number];

export const agentNames = [
  ...graphNames,
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
  /** `bulky`: characters beside each token. */
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

/** A run as far as its text goes. */
export interface Telling {
  agent: AgentName;
  input: Lines;
  /** It is the answer to what the run before asked. */
  answers: boolean;
}

export function isGraph(agent: AgentName): agent is GraphName {
  return (graphNames as readonly string[]).includes(agent);
}

/** Who says something in a run: by steps of the graph, those of a step at once. */
export function speakers({ agent, answers }: Telling): string[][] {
  switch (agent) {
    case "essay":
      return [["outline"], ["facts", "style"], ["draft"]];
    case "asking":
      return answers ? [["reply"]] : [["question"]];
    case "team":
      return [["plan"], ["first"], ["deep"], ["deeper"], ["closing"]];
    case "calling":
      return [["one"], ["two"]];
    case "tooling":
      return [["asker"], [aside], ["answerer"]];
    case "flow":
      return [["opening"], ["ending"]];
    case "colourful":
      return [["writer", "critic"]];
    default:
      return [["answer"]];
  }
}

/** Speaks inside of a tool: it is heard, and none of the conversation. */
export const aside = "aside";

/** What one of several speakers says. */
export function lineOf<T extends Pick<Lines, "seed">>(lines: T, speaker: string): T {
  return { ...lines, seed: `${lines.seed}-${speaker}` };
}

/** The texts of a run that comes to its end, by speaker. */
export function wholeStory(telling: Telling): Map<string, string> {
  const { seed, tokens } = telling.input;
  return new Map(
    speakers(telling)
      .flat()
      .map((speaker) => [
        speaker,
        textOf(speaker === "answer" ? seed : lineOf({ seed }, speaker).seed, tokens),
      ]),
  );
}

/** Whose message it is, of this run; undefined: nobody's. Ids are `<run>-<speaker>` and, in graphs, `-<execution>`. */
export function speakerOf(runId: string, messageId: string): string | undefined {
  return messageId.startsWith(`${runId}-`) ? messageId.slice(runId.length + 1).split("-")[0] : undefined;
}

/** The key of a graph's state in which the execution stands that finished the speaker's node. */
export function executionKey(speaker: string): string {
  return `${speaker}By`;
}

/** What `asking` is answered with. */
export function answerTo({ seed }: Lines): { answer: string } {
  return { answer: seed };
}
