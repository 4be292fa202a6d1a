/** Which exports of a module are agents, and under what names. */

import { readFileSync } from "node:fs";
import { basename, extname } from "node:path";
import { isRecord } from "@throughline/protocol";
import {
  type Agent,
  agent,
  type Graph,
  type GraphFactory,
  type GraphOptions,
  isGraph,
  perRun,
} from "@throughline/worker";
import { AgentsError } from "./errors.ts";
import { type Exports, explain } from "./module.ts";

const whatIsOne =
  "an agent is an async generator function, agent(…) of one, a compiled LangGraph graph, or a function that answers a graph";

/**
 * The agents of a module: those of its default export where it has one (a record of agents, or an agent), else all of
 * its named exports.
 *
 * @param notes what the user should know
 * @throws AgentsError, with a line for each export that is no agent
 */
export async function agentsOf(
  exports: Exports,
  path: string,
  notes: string[],
): Promise<Record<string, Agent>> {
  const found = named(exports, path);
  if (Object.keys(found).length === 0) {
    throw new AgentsError([`${path}: exports no agent; ${whatIsOne}`]);
  }
  const agents: Record<string, Agent> = {};
  const problems: string[] = [];
  for (const [name, value] of Object.entries(found)) {
    try {
      agents[name] = await toAgent(value, path, name, notes);
    } catch (error) {
      if (!(error instanceof AgentsError)) throw error;
      problems.push(...error.lines);
    }
  }
  if (problems.length > 0) throw new AgentsError(problems);
  return agents;
}

function named(exports: Exports, path: string): Record<string, unknown> {
  const { default: own, ...rest } = exports;
  // A CommonJS module may be its one export.
  const whole = isOne(exports) ? exports : own;
  if (whole === undefined) return rest;
  if (isRecord(whole) && !isOne(whole)) return { ...whole };
  // What a function is called that has no name, by JavaScript and by jiti.
  const isNamed = typeof whole === "function" && !["", "default", "_default"].includes(whole.name);
  return { [isNamed ? whole.name : basename(path, extname(path))]: whole };
}

/**
 * The agent that an export is. A function that answers a graph is called for each run; and once now, with an empty
 * config, to see whether it does. One that takes a config and throws then may need a real one: that is a note.
 *
 * @param notes what the user should know
 * @throws AgentsError
 */
export async function toAgent(
  value: unknown,
  path: string,
  name: string,
  notes: string[],
  options?: GraphOptions,
): Promise<Agent> {
  if (isAgent(value)) return options === undefined ? value : { ...value, ...options };
  if (isAsyncGenerator(value)) return agent(value, options);
  if (typeof value === "function" && !isClass(value)) {
    return await madePerRun(value as (config: unknown) => unknown, path, name, notes, options);
  }
  if (!isGraph(value) && !isBuilder(value)) {
    const what = `${name} is ${describe(value)}, which is no agent`;
    throw new AgentsError([`${place(path, name)}: ${what}; ${whatIsOne}`]);
  }
  try {
    return agent(compiled(value) as Graph, options);
  } catch (error) {
    throw new AgentsError([`${explain(error, path)} (in ${name}, which was compiled)`]);
  }
}

async function madePerRun(
  value: (config: unknown) => unknown,
  path: string,
  name: string,
  notes: string[],
  options?: GraphOptions,
): Promise<Agent> {
  const make = async (config: unknown) => compiled(await value(config));
  const made = perRun(make as GraphFactory, options);
  let first: unknown;
  try {
    first = await make({ configurable: {} });
  } catch (error) {
    const what = `${explain(error, path)} (in ${name}, which was called for its graph`;
    if (!takesConfig(value)) throw new AgentsError([`${what})`]);
    notes.push(`${what} with an empty config)`);
    return made;
  }
  if (isGraph(first)) return made;
  const what = `${name} is a function that answers ${describe(first)} and no graph`;
  throw new AgentsError([`${place(path, name)}: ${what}; ${whatIsOne}`]);
}

/** Whether a function has parameters: those that have defaults are not in its `length`. */
function takesConfig(value: (config: unknown) => unknown): boolean {
  return !/^[^(]*\(\s*\)/.test(Function.prototype.toString.call(value));
}

function compiled(value: unknown): unknown {
  return isBuilder(value) ? value.compile() : value;
}

/** `file:line` where a name is exported; the file alone where that cannot be seen in its text. */
export function place(path: string, name: string): string {
  const escaped = name.replace(/[^\w$]/g, "\\$&");
  const patterns = [
    `^\\s*export\\s+(?:declare\\s+|abstract\\s+)?(?:async\\s+)?(?:const|let|var|class|function)\\b\\s*\\*?\\s*${escaped}(?![\\w$])`,
    `^\\s*export\\s+default\\s+(?:async\\s+)?function\\s*\\*?\\s*${escaped}(?![\\w$])`,
    `^\\s*["']?${escaped}["']?\\s*[:,(]`,
    `^\\s*export\\s+\\{[^}]*\\b${escaped}\\b`,
    `^\\s*export\\s+default\\b`,
  ];
  let lines: string[];
  try {
    lines = readFileSync(path, "utf8").split("\n");
  } catch {
    return path;
  }
  for (const pattern of patterns) {
    const line = lines.findIndex((each) => new RegExp(pattern).test(each));
    if (line !== -1) return `${path}:${line + 1}`;
  }
  return path;
}

/** It is an agent, or what one is made of, and no record of them. */
function isOne(value: unknown): boolean {
  return typeof value === "function" || isGraph(value) || isAgent(value) || isBuilder(value);
}

function isAgent(value: unknown): value is Agent {
  if (!isRecord(value)) return false;
  return (
    (value.kind === "function" && typeof value.run === "function") ||
    (value.kind === "graph" && (isGraph(value.graph) || typeof value.graph === "function"))
  );
}

/** A StateGraph that nobody has compiled. */
function isBuilder(value: unknown): value is { compile(): unknown } {
  return isRecord(value) && typeof value.compile === "function" && "nodes" in value;
}

function isAsyncGenerator(
  value: unknown,
): value is Parameters<typeof agent>[0] & (() => AsyncGenerator<never>) {
  return Object.prototype.toString.call(value) === "[object AsyncGeneratorFunction]";
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return "an array";
  if (typeof value === "object") return "an object";
  if (typeof value !== "function") return `a ${typeof value}`;
  return isClass(value) ? "a class" : "a function";
}

function isClass(value: object): boolean {
  return /^class\b/.test(Function.prototype.toString.call(value));
}
