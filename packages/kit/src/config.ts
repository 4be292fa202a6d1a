import type { z } from "zod";

/** The environment does not hold what a service needs. The message has one line per bad variable. */
export class ConfigError extends Error {
  readonly code = "config";
  override readonly name: string = "ConfigError";
  /** One line per bad variable. */
  readonly lines: readonly string[];

  constructor(lines: readonly string[]) {
    super(lines.join("\n"));
    this.lines = lines;
  }
}

/**
 * Parses the environment with `schema`, an object schema with a key per variable. An empty variable counts as unset.
 * A variable's `.describe()` text ends its line in the error, so write there what would be right.
 * @throws {ConfigError} that names each bad variable and never prints its value.
 */
export function readConfig<S extends z.ZodType>(
  schema: S,
  env: Readonly<Record<string, string | undefined>> = process.env,
): z.output<S> {
  const given = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ""),
  );
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.map((issue) => {
    const variable = issue.path[0];
    const problem = issue.message.replace(/^(Invalid input|Too small|Too big): /, "");
    if (typeof variable !== "string") return problem;
    const right = describe(schema as Described, variable);
    // A rule of the schema's own says what is wrong also of a variable that has its default.
    const wrong = variable in given || issue.code === "custom" ? problem : "is not set";
    return `${variable}: ${wrong}${right === undefined ? "" : `; it should be ${right}`}`;
  });
  throw new ConfigError([...new Set(lines)]);
}

interface Described {
  readonly description?: string | undefined;
  readonly shape?: Readonly<Record<string, Described>>;
  readonly def?: unknown;
}

/** The description nearest to the outside: `.describe()` may stand before or after `.default()`. */
function describe(schema: Described, variable: string): string | undefined {
  let found = unwrapToObject(schema)?.shape?.[variable];
  while (found !== undefined) {
    if (found.description !== undefined) return found.description;
    found = inner(found);
  }
  return undefined;
}

function unwrapToObject(schema: Described): Described | undefined {
  let found: Described | undefined = schema;
  while (found !== undefined && found.shape === undefined) found = inner(found);
  return found;
}

/** What a default, an optional, a pipe and their like wrap. */
function inner(schema: Described): Described | undefined {
  const def = schema.def as { innerType?: Described; in?: Described } | undefined;
  return def?.innerType ?? def?.in;
}
