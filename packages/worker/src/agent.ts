/**
 * What an agent is: a compiled LangGraph.js graph, or an async generator function that yields parts; and what such a
 * function is told.
 *
 *     export async function* hello({ input, signal }: AgentContext) {
 *       yield "Hello, ";
 *       yield `${input}!`;
 *     }
 */
import type { BaseStore, LangGraphRunnableConfig, Pregel } from "@langchain/langgraph";
import { isGraph as isPregel } from "@throughline/checkpoint";
import {
  type FlatMessage,
  type MessagesPart,
  type Part,
  type StreamMode,
  streamModes,
} from "@throughline/protocol";

/** What an agent is told about its run. */
export interface AgentContext<Input = unknown> {
  /** The run's input, as `run.start` brought it. */
  readonly input: Input;
  /** `command` of `run.start`, which came in place of input: an answer to what an earlier run asked, say. */
  readonly command: Readonly<Record<string, unknown>> | null;
  /** The thread's messages, oldest first; those that this run's input brought are the last of them. */
  readonly messages: readonly FlatMessage[];
  readonly threadId: string;
  readonly runId: string;
  /** 1, 2, …: which worker's try this is. */
  readonly attempt: number;
  /**
   * Aborted when the run is cancelled, when the worker is told to stop, or when this attempt has lost the run. Its
   * reason is an Error. Hand it to everything that waits.
   */
  readonly signal: AbortSignal;
  /** The checkpoint that this run goes on from: the thread's state before it. null on a new thread. */
  readonly checkpoint: {
    readonly checkpointId: string;
    readonly values: Readonly<Record<string, unknown>>;
  } | null;
  /**
   * What earlier attempts of this run had streamed, and readers still have: for an agent that takes over with `resume`, all
   * of it; else up to the last `step`. null where the agent begins at the beginning.
   */
  readonly partial: {
    readonly messages: readonly FlatMessage[];
    readonly values: Readonly<Record<string, unknown>>;
  } | null;
  /** What was given to the last `step` of this run that is in its log; null where there was none, or nothing was given. */
  readonly step: unknown;
  /** `metadata` of `run.start`. */
  readonly metadata: Readonly<Record<string, unknown>>;
  /** `config` of `run.start`. */
  readonly config: Readonly<Record<string, unknown>>;
  /** What outlives threads: see `store` of `serve`. null where there is none. */
  readonly store: BaseStore | null;
}

/** The end of a step: see `step`. */
export interface Step {
  readonly type: "step";
  readonly state: unknown;
}

/** What an agent may yield: a part, a string, which is a token, or the end of a step. */
export type Yielded = Part | Step | string;

export type AgentFunction<Input = unknown> = (context: AgentContext<Input>) => AsyncIterable<Yielded>;

export interface AgentOptions {
  /** One line for `agent.list`. @default "" */
  description?: string;
  /** The stream modes that the agent can produce. @default messages, values, updates, custom; of a graph: all */
  modes?: readonly StreamMode[];
  /**
   * What the next attempt does when a worker died in the middle of a run. `restart`: readers drop what was streamed since
   * the last `step`, and the agent begins again there. `resume`: the agent gets `partial` and goes on after its last token.
   * @default "restart"
   */
  takeover?: "resume" | "restart";
}

/** A function agent with its options. */
export interface FunctionAgent<Run extends AgentFunction<never> = AgentFunction<never>>
  extends Required<AgentOptions> {
  readonly kind: "function";
  readonly run: Run;
}

/** Whatever a builder's `compile()` answers, of any state. */
// biome-ignore lint/suspicious/noExplicitAny: a graph's type parameters stand on both sides of its methods; none but any fits all.
export type Graph = Pregel<any, any, any, any, any, any, any, any, any, any, any>;

/** What can be said of a graph; all else is in the graph. */
export type GraphOptions = Pick<AgentOptions, "description" | "modes">;

/**
 * Makes the graph of a run. `config` is the run's, as its nodes get it: `configurable` with `thread_id`, `metadata` with
 * `run_id`, `store`, `signal`.
 */
