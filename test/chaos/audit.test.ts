/** The checks find what they are there for: each of these logs and transcripts is broken in one way. */
import { lifecycle, type Part } from "@throughline/protocol";
import { expect, test } from "vitest";
import { auditView } from "./audit.ts";
import { auditExecutions, readExecutions } from "./executions.ts";
import { Ledger } from "./ledger.ts";
import { type LogPart, readStory } from "./oracle.ts";
import { planConversation } from "./plan.ts";
import { Random } from "./random.ts";
import { auditSnapshot } from "./trimmed.ts";
import { View } from "./view.ts";

const token = (attempt: number, content: string): Part => ({
  type: "messages",
  ns: [],
  data: [
    { type: "AIMessageChunk", id: "m", content },
    { attempt, langgraph_node: "story" },
  ],
});
const numbered = (parts: Part[]): LogPart[] => parts.map((part, i) => ({ offset: i + 1, part }));

const begun = lifecycle({ event: "started", attempt: 1 });
const ended = lifecycle({ event: "completed" });
const whole = [
  begun,
  token(1, "a"),
  token(1, "b"),
  lifecycle({ event: "rewound", attempt: 2, to: 0 }),
  token(2, "c"),
  lifecycle({ event: "resumed", attempt: 4 }),
  token(4, "d"),
  ended,
];

test("a whole log has no problem, and its text is what is left after rewinds", () => {
  const { problems, texts, ending } = readStory(numbered(whole));
  expect(problems).toEqual([]);
  expect(texts).toEqual(new Map([["m", "cd"]]));
  expect(ending?.event).toBe("completed");
});

