import type { AgentContext } from "@throughline/worker";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Digest, digest } from "./digest.ts";
import { mostSections, sectionsOf } from "./markdown.ts";
import { sentencesOf, wordsOf } from "./sentences.ts";
import { Recorded, run } from "./testing.ts";
import { Turn } from "./turn.ts";

const read = (input: unknown, given: Partial<AgentContext> = {}) =>
  Recorded.of(run(digest, { input, ...given }));
const sections = (text: string) => sectionsOf(text, new Turn(new AbortController().signal));

const handbook = `---
title: Bees
---
[![build](https://ci.example/badge.svg)](https://ci.example) ![logo](logo.png)

# The beekeeper's handbook

A hive is a city of bees. This book tells how to keep one through the year. It was written over many winters.

## Spring ##

In spring the colony grows, and the queen lays two thousand eggs a day. A beekeeper adds a second box before the colony
runs out of room. The weather is often nice. A colony without room swarms, and half of the bees leave with the old queen.
Coffee helps on early mornings. Check the brood once a week, e.g. on a Sunday, so that Dr. Miller's rule is kept.

\`\`\`js
const spring = "code is not prose. A colony of code swarms.";
\`\`\`

| month | eggs |
| ----- | ---- |
| April | two thousand eggs a day in the table |

<!-- a comment about the queen
over two lines -->

Winter
------

- Wrap the hive against wind, not against cold.
- Leave fifteen kilograms of honey in the hive for the winter.
- Never open the hive below ten degrees.

    indented code is not prose either

### Nothing to read here

    code_only()
`;

