/** A thread's checkpoints as a tree, newest first, drawn as `git log --graph` draws commits. Pure. */

import type { ThreadState } from "@throughline/protocol";
import { isRecord } from "@throughline/protocol";
import { ago } from "./lists.ts";
import { textOf } from "./transcript.ts";

/** `head`: the checkpoint that the thread goes on from. */
export function historyTree(
  checkpoints: readonly ThreadState[],
  head: string | undefined,
  now: number,
): string {
  if (checkpoints.length === 0) return "no checkpoints";
  const lines: string[] = [];
  /** What each line down the page leads to next. */
  let lanes: string[] = [];
  for (const checkpoint of checkpoints) {
    const { checkpointId, parentId } = checkpoint;
    let lane = lanes.indexOf(checkpointId);
    if (lane === -1) lane = lanes.push(checkpointId) - 1;
    // Lines that lead to the same checkpoint meet above it.
    const meeting = lanes.filter((id, i) => id === checkpointId && i !== lane).length;
    if (meeting > 0) {
      lines.push(lanes.map((id, i) => (id === checkpointId && i !== lane ? "/" : "|")).join(" "));
      lanes = lanes.filter((id, i) => id !== checkpointId || i === lane);
    }
    const graph = lanes.map((_, i) => (i === lane ? "*" : "|")).join(" ");
    lines.push(`${graph} ${describe(checkpoint, checkpointId === head, now)}`);
    if (parentId === null) lanes.splice(lane, 1);
    else lanes[lane] = parentId;
  }
  return lines.join("\n");
}

function describe(checkpoint: ThreadState, isHead: boolean, now: number): string {
  const message = [checkpoint.values.messages].flat().at(-1);
  const source = checkpoint.metadata.source;
  const words = [
    checkpoint.checkpointId,
    ago(checkpoint.createdAt, now),
    typeof source === "string" ? source : "",
    isRecord(message) ? `${message.type}: ${firstWords(textOf(message.content))}` : "",
    isCancelled(checkpoint, message) ? "(cancelled)" : "",
    checkpoint.interrupts.length > 0 ? "(waits for an answer)" : "",
    isHead ? "(head)" : "",
  ];
  return words.filter((word) => word !== "").join("  ");
}

/** A partial that a cancel left behind. */
function isCancelled(checkpoint: ThreadState, message: unknown): boolean {
  if (checkpoint.metadata.partial === "cancelled") return true;
  const marks = isRecord(message) ? message.additional_kwargs : undefined;
  return isRecord(marks) && marks.cancelled === true;
}

const wordsLength = 48;

function firstWords(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > wordsLength ? `${line.slice(0, wordsLength)}…` : line;
}
