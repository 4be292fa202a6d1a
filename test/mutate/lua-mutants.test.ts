import { describe, expect, test } from "vitest";
import { mutantsOf } from "./lua-mutants.ts";

/** What is left of the lines that were changed. */
function changed(script: string): string[] {
  return mutantsOf(script).map(({ text, line }) => `${line}: ${text.split("\n")[line - 1]}`);
}

describe("the mutants of a script", () => {
  test("have an operator, a number, a string or a condition that is another", () => {
    expect(changed("if a == 1 and b ~= '' then\n  c()\nend")).toEqual([
      "1: if false then",
      "1: if true then",
      "1: if a ~= 1 and b ~= '' then",
      "1: if a == 2 and b ~= '' then",
      "1: if a == 1 or b ~= '' then",
      "1: if a == 1 and b == '' then",
      "1: if a == 1 and b ~= 'mutant' then",
    ]);
  });

  test("or lack a statement, over all of its lines", () => {
    const script = "redis.call('DEL', key)\nhead = f(head,\n  other)\nreturn";
    expect(mutantsOf(script).map(({ what, text }) => [what, text])).toEqual([
      ["without redis.call('DEL', key)", "\nhead = f(head,\n  other)\nreturn"],
      ["without head = f(head, other)", "redis.call('DEL', key)\n\nreturn"],
    ]);
  });

  test("a line with an if of its own goes as a whole", () => {
    expect(changed("if a then return -2 end")).toEqual([
      "1: if false then return -2 end",
      "1: if true then return -2 end",
      "1: if a then return -3 end",
      "1: ",
    ]);
  });

  test("leave comments, names of commands and loops that would not end", () => {
    expect(changed("-- a == b\nredis.pcall('GET', 'x')\nwhile a do b() end")).toEqual([
      "2: redis.pcall('GET', '')",
      "3: while false do b() end",
    ]);
  });
});
