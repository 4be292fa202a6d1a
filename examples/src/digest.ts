/**
 * Reads a text section by section and tells its key sentences. It needs no model: the work is real, takes as long as
 * the text is, reports its progress, and gives way to every other run of the process.
 */
import { type AgentContext, agent, custom, step, update, type Yielded } from "@throughline/worker";
import { z } from "zod";
import { InputError, parseInput, textOf } from "./input.ts";
import { sectionsOf } from "./markdown.ts";
import { Pace } from "./pace.ts";
import { type Analyzed, analyze, keySentences, spread } from "./sentences.ts";
import { tokens } from "./tokens.ts";
import { Turn } from "./turn.ts";

export const digestInput = z.object({
  /** Markdown or plain text. Default: the thread's last human message. */
  text: z.string().optional(),
  /** The most sentences that a section gets. Default: 3. */
  sentences: z.int().min(1).max(20).default(3),
});
export type DigestInput = z.input<typeof digestInput>;

/** The state's `digest`: what it is so far, after every section. */
export interface Digest {
  sections: { title: string; sentences: string[] }[];
  /** How many sections there are to read. */
  of: number;
  /** Words of prose in the text. */
  words: number;
  complete: boolean;
}

async function* summarize(context: AgentContext): AsyncGenerator<Yielded, void, undefined> {
  const { text, most } = request(context);
  const turn = new Turn(context.signal);

  const analyzed: Analyzed[] = [];
  for (const section of await sectionsOf(text, turn)) {
    const each = await analyze(section, turn);
    if (each.sentences.length > 0) analyzed.push(each);
  }
  const sectionsWith = await spread(analyzed, turn);
  const words = analyzed.reduce((sum, section) => sum + section.words, 0);

  const digest: Digest = { sections: alreadyRead(context), of: analyzed.length, words, complete: false };
  for (const [i, section] of analyzed.entries()) {
    const { title } = section;
    if (i < digest.sections.length) continue;
    yield custom({ kind: "progress", section: i + 1, of: analyzed.length, title });
    const sentences = await keySentences(section, sectionsWith, analyzed.length, most, turn);
    digest.sections.push({ title, sentences });
    yield update({ digest: { ...digest, sections: [...digest.sections] } }, "digest");
    // Should this worker be lost, the next one goes on with the section that follows.
    yield step();
  }

  const pace = new Pace(0, context.signal);
  for (const piece of tokens(readable(digest))) {
    const due = pace.next();
    if (due !== undefined) await due;
    yield piece;
  }
  yield update({ digest: { ...digest, complete: true } }, "digest");
}

/** The sections that a worker had read that was lost: of what it told, all up to its last step is there. */
function alreadyRead({ partial }: AgentContext): Digest["sections"] {
  const before = partial?.values.digest as Digest | undefined;
  return [...(before?.sections ?? [])];
}

function request({ input, messages }: AgentContext): { text: string; most: number } {
  const asked = parseInput(digestInput, typeof input === "string" ? { text: input } : (input ?? {}));
  const human = messages.findLast((message) => message.type === "human");
  const text = asked.text ?? (human === undefined ? "" : textOf(human));
  if (text.trim() === "") {
    throw new InputError("text: there is nothing to read: send a string, {text}, or {messages: […]}");
  }
  return { text, most: asked.sentences };
}

function readable({ sections, words }: Digest): string {
  if (sections.length === 0)
    return "There is no prose in this text: nothing but code, tables, images or markup.\n";
  const sentences = sections.reduce((sum, section) => sum + section.sentences.length, 0);
  const count = (n: number, what: string) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
  const head = `${count(words, "word")} in ${count(sections.length, "section")}, told in ${count(sentences, "sentence")}.`;
  const body = sections.map(
    (section) =>
      `## ${section.title}\n\n${section.sentences.map((each) => `- ${shortened(each)}`).join("\n")}\n`,
  );
  return `${head}\n\n${body.join("\n")}`;
}

/** A sentence that goes on for pages is told by its beginning. */
function shortened(sentence: string): string {
  if (sentence.length <= 600) return sentence;
  const space = sentence.lastIndexOf(" ", 600);
  const beginning = sentence.slice(0, space > 300 ? space : 600);
  // The cut may have torn a surrogate pair apart.
  return `${beginning.replace(/[\uD800-\uDBFF]$/, "").trimEnd()} …`;
}

export const digest = agent(summarize, {
  description: "Reads a text section by section and tells its key sentences",
});
