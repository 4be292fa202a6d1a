/**
 * Which executions of a graph's nodes a log tells of. A node does not know which attempt it is in: it signs with its
 * execution, which began in one attempt and one process, and belongs nowhere else.
 */
import type { Part } from "@throughline/protocol";
import type { LogPart } from "./oracle.ts";
import { executionKey, speakerOf } from "./text.ts";

export interface Executions {
  /** By speaker: its executions, in the order in which they began, those included that were taken back. */
  begun: Map<string, string[]>;
  /** What no log may look like. */
  problems: string[];
}

export function readExecutions(runId: string, log: readonly LogPart[]): Executions {
  const problems: string[] = [];
  const begun = new Map<string, string[]>();
  const attempts = new Map<string, number>();
  const processes = new Map<number, string>();
  let kept: LogPart[] = [];
  /** What a rewind took back, and what may be told again. */
  const dropped = new Set<string>();
  let attempt = 0;
  for (const { offset, part } of log) {
    if (part.type === "lifecycle") {
      const { data } = part;
      if ("attempt" in data) attempt = data.attempt as number;
      if (data.event !== "rewound") continue;
      for (const each of kept) if (each.offset > data.to) dropped.add(JSON.stringify(each.part));
      kept = kept.filter((each) => each.offset <= data.to);
      continue;
    }
    kept.push({ offset, part });
    const execution = executionOf(part);
    // What a subgraph answers has all that it was given as well, of earlier runs.
    if (!execution?.startsWith(`${runId}-`)) continue;
    const of = attempts.get(execution);
    if (of === undefined) {
      attempts.set(execution, attempt);
      const speaker = speakerOf(runId, execution) ?? "";
      begun.set(speaker, [...(begun.get(speaker) ?? []), execution]);
      if (part.type !== "custom") problems.push(`${execution} has not begun, and wrote offset ${offset}`);
      const process = execution.slice(execution.lastIndexOf("-") + 1).split(".")[0]!;
      const author = processes.get(attempt) ?? process;
      processes.set(attempt, author);
      if (author !== process)
        problems.push(`process ${process} began ${execution} at ${offset}, in ${author}'s attempt`);
    } else if (of !== attempt && part.type !== "updates" && !dropped.delete(JSON.stringify(part))) {
      // What LangGraph tells again of finished tasks are their updates.
      problems.push(
        `${execution} of attempt ${of} wrote offset ${offset}, when the run was attempt ${attempt}'s`,
      );
    }
  }
  return { begun, problems };
}

function executionOf(part: Part): string | undefined {
  if (part.type === "messages") return part.data[0].id;
  const data = part.data as Record<string, unknown>;
  if (part.type === "custom") return data.execution as string;
  if (part.type !== "updates") return undefined;
  const [node, delta] = Object.entries(data)[0] as [string, Record<string, unknown> | null];
  // Of a subgraph's, all of its nodes' stand there: they were told by themselves.
  return delta?.[executionKey(node)] as string | undefined;
}

/**
 * What stored checkpoints of a run say against its log: a node that a checkpoint knows as finished is not executed again.
 *
 * @param stored the states at the run's checkpoints
 */
export function auditExecutions(
  runId: string,
  { begun }: Executions,
  stored: readonly Readonly<Record<string, unknown>>[],
): string[] {
  return [...begun].flatMap(([speaker, executions]) => {
    const finished = new Set(
      stored.map((values) => values[executionKey(speaker)]).filter((by) => String(by).startsWith(runId)),
    );
    if (finished.size > 1) return [`${speaker} was finished by ${[...finished].join(" and by ")}`];
    const [one] = finished;
    if (one === undefined || one === executions.at(-1)) return [];
    return [`${speaker} was finished by ${one}, and executed again as ${executions.at(-1)}`];
  });
}
