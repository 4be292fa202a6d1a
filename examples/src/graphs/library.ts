/** What `research` reads: texts that it is given, else this repository's own documentation. */
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { InputError } from "../input.ts";
import { sectionsOf } from "../markdown.ts";
import { sentencesOf, wordsOf } from "../sentences.ts";
import type { Turn } from "../turn.ts";

export const source = z.object({ title: z.string().min(1), text: z.string() });
export type Source = z.infer<typeof source>;

/** A sentence that has to do with the question. */
export interface Finding {
  source: string;
  section: string;
  sentence: string;
  /** How many of the question's words it has, those of its section's title for half. */
  score: number;
}

const root = fileURLToPath(new URL("../../../", import.meta.url));

/** The files of the documentation, by their paths from the repository's root. Throws an InputError where there is none. */
export async function documentation(folder = root): Promise<string[]> {
  let docs: string[];
  try {
    docs = await readdir(`${folder}docs`);
  } catch {
    throw new InputError("sources: there is no documentation here to read: send [{title, text}]");
  }
  return ["README.md", ...docs.filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)].sort();
}

/** The text of a file that `documentation` lists. */
export async function readDocument(title: string): Promise<string> {
  if (!(await documentation()).includes(title)) throw new Error(`${title} is no file of the documentation`);
  return await readFile(`${root}${title}`, "utf8");
}

/** The words of a question that a search goes by; each once. */
export function termsOf(question: string): string[] {
  return [...new Set(wordsOf(question).content)];
}

const mostFindings = 3;
/** Shorter ones are captions and fragments, longer ones lists without full stops. */
const sentenceLength = { least: 30, most: 400 };

/** The sentences of a text that have most of the terms, best first. */
export async function searchText(
  { title, text }: Source,
  terms: readonly string[],
  turn: Turn,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const section of await sectionsOf(text, turn)) {
    const inTitle = matches(section.title, terms) / 2;
    for (const sentence of section.blocks.flatMap(sentencesOf)) {
      const over = turn.over();
      if (over !== undefined) await over;
      if (sentence.length < sentenceLength.least || sentence.length > sentenceLength.most) continue;
      const inSentence = matches(sentence, terms);
      if (inSentence === 0) continue;
      findings.push({ source: title, section: section.title, sentence, score: inSentence + inTitle });
    }
  }
  return findings.sort((a, b) => b.score - a.score).slice(0, mostFindings);
}

function matches(text: string, terms: readonly string[]): number {
  const words = new Set(wordsOf(text).content);
  return terms.filter((term) => words.has(term)).length;
}
