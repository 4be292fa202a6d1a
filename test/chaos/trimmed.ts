/**
 * Logs whose beginning was trimmed. What it said is known from those who were told, and what has taken its place, in
 * Redis and for late readers, is held against that.
 */
import { isDeepStrictEqual } from "node:util";
import type { Part } from "@throughline/protocol";
import type { LogReader } from "@throughline/runlog";
import { type LogPart, readStory } from "./oracle.ts";
import { type Snapshot, toSnapshot, type View } from "./view.ts";

/** A run's log, as far as anybody knows it. */
export interface KnownLog {
  log: LogPart[];
  /** What Redis has in place of the beginning; undefined: it has the whole log. */
  trimmed: Snapshot | undefined;
  /** The log above is whole: somebody was told of every part that was trimmed. */
  whole: boolean;
}

export async function readLog(reader: LogReader, runId: string, views: readonly View[]): Promise<KnownLog> {
  const stored = await reader.snapshot(runId);
  const rest: LogPart[] = [];
  for await (const part of reader.parts(runId, stored?.offset ?? 0)) rest.push(part);
  if (stored === null) return { log: rest, trimmed: undefined, whole: true };
  const told = new Map<number, string>();
  for (const view of views) {
    for (const { offset, part } of view.told) if (part !== null) told.set(offset, part);
  }
  const beginning = Array.from({ length: stored.offset }, (_, i) => told.get(i + 1));
  const whole = beginning.every((part) => part !== undefined);
  const known = whole ? beginning.map((part, i) => ({ offset: i + 1, part: JSON.parse(part!) as Part })) : [];
  return { log: [...known, ...rest], trimmed: toSnapshot(stored), whole };
}

/** What is wrong with a snapshot of a log that is known as a whole. */
export function auditSnapshot(
  { offset, texts, values }: Snapshot,
  log: readonly LogPart[],
  signed: boolean,
): string | undefined {
  const story = readStory(log.slice(0, offset), signed);
  if (isDeepStrictEqual(texts, story.texts) && isDeepStrictEqual(values ?? {}, story.values))
    return undefined;
  const said = JSON.stringify([[...texts], values]);
  return `the snapshot of ${offset} says ${said}, and the log until there ${JSON.stringify([[...story.texts], story.values])}`;
}
