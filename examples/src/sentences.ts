/**
 * Which sentences say most of a section. Extractive: it chooses sentences and changes none.
 *
 * A word weighs the more, the more often its section has it and the fewer other sections do (tf·idf). A sentence is
 * worth the mean of its words' weights, more when it opens its section or paragraph, less when it is very short or very
 * long. Sentences are taken from the best down, and what a taken sentence said counts less from then on (SumBasic), so
 * that the second sentence does not say the first again. The same text always gives the same sentences.
 */
import type { Section } from "./markdown.ts";
import type { Turn } from "./turn.ts";

export interface Sentence {
  text: string;
  /** The number of words, stop words included. */
  length: number;
  opensParagraph: boolean;
}

export interface Analyzed {
  title: string;
  sentences: Sentence[];
  /** How often the section has each of its content words. */
  counts: Map<string, number>;
  words: number;
}

/** Splits a section into its sentences, and counts its words. */
export async function analyze(section: Section, turn: Turn): Promise<Analyzed> {
  const analyzed: Analyzed = { title: section.title, sentences: [], counts: new Map(), words: 0 };
  for (const block of section.blocks) {
    const over = turn.over();
    if (over !== undefined) await over;
    let opensParagraph = true;
    for (const text of sentencesOf(block)) {
      const { content, length } = wordsOf(text);
      if (length === 0) continue;
      for (const word of content) analyzed.counts.set(word, (analyzed.counts.get(word) ?? 0) + 1);
      analyzed.words += length;
      analyzed.sentences.push({ text, length, opensParagraph });
      opensParagraph = false;
    }
  }
  return analyzed;
}

/** In how many of the sections each word is. */
export async function spread(sections: readonly Analyzed[], turn: Turn): Promise<Map<string, number>> {
  const sectionsWith = new Map<string, number>();
  for (const section of sections) {
    let i = 0;
    for (const word of section.counts.keys()) {
      sectionsWith.set(word, (sectionsWith.get(word) ?? 0) + 1);
      const over = i++ % 1024 === 0 ? turn.over() : undefined;
      if (over !== undefined) await over;
    }
  }
  return sectionsWith;
}

interface Candidate {
  index: number;
  words: string[];
  factor: number;
  score: number;
}

/** Of a long section only the best are compared with each other. */
const mostCandidates = 60;

/** The section's key sentences, at most `most`, in the order in which it has them. */
export async function keySentences(
  section: Analyzed,
  sectionsWith: ReadonlyMap<string, number>,
  sectionCount: number,
  most: number,
  turn: Turn,
): Promise<string[]> {
  const title = new Set(wordsOf(section.title).content);
  const weigh = (word: string) => {
    const frequency = Math.log2(1 + (section.counts.get(word) ?? 0));
    const rarity = Math.log2(1 + sectionCount / (sectionsWith.get(word) ?? 1));
    return frequency * rarity * (title.has(word) ? 1.5 : 1);
  };
  let candidates: Candidate[] = [];
  for (const [index, sentence] of section.sentences.entries()) {
    const words = [...new Set(wordsOf(sentence.text).content)];
    const factor = worth(sentence, index);
    candidates.push({ index, words, factor, score: factor * mean(words, weigh) });
    if (candidates.length >= 2 * mostCandidates) candidates = best(candidates);
    const over = turn.over();
    if (over !== undefined) await over;
  }
  candidates = best(candidates);

  const wanted = Math.min(most, Math.ceil(section.sentences.length / 6));
  const said = new Map<string, number>();
  const chosen: Candidate[] = [];
  while (chosen.length < wanted && candidates.length > 0) {
    const [top, ...rest] = best(candidates) as [Candidate, ...Candidate[]];
    chosen.push(top);
    for (const word of top.words) said.set(word, (said.get(word) ?? 1) * 0.3);
    const weighAgain = (word: string) => weigh(word) * (said.get(word) ?? 1);
    candidates = rest.map((each) => ({ ...each, score: each.factor * mean(each.words, weighAgain) }));
  }
  return chosen.sort((a, b) => a.index - b.index).map(({ index }) => section.sentences[index]!.text);
}

