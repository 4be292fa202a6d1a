import type { Part } from "@throughline/protocol";
import { describe, expect, test } from "vitest";
import { Lines } from "./line.ts";

const token = (content: string, metadata: object, ns: string[] = []): Part => ({
  type: "messages",
  ns,
  data: [{ type: "AIMessageChunk", id: "m", content }, metadata as never],
});

describe("a part's line", () => {
  test("is its JSON, whether its metadata came before or not", () => {
    const first = { langgraph_node: "a", tags: ["x"], langgraph_path: ["__pregel_pull", 'q"uote\n'] };
    const second = { langgraph_node: "b", left: undefined };
    const parts: Part[] = [
      token("1", first),
      token("2", first),
      token("\u2028 3", first, ["sub:1", 'n"s']),
      token("4", second),
      { type: "custom", ns: [], data: { a: 1 } },
      token("5", second),
      token("6", first),
      token("7", first),
    ];
    const lines = new Lines();
    expect(parts.map((part) => lines.of(part))).toEqual(parts.map((part) => JSON.stringify(part)));
  });
});
