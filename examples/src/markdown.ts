/**
 * The prose of a text, by section. Markdown's headings make the sections; a text without any is taken in groups of
 * paragraphs. What is no prose is left out: code, tables, images and badges, comments, link definitions, front matter.
 *
 * It is no Markdown parser: it needs to know what is prose, not how it looks. Every regular expression here runs on at
 * most `longestBlock` code units and is bounded, so that no text can hold up the process.
 */
import type { Turn } from "./turn.ts";

export interface Section {
  title: string;
  /** Paragraphs and list items, cleaned of markup. */
  blocks: string[];
}

interface Headed extends Section {
  /** 1…6; 0: what comes before the first heading. */
  level: number;
}

/** More sections than this are more than a digest: they are merged. */
export const mostSections = 30;
/** Fewer headings than this are no outline to reduce a text to. */
const fewestInOutline = 3;
const mostGroups = 12;
/** Code units: about 150 words. */
const fewestInGroup = 900;
/** Code units. Longer paragraphs are taken in pieces. */
const longestBlock = 8192;
/** No heading, rule, fence or marker is on a longer line. */
const longestMarkupLine = 500;

export async function sectionsOf(text: string, turn: Turn): Promise<Section[]> {
  const reader = new ProseReader();
  for (let from = 0; from < text.length; ) {
    const over = turn.over();
    if (over !== undefined) await over;
    const newline = text.indexOf("\n", from);
    const end = newline === -1 ? text.length : newline;
    const cut = Math.min(end, from + longestBlock);
    const to = cut < end ? cutAtSpace(text, from, cut) : end;
    reader.line(text.slice(from, to).replace(/\r$/, ""));
    from = to === end ? end + 1 : to;
  }
  const headed = reader.end().filter((section) => section.level > 0 || section.blocks.length > 0);
  return headed.some((section) => section.level > 0)
    ? await merged(headed, turn)
    : await grouped(headed[0]?.blocks ?? [], turn);
}

function cutAtSpace(text: string, from: number, to: number): number {
  const space = text.lastIndexOf(" ", to);
  return space > from + longestBlock / 2 ? space + 1 : to;
}

class ProseReader {
  #sections: Headed[] = [{ title: "Opening", level: 0, blocks: [] }];
  #paragraph: string[] = [];
  #paragraphLength = 0;
  #fence: string | undefined;
  #comment = false;
  #frontMatter = false;
  #table = false;
  #list = false;
  #blank = true;
  #lines = 0;

