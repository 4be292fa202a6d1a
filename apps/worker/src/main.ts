/**
 * The worker as a process: the example agents, and those of the module that `--agents` or AGENTS names, served from the
 * queue in Redis until SIGTERM.
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { agents } from "@throughline/examples";
import { ConfigError, createLogger, readConfig, redisUrl, runService } from "@throughline/kit";
import { type Agent, type StoreOptions, serve } from "@throughline/worker";
import { z } from "zod";
import { loadAgents } from "./load/load.ts";

const days = z.coerce.number().int().min(86_400).default(604_800);

const environment = z.object({
  REDIS_URL: redisUrl.default("redis://127.0.0.1:6379"),
  CONCURRENCY: z.coerce
    .number()
    .int()
    .min(1)
    .max(10_000)
    .default(100)
    .describe("how many runs go at once, from 1 to 10000"),
  KEY_PREFIX: z
    .string()
    .regex(/^[A-Za-z0-9_.-]+$/)
    .default("tl")
    .describe("the gateways' KEY_PREFIX: letters, digits, _ . - only"),
  RUN_TTL_S: days.describe("how long runs are kept after their end, in seconds, a day (86400) at least"),
  RUN_IDLE_TTL_S: days.describe(
    "how long runs are kept while nothing happens, in seconds, a day (86400) at least",
  ),
  STORE: z
    .enum(["owner", "shared", "off"])
    .default("owner")
    .describe("whose the long-term store's items are: each owner's own, shared by all, or off"),
  STORE_TTL_S: z.coerce
    .number()
    .int()
    .min(1)
    .max(3_153_600_000)
    .optional()
    .describe("how long the store keeps an item that nobody writes again, in seconds"),
});

const logger = createLogger("worker");
/** Longer than an import takes that does not wait for somebody else. */
const slowImportMs = 10_000;

function storeOptions({ STORE, STORE_TTL_S }: z.output<typeof environment>): StoreOptions | false {
  if (STORE === "off") return false;
  const ttl = STORE_TTL_S === undefined ? {} : { defaultMs: STORE_TTL_S * 1000 };
  return { shared: STORE === "shared", ttl };
}

/** The file that the command line names, else the environment; absolute. */
function agentsFile(): string | undefined {
  let named: string | undefined;
  try {
    named = parseArgs({ options: { agents: { type: "string" } } }).values.agents;
  } catch (error) {
    throw new ConfigError([`${(error as Error).message}; the only option is --agents <file>`]);
  }
  named ??= process.env.AGENTS || undefined;
  if (named === undefined) return undefined;
  // npm runs its scripts in the package's root, wherever the command was typed.
  const { npm_lifecycle_event: script, INIT_CWD: typedIn } = process.env;
  return resolve((script === undefined ? undefined : typedIn) ?? process.cwd(), named);
}

/** The user's own agents, of names that are not `taken`. */
async function ownAgents(file: string, taken: readonly string[]): Promise<Record<string, Agent>> {
  const slow = setTimeout(
    () => logger.warn(`${file} is still being imported: what does it wait for?`),
    slowImportMs,
  );
  try {
    const { agents, notes } = await loadAgents(file, taken);
    for (const note of notes) logger.warn(note);
    logger.info(`agents of ${file}: ${Object.keys(agents).join(", ")}`);
    return agents;
  } finally {
    clearTimeout(slow);
  }
}

await runService({
  name: "the worker",
  logger,
  start: async () => {
    const env = readConfig(environment);
    const file = agentsFile();
    const examples = agents(process.env);
    const own = file === undefined ? {} : await ownAgents(file, Object.keys(examples));
    const offered = { ...examples, ...own };
    if (examples.chat === undefined) {
      logger.info(
        "agent chat is off: to talk to a model, set OPENAI_API_KEY or OPENAI_BASE_URL, and OPENAI_MODEL",
      );
    }
    const worker = await serve({
      agents: offered,
      redis: env.REDIS_URL,
      concurrency: env.CONCURRENCY,
      prefix: env.KEY_PREFIX,
      retention: { endedMs: env.RUN_TTL_S * 1000, idleMs: env.RUN_IDLE_TTL_S * 1000 },
      store: storeOptions(env),
      logger,
    });
    return { close: () => worker.close(), detail: `offers ${Object.keys(offered).join(", ")}` };
  },
});
