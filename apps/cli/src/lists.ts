/** Lists for people: aligned columns, newest first. Pure. */
import type { AgentInfo, RunRecord } from "@throughline/protocol";

/** Columns two spaces apart, each as wide as its widest cell. */
function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ");
  return all.map((row) => line(row).trimEnd()).join("\n");
}

/** How long ago `iso` was, in the largest unit that fits; a date where it is long ago. */
export function ago(iso: string, now: number): string {
  const seconds = Math.max(0, Math.round((now - Date.parse(iso)) / 1000));
  if (Number.isNaN(seconds)) return iso;
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return iso.slice(0, 10);
}

export function runList(runs: readonly RunRecord[], now: number): string {
  if (runs.length === 0) return "no runs";
  const rows = runs.map((run) => [
    run.runId,
    run.agent,
    run.status,
    `${run.head}`,
    ago(run.createdAt, now),
    run.threadId,
  ]);
  return table(["RUN", "AGENT", "STATUS", "OFFSET", "STARTED", "THREAD"], rows);
}

/** Threads by their newest run. `runs`: newest first, as the gateway lists them. */
export function threadList(runs: readonly RunRecord[], now: number): string {
  if (runs.length === 0) return "no threads";
  const threads = new Map<string, { newest: RunRecord; count: number }>();
  for (const run of runs) {
    const thread = threads.get(run.threadId);
    if (thread === undefined) threads.set(run.threadId, { newest: run, count: 1 });
    else thread.count += 1;
  }
  const rows = [...threads].map(([threadId, { newest, count }]) => [
    threadId,
    `${count}`,
    newest.agent,
    newest.status,
    ago(newest.endedAt ?? newest.createdAt, now),
  ]);
  return table(["THREAD", "RUNS", "AGENT", "LAST STATUS", "WHEN"], rows);
}

export function agentList(agents: readonly AgentInfo[]): string {
  if (agents.length === 0) return "no worker offers an agent";
  const rows = agents.map(({ name, description = "", modes }) => [name, modes.join(","), description]);
  return table(["AGENT", "MODES", "DESCRIPTION"], rows);
}