  line(raw: string): void {
    const number = this.#lines++;
    if (this.#fence !== undefined) {
      if (closesFence(raw, this.#fence)) this.#fence = undefined;
      return;
    }
    if (number === 0 && raw.trimEnd() === "---") {
      this.#frontMatter = true;
      return;
    }
    if (this.#frontMatter) {
      if (/^(?:---|\.\.\.)\s*$/.test(raw)) this.#frontMatter = false;
      return;
    }
    const line = this.#withoutComments(raw).replace(/^(?: {0,3}> ?){1,8}/, "");
    if (line.trim() === "") {
      this.#flush();
      this.#table = false;
      this.#blank = true;
      return;
    }
    if (line.length > longestMarkupLine || !this.#markup(line)) this.#prose(line);
    this.#blank = false;
  }

  end(): Headed[] {
    this.#flush();
    return this.#sections;
  }

  /** Whether the line was markup, and is dealt with. */
  #markup(line: string): boolean {
    const fence = /^ {0,3}(`{3,}|~{3,})/.exec(line);
    if (fence !== null) {
      this.#flush();
      this.#fence = fence[1]!;
      return true;
    }
    // An indented line after a blank one is code, unless it goes on with a list's item.
    if (this.#blank && !this.#list && /^(?: {4}|\t)/.test(line) && this.#sections.length > 1) {
      this.#blank = true;
      return true;
    }
    const heading = /^ {0,3}(#{1,6})(?:[ \t]+(\S.*))?$/.exec(line);
    if (heading !== null) {
      this.#open(heading[1]!.length, (heading[2] ?? "").trimEnd().replace(/(?:^|[ \t])#{1,20}$/, ""));
      return true;
    }
    const underline = /^ {0,3}(=|-)\1{0,200} {0,20}$/.exec(line);
    if (underline !== null && this.#paragraph.length === 1 && this.#paragraphLength <= 200 && !this.#list) {
      const title = this.#paragraph[0]!;
      this.#drop();
      this.#open(underline[1] === "=" ? 1 : 2, title);
      return true;
    }
    if (/^ {0,3}([-*_=])(?: {0,3}\1){2,}\s*$/.test(line)) {
      this.#flush();
      return true;
    }
    if (/^ {0,3}\[[^\]]{1,200}\]:\s/.test(line)) return true;
    if (this.#tableRow(line)) return true;
    const item = /^\s*(?:[-*+]|(\d{1,9})[.)])\s+(?:\[[ xX]\]\s+)?(\S.*)$/.exec(line);
    // In the middle of a paragraph a number begins a list only if it is 1: other lines begin with years.
    const inParagraph = this.#paragraph.length > 0 && !this.#list;
    if (item !== null && !(inParagraph && item[1] !== undefined && item[1] !== "1")) {
      this.#flush();
      this.#list = true;
      this.#prose(item[2]!);
      return true;
    }
    if (/^\s*[-*+]\s*$/.test(line)) {
      this.#flush();
      return true;
    }
    if (this.#blank && !/^\s/.test(line)) this.#list = false;
    return false;
  }

  #tableRow(line: string): boolean {
    const delimiter = line.includes("|") && line.includes("-") && /^[\s|:-]+$/.test(line);
    // The line above the delimiter was the table's head.
    if (delimiter) this.#drop();
    if (delimiter || /^\s*\|/.test(line)) this.#table = true;
    if (this.#table && line.includes("|")) return true;
    this.#table = false;
    return false;
  }

  #withoutComments(line: string): string {
    let rest = line;
    let kept = "";
    while (rest !== "") {
      const mark = rest.indexOf(this.#comment ? "-->" : "<!--");
      if (!this.#comment) kept += mark === -1 ? rest : rest.slice(0, mark);
      if (mark === -1) break;
      rest = rest.slice(mark + (this.#comment ? 3 : 4));
      this.#comment = !this.#comment;
    }
    return kept;
  }

  #open(level: number, title: string): void {
    this.#flush();
    this.#list = false;
    this.#sections.push({ title: clean(title) || "Untitled", level, blocks: [] });
  }

  #prose(line: string): void {
    if (this.#paragraphLength + line.length > longestBlock) {
      const list = this.#list;
      this.#flush();
      this.#list = list;
    }
    this.#paragraph.push(line.trim());
    this.#paragraphLength += line.length + 1;
  }

  #flush(): void {
    const block = clean(this.#paragraph.join(" "));
    if (/[\p{L}\p{N}]/u.test(block)) this.#sections.at(-1)!.blocks.push(block);
    this.#drop();
  }

  #drop(): void {
    this.#paragraph = [];
    this.#paragraphLength = 0;
  }
}

function closesFence(line: string, fence: string): boolean {
  if (line.length > longestMarkupLine) return false;
  const end = line.trim();
  return end.length >= fence.length && end === fence[0]!.repeat(end.length);
}

const entities: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: " ",
  mdash: "—",
  ndash: "–",
};

/** Prose without its markup. */
function clean(prose: string): string {
  return prose
    .replace(/\[!\[[^\]]{0,200}\]\([^)]{0,500}\)\]\([^)]{0,500}\)/g, " ")
    .replace(/!\[[^\]]{0,200}\](?:\([^)]{0,500}\)|\[[^\]]{0,200}\])/g, " ")
    .replace(/\[\^[^\]]{1,50}\]/g, "")
    .replace(/\[([^[\]]{1,300})\](?:\([^)]{0,500}\)|\[[^\]]{0,200}\])/g, "$1")
    .replace(/<https?:[^>\s]{1,500}>/g, "")
    .replace(/<\/?[a-zA-Z][^<>]{0,400}>/g, " ")
    .replace(/\*\*|__|~~|`{1,3}/g, "")
    .replace(/(?<![\w*])[*_](?=\S)([^*_]{1,300})(?<=\S)[*_](?![\w*])/g, "$1")
    .replace(/\\([!-/:-@[-`{-~])/g, "$1")
    .replace(/&([a-z]{2,5});/g, (whole, name: string) => entities[name] ?? whole)
    .replace(/\s+/g, " ")
    .trim();
}

/**
 * At most `mostSections`: the deepest headings go into the sections above them, as long as that leaves an outline; then
 * neighbours go together.
 */
async function merged(sections: readonly Headed[], turn: Turn): Promise<Section[]> {
  const atLevel = [0, 0, 0, 0, 0, 0, 0];
  for (const { level } of sections) atLevel[level]! += 1;
  let kept = sections.length;
  let deepest = 6;
  while (kept > mostSections && kept - atLevel[deepest]! >= fewestInOutline) kept -= atLevel[deepest--]!;

  // One more for a first section that is deeper than the rest.
  const size = kept <= mostSections ? 1 : Math.ceil((kept + 1) / mostSections);
  const together: { first: string; last: string; blocks: string[] }[] = [];
  let opened = 0;
  for (const section of sections) {
    const over = turn.over();
    if (over !== undefined) await over;
    let into = together.at(-1);
    if (into === undefined || section.level <= deepest) {
      if (into === undefined || opened % size === 0) {
        into = { first: section.title, last: section.title, blocks: [] };
        together.push(into);
      } else into.last = section.title;
      opened++;
    }
    // Not push(...blocks): a section of a huge text has more blocks than a call takes arguments.
    for (const block of section.blocks) into.blocks.push(block);
  }
  return together.map(({ first, last, blocks }) => ({
    title: first === last ? first : `${first} – ${last}`,
    blocks,
  }));
}

/** Paragraphs in groups of about the same length. */
async function grouped(blocks: readonly string[], turn: Turn): Promise<Section[]> {
  let length = 0;
  for (const block of blocks) length += block.length;
  const size = Math.max(fewestInGroup, length / mostGroups);
  const groups: Section[] = [];
  for (let first = 0; first < blocks.length; ) {
    let to = first;
    for (let sum = 0; to < blocks.length && sum < size; to++) sum += blocks[to]!.length;
    const title = to === first + 1 ? `Paragraph ${to}` : `Paragraphs ${first + 1}–${to}`;
    groups.push({ title, blocks: blocks.slice(first, to) });
    first = to;
    const over = turn.over();
    if (over !== undefined) await over;
  }
  return groups;
}
