/**
 * A run that writes to its thread's state instead of running the graph: `thread.update`. The graph writes itself, so
 * that its reducers hold, and its edges say what follows.
 */
import { InvalidUpdateError } from "@langchain/langgraph";
import { ForkView, readState } from "@throughline/checkpoint";
import type { CheckpointRef, LifecycleData } from "@throughline/protocol";
import type { GraphAgent } from "../agent.ts";
import type { Assignment, Finished, Outcome, Session } from "../session.ts";
import { withSaver } from "./graph-session.ts";

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
    const { values, asNode } = update!;
    this.#check(asNode);
    const head = await readState(saver, { threadId });
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
      checkpoint_ns: "",
      ...(checkpointId === undefined ? {} : { checkpoint_id: checkpointId }),
    };
    await withSaver(this.#agent.graph, new ForkView(fenced)).updateState({ configurable }, values, asNode);
    return { event: "completed" };
  }

  async save(outcome: Outcome): Promise<CheckpointRef | null> {
    const { run, attempt, saver } = this.#work;
    const { runId, threadId } = run.record;
    const head = await readState(saver, { threadId });
    const isWritten = head?.metadata.run_id === runId;
    if (isWritten && typeof outcome === "object" && outcome.cancelled === "discard") {
      const { head_before } = head.metadata as { head_before?: string | null };
      const fenced = saver.fenced({ runId, attempt: attempt.writer.fence });
      await fenced.discardRun(threadId, runId, { head: head_before ?? null });
      return null;
    }
    return isWritten ? { threadId, checkpointId: head.checkpointId } : null;
  }

  /** LangGraph says that there is no such node, but not which there are. */
  #check(asNode: string | undefined): void {
    const { nodes } = this.#agent.graph;
    if (asNode === undefined || asNode in nodes || asNode.startsWith("__")) return;
    const names = Object.keys(nodes).filter((name) => name !== "__start__");
    throw new InvalidUpdateError(`there is no node ${asNode}; there are ${names.join(", ")}`);
  }
}
