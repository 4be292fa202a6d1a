import type { Result } from "@throughline/protocol";
import { expect, it } from "vitest";
import { Tree } from "./tree.ts";

type Page = Result<"thread.history">;

const page = (
  ...checkpoints: [id: string, parent: string | null, count: number, ...added: string[]][]
): Page =>
  ({
    checkpoints: checkpoints.map(([checkpointId, parentId, count, ...added]) => ({
      checkpointId,
      parentId,
      messages: { count, added },
      metadata: {},
    })),
  }) as unknown as Page;

it("knows nothing any more of a thread that was deleted, when another has begun under its id", async () => {
  const tree = new Tree();
  await tree.load(async () => page(["k2", "k1", 2, "a1"], ["k1", null, 1, "h1"]));
  await tree.load(async () => page(["n1", null, 2, "h2", "a2"]));
  expect(tree.alternatives(["h2", "a2"])).toEqual(new Map());
  expect(tree.leaf(["h1"])).toBeUndefined();
  expect(tree.before("n1", 2)).toBe("n1");
});

it("reads what is new, down to what is known", async () => {
  const tree = new Tree();
  await tree.load(async () => page(["k1", null, 1, "h1"]));
  await tree.load(async () => page(["k2", null, 1, "h2"], ["k1", null, 1, "h1"]));
  expect(tree.alternatives(["h2"])).toEqual(new Map([["h2", ["h1", "h2"]]]));
});
