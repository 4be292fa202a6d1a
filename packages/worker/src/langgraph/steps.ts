import type { GraphChunk } from "./stream.ts";

/**
 * Where in the log the steps of a graph, and of its subgraphs, end.
 *
 * A step's checkpoint is on its way to the saver when its `values` and `checkpoints` come: these tell of the next
 * step's beginning, and come again when a later attempt begins there.
 */
export class Steps {
  /** By namespace and step: the offset of the last part that belongs to it. */
  readonly #ends = new Map<string, number>();
  /** By namespace: the offset before its last `values`, which come after the step's checkpoint. */
  readonly #beforeValues = new Map<string, number>();

  /** A chunk comes, before it is in the log; `offset`: the last part there. */
  mark([ns, mode, payload]: GraphChunk, offset: number): void {
    // Tokens tell of no step: they come too often for more than this.
    if (mode !== "values" && mode !== "updates" && mode !== "checkpoints") return;
    const graph = ns.join("|");
    if (mode === "values") this.#beforeValues.set(graph, offset);
    else if (mode === "updates") this.#beforeValues.delete(graph);
    else {
      const { metadata } = payload as { metadata?: { step?: number } };
      this.#ends.set(key(graph, metadata?.step), this.#beforeValues.get(graph) ?? offset);
    }
  }

  /** undefined: its checkpoint has not come in the stream. */
  end(graph: string, step: number | undefined): number | undefined {
    return this.#ends.get(key(graph, step));
  }
}

function key(graph: string, step: number | undefined): string {
  return `${step} ${graph}`;
}