describe("a digest", () => {
  it("goes on behind the sections that a worker had read that was lost", async () => {
    const whole = await read({ text: handbook });
    const { sections } = whole.state.digest as Digest;
    for (let done = 1; done <= sections.length; done++) {
      const digest = { sections: sections.slice(0, done), of: sections.length, words: 1, complete: false };
      const partial = { messages: [], values: { digest } };
      const rest = await read({ text: handbook }, { attempt: 2, partial });
      expect(rest.custom).toEqual(whole.custom.slice(done));
      expect(rest.text).toBe(whole.text);
    }
    const steps = whole.parts.filter((part) => typeof part === "object" && part.type === ("step" as string));
    expect(steps).toHaveLength(sections.length);
  });

  it("goes through the text section by section, and says so", async () => {
    const { custom, state, text, parts } = await read({ text: handbook });
    expect(custom).toEqual([
      { kind: "progress", section: 1, of: 3, title: "The beekeeper's handbook" },
      { kind: "progress", section: 2, of: 3, title: "Spring" },
      { kind: "progress", section: 3, of: 3, title: "Winter" },
    ]);
    const found = state.digest as Digest;
    expect(found).toMatchObject({ of: 3, complete: true, words: expect.any(Number) });
    expect(found.sections.map((section) => section.title)).toEqual([
      "The beekeeper's handbook",
      "Spring",
      "Winter",
    ]);
    for (const section of found.sections) {
      expect(section.sentences.length).toBeGreaterThan(0);
      expect(section.sentences.length).toBeLessThanOrEqual(3);
      for (const sentence of section.sentences) expect(text).toContain(sentence);
    }
    expect(text).toMatch(
      /^\d+ words in 3 sections, told in \d+ sentences\.\n\n## The beekeeper's handbook\n\n- /,
    );
    // Each section's sentences are in the state as soon as they are found.
    const updates = parts.filter((part) => typeof part === "object" && part.type === "updates");
    expect(updates).toHaveLength(4);
    expect(updates[0]).toMatchObject({ data: { digest: { digest: { complete: false, sections: [{}] } } } });
  });

  it("tells the sentences that matter, and none of code, tables, comments and badges", async () => {
    const { text } = await read({ text: handbook, sentences: 1 });
    expect(text).toMatch(/colony/);
    expect(text).not.toMatch(/Coffee|weather|code|table|comment|badge|logo|title:/);
  });

  it("is the same every time", async () => {
    expect((await read({ text: handbook })).parts).toEqual((await read({ text: handbook })).parts);
  });

  it("takes a string, {text}, or the last human message", async () => {
    const messages = [
      { type: "human", content: "Not this one. It is old." },
      { type: "human", content: "Read this one, please. It is new." },
      { type: "ai", content: "I have read nothing." },
    ];
    for (const [input, given] of [
      ["Read this one, please. It is new.", {}],
      [{ text: "Read this one, please. It is new." }, { messages }],
      [{ messages }, { messages }],
      [null, { messages }],
    ] as const) {
      expect((await read(input, given)).text).toContain("Read this one, please.");
    }
  });

  it.each([
    ["", /^text: there is nothing to read/],
    [{}, /^text: there is nothing to read/],
    [{ text: 5 }, /^text: /],
    [{ text: "a", sentences: 0 }, /^sentences: /],
  ])("refuses %j", async (input, message) => {
    await expect(read(input)).rejects.toMatchObject({
      code: "invalid_argument",
      message: expect.stringMatching(message),
    });
  });

  it("of a text without prose says that there is none", async () => {
    const { text, custom, state } = await read("```\ncode\n```\n\n# Title\n");
    expect(text).toMatch(/^There is no prose in this text/);
    expect(custom).toEqual([]);
    expect(state.digest).toEqual({ sections: [], of: 0, words: 0, complete: true });
  });

  it("only tells sentences that the text has", async () => {
    // "A." would be somebody's initial.
    const sentence = fc.lorem({ mode: "sentences", maxCount: 1 }).filter((each) => each !== "A.");
    const texts = fc.array(fc.tuple(sentence, fc.constantFrom(" ", "\n\n", "\n\n# Title\n\n", "\n- ")), {
      minLength: 1,
      maxLength: 60,
    });
    await fc.assert(
      fc.asyncProperty(texts, async (pieces) => {
        const { state } = await read({ text: pieces.flat().join("") });
        const known = new Set(pieces.map(([each]) => each));
        for (const section of (state.digest as Digest).sections) {
          for (const each of section.sentences) expect(known.has(each)).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("never fails, whatever the text", async () => {
    const marks = fc.constantFrom(
      "#",
      "# ",
      "```\n",
      "- ",
      "|",
      "|-|\n",
      "\n",
      "\n\n",
      "    ",
      "<!--",
      "-->",
      "[",
      "](",
      "*",
      "> ",
    );
    const texts = fc
      .array(fc.oneof(marks, fc.string({ unit: "binary" }), fc.lorem()))
      .map((all) => `a. ${all.join("")}`);
    await fc.assert(
      fc.asyncProperty(texts, async (text) => {
        expect((await read({ text })).state.digest).toMatchObject({ complete: true });
      }),
      { numRuns: 300 },
    );
  });

  it("stops when the run is cancelled: while it reads, and between sections", async () => {
    const reason = new Error("cancelled");
    const controller = new AbortController();
    const huge = run(digest, { input: { text: handbook.repeat(2000) }, signal: controller.signal });
    const first = huge.next();
    setTimeout(() => controller.abort(reason), 20);
    await expect(first).rejects.toBe(reason);

    const later = new AbortController();
    const parts = run(digest, { input: { text: handbook }, signal: later.signal });
    await parts.next();
    later.abort(reason);
    await expect(parts.next().then(() => parts.next())).rejects.toBe(reason);
  });
});

describe("a huge text", () => {
  const size = 5_000_000;
  const fill = (piece: string) => piece.repeat(Math.ceil(size / piece.length));

  it.each([
    ["Markdown", fill(handbook.slice(handbook.indexOf("# ")))],
    ["plain paragraphs", fill("It was a long day. The river rose, and the ferry stayed at its landing.\n\n")],
    ["one line", fill("It was a long day. The river rose, and the ferry stayed at its landing. ")],
    ["no spaces", fill("x")],
    ["open brackets", fill("[")],
    ["short list items", fill("- an item\n")],
    ["headings", fill("# h\ntext is here\n")],
  ])("%s: the event loop goes on turning", async (_, text) => {
    // CPU time of this process, so that a busy machine does not count.
    let longest = 0;
    let before = process.cpuUsage();
    let reading = true;
    const beat = () => {
      const { user, system } = process.cpuUsage(before);
      longest = Math.max(longest, (user + system) / 1000);
      before = process.cpuUsage();
      if (reading) setImmediate(beat);
    };
    setImmediate(beat);
    const { state } = await read({ text });
    reading = false;
    expect((state.digest as Digest).sections.length).toBeLessThanOrEqual(mostSections);
    // A few ms when nothing else is about; collecting garbage may take its time.
    expect(longest).toBeLessThan(150);
  });
});

describe("sections", () => {
  it("are cleaned of markup", async () => {
    const [section] = await sections(
      "# A *fine* `title` [here](x)\n\n> Some **bold**, _soft_ and `code` text, a [link](http://x/y_z) &amp; snake_case_name.[^1]\n> Next\\* line<br>end.\n\n[ref]: http://x\n",
    );
    expect(section).toEqual({
      title: "A fine title here",
      blocks: ["Some bold, soft and code text, a link & snake_case_name. Next* line end."],
    });
  });

  it("take each list item by itself; a line that begins with a year is none", async () => {
    const [section] = await sections(
      "# A\n\nIt was in\n1999. Nobody came.\n1. One\n2. Two\n   goes on\n-\n- [x] Three\n\nEnd.\n",
    );
    expect(section?.blocks).toEqual(["It was in 1999. Nobody came.", "One", "Two goes on", "Three", "End."]);
  });

  it("without headings are groups of paragraphs", async () => {
    const paragraph = `${"Word and word again. ".repeat(20)}\n\n`;
    const titles = (await sections(paragraph.repeat(10))).map((section) => section.title);
    expect(titles).toEqual(["Paragraphs 1–3", "Paragraphs 4–6", "Paragraphs 7–9", "Paragraph 10"]);
    expect((await sections("One.\n\nTwo.")).map((section) => section.title)).toEqual(["Paragraphs 1–2"]);
  });

  it("that are too many go into the ones above them, then together", async () => {
    const chapter = (i: number) => `# Chapter ${i}\n\nIntro.\n\n${"## Part\n\nText of it.\n\n".repeat(10)}`;
    const ten = await sections(Array.from({ length: 10 }, (_, i) => chapter(i)).join(""));
    expect(ten).toHaveLength(10);
    expect(ten[9]).toMatchObject({ title: "Chapter 9", blocks: { length: 11 } });
    const flat = await sections(
      Array.from({ length: 100 }, (_, i) => `# Chapter ${i}\n\nText.\n\n`).join(""),
    );
    expect(flat.length).toBeLessThanOrEqual(mostSections);
    expect(flat[0]!.title).toBe("Chapter 0 – Chapter 3");
    expect(flat.flatMap((section) => section.blocks)).toHaveLength(100);
  });
});

describe("sentences", () => {
  it("do not end at an abbreviation or a number", () => {
    expect(
      sentencesOf(
        "See e.g. Dr. Smith, J. Doe et al. for 3.5 reasons. It is true! Is it? 猫である。名前はまだ無い。",
      ),
    ).toEqual([
      "See e.g. Dr. Smith, J. Doe et al. for 3.5 reasons.",
      "It is true!",
      "Is it?",
      "猫である。",
      "名前はまだ無い。",
    ]);
  });

  it("have content words: no stop words, one form for singular and plural", () => {
    expect(wordsOf("The bees' cities, a city of the bee's own").content).toEqual([
      "bee",
      "city",
      "city",
      "bee",
    ]);
    expect(wordsOf("吾輩は猫").content).toEqual(["吾輩", "輩は", "は猫"]);
  });
});