test.each<[string, LogPart[], RegExp]>([
  ["a hole", numbered(whole).filter(({ offset }) => offset !== 3), /offset 4 stands where 3/],
  ["a part after the ending", numbered([...whole, token(4, "e")]), /a part at 9 comes after the ending/],
  ["two endings", numbered([...whole, ended]), /comes after the ending/],
  ["no ending", numbered(whole.slice(0, -1)), /no ending/],
  [
    "a write of a fenced attempt",
    numbered(whole.with(4, token(1, "c"))),
    /attempt 1 wrote offset 5, when .* 2's/,
  ],
  [
    "an attempt that goes back",
    numbered(whole.with(5, lifecycle({ event: "resumed", attempt: 2 }))),
    /attempt 2/,
  ],
  ["a second beginning", numbered(whole.with(5, lifecycle({ event: "started", attempt: 4 }))), /has started/],
  ["a part before the beginning", numbered(whole.slice(1)), /attempt 1 wrote offset 1, when .* 0's/],
])("a log with %s is found out", (_, log, problem) => {
  expect(readStory(log).problems.join("\n")).toMatch(problem);
});

const log = numbered(whole);

function viewOf(parts: readonly (LogPart | null)[], filter?: { modes: ["updates"] }): View {
  const ledger = new Ledger();
  const [turn] = planConversation(new Random("s"), "t");
  const run = ledger.run("r", { threadId: "t", epoch: "e", turn: turn!, client: "c", startedAt: 0 });
  const view = new View(ledger, "c", run, 0, filter);
  for (const [i, each] of parts.entries()) {
    if (each === null) view.skipped(i + 1, i + 1);
    else view.part(each.offset, each.part);
  }
  view.complete = true;
  return view;
}

test("a transcript that is the log has no problem, nor has a filtered one", () => {
  expect(auditView(viewOf(log), log, readStory(log))).toEqual([]);
  const filtered = log.map((each) => (each.part.type === "lifecycle" ? each : null));
  expect(auditView(viewOf(filtered, { modes: ["updates"] }), log, readStory(log))).toEqual([]);
});

test.each<[string, View, RegExp]>([
  [
    "a part missing",
    viewOf(log.filter(({ offset }) => offset !== 3)),
    /told offset 4 as part 3, where 3 was next/,
  ],
  ["a part twice", viewOf([...log.slice(0, 3), ...log.slice(2)]), /told offset 3 as part 4/],
  ["other text", viewOf(log.with(1, { offset: 2, part: token(1, "x") })), /at 2, where the log has/],
  [
    "a part that no filter left out",
    viewOf([...log.slice(0, 2), null, ...log.slice(3)]),
    /told nothing at 3/,
  ],
  ["a part that its filter leaves out", viewOf(log, { modes: ["updates"] }), /where the log has nothing/],
  ["the end missing", viewOf(log.slice(0, -1)), /7 offsets of 8/],
])("a transcript with %s is found out", (_, view, problem) => {
  expect(auditView(view, log, readStory(log)).join("\n")).toMatch(problem);
});

test("what the client library folded is held against the text of the log", () => {
  const view = viewOf(log);
  view.folded = new Map([["m", "abcd"]]);
  expect(auditView(view, log, readStory(log)).join()).toMatch(/folded/);
});

test("a transcript that has a snapshot in place of what it left out has no problem, but for what is left out besides", () => {
  const late = viewOf(log.slice(4));
  late.snapshot({ offset: 4, messages: [], values: {} });
  expect(auditView(late, log, readStory(log))).toEqual([]);
  const later = viewOf(log.slice(5));
  later.snapshot({ offset: 4, messages: [], values: {} });
  expect(auditView(later, log, readStory(log)).join()).toMatch(/told offset 6/);
});

test.each([
  [3, "ab", undefined],
  [4, "ab", /snapshot of 4/],
  [5, "c", undefined],
  [5, "abc", /snapshot of 5/],
])("a snapshot of %i parts that says %s", (offset, text, problem) => {
  const found = auditSnapshot({ offset, texts: new Map([["m", text]]), values: {} }, log, true);
  if (problem === undefined) expect(found).toBeUndefined();
  else expect(found).toMatch(problem);
});

test("a log whose beginning is not known goes on from its snapshot", () => {
  const rest = log.slice(2);
  const beginning = { offset: 2, texts: new Map([["m", "a"]]), values: {} };
  expect(readStory(rest, true, beginning)).toMatchObject({ problems: [], texts: new Map([["m", "cd"]]) });
});

const execution = (node: string, n: number, pid = 7) => `run_1-${node}-${pid}.${n}`;
const beginning = (id: string): Part => ({ type: "custom", ns: [], data: { execution: id } });
const said = (id: string, content: string): Part => ({
  type: "messages",
  ns: [],
  data: [{ type: "AIMessageChunk", id, content }, {}],
});
const [first, second] = [execution("outline", 1), execution("outline", 2, 8)];
const taken = lifecycle({ event: "rewound", attempt: 2, to: 1 });
const graphLog = [begun, beginning(first), said(first, "a"), taken];

test.each<[string, Part[], RegExp | undefined]>([
  ["is executed anew", [...graphLog, beginning(second), said(second, "a")], undefined],
  ["is told again", [...graphLog, said(first, "a")], undefined],
  ["goes on in another attempt", [...graphLog, said(first, "b")], /of attempt 1 wrote offset 5/],
  ["is told twice", [...graphLog, said(first, "a"), said(first, "a")], /of attempt 1 wrote offset 6/],
  ["has two processes", [begun, beginning(first), beginning(second)], /process 8 began/],
  ["speaks before it begins", [begun, said(first, "a")], /has not begun/],
])("a node that %s", (_, parts, problem) => {
  const { problems } = readExecutions("run_1", numbered(parts));
  if (problem === undefined) expect(problems).toEqual([]);
  else expect(problems.join()).toMatch(problem);
});

test("a node that was finished, and is executed again, is found out", () => {
  const executions = readExecutions("run_1", numbered([...graphLog, beginning(second)]));
  expect(auditExecutions("run_1", executions, [{}, { outlineBy: second }])).toEqual([]);
  expect(auditExecutions("run_1", executions, [{ outlineBy: first }]).join()).toMatch(/executed again as/);
  expect(auditExecutions("run_1", executions, [{ outlineBy: first }, { outlineBy: second }]).join()).toMatch(
    /finished by .* and by/,
  );
});