export type GraphFactory = (config: LangGraphRunnableConfig) => Graph | Promise<Graph>;

/** A graph with its options. */
export interface GraphAgent<G extends Graph | GraphFactory = Graph | GraphFactory>
  extends Required<GraphOptions> {
  readonly kind: "graph";
  readonly graph: G;
}

/** An agent with its options. */
export type Agent = FunctionAgent | GraphAgent;

/**
 * An agent from a graph or a function, and its options. A bare graph or function in `serve({agents})` is one with the
 * defaults.
 */
export function agent<G extends Graph>(graph: G, options?: GraphOptions): GraphAgent<G>;
export function agent<Input = unknown, Y extends Yielded = Yielded>(
  run: (context: AgentContext<Input>) => AsyncIterable<Y>,
  options?: AgentOptions,
): FunctionAgent<(context: AgentContext<Input>) => AsyncIterable<Y>>;
export function agent(from: Graph | AgentFunction<never>, options: AgentOptions = {}): Agent {
  const { description = "", modes } = options;
  if (isGraph(from)) return { kind: "graph", graph: from, description, modes: modes ?? streamModes };
  return {
    kind: "function",
    run: from,
    description,
    // Its first values are told for it.
    modes: modes ?? ["messages", "values", "updates", "custom"],
    takeover: options.takeover ?? "restart",
  };
}

/**
 * An agent whose graph is made for each of its runs, and once more for each attempt at one: a graph that depends on the
 * run's config. What the factory throws is why the run fails.
 *
 *     perRun(({ configurable }) => createReactAgent({ llm: modelOf(configurable?.plan), tools }))
 */
export function perRun<F extends GraphFactory>(
  make: F,
  { description = "", modes }: GraphOptions = {},
): GraphAgent<F> {
  return { kind: "graph", graph: make, description, modes: modes ?? streamModes };
}

/** Whether a value is a compiled graph, by whichever copy of LangGraph. */
export function isGraph(value: unknown): value is Graph {
  return isPregel(value);
}

type OtherPart = Exclude<Part, { type: "messages" | "lifecycle" }>;
/** What these parts carry is in their types, and only there: so a client knows an agent's custom data and its state. */
export type CustomPart<Data> = OtherPart & { readonly type: "custom"; readonly "~data"?: Data };
export type UpdatePart<Values> = OtherPart & { readonly type: "updates"; readonly "~values"?: Values };

export interface TokenOptions {
  /** The message that the token belongs to. @default one message for the whole run */
  id?: string;
  /** Becomes `langgraph_node`. @default the agent's name */
  node?: string;
  tags?: readonly string[];
}

/** A token of an answer: a `messages` part with one chunk. The text of a message is the concatenation of its tokens. */
export function token(text: string, options?: TokenOptions): MessagesPart {
  // The shape is the same whether or not there are options: the worker fills in what is left undefined.
  const metadata: Record<string, unknown> = { langgraph_node: options?.node };
  if (options?.tags !== undefined) metadata.tags = options.tags;
  const chunk = { type: "AIMessageChunk", id: options?.id as string, content: text };
  return { type: "messages", ns: [], data: [chunk, metadata as never] };
}

/** Data of the agent's own: progress, a chart, a link. */
export function custom<Data>(data: Data): CustomPart<Data> {
  return { type: "custom", ns: [], data: data as never };
}

/**
 * A state update: these keys of the thread's state now have these values (`messages` are merged by id). It is in
 * the checkpoint that ends the run, also when the run is cancelled.
 */
export function update<Values extends Record<string, unknown>>(
  values: Values,
  node = "agent",
): UpdatePart<Values> {
  return { type: "updates", ns: [], data: { [node]: values } as never };
}

/**
 * A step is done: whatever happens, a later attempt does not do again what came before it. It gets `state` as
 * `context.step`, and what was streamed up to here as `context.partial`. The agent goes on when that is certain.
 *
 * @param state JSON, up to 1 MiB; messages of LangChain's become flat ones. Readers never see it. @default null
 */
export function step(state?: unknown): Step {
  return { type: "step", state };
}
