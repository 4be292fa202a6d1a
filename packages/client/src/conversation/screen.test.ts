import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { FlatMessage } from "@throughline/protocol";
import { expect, it, vi } from "vitest";
import { Screen } from "./screen.ts";
import { Tree } from "./tree.ts";
import { Turn } from "./turn.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

const human = (id: string): FlatMessage => ({ type: "human", id, content: `${id} asks` });

/** A turn is on the screen, and then over: its own messages are in the state, or, without `stays`, in none. */
function pass(
  screen: Screen,
  stays: boolean,
): { turn: WeakRef<Turn>; base: WeakRef<object>; view: WeakRef<object> } {
  const turn = new Turn({ question: [human("h2")], isOwn: true });
  const base = [human("h1")];
  turn.base = base;
  turn.from = "k1";
  screen.compose(base, [turn]);
  const view = screen.views(0, [], true).at(-1)!;
  expect(view.id).toBe("h2");
  turn.close();
  screen.compose(stays ? [human("h1"), human("h2")] : [human("h1")], []);
  screen.views(0, [], false);
  return { turn: new WeakRef(turn), base: new WeakRef(base), view: new WeakRef(view) };
}

/** Macrotasks pass between: what a WeakRef was asked for stays until then. */
const isGone = (ref: WeakRef<object>) =>
  vi.waitFor(
    () => {
      collect();
      expect(ref.deref() === undefined).toBe(true);
    },
    { timeout: 10_000, interval: 5 },
  );

it("keeps nothing of a turn whose messages are in no state", async () => {
  const screen = new Screen(new Tree());
  const { turn, base, view } = pass(screen, false);
  await isGone(view);
  await isGone(turn);
  await isGone(base);
  expect(screen.ids).toEqual(["h1"]);
});

it("keeps what a turn's messages came from, but not what it went on from", async () => {
  const screen = new Screen(new Tree());
  const { base, turn } = pass(screen, true);
  await isGone(base);
  expect(turn.deref()).toBeDefined();
  expect(screen.ids).toEqual(["h1", "h2"]);
});
