/**
 * A run that writes to its thread's state instead of running the graph: `thread.update`. The graph writes itself, so
 * that its reducers hold, and its edges say what follows.
 */
import { InvalidUpdateError } from "@langchain/langgraph";
import {
  declaredGraphAt,
  ForkView,
  type GraphInside,
  readState,
  SAVER,
  START,
} from "@throughline/checkpoint";
import type { CheckpointRef, LifecycleData } from "@throughline/protocol";
import type { Graph, GraphAgent } from "../agent.ts";
import type { Assignment, Finished, Outcome, Session } from "../session.ts";
import { graphFor } from "./config.ts";

export class UpdateSession implements Session {
  readonly #agent: GraphAgent;
  readonly #work: Assignment;

  constructor(agent: GraphAgent, work: Assignment) {
    this.#agent = agent;
    this.#work = work;
  }

  async takeOver(): Promise<Extract<LifecycleData, { event: "resumed" }>> {
    return { event: "resumed", attempt: this.#work.attempt.writer.attempt };
  }

  async run(): Promise<Finished> {
    const { run, request, attempt, saver } = this.#work;
    const { runId, threadId, agent } = run.record;
    const { checkpointId, update } = request;
    const { values, asNode, ns = [] } = update!;
    const graph = subgraphAt(await graphFor(this.#agent, this.#work), ns);
    checkNode(graph, asNode);
    const head = await readState(saver, { threadId, ns });
    // An earlier attempt wrote it, and died before it could say so.
    if (head?.metadata.run_id === runId) return { event: "completed" };
    const { writer } = attempt;
    const fenced = saver.fenced({
      runId,
      attempt: writer.fence,
      before: async () => ({ agent, attempt: writer.attempt, head_before: head?.checkpointId ?? null }),
    });
    const configurable = {
      thread_id: threadId,
      checkpoint_ns: ns.join("|"),
      ...(checkpointId === undefined ? {} : { checkpoint_id: checkpointId }),
      // A subgraph has no saver of its own.
      [SAVER]: new ForkView(fenced),
    };
    const { store } = this.#work;
    await graph.updateState({ configurable, ...(store && { store }) }, values, asNode);
    return { event: "completed" };
  }

  async save(outcome: Outcome): Promise<CheckpointRef | null> {
    const { run, request, attempt, saver } = this.#work;
    const { runId, threadId } = run.record;
    const head = await readState(saver, { threadId, ns: request.update!.ns });
    if (head?.metadata.run_id !== runId) return null;
    if (typeof outcome === "object" && outcome.cancelled === "discard") {
      const { head_before = null } = head.metadata as { head_before?: string | null };
      const fenced = saver.fenced({ runId, attempt: attempt.writer.fence });
      const root = head.ns.length === 0 ? head_before : await saver.head(threadId);
      await fenced.discardRun(threadId, runId, { head: root });
      return null;
    }
    return { threadId, checkpointId: head.checkpointId };
  }
}

function subgraphAt(graph: Graph, ns: readonly string[]): Graph {
  const found = declaredGraphAt(graph as unknown as GraphInside, ns);
  if (found === undefined) {
    throw new InvalidUpdateError(`there is no subgraph ${ns.join("|")} whose state can be written to`);
  }
  return found as unknown as Graph;
}

/** LangGraph says that there is no such node, but not which there are. */
function checkNode({ nodes }: Graph, asNode: string | undefined): void {
  if (asNode === undefined || asNode in nodes || asNode.startsWith("__")) return;
  const names = Object.keys(nodes).filter((name) => name !== START);
  throw new InvalidUpdateError(`there is no node ${asNode}; there are ${names.join(", ")}`);
}
