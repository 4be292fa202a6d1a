/**
 * A node with a retry policy that fails in the middle of its answer streams another one, and LangGraph says nothing of
 * the first. Here it is found out, and what the failed try streamed is taken back: all that the log has since then is
 * rewound, and what others streamed meanwhile is told once more.
 *
 * `custom` and `tools` parts of the root do not say which task they are of: they stay.
 */
import type { Part } from "@throughline/protocol";
import type { Graph } from "../agent.ts";
import { taskOf } from "./stream.ts";

interface Told {
  part: Part;
  offset: number;
}

/** What is to be done before a part is taken. */
export interface Retraction {
  /** Rewind to this offset. */
  to: number;
  /** Tell these again. */
  again: Part[];
  /** Messages that there were never. */
  messageIds: Set<string>;
}

export class Retries {
  /** Parts since the step before the one that runs ended: those that may have to be told again. */
  #told: Told[] = [];
  /** By LangChain's run id: the path of the task that a node is run as. */
  readonly #running = new Map<string, string>();
  readonly #failed = new Set<string>();
  readonly #again = new Set<string>();

  /** undefined for a graph that tries nothing twice: it need not remember what it told. */
  static for(graph: Graph): Retries | undefined {
    return retriesAnything(graph) ? new Retries() : undefined;
  }

  /** For the graph's callbacks: it hears of a node before its model says anything. */
  get handler() {
    return {
      name: "ThroughlineRetries",
      awaitHandlers: true,
      handleChainStart: (...[, , runId, , , metadata, , name]: ChainStart) => {
        const path = metadata?.langgraph_checkpoint_ns;
        if (typeof path !== "string" || metadata?.langgraph_node !== name) return;
        this.#running.set(runId, path);
        if (this.#failed.delete(path)) this.#again.add(path);
      },
      handleChainEnd: (_: unknown, runId: string) => {
        this.#running.delete(runId);
      },
      handleChainError: (_: unknown, runId: string) => {
        const path = this.#running.get(runId);
        this.#running.delete(runId);
        if (path !== undefined) this.#failed.add(path);
      },
    };
  }

  /** A part was put into the log. */
  told(part: Part, offset: number): void {
    this.#told.push({ part, offset });
  }

  /** A step of the root is over, and its parts with it. */
  stepEnded(): void {
    this.#told = [];
    this.#failed.clear();
    this.#again.clear();
  }

  /** What is to be taken back before this part, the first of a second try. */
  before(part: Part): Retraction | undefined {
    if (this.#again.size === 0) return undefined;
    const path = pathOf(part);
    const task = [...this.#again].find((each) => isWithin(path, each));
    if (task === undefined) return undefined;
    this.#again.delete(task);
    const mine = (told: Told) => isWithin(pathOf(told.part), task);
    const first = this.#told.findIndex(mine);
    if (first === -1) return undefined;
    const since = this.#told.splice(first);
    return {
      to: since[0]!.offset - 1,
      again: since.filter((told) => !mine(told)).map((told) => told.part),
      messageIds: new Set(since.filter(mine).flatMap(({ part }) => idOf(part) ?? [])),
    };
  }
}

type ChainStart = [
  chain: unknown,
  inputs: unknown,
  runId: string,
  parentRunId: string | undefined,
  tags: string[] | undefined,
  metadata: Record<string, unknown> | undefined,
  runType: string | undefined,
  name: string | undefined,
];

/** The path of the task that a part is of, where it says so: a message, or what comes out of a subgraph. */
function pathOf({ type, ns, data }: Part): string {
  return (type === "messages" ? (taskOf(data[1]) ?? ns) : ns).join("|");
}

function isWithin(path: string, task: string): boolean {
  return path === task || path.startsWith(`${task}|`);
}

function idOf({ type, data }: Part): string | undefined {
  return type === "messages" ? data[0].id : undefined;
}

function retriesAnything(graph: Graph): boolean {
  if (graph.retryPolicy !== undefined) return true;
  if (
    Object.values(graph.nodes).some((node) => (node as { retryPolicy?: unknown }).retryPolicy !== undefined)
  ) {
    return true;
  }
  for (const [, inner] of graph.getSubgraphs()) if (retriesAnything(inner as Graph)) return true;
  return false;
}
