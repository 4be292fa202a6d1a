import { lifecycle, type Part } from "@throughline/protocol";
import { describe, expect, test } from "vitest";
import { Unfinished } from "./unfinished.ts";

const own = (data: string, ns: string[] = []): Part => ({ type: "custom", ns, data });

/** What a log tells of a run whose checkpoint holds all up to `end`, and was written by that attempt. */
function recalled(parts: readonly Part[], end: number, attempt = 1): Unfinished {
  const unfinished = new Unfinished(end, attempt);
  for (const [i, part] of parts.entries()) unfinished.add(part, i + 1);
  return unfinished;
}

const everything = (unfinished: Unfinished) => unfinished.done(() => false, true, new Map());
const started = lifecycle({ event: "started", attempt: 1 });
const resumed = lifecycle({ event: "resumed", attempt: 2 });
const rewound = (to: number) => lifecycle({ event: "rewound", attempt: 2, to });

describe("what a lost attempt told behind its checkpoint", () => {
  test("is nothing where the log ends with what the checkpoint holds", () => {
    expect(recalled([started, own("a"), own("b")], 3)).toMatchObject({ isEmpty: true, end: 3 });
    expect(recalled([started, own("a"), own("b")], 4).isEmpty).toBe(true);
  });

  test("begins with the next part", () => {
    const unfinished = recalled([started, own("a"), own("b")], 2);
    expect(unfinished.isEmpty).toBe(false);
    expect(everything(unfinished)).toEqual([own("b")]);
  });

  test("is what no rewind has taken back", () => {
    const parts = [started, own("a"), own("b"), rewound(2), own("c")];
    expect(everything(recalled(parts, 2, 2))).toEqual([own("c")]);
    expect(everything(recalled(parts, 1, 2))).toEqual([own("a"), own("c")]);
  });

  test("is what comes after a later attempt began, where Redis lost what the checkpoint holds", () => {
    const unfinished = recalled([started, resumed, own("a")], 9);
    expect(unfinished.end).toBe(2);
    expect(everything(unfinished)).toEqual([own("a")]);
    // The attempt that wrote the checkpoint knew where it stood.
    expect(recalled([started, resumed, own("a")], 9, 2)).toMatchObject({ end: 9, isEmpty: true });
  });

  test("is done where a subgraph's own checkpoint holds it, by the offset at which it was told first", () => {
    const [one, two] = [own("one", ["sub:1"]), own("two", ["sub:1"])];
    const ends = new Map([["sub:1", 2]]);
    const done = (parts: readonly Part[]) => recalled(parts, 1, 2).done(() => false, false, ends);
    expect(done([started, one, two])).toEqual([one]);
    expect(done([started, one, two, rewound(1), one, two])).toEqual([one]);
    expect(done([started, one, two, rewound(1), two])).toEqual([]);
  });
});
