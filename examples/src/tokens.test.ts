import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tokens } from "./tokens.ts";

const units = fc
  .array(
    fc.oneof(
      fc.integer({ min: 0, max: 0xffff }),
      fc.constantFrom(
        0x20,
        0x0a,
        0x0d,
        0x09,
        0xd83d,
        0xde00,
        0x200d,
        0xfe0f,
        0x3000,
        0x6f22,
        0x3042,
        0x0e01,
        0x301,
      ),
    ),
    { maxLength: 300 },
  )
  .map((all) => String.fromCharCode(...all));

describe("tokens", () => {
  it("joined, are the text: any code units, lone surrogates included", () => {
    const texts = fc.oneof(
      units,
      fc.string({ unit: "grapheme" }),
      fc.string({ unit: "binary" }),
      fc.lorem({ mode: "sentences", maxCount: 20 }),
    );
    fc.assert(
      fc.property(texts, (text) => {
        const all = [...tokens(text)];
        expect(all.join("")).toBe(text);
        expect(all).not.toContain("");
      }),
      { numRuns: 2000 },
    );
  });

  it("tear no surrogate pair apart", () => {
    fc.assert(
      fc.property(units, (text) => {
        const all = [...tokens(text)];
        for (const [i, token] of all.slice(1).entries()) {
          expect(/[\uD800-\uDBFF]$/.test(all[i]!) && /^[\uDC00-\uDFFF]/.test(token)).toBe(false);
        }
      }),
      { numRuns: 1000 },
    );
    const emoji = "😀".repeat(10_000);
    expect([...tokens(emoji)].every((token) => !/^[\uDC00-\uDFFF]/.test(token))).toBe(true);
  });

  it("are words with the white space before them", () => {
    expect([...tokens("Once upon  a\ntime, there was.\n")]).toEqual([
      "Once",
      " upon",
      "  a",
      "\ntime,",
      " there",
      " was.",
      "\n",
    ]);
    expect([...tokens("👩‍👩‍👧 ok")]).toEqual(["👩‍👩‍👧", " ok"]);
    expect([...tokens("")]).toEqual([]);
  });

  it("are words also where no spaces are, punctuation with the word before it", () => {
    const all = [...tokens("吾輩は猫である。名前はまだ無い。")];
    expect(all.length).toBeGreaterThan(6);
    expect(all).toContain("猫");
    expect(all.some((token) => token.startsWith("。"))).toBe(false);
  });

  it("are never longer than a long word", () => {
    for (const text of ["x".repeat(100_000), "漢".repeat(50_000), "😀".repeat(50_000)]) {
      expect(Math.max(...[...tokens(text)].map((token) => token.length))).toBeLessThanOrEqual(80);
    }
  });

  it("take time that grows with the text, not with its square", () => {
    for (const text of [" ".repeat(3_000_000), "a ".repeat(1_500_000), "字 ".repeat(100_000)]) {
      let length = 0;
      for (const token of tokens(text)) length += token.length;
      expect(length).toBe(text.length);
    }
  });
});
