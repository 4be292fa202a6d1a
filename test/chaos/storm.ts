/**
 * A storm: every client of a gateway comes back at once, and each has missed hundreds of parts.
 *
 *     npm run storm [-- --clients N --parts N --case NAME]
 *
 * The gateway is a process of its own. It is killed under clients of packages/client that follow runs; the logs go on
 * while it is away; it is started again, and all come back, at the same moment or as their backoff has it. Checked: each
 * client's story is its log's, nobody is closed but by what the case asks for, and the gateway's memory stays within bounds.
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { closeCodes } from "@throughline/protocol";
import { LogReader } from "@throughline/runlog";
import { token } from "@throughline/worker";
import { Redis } from "ioredis";
import { toldByLog } from "../support/follower.ts";
import { GatewayProcess, residentBytes } from "../support/gateway-process.ts";
import { lastingPort, startPrivateRedis, testPrefix } from "../support/redis.ts";
import { ScriptedRun } from "../support/run.ts";
import { until, within } from "../support/until.ts";
import { StormClient, type Weather } from "./storm-client.ts";

export interface StormOptions {
  clients: number;
  /** Parts that each client misses. */
  parts: number;
  /** Runs that the clients are spread over. */
  runs: number;
  /** Of 1: clients that stop reading in the middle of catching up, on runs whose parts are large. */
  paused?: number;
  /** For how long, ms, once all others are done. */
  pausedMs?: number;
  /** They come back as their backoff has it, not all at once. */
  jitter?: boolean;
  /** More of the gateway's settings. */
  gateway?: Record<string, string>;
  redisUrl: string;
}

export interface StormResult {
  /** What must not be, a sentence each. */
  violations: string[];
  /** From the gateway being up again to a client having all that it missed, ms: the median client, and the last one. */
  caughtUpMs: { median: number; last: number };
  /** Sockets that were closed since it is up again, by code. */
  closes: Map<number, number>;
  /** The gateway's resident memory, bytes: fresh; with all clients idle; at its highest in the storm; after it. */
  resident: { fresh: number; idle: number; peak: number; after: number };
}

/** What the clients have before the storm. */
const before = 20;
const batchParts = 10;
const tokenChars = 40;
/** Larger than what the kernel buffers for a socket that is not read. */
const largeRunBytes = 16 * 1024 * 1024;
const pausedPerRun = 20;
const deadlineMs = 120_000;

const mib = 1024 * 1024;

/**
 * What a gateway's memory may grow by in a storm, bytes: the pages that it keeps, 64 MiB, those that are being read, 32 of
 * 256 KiB, twice, and as much garbage again; and for each socket that is not read what it may hold unsent, 1 MiB and a
 * page, however many parts wait for it.
 */
export function memoryBound(pausedClients: number): number {
  return 2 * (64 + 16) * mib + pausedClients * 1.25 * mib;
}

export async function storm(options: StormOptions): Promise<StormResult> {
  const prefix = testPrefix();
  const redis = new Redis(options.redisUrl);
  const port = await lastingPort();
  const env = { REDIS_URL: options.redisUrl, KEY_PREFIX: prefix, LOG_LEVEL: "info", ...options.gateway };
  let gateway = await GatewayProcess.start(env, port);
  const fresh = residentBytes(gateway.pid).now;
  const pausedCount = Math.round(options.clients * (options.paused ?? 0));
  const runs = await openRuns(redis, prefix, options.runs, tokenChars);
  const chars = Math.ceil(largeRunBytes / options.parts);
  const largeRuns = await openRuns(redis, prefix, Math.ceil(pausedCount / pausedPerRun), chars, "large");
  const weather: Weather = { closes: new Map(), isCalm: false };
  const clients: StormClient[] = [];
  try {
    for (let i = 0; i < options.clients; i++) {
      const pauses = i < pausedCount;
      const run = pauses ? largeRuns[i % largeRuns.length]! : runs[i % runs.length]!;
      clients.push(new StormClient(gateway.url, run.runId, weather, pauses));
    }
    await until(() => clients.every(({ offset }) => offset === before), deadlineMs, "the calm before");
    const idle = residentBytes(gateway.pid).now;

    gateway.process.kill("SIGKILL");
    await gateway.exit;
    await Promise.all([...runs, ...largeRuns].map((run) => run.go(options.parts)));
    weather.closes.clear();
    // Before it is up: some find it before its start is known here.
    for (const client of clients) client.expect(before + options.parts);
    gateway = await GatewayProcess.start(env, port);
    const upAt = performance.now();
    if (options.jitter !== true) for (const { connection } of clients) connection.reconnectNow();

    const reading = clients.filter(({ pauses }) => !pauses);
    await until(
      () => reading.every(({ caughtUpAt }) => caughtUpAt !== undefined),
      deadlineMs,
      "those who read",
    );
    const stuck = clients.filter(({ pauses, caughtUpAt }) => pauses && caughtUpAt === undefined).length;
    await pause(pausedCount === 0 ? 0 : (options.pausedMs ?? 0));
    const stillStuck = clients.filter(({ pauses, caughtUpAt }) => pauses && caughtUpAt === undefined).length;
    weather.isCalm = true;
    for (const client of clients) client.read();
    await until(
      () => clients.every(({ caughtUpAt }) => caughtUpAt !== undefined),
      deadlineMs,
      "those who were paused",
    );
    const { peak } = residentBytes(gateway.pid);

    for (const run of [...runs, ...largeRuns]) await run.scripted.finish();
    const told = await within(Promise.all(clients.map(({ done }) => done)), deadlineMs, "the endings");
    const violations = await compare(clients, told, new LogReader(redis, prefix));
    if (stuck !== pausedCount || stillStuck !== pausedCount) {
      violations.push(`${pausedCount} were to be paused; ${stuck}, and at the end ${stillStuck}, were`);
    }
    for (const code of weather.closes.keys()) {
      const wanted = code === closeCodes.overloaded || (code === closeCodes.noProgress && pausedCount > 0);
      if (!wanted) violations.push(`${weather.closes.get(code)} sockets were closed with ${code}`);
    }
    const grown = peak - idle;
    if (grown > memoryBound(pausedCount)) {
      violations.push(`the gateway grew by ${inMib(grown)}: ${inMib(memoryBound(pausedCount))} are allowed`);
    }
    const times = reading.map(({ caughtUpAt }) => Math.max(0, caughtUpAt! - upAt)).sort((a, b) => a - b);
    return {
      violations,
      caughtUpMs: { median: times[times.length >> 1]!, last: times.at(-1)! },
      closes: new Map(weather.closes),
      resident: { fresh, idle, peak, after: residentBytes(gateway.pid).now },
    };
  } finally {
    weather.isCalm = true;
    for (const { connection } of clients) connection.close();
    gateway.process.kill("SIGKILL");
    await gateway.exit;
    redis.disconnect();
  }
}

