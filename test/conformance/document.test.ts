/** PROTOCOL.md and the tests say the same: every rule has its test, every test its rule. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { gatewayTests } from "./gateway.ts";

const read = (path: string) => readFileSync(new URL(path, import.meta.url), "utf8");
const [normative, table] = read("../../packages/protocol/PROTOCOL.md").split("\n## Rules and their tests\n");

/** Rules of the text, in its order. */
const stated = [...normative!.matchAll(/\[(R\d+)\]/g)].map(([, id]) => id!);
const listed = [...(table ?? "").matchAll(/^\| (R\d+) \| (.*?) \|$/gm)].map(
  ([, id, name]) => `${id} ${name}`,
);
const clientTests = [...read("client.test.ts").matchAll(/^ {2}it\("(R\d+) ([^"]+)"/gm)].map(
  ([, id, name]) => `${id} ${name}`,
);
const tests = [...gatewayTests.map(({ rule, name }) => `${rule} ${name}`), ...clientTests];
const idOf = (line: string) => line.split(" ")[0]!;

describe("PROTOCOL.md", () => {
  it("gives every MUST a rule id in its own line", () => {
    const lines = normative!
      .split("\n")
      .filter((line) => /\bMUST\b/.test(line) && !line.includes("RFC 2119"));
    expect(lines.length).toBeGreaterThan(5);
    expect(lines.filter((line) => !/\[R\d+\]/.test(line))).toEqual([]);
  });

  it("gives every command, event, error and close code a rule", () => {
    const ruled = (pattern: RegExp) => {
      const lines = normative!.split("\n").filter((line) => pattern.test(line));
      expect(lines.length, String(pattern)).toBeGreaterThan(1);
      expect(lines.filter((line) => !/\bR\d+\b/.test(line))).toEqual([]);
    };
    ruled(/^### (run|thread|agent|auth|server)\./);
    ruled(/^- `(run|server)\.[a-z]+ \{/);
    ruled(/^\| `[a-z_]+` +\| (yes|no)/);
    ruled(/^\| \d{4}/);
  });

  it("states each rule once, and numbers none twice", () => {
    expect(new Set(stated).size).toBe(stated.length);
  });

  it("names the test of every rule in its table", () => {
    expect(listed.map(idOf).sort()).toEqual([...stated].sort());
    expect(listed.filter((line) => !tests.includes(line))).toEqual([]);
  });

  it("has a rule for every test", () => {
    expect(tests.length).toBe(new Set(tests).size);
    expect(tests.filter((line) => !listed.includes(line))).toEqual([]);
    expect(tests.map(idOf).sort()).toEqual([...stated].sort());
  });
});
