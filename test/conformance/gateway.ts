/**
 * Conformance: one test for each rule that PROTOCOL.md has for a gateway. It needs nothing but a URL, and says what it
 * could not look at for want of more.
 */
import { asked } from "./rules/asked.ts";
import { cancel } from "./rules/cancel.ts";
import { connection, frames, parts } from "./rules/connection.ts";
import { records } from "./rules/records.ts";
import { closes, errors } from "./rules/refusals.ts";
import { start } from "./rules/start.ts";
import { events, subscribe } from "./rules/subscribe.ts";
import { threads } from "./rules/threads.ts";
import type { ConformanceTest, GatewayTarget, Hooks } from "./suite.ts";

export type { ConformanceTest, GatewayTarget, Hooks } from "./suite.ts";

/** In the order of their rules. */
export const gatewayTests: readonly ConformanceTest[] = [
  ...connection,
  ...frames,
  ...parts,
  ...start,
  ...subscribe,
  ...cancel,
  ...records,
  ...threads,
  ...asked,
  ...events,
  ...errors,
  ...closes,
].sort((a, b) => Number(a.rule.slice(1)) - Number(b.rule.slice(1)));

/** What a test needs that the target does not offer. */
export function missing(test: ConformanceTest, target: GatewayTarget): (keyof Hooks)[] {
  return test.needs.filter((need) => target[need] === undefined);
}

/** A test runner's `it`, as vitest, jest and node:test have it. */
export interface It {
  (name: string, run: () => Promise<void>): unknown;
  skip(name: string, run: () => Promise<void>): unknown;
}

/**
 * Hands every test to a test runner. `target` is asked for once tests run; `offers` says beforehand which hooks it will
 * have.
 */
export function describeGateway(target: () => GatewayTarget, offers: readonly (keyof Hooks)[], it: It): void {
  for (const test of gatewayTests) {
    const possible = test.needs.every((need) => offers.includes(need));
    (possible ? it : it.skip)(`${test.rule} ${test.name}`, () => test.run(target()));
  }
}
