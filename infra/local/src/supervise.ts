/**
 * Runs Redis and services on this machine as one program. Invariant: whatever ends it, services end before Redis does, so
 * that they can write their last state, and nothing else than what was started here is touched.
 */
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { checkRedis, connectRedis, describeRedisUrl, explainError } from "@throughline/kit";
import { backoffDelay } from "@throughline/kit/timing";
import { type KeptService, keepRunning, type ServiceSpec } from "./child.ts";
import type { Output } from "./output.ts";
import { isAlive, signal } from "./process.ts";
import { sayWhileWaiting } from "./progress.ts";
import { type PrivateRedis, startPrivateRedis } from "./redis.ts";

export interface SuperviseOptions {
  /** Started together, each with REDIS_URL in its environment. */
  services: readonly ServiceSpec[];
  /** A Redis of somebody else's, or the folder for one of our own. */
  redis: { url: string } | { dataDir: string };
  /** Must be free before anything is started. */
  listen?: { host: string; port: number };
  output: Output;
  /** End when the parent process is gone, as if it had sent SIGTERM. npm dies of a signal without passing it on. */
  endWithParent?: boolean;
  /** Said when every service is up for the first time. `details` is what each has told of itself, by its name. */
  banner?: (details: ReadonlyMap<string, string>) => readonly string[];
  /** Until services that are stopping are killed. Default 10 s. */
  graceMs?: number;
  /** Default 1 s, doubling, at most 10 s. */
  restartDelayMs?: (attempt: number) => number;
}

/** What the supervisor calls itself in the log. */
export const supervisorName = "throughline";

/** A terminal's Ctrl-C may come with its parent's SIGTERM: signals this close together are one. */
const sameSignalMs = 1_000;
/** How long a port may still be held by a predecessor that is shutting down. */
const portPatienceMs = 2_000;
const redisWatchMs = 500;
/** Before a service that ended is started again. */
const restartMs = { min: 1_000, max: 10_000 } as const;
const parentWatchMs = 500;

/** Resolves with the exit code when all that was started has ended: 0 after a signal, 1 after a failure. */
export async function supervise(options: SuperviseOptions): Promise<number> {
  const say = (text: string) => options.output.line(supervisorName, text);
  const ending = new Ending();
  const offSignals = handleSignals(ending, say);
  const offParent = options.endWithParent === true ? watchParent(ending) : () => {};
  let redis: Held<PrivateRedis | undefined> = { current: undefined };
  const services: KeptService[] = [];
  // If all else fails: children notice that we are gone by themselves, Redis does not.
  const lastResort = () => {
    if (redis.current !== undefined) signal(redis.current.pid, "SIGTERM");
  };
  process.on("exit", lastResort);
  let stopWatching = async () => {};
  let offWaiting = () => {};
  try {
    if (options.listen !== undefined) await assertFree(options.listen);
    const url = "url" in options.redis ? await useRedis(options.redis.url, say) : undefined;
    if ("dataDir" in options.redis && !ending.begun) {
      const { dataDir } = options.redis;
      redis = await ownRedis(dataDir, say);
      stopWatching = watchRedis(redis, dataDir, ending, say);
    }
    const redisUrl = url ?? redis.current?.url;
    if (redisUrl !== undefined && !ending.begun) {
      offWaiting = startServices(services, redisUrl, options, ending);
    }
    await ending.asked;
  } catch (error) {
    ending.ask(1, explainError(error) ?? `could not start: ${error instanceof Error ? error.stack : error}`);
  }
  offWaiting();
  if (ending.reason !== undefined) say(ending.reason);
  await stopWatching();
  ending.onHurry(() => {
    for (const service of services) service.kill();
  });
  await Promise.all(services.map((service) => service.stop(options.graceMs ?? 10_000)));
  await redis.current?.stop();
  process.off("exit", lastResort);
  offSignals();
  offParent();
  if (ending.exitCode === 0) say("everything is stopped");
  return ending.exitCode;
}

/** Something that is replaced while others hold on to it. */
interface Held<T> {
  current: T;
}

/** The one decision to end, with the first reason that was given. */
class Ending {
  readonly asked: Promise<void>;
  exitCode = 0;
  reason: string | undefined;
  begun = false;
  #resolve: () => void = () => {};
  #hurry: (() => void) | undefined;
  #hurried = false;