interface StormRun {
  runId: string;
  scripted: ScriptedRun;
  go(parts: number): Promise<void>;
}

function openRuns(
  redis: Redis,
  prefix: string,
  count: number,
  chars: number,
  name = "run",
): Promise<StormRun[]> {
  return Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const scripted = await ScriptedRun.open(redis, prefix, `${name}-${i}`);
      const go = async (parts: number) => {
        for (let from = 0; from < parts; from += batchParts) {
          const batch = Array.from({ length: Math.min(batchParts, parts - from) }, (_, at) =>
            token(`${from + at} `.padEnd(chars, "x"), { id: `message-${i}`, node: "teller" }),
          );
          await scripted.append(batch);
        }
      };
      await go(before);
      return { runId: scripted.runId, scripted, go };
    }),
  );
}

async function compare(
  clients: StormClient[],
  told: Awaited<StormClient["done"]>[],
  reader: LogReader,
): Promise<string[]> {
  const logs = new Map<string, Awaited<ReturnType<typeof toldByLog>>>();
  const violations: string[] = [];
  for (const [i, { runId }] of clients.entries()) {
    const log = logs.get(runId) ?? (await toldByLog(reader, runId));
    logs.set(runId, log);
    if (told[i]!.digest !== log.digest)
      violations.push(`client ${i} was told another story than ${runId}'s log`);
  }
  return violations;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

type StormCase = Omit<StormOptions, "clients" | "parts" | "redisUrl">;

/** The storms that docs/reliability.md has the figures of. */
export const stormCases: Record<string, StormCase> = {
  "one run": { runs: 1 },
  "200 runs": { runs: 200 },
  "5 % paused": {
    ...{ runs: 200, paused: 0.05, pausedMs: 30_000 },
    // Two to three heartbeats until a socket that takes nothing is closed.
    gateway: { SLOW_SOCKET_MS: "8000", HEARTBEAT_MS: "8000" },
  },
  "own backoff, 250 sockets/s": { runs: 200, jitter: true, gateway: { CONNECTIONS_PER_SECOND: "250" } },
};

/** Plays the cases, on a Redis of its own. Answers how many violations there were. */
export async function playStorms(
  names: readonly string[],
  size: { clients: number; parts: number },
  say: (line: string) => void,
): Promise<number> {
  const redis = await startPrivateRedis();
  let violations = 0;
  try {
    for (const name of names) {
      const result = await storm({ ...stormCases[name]!, ...size, redisUrl: redis.url });
      violations += result.violations.length;
      say(describe(name, result));
    }
  } finally {
    await redis.stop();
  }
  return violations;
}

function inMib(bytes: number): string {
  return `${Math.round(bytes / mib)} MiB`;
}

function describe(name: string, { violations, caughtUpMs, closes, resident }: StormResult): string {
  const codes = [...closes].map(([code, count]) => `${code}: ${count}`).join(", ");
  return [
    `${name}: ${violations.length} violations`,
    ...violations.slice(0, 10).map((each) => `  ${each}`),
    `  caught up after: median ${Math.round(caughtUpMs.median)} ms, last ${Math.round(caughtUpMs.last)} ms`,
    `  closes: ${codes || "none"}`,
    `  gateway resident: fresh ${inMib(resident.fresh)}, all idle ${inMib(resident.idle)}, peak ${inMib(resident.peak)}, after ${inMib(resident.after)}`,
  ].join("\n");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      clients: { type: "string", default: "2000" },
      parts: { type: "string", default: "500" },
      case: { type: "string", multiple: true },
    },
  });
  const size = { clients: Number(values.clients), parts: Number(values.parts) };
  const violations = await playStorms(values.case ?? Object.keys(stormCases), size, (line) => {
    process.stdout.write(`${line}\n`);
  });
  process.exit(violations === 0 ? 0 : 1);
}
