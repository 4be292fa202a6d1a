import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { ConfigError } from "@throughline/kit";
import { createOutput } from "./output.ts";
import { supervise, supervisorName } from "./supervise.ts";

/** Where the terminal client looks for a gateway. */
const defaultUrl = "ws://127.0.0.1:8787/v1/ws";
const root = fileURLToPath(new URL("../../../", import.meta.url));

process.exitCode = await main(process.env, process.argv.slice(2));
process.exit();

async function main(env: NodeJS.ProcessEnv, workerArgs: readonly string[]): Promise<number> {
  // Whoever reads our log may go away first; that is no reason to leave children behind.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  const color = process.stdout.isTTY === true && !env.NO_COLOR;
  const write = (text: string) => void process.stdout.write(text);
  const output = createOutput([supervisorName, "gateway", "worker"], write, color);
  try {
    const host = env.HOST || "127.0.0.1";
    const port = readPort(env.PORT);
    const shared = { HOST: host, PORT: String(port), AUTH: env.AUTH || "none" };
    const dataDir = env.DATA_DIR || `${root}.data/redis`;
    const shortDataDir = relative(process.cwd(), dataDir);
    return await supervise({
      services: [
        { name: "gateway", main: `${root}apps/gateway/dist/main.js`, env: shared },
        { name: "worker", main: `${root}apps/worker/dist/main.js`, env: shared, args: workerArgs },
      ],
      redis: env.REDIS_URL
        ? { url: env.REDIS_URL }
        : { dataDir: /^(\.\.|$)/.test(shortDataDir) ? dataDir : shortDataDir },
      listen: { host, port },
      output,
      endWithParent: env.npm_lifecycle_event !== undefined,
      banner: (details) => banner(host, port, shared.AUTH, details.get("worker")),
    });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const line of error.lines) output.line(supervisorName, line);
    return 1;
  }
}

function readPort(text: string | undefined): number {
  const port = text ? Number(text) : 8787;
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new ConfigError(["PORT: is not a port; it should be a whole number from 1 to 65535"]);
  }
  return port;
}

function banner(host: string, port: number, auth: string, worker: string | undefined): string[] {
  const where = host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host;
  const url = `ws://${where.includes(":") ? `[${where}]` : where}:${port}/v1/ws`;
  // What the terminal client does not do by itself.
  const options = `${url === defaultUrl ? "" : ` --url ${url}`}${auth === "none" ? "" : " --token TOKEN"}`;
  return [
    "",
    `ready: ${url}`,
    ...(worker === undefined ? [] : [`the worker ${worker}`]),
    "try, in another terminal:",
    `  npm run cli --${options} run storyteller`,
    `  npm run cli --${options} run digest --file README.md`,
    "Ctrl-C stops everything. What was streamed is kept for the next start.",
    "",
  ];
}
