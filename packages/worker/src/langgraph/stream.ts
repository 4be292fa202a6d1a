/**
 * LangGraph's stream as parts. A graph is always run with several modes and with its subgraphs, so that every chunk is
 * `[ns, mode, payload]`; what it looks like on the wire is decided here, and only here.
 *
 * Invariants:
 * - `ns` is the path of the graph that a part comes from, in every mode: where LangGraph names a task, the task's own
 *   segment is left out, and so are those of the functional tasks that called it;
 * - messages are flat wherever they stand, and configs are without callbacks and LangGraph's own keys.
 */
import { flattenMessage, flattenValues, hideError, pathOf } from "@throughline/checkpoint";
import type { Part } from "@throughline/protocol";

/** LangGraph's modes, as `graph.stream` knows them. */
export type GraphMode =
  | "values"
  | "updates"
  | "messages"
  | "custom"
  | "checkpoints"
  | "tasks"
  | "debug"
  | "tools";

export type GraphChunk = [ns: string[], mode: GraphMode, payload: unknown];

/** An event of `streamEvents`, version 2. */
export interface GraphEvent {
  event: string;
  name: string;
  run_id: string;
  tags?: string[];
  metadata?: Record<string, unknown>;
  data: Record<string, unknown>;
}

type Fields = Record<string, unknown>;

/** Where something in a stream comes from: the path of the task, its own segment last, and that of its graph. */
export interface Origin {
  readonly task: readonly string[];
  readonly ns: string[];
}

/** Knows which paths are graphs: of those, and of no task, LangGraph tells what tasks they begin. */
export class Origins {
  readonly #graphs = new Set<string>([""]);
  /** Tokens come in long rows from the same task. */
  readonly #known = new Map<string, Origin>();

  /** A graph said something of itself. */
  see(ns: readonly string[]): void {
    const graph = ns.join("|");
    if (this.#graphs.has(graph)) return;
    this.#graphs.add(graph);
    this.#known.clear();
  }

  /** Of what has a task's metadata; undefined outside of a graph. */
  of(metadata: Fields | undefined): Origin | undefined {
    const path = metadata?.langgraph_checkpoint_ns ?? metadata?.checkpoint_ns;
    if (typeof path !== "string" || path === "") return undefined;
    let origin = this.#known.get(path);
    if (origin === undefined) {
      const task = pathOf(path);
      origin = { task, ns: this.graphOf(task.slice(0, -1)) };
      this.#known.set(path, origin);
    }
    return origin;
  }

  /** The innermost graph on a path: what is behind it are functional tasks. */
  graphOf(path: readonly string[]): string[] {
    let length = path.length;
    while (!this.#graphs.has(path.slice(0, length).join("|"))) length -= 1;
    return path.slice(0, length);
  }
}

/** The part that a chunk is on the wire. */
export function chunkPart([ns, mode, payload]: GraphChunk, origins: Origins): Part {
  switch (mode) {
    case "messages": {
      const [message, metadata] = payload as [Parameters<typeof flattenMessage>[0], Fields];
      return {
        type: "messages",
        ns: (origins.of(metadata) ?? { ns }).ns,
        data: [flattenMessage(message) as never, metadata as never],
      };
    }
    case "custom":
      return { type: mode, ns: origins.graphOf(ns), data: plain(payload) };
    case "tools":
      return { type: mode, ns: origins.graphOf(ns), data: plain(withoutMessage(payload as Fields)) };
    case "checkpoints":
      return { type: "checkpoints", ns, data: checkpoint(payload as Fields) };
    case "debug": {
      const debug = payload as Fields;
      if (debug.type !== "checkpoint") return { type: "debug", ns, data: plain(debug) };
      return { type: "debug", ns, data: { ...debug, payload: checkpoint(debug.payload as Fields) } as never };
    }
    default:
      return { type: mode, ns, data: plain(payload) };
  }
}

/** The part that an event is on the wire. */
export function eventPart(event: GraphEvent, origins: Origins): Part {
  return {
    type: "events",
    ns: origins.of(event.metadata)?.ns ?? [],
    data: plain({ ...event, data: withoutMessage(event.data) }, flattenMessage),
  };
}

/** The path of the task that a message's metadata tell of, its own segment last; undefined outside of a graph. */
export function taskOf(metadata: Record<string, unknown> | undefined): string[] | undefined {
  const path = metadata?.langgraph_checkpoint_ns ?? metadata?.checkpoint_ns;
  return typeof path === "string" && path !== "" ? path.split("|") : undefined;
}

/** What JSON makes of it must be what a reader is to see. */
function plain(value: unknown, flatten?: typeof flattenMessage): never {
  return (flattenValues(value, flatten) ?? null) as never;
}

function checkpoint(state: Fields): never {
  const { config, parentConfig, tasks } = state;
  return plain({
    ...state,
    ...(Array.isArray(tasks) ? { tasks: tasks.map(withoutMessage) } : {}),
    config: plainConfig(config),
    ...(parentConfig === undefined ? {} : { parentConfig: plainConfig(parentConfig) }),
  });
}

/** What tells of a task, or of a tool's call, as readers see it: what was thrown there is for the log. */
function withoutMessage<T extends Fields>(told: T): T {
  return told?.error === undefined ? told : { ...told, error: hideError(told.error) };
}

/** A config without what is for this process only: callbacks, functions, and LangGraph's own keys. */
function plainConfig(config: unknown): unknown {
  if (typeof config !== "object" || config === null) return config;
  const { callbacks: _, configurable, ...rest } = config as Fields;
  const own = Object.entries((configurable ?? {}) as Fields).filter(
    ([key, value]) => !key.startsWith("__") && typeof value !== "function",
  );
  return { ...rest, configurable: Object.fromEntries(own) };
}
