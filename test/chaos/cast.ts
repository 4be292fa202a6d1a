/**
 * The agents of the chaos worker. Every token carries which attempt wrote it, and in which process, so that a write of
 * an attempt that had lost its run cannot hide.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Part } from "@throughline/protocol";
import {
  type Agent,
  type AgentContext,
  agent,
  custom,
  type Graph,
  PublicError,
  update,
} from "@throughline/worker";
import { graphs } from "./graph-cast.ts";
import { type AgentName, delayAt, type Lines, plannedFailure, tokenAt, tokensIn } from "./text.ts";

/** How a worker ends that one of its agents has taken down. */
export const crashExitCode = 86;

type Context = AgentContext<Lines>;

/** A token of the answer, signed. */
function say({ input, attempt }: Context, i: number): Part {
  return {
    type: "messages",
    ns: [],
    data: [
      { type: "AIMessageChunk", content: tokenAt(input.seed, i) },
      { attempt, index: i, pid: process.pid },
    ],
  };
}

/** How many tokens an earlier attempt has left. A partial that is no beginning of the story fails the run. */
function alreadySaid({ input, partial, runId }: Context): number {
  const answer = partial?.messages.find(({ id }) => id === `${runId}-answer`);
  if (answer === undefined) return 0;
  const tokens = tokensIn(input.seed, String(answer.content));
  if (tokens === undefined)
    throw new Error(`the partial is not a beginning: ${JSON.stringify(answer.content)}`);
  return tokens;
}

async function* story(context: Context) {
  const { input, signal } = context;
  for (let i = alreadySaid(context); i < input.tokens; i++) {
    await sleep(delayAt(input, i), undefined, { signal });
    yield say(context, i);
  }
}

/** Never looks at its signal. */
async function* stubborn(context: Context) {
  for (let i = alreadySaid(context); i < context.input.tokens; i++) {
    await sleep(delayAt(context.input, i));
    yield say(context, i);
  }
}

/** Two messages at once, one in a subgraph, with tags, custom parts and state in between. */
async function* colourful({ input, attempt, runId, signal }: Context) {
  const token = (who: string, i: number) => ({
    type: "AIMessageChunk",
    id: `${runId}-${who}`,
    content: tokenAt(`${input.seed}-${who}`, i),
  });
  const signed = { attempt, pid: process.pid };
  for (let i = 0; i < input.tokens; i++) {
    await sleep(delayAt(input, i), undefined, { signal });
    const tags = i % 2 === 0 ? ["even", "draft"] : ["odd"];
    yield {
      type: "messages",
      ns: [],
      data: [token("writer", i), { ...signed, index: i, langgraph_node: "writer", tags }],
    } as Part;
    yield {
      type: "messages",
      ns: ["review:1"],
      data: [token("critic", i), { ...signed, index: i, langgraph_node: "critic" }],
    } as Part;
    yield { ...custom({ ...signed, i }), ns: ["review:1", "deep:2"] };
    yield update({ round: i, attempt }, "planner");
  }
}

async function* bulky(context: Context) {
  const { input, attempt } = context;
  for await (const part of story(context)) {
    yield part;
    yield custom({ attempt, pid: process.pid, bulk: "x".repeat(input.bulk ?? 0) });
    yield update({ pages: input.bulk, attempt });
  }
}

/** Takes its worker down with it, once. */
async function* fragile(context: Context) {
  for await (const part of story(context)) {
    const { index } = (part.data as [unknown, { index: number }])[1];
    if (context.attempt === 1 && index === context.input.until) process.exit(crashExitCode);
    yield part;
  }
}

async function* failing(context: Context) {
  for await (const part of story(context)) {
    const { index } = (part.data as [unknown, { index: number }])[1];
    if (index === context.input.until) throw new PublicError(plannedFailure);
    yield part;
  }
}

export const cast: Record<AgentName, Agent | Graph> = {
  ...graphs,
  story: agent(story, { takeover: "resume" }),
  draft: agent(story, { takeover: "restart" }),
  stubborn: agent(stubborn, { takeover: "resume" }),
  colourful: agent(colourful, { takeover: "restart" }),
  quiet: agent(story, { takeover: "resume" }),
  bulky: agent(bulky, { takeover: "resume" }),
  fragile: agent(fragile, { takeover: "resume" }),
  failing: agent(failing, { takeover: "resume" }),
};
