/**
 * Nodes before or after which a run ends `interrupted`, for a person to look: as the run asks for it, or as the graph
 * was compiled.
 *
 * LangGraph minds them by itself, but lets whoever goes on pass, and takes a worker that takes a run over for that: a
 * person who was to be asked would not be, because a worker died at the wrong moment. So that is looked at before.
 */
import type { CheckpointTuple } from "@langchain/langgraph";
import {
  type GraphInside,
  InvalidArgumentError,
  isFunctional,
  marksOf,
  namespaceBelow,
  START,
  segmentOf,
  subgraphOf,
} from "@throughline/checkpoint";
import type { RunRequest } from "@throughline/dispatch";

type Nodes = "*" | readonly string[];

export interface Gates {
  before: Nodes;
  after: Nodes;
}

/** What a run asks for, as LangGraph's options have it. @throws InvalidArgumentError: the graph has no such node */
export function requestedGates(
  graph: GraphInside,
  { interruptBefore, interruptAfter }: Pick<RunRequest, "interruptBefore" | "interruptAfter">,
): Pick<RunRequest, "interruptBefore" | "interruptAfter"> {
  const given = { ...(interruptBefore && { interruptBefore }), ...(interruptAfter && { interruptAfter }) };
  const known = Object.keys(graph.nodes).filter((name) => name !== START);
  for (const [option, nodes] of Object.entries(given)) {
    // What tasks a function calls is known when it calls them.
    const unknown = isFunctional(graph) || nodes === "*" ? [] : nodes.filter((name) => !known.includes(name));
    if (unknown.length === 0) continue;
    throw new InvalidArgumentError(
      `${option}: there is no node ${unknown.join(", ")}; there are ${known.join(", ")}`,
    );
  }
  return given;
}

export interface Place {
  tuple: CheckpointTuple;
  ns: string;
  gates: Gates;
  graph: GraphInside;
}

/** What is to be known of a thread to say where a run of it stands. */
export interface Line {
  runId: string;
  head(ns: string): Promise<CheckpointTuple | undefined>;
  parent(tuple: CheckpointTuple): Promise<CheckpointTuple | undefined>;
  tasksOf(tuple: CheckpointTuple): Promise<[id: string, name: string][]>;
}

/** The gates of a graph: those of the run in place of its own. */
export function gatesOf(graph: GraphInside, request: Partial<RunRequest> = {}): Gates {
  return {
    before: request.interruptBefore ?? graph.interruptBefore ?? [],
    after: request.interruptAfter ?? graph.interruptAfter ?? [],
  };
}

/** Whether the graph, or one in it, has any gate. */
export function hasGates(graph: GraphInside, gates: Gates): boolean {
  if (gates.before.length + gates.after.length > 0) return true;
  for (const [, inner] of graph.getSubgraphs()) {
    if (hasGates(inner as GraphInside, gatesOf(inner as GraphInside))) return true;
  }
  return false;
}

/** Whether a run has come to a gate, at this checkpoint of a graph or in a subgraph of it. */
export async function isAtGate({ graph, tuple, ns, gates }: Place, line: Line): Promise<boolean> {
  const tasks = await tasksAt(tuple, line);
  const { run_id, prepares } = marksOf(tuple);
  if (run_id === line.runId && prepares !== true) {
    if (tasks.some(([, name]) => isOneOf(name, gates.before))) return true;
    // The tasks of the step that the checkpoint ended.
    const before = gates.after.length === 0 ? undefined : await line.parent(tuple);
    const ended = before === undefined ? [] : await tasksAt(before, line);
    if (ended.some(([, name]) => isOneOf(name, gates.after))) return true;
  }
  for (const [id, name] of tasks) {
    const inner = subgraphOf(graph, name);
    if (inner === undefined) continue;
    const below = namespaceBelow(ns, segmentOf({ id, name }), inner.checkpointer === true);
    const head = await line.head(below);
    if (head === undefined) continue;
    if (await isAtGate({ graph: inner, tuple: head, ns: below, gates: gatesOf(inner) }, line)) return true;
  }
  return false;
}

async function tasksAt(tuple: CheckpointTuple, line: Line): Promise<[id: string, name: string][]> {
  return marksOf(tuple).tasks ?? (await line.tasksOf(tuple));
}

function isOneOf(name: string, nodes: Nodes): boolean {
  return nodes === "*" ? name !== START : nodes.includes(name);
}