/** Best first; of two that are equal, the earlier. */
function best(candidates: Candidate[]): Candidate[] {
  return candidates.sort((a, b) => b.score - a.score || a.index - b.index).slice(0, mostCandidates);
}

/** The mean, dampened so that a sentence of two rare words does not beat one that says something. */
function mean(words: readonly string[], weigh: (word: string) => number): number {
  let sum = 0;
  for (const word of words) sum += weigh(word);
  return sum / (words.length + 4);
}

function worth(sentence: Sentence, index: number): number {
  const place = (1 + 0.6 / (1 + index)) * (sentence.opensParagraph ? 1.1 : 1);
  const { length } = sentence;
  const size = length < 4 ? 0.2 : length < 7 ? 0.7 : length <= 40 ? 1 : Math.max(0.1, 40 / length);
  // What ends in a colon announces something that the digest does not show.
  const finished = /[.!?。！？…]["'”’)\]]*$/u.test(sentence.text)
    ? 1
    : /[:,;]$/.test(sentence.text)
      ? 0.3
      : 0.8;
  return place * size * finished;
}

const sentenceSegmenter = new Intl.Segmenter("en", { granularity: "sentence" });
const abbreviation =
  /(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|ca|approx|al|Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|Inc|Ltd|Co|No|Nos|Fig|Eq|Vol|pp?|[A-Z])\.\s*$/;

/** A block's sentences. An abbreviation ends none. */
export function sentencesOf(block: string): string[] {
  // Most list items; the segmenter would take long to say so.
  if (!/\p{Sentence_Terminal}./u.test(block)) return [block];
  const sentences: string[] = [];
  let open = "";
  for (const { segment } of sentenceSegmenter.segment(block)) {
    open += segment;
    if (abbreviation.test(open.slice(-12))) continue;
    const sentence = open.trim();
    if (sentence !== "") sentences.push(sentence);
    open = "";
  }
  if (open.trim() !== "") sentences.push(open.trim());
  return sentences;
}

const word = /[\p{L}\p{N}][\p{L}\p{N}\p{M}'’_-]{0,60}/gu;
const unspaced = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;

/** The content words of a text, and how many words it has in all. */
export function wordsOf(text: string): { content: string[]; length: number } {
  const content: string[] = [];
  let length = 0;
  for (const [found] of text.matchAll(word)) {
    if (unspaced.test(found)) {
      // Scripts without spaces: overlapping pairs of characters stand for words.
      const characters = [...found];
      length += Math.ceil(characters.length / 2);
      for (let i = 0; i + 1 < characters.length; i++) content.push(characters[i]! + characters[i + 1]!);
      continue;
    }
    length += 1;
    const stem = stemOf(found.toLowerCase());
    if (stem.length > 2 && !stopWords.has(stem)) content.push(stem);
  }
  return { content, length };
}

/** One form for singular and plural, and for what belongs to somebody. */
function stemOf(lower: string): string {
  const base = lower.replace(/['’]s$/, "").replace(/['’_-]+$/, "");
  if (base.length > 4 && base.endsWith("ies")) return `${base.slice(0, -3)}y`;
  if (base.length > 3 && base.endsWith("s") && !/(?:ss|us|is)$/.test(base)) return base.slice(0, -1);
  return base;
}

const stopWords: ReadonlySet<string> = new Set(
  `about above after again against all also although always among and another any anyone anything are aren't around
  because been before being below between both but came can can't cannot come could couldn't did didn't does doesn't doing
  don't done down during each either else enough even ever every everything few first for from further get give given goes
  going gone got had hadn't has hasn't have haven't having her here hers herself him himself his how however into isn't
  it's its itself just keep kept know last least less let like made make many may maybe might more most much must myself
  need neither never new next nor not nothing now off often once one only onto other otherwise our ours ourselves out over
  own per perhaps put quite rather really said same say see seen several shall she should shouldn't since some someone
  something still such take taken than that that's the their theirs them themselves then there there's therefore these
  they they're thing thi this those though through thus together too toward two under unless until upon use used using
  very via wa was wasn't way went were weren't what whatever when where whether which while who whole whom whose why will
  with within without won't would wouldn't yet you you're your yours yourself yourselves ha doe`
    .split(/\s+/)
    .filter((each) => each !== ""),
);
