/**
 * Which of a thread's checkpoints lead to one of them: what a copy up to that one has.
 *
 * - Of the root: the checkpoint and its ancestors, the line. A fork is on it behind what it shows, which is behind what
 *   it stands for.
 * - Of a subgraph: what it did in the steps that follow the line's checkpoints, for that is what led to the next one, or
 *   waits at the last; and the ancestors of that, which a graph that keeps its state from call to call goes on from.
 * - A run that has checkpoints in the root but none on the line was another branch's, or came behind the copy's head.
 *   What it did in subgraphs, and wrote to checkpoints of the line, is not in the copy: a question that it answered is
 *   open there.
 */
import type { CheckpointMetadata, SerializerProtocol } from "@langchain/langgraph-checkpoint";
import { nodeOf, pathOf } from "./langgraph.ts";
import { marksOf } from "./marks.ts";
import type { RawDump } from "./scripts.ts";
import { load } from "./stored.ts";

/** What dump.lua says of a thread, with its metadata loaded. */
interface Survey {
  line: readonly { id: string; run: string; metadata: CheckpointMetadata }[];
  /** The runs of the root's other checkpoints. */
  runs: readonly string[];
  below: readonly Below[];
  /** By namespace. */
  heads: ReadonlyMap<string, string>;
}

/** A subgraph's checkpoint. */
interface Below {
  ns: string;
  id: string;
  parent: string;
  run: string;
  metadata: CheckpointMetadata;
}

/** What restore.lua is told. */
export interface Part {
  heads: Map<string, string>;
  /** The runs whose writes stay out. */
  otherRuns: string[];
  /** The checkpoints that stay, as their fields. */
  fields: string[];
}

/** undefined: the thread has no such checkpoint. */
export async function partOf(
  serde: SerializerProtocol,
  [, line, runs, below, heads]: RawDump,
): Promise<Part | undefined> {
  if (line.length === 0) return undefined;
  const metadataOf = async (raw: Buffer) => (await load(serde, raw)) as CheckpointMetadata;
  return choose({
    line: await Promise.all(
      line.map(async ([id, run, metadata]) => ({
        id: id.toString(),
        run: run.toString(),
        metadata: await metadataOf(metadata),
      })),
    ),
    runs: runs.map(String),
    below: await Promise.all(
      below.map(async ([ns, id, parent, run, metadata]) => ({
        ns: ns.toString(),
        id: id.toString(),
        parent: parent.toString(),
        run: run.toString(),
        metadata: await metadataOf(metadata),
      })),
    ),
    heads: new Map(
      heads.flatMap((ns, i) => (i % 2 === 0 ? [[ns.toString(), heads[i + 1]!.toString()]] : [])),
    ),
  });
}

function choose({ line, runs, below, heads }: Survey): Part {
  const ownRuns = new Set(line.map(({ run }) => run));
  const others = new Set(runs.filter((run) => run !== "" && !ownRuns.has(run)));
  const place = placesOn(line);
  const part: Part = {
    heads: new Map([["", line[0]!.id]]),
    otherRuns: [...others],
    fields: line.map(({ id }) => fieldOf("", id)),
  };
  for (const ns of new Set(below.map((each) => each.ns))) {
    const all = below.filter((each) => each.ns === ns);
    const own = new Map<string, number>();
    for (const each of all) {
      const at = others.has(each.run) ? undefined : place(each, ownRuns);
      if (at !== undefined) own.set(each.id, at);
    }
    if (own.size === 0) continue;
    const byId = new Map(all.map((each) => [each.id, each]));
    const stays = new Set<string>();
    for (const id of own.keys()) {
      for (let each = byId.get(id); each && !stays.has(each.id); each = byId.get(each.parent))
        stays.add(each.id);
    }
    part.heads.set(ns, headOf(own, heads.get(ns)));
    for (const id of stays) part.fields.push(fieldOf(ns, id));
  }
  return part;
}

function fieldOf(ns: string, id: string): string {
  return `${ns}\0${id}`;
}

/** How far from the line's end a subgraph's checkpoint was written; undefined: not in a step of the line. */
function placesOn(line: Survey["line"]): (below: Below, ownRuns: ReadonlySet<string>) => number | undefined {
  const places = new Map<string, number>();
  const tasks = new Map<string, number>();
  for (const [i, { id, metadata }] of line.entries()) {
    const { as, tasks: own = [] } = marksOf({ metadata });
    // Below a fork, the checkpoint that it stands for is named.
    for (const each of as === undefined ? [id] : [id, as]) if (!places.has(each)) places.set(each, i);
    for (const [task] of own) if (!tasks.has(task)) tasks.set(task, i);
  }
  return ({ ns, run, metadata }, ownRuns) => {
    const root: unknown = metadata.parents?.[""];
    if (typeof root === "string") return places.get(root);
    // A writer that is not LangGraph may leave out where it was.
    const segment = pathOf(ns)[0]!;
    const task = segment.slice(nodeOf(segment).length + 1);
    if (task !== "") return tasks.get(task);
    return ownRuns.has(run) ? line.length : undefined;
  };
}

/** The head that a subgraph had, else what was written last behind the last step of the line that it had a part in. */
function headOf(own: ReadonlyMap<string, number>, head: string | undefined): string {
  if (head !== undefined && own.has(head)) return head;
  const [first] = [...own].sort(([a, i], [b, j]) => i - j || (a < b ? 1 : -1));
  return first![0];
}
