import type { GraphChunk } from "./stream.ts";

/** What the stream told when a checkpoint was on its way to the saver. */
export interface Step {
  /** The offset of the last part that belongs to what the checkpoint holds. */
  end: number;
  /** How many messages had begun by then: what later ones say is not in it. */
  begun: number;
  /** The tasks that the next step begins with: [id, node]. */
  tasks: [id: string, name: string][];
}

/**
 * Where in the log the steps of a graph, and of its subgraphs, end.
 *
 * A step's checkpoint is on its way to the saver when its `values` and `checkpoints` come: these tell of the next
 * step's beginning. They come again when a later attempt begins there, and say nothing new then.
 */
export class Steps {
  /** By namespace and step. */
  readonly #steps = new Map<string, Step>();
  /** By namespace: the offset before its last `values`, which come after the step's checkpoint. */
  readonly #beforeValues = new Map<string, number>();
  /** The tasks that were told to be done: they have nothing more to say. */
  readonly #done = new Set<string>();

  /** A chunk comes, before it is in the log; `offset`: the last part there; `begun`: the messages so far. */
  mark([ns, mode, payload]: GraphChunk, offset: number, begun: number): void {
    // Tokens tell of no step: they come too often for more than this.
    if (mode !== "values" && mode !== "updates" && mode !== "checkpoints" && mode !== "tasks") return;
    const graph = ns.join("|");
    if (mode === "tasks") {
      const { id, result } = payload as { id: string; result?: unknown };
      if (result !== undefined) this.#done.add(id);
    } else if (mode === "values") this.#beforeValues.set(graph, offset);
    else if (mode === "updates") this.#beforeValues.delete(graph);
    else {
      const { metadata, tasks = [] } = payload as {
        metadata?: { step?: number; log_offset?: number };
        tasks?: { id: string; name: string }[];
      };
      // One that was stored before, and is told again: it knows where it ends.
      if (metadata?.log_offset !== undefined) return;
      this.#steps.set(key(graph, metadata?.step), {
        end: this.#beforeValues.get(graph) ?? offset,
        begun,
        tasks: tasks.map(({ id, name }) => [id, String(name)]),
      });
    }
  }

  isDone(task: string): boolean {
    return this.#done.has(task);
  }

  /** undefined: its checkpoint has not come in the stream. */
  at(graph: string, step: number | undefined): Step | undefined {
    return this.#steps.get(key(graph, step));
  }
}

function key(graph: string, step: number | undefined): string {
  return `${step} ${graph}`;
}