  constructor() {
    this.asked = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  ask(exitCode: number, reason: string | undefined): void {
    if (this.begun) return;
    this.begun = true;
    this.exitCode = exitCode;
    this.reason = reason;
    this.#resolve();
  }

  hurry(): void {
    this.#hurried = true;
    this.#hurry?.();
  }

  onHurry(act: () => void): void {
    this.#hurry = act;
    if (this.#hurried) act();
  }
}

function handleSignals(ending: Ending, say: (text: string) => void): () => void {
  let first: number | undefined;
  const handle = (name: NodeJS.Signals) => {
    if (first !== undefined) {
      if (Date.now() - first <= sameSignalMs) return;
      say(`${name} again: killing what still runs`);
      return ending.hurry();
    }
    first = Date.now();
    ending.ask(0, `${name}: stopping`);
  };
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of names) process.on(name, handle);
  return () => {
    for (const name of names) process.off(name, handle);
  };
}

/** A process whose parent ends gets another one. */
function watchParent(ending: Ending): () => void {
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid !== parent) ending.ask(0, "the parent process is gone: stopping");
  }, parentWatchMs);
  return () => clearInterval(timer);
}

/** Answers how to stop saying what it waits for. */
function startServices(
  services: KeptService[],
  redisUrl: string,
  options: SuperviseOptions,
  ending: Ending,
): () => void {
  const say = (text: string) => options.output.line(supervisorName, text);
  const waiting = new Set(options.services.map(({ name }) => name));
  const details = new Map<string, string>();
  const offWaiting = sayWhileWaiting(say, () => `starting ${[...waiting].join(" and ")}`);
  for (const spec of options.services) {
    services.push(
      keepRunning({
        spec: { ...spec, env: { ...spec.env, REDIS_URL: redisUrl } },
        output: options.output,
        restartDelayMs: options.restartDelayMs ?? ((attempt) => backoffDelay(restartMs, attempt - 1)),
        onGivenUp: (reason) => ending.ask(1, reason),
        onReady: (detail) => {
          if (detail !== undefined) details.set(spec.name, detail);
          if (!waiting.delete(spec.name) || waiting.size > 0) return;
          offWaiting();
          for (const line of options.banner?.(details) ?? []) say(line);
        },
      }),
    );
  }
  return offWaiting;
}

async function useRedis(url: string, say: (text: string) => void): Promise<string> {
  const redis = connectRedis(url, "worker");
  try {
    // What may hurt with it, the services say themselves.
    const { version } = await checkRedis(redis, { timeoutMs: 3_000 });
    say(`Redis ${version} at ${describeRedisUrl(url)} (REDIS_URL)`);
    return url;
  } finally {
    redis.disconnect();
  }
}

async function ownRedis(dataDir: string, say: (text: string) => void): Promise<Held<PrivateRedis>> {
  const offWaiting = sayWhileWaiting(say, () => "starting a private Redis");
  try {
    const redis = await startPrivateRedis({ dataDir, outliveUs: true, logger: { info: say } });
    const how = redis.reused ? "found running" : "started";
    say(`private Redis ${how} at ${describeRedisUrl(redis.url)}, its data is kept in ${dataDir}`);
    if (redis.portBefore !== undefined) {
      say(
        `port ${redis.portBefore}, where it was the last time, is taken: whoever has that in a setting needs the new one`,
      );
    }
    return { current: redis };
  } finally {
    offWaiting();
  }
}

/** A private Redis that dies is started again where it was; its data comes back from the append-only file. */
function watchRedis(
  redis: Held<PrivateRedis | undefined>,
  dataDir: string,
  ending: Ending,
  say: (text: string) => void,
): () => Promise<void> {
  const stopped = new AbortController();
  const watch = async () => {
    while (!stopped.signal.aborted) {
      await sleep(redisWatchMs, undefined, { signal: stopped.signal }).catch(() => {});
      const current = redis.current;
      if (stopped.signal.aborted || current === undefined || isAlive(current.pid)) continue;
      say("the private Redis ended: starting it again");
      redis.current = await startPrivateRedis({ dataDir, port: current.port, outliveUs: true });
    }
  };
  const watching = watch().catch((error: unknown) => ending.ask(1, explainError(error) ?? String(error)));
  return () => {
    stopped.abort();
    return watching;
  };
}

async function assertFree(listen: { host: string; port: number }): Promise<void> {
  const deadline = Date.now() + portPatienceMs;
  for (;;) {
    try {
      return await tryListen(listen);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE" || Date.now() > deadline) throw error;
    }
    await sleep(100);
  }
}

function tryListen(listen: { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(listen, () => server.close(() => resolve()));
  });
}
