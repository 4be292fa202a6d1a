/** What `--agents` and AGENTS name: a module, a `langgraph.json`, or the folder of one. */
import { existsSync, statSync } from "node:fs";
import { basename, extname, join } from "node:path";
import type { Agent } from "@throughline/worker";
import { AgentsError } from "./errors.ts";
import { agentsOf, place, toAgent } from "./exports.ts";
import { type GraphEntry, readProject } from "./langgraph-json.ts";
import { importModule } from "./module.ts";

export interface Loaded {
  agents: Record<string, Agent>;
  /** What the user should know, though it is no error. */
  notes: string[];
}

const projectFile = "langgraph.json";
const modules = new Set([".ts", ".mts", ".cts", ".js", ".mjs", ".cjs"]);

/**
 * Loads the agents.
 *
 * @param path absolute
 * @param taken names of agents that are served anyway
 * @param env where a project's variables go; those that are set already stay as they are
 * @throws AgentsError
 */
export async function loadAgents(
  path: string,
  taken: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<Loaded> {
  const file = existing(path);
  const loaded =
    basename(file) === projectFile || extname(file) === ".json"
      ? await loadProject(file, env)
      : await loadModule(file);
  const clashes = Object.keys(loaded.agents).filter((name) => taken.includes(name));
  if (clashes.length > 0) {
    throw new AgentsError(
      clashes.map(
        (name) => `${place(file, name)}: ${name} is the name of a built-in agent; give yours another`,
      ),
    );
  }
  return loaded;
}

function existing(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) throw new AgentsError([`${path}: there is no such file`]);
  if (!found.isDirectory()) return path;
  const file = join(path, projectFile);
  if (existsSync(file)) return file;
  throw new AgentsError([`${path}: is a folder without a ${projectFile}; name a file`]);
}

async function loadModule(file: string): Promise<Loaded> {
  if (!modules.has(extname(file))) {
    const python = extname(file) === ".py" ? "; agents in Python cannot be run here" : "";
    throw new AgentsError([
      `${file}: is no module: name a .ts, .js or .mjs file, or a ${projectFile}${python}`,
    ]);
  }
  const notes: string[] = [];
  return { agents: await agentsOf(await importModule(file), file, notes), notes };
}

async function loadProject(file: string, env: NodeJS.ProcessEnv): Promise<Loaded> {
  const { graphs, env: variables, notes } = readProject(file);
  for (const [name, value] of Object.entries(variables)) env[name] ??= value;
  const agents: Record<string, Agent> = {};
  for (const graph of graphs) agents[graph.name] = await loadGraph(graph, file, notes);
  return { agents, notes };
}

async function loadGraph(
  { name, module, exportName, description }: GraphEntry,
  file: string,
  notes: string[],
): Promise<Agent> {
  if (!existsSync(module)) throw new AgentsError([`${file}: graph ${name}: there is no file ${module}`]);
  const exports = await importModule(module);
  if (!Object.hasOwn(exports, exportName)) {
    const others = Object.keys(exports).join(", ") || "nothing";
    throw new AgentsError([`${file}: graph ${name}: ${module} exports ${others}, but no ${exportName}`]);
  }
  return await toAgent(
    exports[exportName],
    module,
    exportName,
    notes,
    description === undefined ? undefined : { description },
  );
}
