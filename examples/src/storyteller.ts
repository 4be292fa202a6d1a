/**
 * Streams a text, word by word, at a steady rate. It needs no model and always says the same: what a resume, a
 * takeover or a cancel does to a stream can be checked against the text.
 *
 * Invariant: the tokens of a run, joined, are the text from where the run begins to its end. A run begins at the
 * text's start, after what an earlier attempt streamed, or, with `{continue: true}`, after a cancelled partial.
 */
import { type AgentContext, agent, update, type Yielded } from "@throughline/worker";
import { z } from "zod";
import { chunk } from "./chunk.ts";
import { InputError, isAi, type Message, parseInput, textOf } from "./input.ts";
import { Pace } from "./pace.ts";
import { defaultStory } from "./story.ts";
import { tokens } from "./tokens.ts";

const rate = z.number().min(0, "must be 0 or more").max(1_000_000, "must be 1,000,000 or less");
const defaultRate = 40;

export const storytellerInput = z
  .object({
    /** Default: a story of its own. */
    text: z.string().optional(),
    /** 0: as fast as it goes. Default: 40, or what it was in the run that is continued. */
    tokensPerSecond: rate.optional(),
    /** Go on where the thread's last answer was cancelled. */
    continue: z.boolean().optional(),
  })
  .refine((input) => input.continue !== true || input.text === undefined, {
    path: ["text"],
    message: "is that of the partial when the run continues one; leave it out",
  });
export type StorytellerInput = z.infer<typeof storytellerInput>;

/** What the thread's state knows of the story, for the run that continues it. */
const storyState = z.object({
  story: z.union([z.literal("default"), z.object({ text: z.string() })]),
  tokensPerSecond: rate,
});

/** On a run's first chunk: the code unit of the text that its message begins at. */
const origin = z.object({ response_metadata: z.object({ start: z.int().nonnegative() }) });

const cancelled = z.object({ additional_kwargs: z.object({ cancelled: z.literal(true) }) });

interface Telling {
  text: string;
  tokensPerSecond: number;
  /** Where the run's message begins in the text. */
  start: number;
  state: Record<string, unknown>;
}

async function* tell(context: AgentContext): AsyncGenerator<Yielded, void, undefined> {
  const { text, tokensPerSecond, start, state } = telling(context);
  const told = (context.partial?.messages ?? []).filter(isAi).map(textOf).join("");
  if (!text.startsWith(told, start)) {
    throw new InputError("partial: what an earlier attempt streamed is not in the text");
  }
  if (told === "") yield update(state, "storyteller");

  const pace = new Pace(tokensPerSecond, context.signal);
  let first = told === "";
  for (const piece of tokens(text.slice(start + told.length))) {
    const due = pace.next();
    if (due !== undefined) await due;
    if (first) yield chunk(piece, { response_metadata: { start } });
    else yield piece;
    first = false;
  }
}

function telling({ input, messages, checkpoint }: AgentContext): Telling {
  const asked = parseInput(storytellerInput, isRecord(input) ? input : {});
  if (asked.continue === true) return continuation(messages, checkpoint?.values, asked.tokensPerSecond);
  const tokensPerSecond = asked.tokensPerSecond ?? defaultRate;
  const story = asked.text === undefined ? "default" : { text: asked.text };
  return { text: asked.text ?? defaultStory, tokensPerSecond, start: 0, state: { story, tokensPerSecond } };
}

function continuation(
  messages: readonly Message[],
  values: Readonly<Record<string, unknown>> | undefined,
  askedRate: number | undefined,
): Telling {
  const answers = messages.filter(isAi);
  const last = answers.at(-1);
  if (last === undefined) throw nothing("the thread has no answer yet");
  if (!isCancelled(last)) throw nothing("the thread's last answer was not cancelled");
  const state = storyState.safeParse(values);
  if (!state.success) throw nothing("the thread's state holds no story");
  const text = state.data.story === "default" ? defaultStory : state.data.story.text;

  const start = endOfTold(text, answers);
  if (start === undefined) throw nothing("the thread's last answer is not a part of its story");
  if (start === text.length) throw nothing("the story was told to its end");
  const tokensPerSecond = askedRate ?? state.data.tokensPerSecond;
  return { text, tokensPerSecond, start, state: { tokensPerSecond } };
}

/** Where the last answer stopped in the text; undefined when it is no part of it. */
function endOfTold(text: string, answers: readonly Message[]): number | undefined {
  const last = answers.at(-1)!;
  const known = origin.safeParse(last);
  if (known.success) {
    const { start } = known.data.response_metadata;
    const partial = textOf(last);
    return text.startsWith(partial, start) ? start + partial.length : undefined;
  }
  // The message does not say where it began: the partials in a row, joined, are then the longest beginning of the text.
  let end: number | undefined;
  let joined = "";
  for (const answer of answers.toReversed()) {
    if (!isCancelled(answer)) break;
    joined = textOf(answer) + joined;
    if (text.startsWith(joined)) end = joined.length;
  }
  return end;
}

function isCancelled(message: Message): boolean {
  return cancelled.safeParse(message).success;
}

function nothing(why: string): InputError {
  return new InputError(`continue: there is nothing to continue: ${why}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export const storyteller = agent(tell, {
  description: "Tells a story word by word, at the rate you choose",
  takeover: "resume",
});
