/** A LangGraph project's `langgraph.json`: what of it is for us. */
import { readFileSync } from "node:fs";
import { dirname, extname, resolve } from "node:path";
import { parseEnv } from "node:util";
import { z } from "zod";
import { AgentsError } from "./errors.ts";

const entry = z.union([
  z.string().transform((path) => ({ path, description: undefined })),
  z.object({ path: z.string(), description: z.string().optional() }),
]);

const project = z.looseObject({
  graphs: z
    .record(z.string().min(1), entry)
    .refine((graphs) => Object.keys(graphs).length > 0, "there is no graph in it"),
  env: z.union([z.string(), z.record(z.string(), z.coerce.string())]).default({}),
  node_version: z.coerce.string().optional(),
});

export interface GraphEntry {
  name: string;
  /** The module, absolute. */
  module: string;
  /** Which export of it; `default` where the entry names none. */
  exportName: string;
  description: string | undefined;
}

export interface Project {
  graphs: GraphEntry[];
  env: Record<string, string>;
  /** What of the file is not done here, for the log. */
  notes: string[];
}

/** Keys that are for building LangGraph's own image, or are understood: nobody misses them here. */
const unmissed = new Set(["$schema", "graphs", "env", "node_version", "dependencies", "dockerfile_lines"]);

/** @throws AgentsError */
export function readProject(path: string): Project {
  const parsed = project.safeParse(readJson(path));
  if (!parsed.success) {
    throw new AgentsError(
      parsed.error.issues.map(
        (issue) => `${path}: ${issue.path.map(String).join(".") || "the file"}: ${issue.message}`,
      ),
    );
  }
  const { graphs, env, node_version, ...rest } = parsed.data;
  const notes: string[] = [];
  const running = process.versions.node.split(".")[0];
  if (node_version !== undefined && node_version.split(".")[0] !== running) {
    notes.push(`${path}: asks for Node ${node_version}; this is Node ${process.versions.node}`);
  }
  const missed = Object.keys(rest).filter((key) => !unmissed.has(key));
  if (missed.length > 0)
    notes.push(`${path}: ${missed.join(", ")} left out: for LangGraph's own server only`);
  const folder = dirname(path);
  return {
    graphs: Object.entries(graphs).map(([name, each]) => graphEntry(name, each, path, folder)),
    env: typeof env === "string" ? readEnv(resolve(folder, env), path) : env,
    notes,
  };
}

function graphEntry(
  name: string,
  { path: place, description }: z.output<typeof entry>,
  path: string,
  folder: string,
): GraphEntry {
  const [, file = place, exportName = "default"] = /^(.*?):([^:/\\]+)$/.exec(place) ?? [];
  if (extname(file) === ".py") {
    throw new AgentsError([
      `${path}: graph ${name} is in Python (${file}); this worker runs LangGraph.js graphs: .ts, .js or .mjs files`,
    ]);
  }
  return { name, module: resolve(folder, file), exportName, description };
}

function readEnv(file: string, path: string): Record<string, string> {
  try {
    return parseEnv(readFileSync(file, "utf8")) as Record<string, string>;
  } catch (error) {
    throw new AgentsError([
      `${path}: env: ${file} cannot be read (${(error as NodeJS.ErrnoException).code})`,
    ]);
  }
}

function readJson(path: string): unknown {
  const text = readFileSync(path, "utf8");
  try {
    return JSON.parse(text);
  } catch (error) {
    const { message } = error as Error;
    const position = /position (\d+)/.exec(message)?.[1];
    const line = position === undefined ? "" : `:${text.slice(0, Number(position)).split("\n").length}`;
    throw new AgentsError([`${path}${line}: is not JSON: ${message}`]);
  }
}
