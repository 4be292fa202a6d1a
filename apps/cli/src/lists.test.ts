import type { RunRecord, ThreadState } from "@throughline/protocol";
import { describe, expect, it } from "vitest";
import { historyTree } from "./history.ts";
import { agentList, ago, runList, threadList } from "./lists.ts";

const now = Date.parse("2026-05-01T12:00:00Z");

function record(runId: string, threadId: string, more: Partial<RunRecord> = {}): RunRecord {
  return {
    runId,
    threadId,
    agent: "storyteller",
    status: "completed",
    attempt: 1,
    first: 1,
    head: 57,
    epoch: "e1",
    createdAt: "2026-05-01T11:59:00Z",
    ...more,
  };
}

it.each([
  ["2026-05-01T12:00:05Z", "0 s ago"],
  ["2026-05-01T11:59:01Z", "59 s ago"],
  ["2026-05-01T11:58:01Z", "1 min ago"],
  ["2026-04-30T12:00:01Z", "23 h ago"],
  ["2026-04-30T12:00:00Z", "2026-04-30"],
])("%s was %s", (iso, expected) => {
  expect(ago(iso, now)).toBe(expected);
});

describe("lists", () => {
  it("of runs, aligned", () => {
    const runs = [record("run-long", "t1"), record("r2", "t2", { status: "running", head: 3 })];
    expect(runList(runs, now)).toBe(
      [
        "RUN       AGENT        STATUS     OFFSET  STARTED    THREAD",
        "run-long  storyteller  completed  57      1 min ago  t1",
        "r2        storyteller  running    3       1 min ago  t2",
      ].join("\n"),
    );
    expect(runList([], now)).toBe("no runs");
  });

  it("of threads: the newest run tells the status", () => {
    const runs = [
      record("r3", "t1", { status: "cancelled", endedAt: "2026-05-01T11:59:30Z" }),
      record("r2", "t2"),
      record("r1", "t1"),
    ];
    expect(threadList(runs, now).split("\n")).toEqual([
      "THREAD  RUNS  AGENT        LAST STATUS  WHEN",
      "t1      2     storyteller  cancelled    30 s ago",
      "t2      1     storyteller  completed    1 min ago",
    ]);
  });

  it("of agents", () => {
    const agents = [{ name: "digest", modes: ["messages", "updates"] as never, description: "Sums up" }];
    expect(agentList(agents)).toContain("digest  messages,updates  Sums up");
    expect(agentList([])).toBe("no worker offers an agent");
  });
});

describe("historyTree", () => {
  function state(
    checkpointId: string,
    parentId: string | null,
    more: Partial<ThreadState> = {},
  ): ThreadState {
    return {
      threadId: "t1",
      checkpointId,
      parentId,
      values: {},
      next: [],
      interrupts: [],
      metadata: { source: "loop" },
      createdAt: "2026-05-01T11:59:50Z",
      ...more,
    };
  }

  it("draws a line", () => {
    const tree = historyTree([state("c", "b"), state("b", "a"), state("a", null)], "c", now);
    expect(tree.split("\n")).toEqual([
      "* c  10 s ago  loop  (head)",
      "* b  10 s ago  loop",
      "* a  10 s ago  loop",
    ]);
  });

  it("draws branches, and where they part", () => {
    const history = [state("e", "c"), state("d", "b"), state("c", "b"), state("b", "a"), state("a", null)];
    const graph = historyTree(history, "e", now).replace(/ {2}10 s ago {2}loop/g, "");
    expect(graph.split("\n")).toEqual(["* e  (head)", "| * d", "* | c", "| /", "* b", "* a"]);
  });

  it("shows the last message's first words, and what was cancelled or waits", () => {
    const words = "Once upon a time there was  a\nworker that never slept, until one day it did";
    const messages = [{ type: "ai", content: words, additional_kwargs: { cancelled: true } }];
    const tree = historyTree(
      [state("b", "a", { values: { messages } }), state("a", null, { interrupts: [{ id: "i", value: 1 }] })],
      undefined,
      now,
    );
    expect(tree.split("\n")).toEqual([
      "* b  10 s ago  loop  ai: Once upon a time there was a worker that never s…  (cancelled)",
      "* a  10 s ago  loop  (waits for an answer)",
    ]);
    const partial = state("b", null, { metadata: { source: "loop", partial: "cancelled" } });
    expect(historyTree([partial], "b", now)).toContain("(cancelled)  (head)");
  });
});
