/**
 * Imports a module of the user's: TypeScript or JavaScript, ESM or CommonJS, from any folder.
 *
 * jiti does it, and not a loader hook: it is plain JavaScript without dependencies, keeps line numbers, says where a
 * module is broken, and takes the same code whatever the `type` of the package.json above it.
 *
 * Invariant: `@throughline/worker` is this process's own for every such module, wherever it is.
 */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import * as worker from "@throughline/worker";
import { createJiti } from "jiti";
import { AgentsError } from "./errors.ts";

export type Exports = Readonly<Record<string, unknown>>;

/** Packages of ours that a module may import where its own folder has none of that name. */
const lent = new Set(["@langchain/langgraph", "@langchain/core", "zod"]);

/**
 * The module's exports.
 *
 * @param path absolute
 * @throws AgentsError that names the file and, where it is known, the line
 */
export async function importModule(path: string): Promise<Exports> {
  const virtualModules: Record<string, unknown> = { "@throughline/worker": worker };
  for (;;) {
    const jiti = createJiti(path, {
      fsCache: false,
      interopDefault: false,
      tsconfigPaths: true,
      virtualModules,
    });
    try {
      return (await jiti.import(path)) as Exports;
    } catch (error) {
      // Modules that were evaluated already are not evaluated again: jiti keeps them.
      const missing = missingModule(error);
      if (missing === undefined || !lent.has(packageOf(missing)) || missing in virtualModules) {
        throw new AgentsError([explain(error, path)]);
      }
      virtualModules[missing] = await import(missing);
    }
  }
}

/** `file:line: what is wrong` of what a module threw while it was imported. */
export function explain(error: unknown, path: string): string {
  const { file, line } = whereThrown(error) ?? { file: path, line: undefined };
  const where = line === undefined ? file : `${file}:${line}`;
  const missing = missingModule(error);
  if (missing !== undefined) return `${where}: ${explainMissing(missing, file)}`;
  if (!(error instanceof Error)) return `${where}: the module threw ${String(error)}`;
  const syntax = syntaxError.exec(error.message);
  if (syntax !== null) return `${where}: syntax error: ${syntax[1]!.trim()}`;
  return `${where}: ${error.name}: ${error.message.replace(/\s+/g, " ").trim()}`;
}

function explainMissing(specifier: string, importer: string): string {
  if (/^[./]/.test(specifier)) return `there is no module ${specifier}`;
  const name = packageOf(specifier);
  const there = specifier === name ? "" : `; if it is, it has no ${specifier}`;
  return `package ${name} is not installed where this file is${there}. Install it: cd ${dirname(importer)} && npm install ${name}`;
}

/** jiti's form of a syntax error. */
const syntaxError = /^ParseError: (.*?)\s*\n\s*(\/.*):(\d+):\d+/s;
const cannotFind = /^Cannot find (?:module|package) '([^']+)'/;

function missingModule(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  if (error.code !== "MODULE_NOT_FOUND" && error.code !== "ERR_MODULE_NOT_FOUND") return undefined;
  const specifier = cannotFind.exec(error.message)?.[1];
  return specifier?.startsWith("file:") ? fileURLToPath(specifier) : specifier;
}

/** `@scope/name/sub` → `@scope/name`. */
function packageOf(specifier: string): string {
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}

/** The innermost place in code of the user's. */
function whereThrown(error: unknown): { file: string; line: number } | undefined {
  if (!(error instanceof Error)) return undefined;
  const syntax = syntaxError.exec(error.message);
  if (syntax !== null) return { file: syntax[2]!, line: Number(syntax[3]) };
  for (const frame of error.stack?.split("\n") ?? []) {
    const [, file, line] = /(?:\(|at )(?:async )?(?:file:\/\/)?(\/[^()]*?):(\d+):\d+\)?$/.exec(frame) ?? [];
    if (file === undefined || file.includes("/node_modules/") || dirname(file) === here) continue;
    return { file: decodeURI(file), line: Number(line) };
  }
  return undefined;
}

const here = dirname(fileURLToPath(import.meta.url));
