import { expect, test } from "vitest";
import { faultNames } from "./faults.ts";
import { planConversation, planFaults } from "./plan.ts";
import { Random } from "./random.ts";

const plain = (plan: ReturnType<typeof planFaults>) =>
  plan.map(({ at, name, holdMs }) => ({ at, name, holdMs }));

test("a seed plans the same faults and the same turns every time, another seed others", () => {
  const faults = (seed: string) => plain(planFaults(new Random(seed), 600_000, faultNames));
  const turns = (seed: string) => planConversation(new Random(seed).fork(7), "client7-0");
  expect(faults("a")).toEqual(faults("a"));
  expect(faults("a")).not.toEqual(faults("b"));
  expect(turns("a")).toEqual(turns("a"));
  expect(turns("a")).not.toEqual(turns("b"));
});

test("ten minutes hold 300 faults, every kind of them, in their order, and calm behind each storm", () => {
  const faults = planFaults(new Random("any"), 600_000, faultNames);
  expect(faults.length).toBeGreaterThan(300);
  expect(new Set(faults.map(({ name }) => name))).toEqual(new Set(faultNames));
  expect(faults.map(({ at }) => at)).toEqual(faults.map(({ at }) => at).sort((a, b) => a - b));
  const pauses = faults.slice(1).filter(({ at }, i) => at - faults[i]!.at > 8_000);
  expect(pauses.length).toBeGreaterThan(20);
});

test("only faults that were asked for are planned", () => {
  const faults = planFaults(new Random("any"), 120_000, ["worker-kill", "redis-full"]);
  expect(new Set(faults.map(({ name }) => name))).toEqual(new Set(["worker-kill", "redis-full"]));
  expect(planFaults(new Random("any"), 60_000, [])).toEqual([]);
});
