import { describe, expect, test } from "vitest";
import { toJson } from "./json.ts";

class Point {
  readonly x = 1;
  readonly map = new Map([["y", 2n]]);
}
class Named {
  toJSON() {
    return { named: 3n };
  }
}

function cycle(): unknown {
  const one: Record<string, unknown> = { name: "one" };
  one.two = { back: one, again: [one] };
  return one;
}

describe("values as JSON", () => {
  test.each<[string, unknown, unknown]>([
    ["plain ones", { a: [1, "b", null, true] }, { a: [1, "b", null, true] }],
    ["a BigInt", { a: -12345678901234567890n }, { a: "-12345678901234567890" }],
    ["a Map with strings for keys", new Map<string, unknown>([["a", new Map()]]), { a: {} }],
    ["a Map with other keys", new Map<unknown, unknown>([[{ k: 1 }, 2n]]), [[{ k: 1 }, "2"]]],
    ["a Set", new Set([1, new Set([2n])]), [1, ["2"]]],
    ["a Date", new Date(0), "1970-01-01T00:00:00.000Z"],
    ["a Date that is none", new Date(Number.NaN), null],
    [
      "an Error",
      Object.assign(new RangeError("no"), { code: 5n }),
      { name: "RangeError", message: "no", code: "5" },
    ],
    ["bytes", { a: new Uint8Array([1, 2]), b: Buffer.from("hi") }, { a: "AQI=", b: "aGk=" }],
    ["a regular expression", /a+/i, "/a+/i"],
    ["an instance of a class", new Point(), { x: 1, map: { y: "2" } }],
    ["one that says what it is", new Named(), { named: "3" }],
    ["a URL", new URL("http://a/b"), "http://a/b"],
    ["what contains itself", cycle(), { name: "one", two: { back: "[Circular]", again: ["[Circular]"] } }],
    [
      "what throws when it is read",
      {
        a: 1,
        get b(): number {
          throw new Error("no");
        },
      },
      { a: 1 },
    ],
    [
      "what throws when it says what it is",
      {
        a: {
          toJSON() {
            throw new Error("no");
          },
          b: 1,
        },
      },
      { a: { b: 1 } },
    ],
  ])("%s", (_, value, expected) => {
    expect(JSON.parse(JSON.stringify(toJson(value)))).toEqual(expected);
  });

  test("functions and symbols are left out, and keep their place in a list", () => {
    const value = { a: () => 1, b: Symbol("b"), c: undefined, d: [() => 1, Symbol("d"), undefined, 1] };
    expect(JSON.stringify(toJson(value))).toBe('{"d":[null,null,null,1]}');
    expect(toJson(() => 1)).toBeUndefined();
  });

  test("the same value in two places is no cycle; what is very deep is cut off", () => {
    const same = { a: 1 };
    expect(toJson([same, same])).toEqual([same, same]);
    let deep: unknown = 1;
    for (let i = 0; i < 10_000; i++) deep = [deep];
    expect(JSON.stringify(toJson(deep))).toContain("[Too deep]");
  });

  test("a key that is __proto__ stays a key", () => {
    expect(Object.hasOwn(toJson(JSON.parse('{"__proto__":{"a":1}}')) as object, "__proto__")).toBe(true);
  });

  test("what it is given stays as it is", () => {
    const value = { map: new Map([["a", 1n]]) };
    toJson(value);
    expect(value).toEqual({ map: new Map([["a", 1n]]) });
  });
});
