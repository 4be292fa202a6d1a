/**
 * What a lost attempt wrote to the log behind its last checkpoint, and which of it is done nevertheless: tasks whose
 * writes are stored, and steps of subgraphs that have checkpoints of their own, are not done again. Their parts are
 * taken back with all the others, and told once more.
 *
 * What LangGraph tells again by itself when it goes on from a checkpoint (`values`, `checkpoints`, `updates` of finished
 * tasks) is not told twice. `custom` and `tools` parts of the root do not say which task they are of: where one
 * task of a step was finished and another was not, they go.
 */
import { isDeepStrictEqual } from "node:util";
import type { Part } from "@throughline/protocol";
import { taskOf } from "./stream.ts";

interface Told {
  part: Part;
  offset: number;
  /** Where it was told for the first time: subgraphs' checkpoints know that offset. */
  first: number;
}

export class Unfinished {
  #end: number;
  readonly #attempt: number;
  #parts: Told[] = [];
  /** What was taken back last, and may be told again: that comes first, and in the same order. */
  #takenBack: Told[] = [];

  /** @param end the last offset of what the checkpoint holds, @param attempt the attempt that wrote it: 0 for none */
  constructor(end = 0, attempt = 0) {
    this.#end = end;
    this.#attempt = attempt;
  }

  /** The last offset of what the checkpoint holds. */
  get end(): number {
    return this.#end;
  }

  add(part: Part, offset: number): void {
    if (part.type !== "lifecycle") {
      const first = this.#toldAgain(part) ?? offset;
      if (offset > this.#end) this.#parts.push({ part, offset, first });
      return;
    }
    const { data } = part;
    // Where Redis lost a part of the log, a later attempt stands at a lower offset than the checkpoint knew.
    if ("attempt" in data && this.#attempt > 0 && (data.attempt as number) > this.#attempt) {
      this.#end = Math.min(this.#end, offset);
    }
    if (data.event !== "rewound") return;
    this.#takenBack = this.#parts.filter((each) => each.offset > data.to);
    this.#parts = this.#parts.filter((each) => each.offset <= data.to);
  }

  /** Where a part was told for the first time, if it was taken back since. */
  #toldAgain(part: Part): number | undefined {
    const at = this.#takenBack.findIndex((each) => isDeepStrictEqual(each.part, part));
    const first = this.#takenBack[at]?.first;
    this.#takenBack = at === -1 ? [] : this.#takenBack.slice(at + 1);
    return first;
  }

  /** What nodes were told to have answered, by the path of their graph, in order. */
  updates(ns: readonly string[]): [node: string, delta: unknown][] {
    return this.#parts.flatMap(({ part }) =>
      part.type === "updates" && isDeepStrictEqual(part.ns, ns) ? Object.entries(Object(part.data)) : [],
    );
  }

  get isEmpty(): boolean {
    return this.#parts.length === 0;
  }

  /** The namespaces of the subgraphs that parts came from, as the saver's keys. */
  namespaces(): Set<string> {
    return new Set(this.#parts.flatMap(({ part: { ns } }) => ns.map((_, i) => ns.slice(0, i + 1).join("|"))));
  }

  /**
   * The parts that no attempt will make again.
   *
   * @param isFinished by a task's segment, `node:taskId`
   * @param allFinished every task of the root's step is
   * @param ends by a subgraph's namespace: the last offset of what its checkpoint holds
   */
  done(
    isFinished: (segment: string) => boolean,
    allFinished: boolean,
    ends: ReadonlyMap<string, number>,
  ): Part[] {
    const isDone = ({ part, first }: Told): boolean => {
      const { type, ns } = part;
      const task = type === "messages" ? (taskOf(part.data[1]) ?? ns) : ns;
      if (task.some(isFinished)) return true;
      if (ns.some((_, i) => first <= (ends.get(ns.slice(0, i + 1).join("|")) ?? 0))) return true;
      return allFinished && ns.length === 0 && (type === "custom" || type === "tools" || type === "events");
    };
    return this.#parts.filter(isDone).map(({ part }) => part);
  }
}
