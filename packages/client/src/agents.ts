/**
 * What `connect<typeof agents>()` knows of the agents that a worker serves: by their types alone, and by their shape, so
 * that nothing of a worker, or of LangGraph, is imported.
 */
import type { StartParams } from "./params.ts";

/** `typeof agents`: graphs, functions, and what `agent()` and `perRun()` make of them, by their names. */
export type Agents = Record<string, unknown>;

export type AgentName<A extends Agents> = keyof A & string;

/** What `agent()` was given. */
type Inside<A> = A extends { readonly kind: "graph"; readonly graph: infer Graph }
  ? Graph
  : A extends { readonly kind: "function"; readonly run: infer Run }
    ? Run
    : A;

// biome-ignore lint/suspicious/noExplicitAny: of a factory nothing matters but what it makes.
type Made<A> = A extends (config: any) => infer Graph
  ? Awaited<Graph> extends { readonly "~InputType": unknown }
    ? Awaited<Graph>
    : A
  : A;

type Agent<A> = Made<Inside<A>>;

// biome-ignore lint/suspicious/noExplicitAny: any function agent, whatever it takes.
type YieldOf<A> = A extends (context: any) => AsyncIterable<infer Yielded> ? Yielded : never;

type UnionToIntersection<U> = (U extends unknown ? (each: U) => void : never) extends (all: infer I) => void
  ? I
  : never;

type Updates<A> =
  YieldOf<A> extends infer Y
    ? Y extends { readonly type: "updates"; readonly "~values"?: infer Values }
      ? Values
      : never
    : never;

/** What a run of the agent takes. */
export type InputOf<A> =
  Agent<A> extends { readonly "~InputType": infer Input }
    ? Input
    : Agent<A> extends (context: infer Context) => unknown
      ? Context extends { readonly input: infer Input }
        ? Input
        : unknown
      : unknown;

/** The state of its threads: a graph's, or what a function yields as `update({…})`. */
export type StateOf<A> =
  Agent<A> extends { readonly "~OutputType": infer State }
    ? State
    : [Updates<Agent<A>>] extends [never]
      ? Record<string, unknown>
      : UnionToIntersection<Updates<Agent<A>>>;

type Customs<A> =
  YieldOf<A> extends infer Y
    ? Y extends { readonly type: "custom"; readonly "~data"?: infer Data }
      ? Data
      : never
    : never;

/** What a function agent yields as `custom(…)`. */
export type CustomOf<A> = [Customs<Agent<A>>] extends [never] ? unknown : Customs<Agent<A>>;

/** The params of a start, of each of the agents. */
export type StartOf<A extends Agents> = {
  [Name in AgentName<A>]: Omit<StartParams, "agent" | "input"> & { agent: Name; input?: InputOf<A[Name]> };
}[AgentName<A>];
