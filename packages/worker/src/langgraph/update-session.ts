/**
 * A run that writes to its thread's state instead of running the graph: `thread.update`. The graph writes itself, so
 * that its reducers hold, and its edges say what follows.
 */
import { type CheckpointTuple, InvalidUpdateError } from "@langchain/langgraph";
import {
  channelOf,
  declaredGraphAt,
  ForkView,
  finishedTasks,
  type GraphInside,
  isLastValue,
  type Marks,
  marksOf,
  type RedisCheckpointSaver,
  SAVER,
  START,
} from "@throughline/checkpoint";
import type { CheckpointRef, LifecycleData } from "@throughline/protocol";
import type { Graph, GraphAgent } from "../agent.ts";
import type { Assignment, Finished, Outcome, Session } from "../session.ts";
import { graphFor } from "./config.ts";
import { goOn } from "./going-on.ts";

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
    const { run, request, attempt, saver, store } = this.#work;
    const { runId, threadId, agent } = run.record;
    const { checkpointId, update } = request;
    const { asNode, ns = [] } = update!;
    const graph = await graphFor(this.#agent, this.#work);
    const written = subgraphAt(graph, ns);
    checkNode(written, asNode);
    // An earlier attempt wrote it, and died before it could say so.
    if ((await this.#written()) !== undefined) return { event: "completed" };
    const head = await saver.head(threadId, ns.join("|"));
    const { writer } = attempt;
    const fenced = saver.fenced({
      runId,
      fence: writer.fence,
      before: async () => ({ agent, attempt: writer.attempt, head_before: head }),
    });
    const fork = ns.length === 0 ? await this.#forkStop(graph, fenced) : undefined;
    const configurable = {
      thread_id: threadId,
      checkpoint_ns: ns.join("|"),
      ...(checkpointId === undefined || fork !== undefined ? {} : { checkpoint_id: checkpointId }),
      // A subgraph has no saver of its own.
      [SAVER]: new ForkView(fenced),
    };
    const { values, node } = fork ?? { values: update!.values, node: asNode };
    await written.updateState({ configurable, ...(store && { store }) }, values, node);
    return { event: "completed" };
  }

  /**
   * Where a run was stopped, the step is forked as for one that goes on: what finished tasks wrote, joins among it, is
   * part of what follows. The node that the update counts for has answered what it had said, and what is written now.
   *
   * @returns what is to be written, and as which node; undefined: there was no stop, or nobody says behind which task
   */
  async #forkStop(graph: Graph, saver: RedisCheckpointSaver) {
    const { run, request } = this.#work;
    const { runId, threadId } = run.record;
    const { values, asNode } = request.update!;
    const at = (checkpoint_id: string | undefined) =>
      saver.getTuple({ configurable: { thread_id: threadId, checkpoint_id } });
    const head = await at(request.checkpointId);
    const { prepares, shown: before } = head === undefined ? ({} as Marks) : marksOf(head);
    // It was forked, and its worker died.
    const shown = prepares === true && before !== undefined ? await at(before) : head;
    const { stop, tasks = [] } = shown === undefined ? ({} as Marks) : marksOf(shown);
    if (shown === undefined || stop === undefined || stop.at === null) return undefined;
    const finished = finishedTasks(stop.writes);
    const [task, another] = tasks.filter(
      ([id, name]) => !finished.has(id) && (asNode === undefined || name === asNode),
    );
    if (task === undefined || another !== undefined) return undefined;
    const [except, node] = task;
    await goOn(shown, { graph, saver, threadId, marks: { run_id: runId }, config: {}, except });
    const said = stop.answers[except] ?? [];
    const { messages = [] } = values as { messages?: unknown };
    if (said.length === 0) return { values, node };
    if (!isLastValue(channelOf(graph as unknown as GraphInside, "messages"))) {
      return { values: { ...values, messages: [...said, ...[messages].flat()] }, node };
    }
    const { messages: all } = shown.checkpoint.channel_values;
    return { values: { messages: all, ...values }, node };
  }

  /** The head that this run has written. */
  async #written(): Promise<CheckpointTuple | undefined> {
    const { run, request, saver } = this.#work;
    const { runId, threadId } = run.record;
    const { ns = [] } = request.update!;
    const tuple = await saver.getTuple({
      configurable: { thread_id: threadId, checkpoint_ns: ns.join("|") },
    });
    const { run_id, prepares } = tuple === undefined ? ({} as Marks) : marksOf(tuple);
    return run_id === runId && prepares !== true ? tuple : undefined;
  }

  async save(outcome: Outcome): Promise<CheckpointRef | null> {
    const { run, request, attempt, saver } = this.#work;
    const { runId, threadId } = run.record;
    const written = await this.#written();
    if (typeof outcome === "object" && outcome.cancelled === "discard") {
      const fenced = saver.fenced({ runId, fence: attempt.writer.fence });
      const { head_before = null } = written === undefined ? ({} as Marks) : marksOf(written);
      const isRoot = (request.update!.ns ?? []).length === 0;
      if (written === undefined) return null;
      await fenced.discardRun(threadId, runId, { head: isRoot ? head_before : await saver.head(threadId) });
      return null;
    }
    return written === undefined ? null : { threadId, checkpointId: written.checkpoint.id };
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
