import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { jsonProblem } from "./json-scan.ts";

const problem = (text: string, limits = {}) =>
  jsonProblem(Buffer.from(text), { maxDepth: 100, maxValues: 1_000, ...limits });

/** How deep a value is nested, and how many values it has, its keys among them. */
function measure(value: unknown): { depth: number; values: number } {
  if (typeof value !== "object" || value === null) return { depth: 0, values: 1 };
  const keys = Array.isArray(value) ? 0 : Object.keys(value).length;
  const inner = Object.values(value).map(measure);
  return {
    depth: 1 + Math.max(0, ...inner.map(({ depth }) => depth)),
    values: 1 + keys + inner.reduce((sum, { values }) => sum + values, 0),
  };
}

describe("what a command's text may be", () => {
  test.each([
    ['{"a":[1,-2.5,3e8,1e308,0]}', undefined],
    ["1e999", "has a number that is not finite"],
    ["[1,-1E400]", "has a number that is not finite"],
    [`[${"9".repeat(400)}]`, "has a number that is not finite"],
    [`[0.${"9".repeat(400)}]`, undefined],
    ['{"a":"1e999","1e999":"[[["}', undefined],
    ['"\\\\",1e999', "has a number that is not finite"],
    ['"\\",1e999"', undefined],
    ["[".repeat(100) + "]".repeat(100), undefined],
    ["[".repeat(101), "is nested deeper than 100"],
    ['{"a":'.repeat(101), "is nested deeper than 100"],
    [`[${"0,".repeat(990)}0]`, undefined],
    [`[${"0,".repeat(1_000)}0]`, "has more than 1000 values"],
    ['"an open string', undefined],
    ["", undefined],
  ])("%s", (text, expected) => {
    expect(problem(text)).toBe(expected);
  });

  test("any JSON is taken as it is, and depth and values are what it has", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 8 }), fc.boolean(), (value, spaced) => {
        const text = JSON.stringify(value, null, spaced ? 2 : 0);
        const { depth, values } = measure(JSON.parse(text));
        expect(problem(text, { maxDepth: depth, maxValues: values * 2 })).toBeUndefined();
        if (depth > 0)
          expect(problem(text, { maxDepth: depth - 1 })).toBe(`is nested deeper than ${depth - 1}`);
        // An empty list, and the first value of one that is not, count alike.
        expect(problem(text, { maxValues: Math.floor(values / 2) - 1, maxDepth: 1_000 })).toBeDefined();
      }),
      { numRuns: 500 },
    );
  });
});
