/** Which items and namespaces are meant: LangGraph's filters and match conditions, as functions. */

import { isDeepStrictEqual } from "node:util";
import type { MatchCondition } from "@langchain/langgraph-checkpoint";
import { isRecord } from "@throughline/protocol";
import { InvalidArgumentError } from "./errors.ts";

export type Value = Record<string, unknown>;

type Test = (have: unknown, want: unknown) => boolean;

/** What is stored has no identity, so objects and lists are equal by what they hold. `===` is for 0 and -0. */
const equal: Test = (have, want) => have === want || isDeepStrictEqual(have, want);
const within: Test = (have, want) => Array.isArray(want) && want.some((each) => equal(have, each));

/** A stored object may have keys that break its conversion: it must not break the searches that come across it. */
const amount = (have: unknown) => (typeof have === "object" && have !== null ? Number.NaN : Number(have));

/** As LangGraph has them. What is no number is neither above nor below another. */
const operators: Record<string, Test> = {
  $eq: equal,
  $ne: (have, want) => !equal(have, want),
  $gt: (have, want) => amount(have) > Number(want),
  $gte: (have, want) => amount(have) >= Number(want),
  $lt: (have, want) => amount(have) < Number(want),
  $lte: (have, want) => amount(have) <= Number(want),
  $in: within,
  $nin: (have, want) => !within(have, want),
};

/**
 * A filter's test, undefined where all pass. Every field of a filter must hold: the value's own field equals what stands
 * there, or all of the operators that stand there say yes.
 * @throws InvalidArgumentError: the filter is no object, or has an operator that there is not.
 */
export function compileFilter(filter: unknown): ((value: Value) => boolean) | undefined {
  if (filter === undefined || filter === null) return undefined;
  if (!isRecord(filter)) {
    throw new InvalidArgumentError(
      "a filter is an object of fields: { field: value } or { field: { $gt: 1 } }",
    );
  }
  const tests = Object.entries(filter).flatMap(([field, wanted]) =>
    conditions(wanted).map(([test, want]) => {
      return (value: Value) => test(Object.hasOwn(value, field) ? value[field] : undefined, want);
    }),
  );
  return tests.length === 0 ? undefined : (value) => tests.every((test) => test(value));
}

function conditions(wanted: unknown): [test: Test, want: unknown][] {
  if (!isRecord(wanted)) return [[equal, wanted]];
  const entries = Object.entries(wanted);
  const strange = entries.find(([name]) => name.startsWith("$") && !Object.hasOwn(operators, name));
  if (strange !== undefined) {
    throw new InvalidArgumentError(
      `${strange[0]} is not an operator of filters: ${Object.keys(operators).join(", ")} are`,
    );
  }
  // An object is operators only where all of its keys are.
  if (!entries.every(([name]) => name.startsWith("$"))) return [[equal, wanted]];
  return entries.map(([name, want]) => [operators[name]!, want]);
}

/** Whether a namespace fulfils a condition: its first or last labels are these, "*" being any one label. */
export function fulfils(namespace: readonly string[], { matchType, path }: MatchCondition): boolean {
  const from = matchType === "prefix" ? 0 : namespace.length - path.length;
  return (
    path.length <= namespace.length &&
    path.every((label, i) => label === "*" || namespace[from + i] === label)
  );
}
