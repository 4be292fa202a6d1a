/** A worker process: takes runs off its queue and runs their agents, many at once. */
import { hostname } from "node:os";
import type { BaseStore } from "@langchain/langgraph";
import { RedisCheckpointSaver, RedisStore, type RedisStoreOptions } from "@throughline/checkpoint";
import {
  AgentRegistry,
  bringBackEveryMs,
  Dispatcher,
  defaultQueue,
  lockTimes,
  offerEveryMs,
  parkedUntil,
  queuePrefix,
  type RunJob,
} from "@throughline/dispatch";
import { ConfigError, checkRedis, connectRedis, createLogger } from "@throughline/kit";
import {
  defaultPrefix,
  LiveSubscriber,
  LogReader,
  LogWriter,
  publish,
  type Retention,
  refusalTeller,
} from "@throughline/runlog";
import { DelayedError, type Job, WaitingError, Worker } from "bullmq";
import { nanoid } from "nanoid";
import type { Logger } from "pino";
import { type Agent, type AgentFunction, type Graph, isGraph, agent as makeAgent } from "./agent.ts";
import { AttemptLostError } from "./attempt.ts";
import { JobLocks } from "./job-locks.ts";
import { prepareForGraphs } from "./langgraph/prepare.ts";
import type { PublicErrorHook } from "./public-error.ts";
import { Runner } from "./runner.ts";

export interface ServeOptions {
  /** What the worker can run, by name: LangGraph.js graphs, async generator functions, or what `agent()` made of one. */
  agents: Record<string, Agent | AgentFunction<never> | Graph>;
  /**
   * `redis://…`, `redis+cluster://…` or `redis+sentinel://…`, or the same with `rediss`. May be undefined or empty only so
   * that `process.env.REDIS_URL` fits: without it `serve` throws.
   */
  redis: string | undefined;
  /** Runs at once. @default 100 */
  concurrency?: number;
  /** Workers on one queue offer the same agents. @default "default" */
  queue?: string;
  /** What all keys begin with. @default "tl" */
  prefix?: string;
  logger?: Logger;
  retention?: Partial<Retention>;
  /** How long an agent gets to obey its signal before its run ends without it, in ms. @default 500 */
  cancelGraceMs?: number;
  /** How long runs get to end by themselves once the worker is told to stop, in ms. @default 2_000 */
  drainMs?: number;
  /** How many workers a run may take down with it before it fails. @default 3 */
  maxCrashes?: number;
  /**
   * The long-term store: what graphs find as `config.store`, and functions as `store`. Default: on Redis, each owner's
   * apart from all others'. A graph that was compiled with a store keeps its own. `false`: there is none.
   */
  store?: StoreOptions | BaseStore | false;
  /** Characters of JSON that a run's log holds before its beginning is folded into a snapshot. @default 67_108_864 */
  maxLog?: number;
  /**
   * What readers of a run are told of what its agent threw; the log has the error itself. Not asked about Throughline's
   * own errors. Default: the message of an error with `public: true`, such as `PublicError`, and of any other its name and
   * code only.
   */
  publicError?: PublicErrorHook;
}

/** How the store on Redis keeps its items. */
export interface StoreOptions extends Pick<RedisStoreOptions, "ttl"> {
  /** One store for all owners, in place of one for each. @default false */
  shared?: boolean;
}

export interface WorkerHandle {
  readonly workerId: string;
  /** How many runs this worker has in its hands now. */
  readonly active: number;
  /**
   * Takes no new runs, lets short ones end, hands the others to other workers, and closes what it opened. Idempotent.
   */
  close(): Promise<void>;
}

const noRedis =
  "serve: `redis` is not set: set REDIS_URL, for example REDIS_URL=redis://127.0.0.1:6379, and pass it on as " +
  "serve({redis: process.env.REDIS_URL, …}); `npm start` says where its own Redis is";

/** Times that tests change. */
export interface WorkerTimes {
  /**
   * How often every run is looked at: whether it was cancelled, and whether its log is to be trimmed, ms.
   * @default 1_000
   */
  tickMs: number;
  /**
   * How often the connection that brings cancels has to prove that it does, ms; it gets half of that to do so.
   * @default 5_000
   */
  proveMs: number;
  /**
   * How long a worker that says nothing keeps its runs, ms.
   * @default 4_000
   */
  lockMs: number;
}

/**
 * Starts a worker in this process.
 *
 * @throws ConfigError (`redis` is missing), RedisUrlError, RedisUnavailableError, RedisTooOldError, RedisIsClusterError, RedisDatabaseError, InvalidArgumentError (`store`)
 */
export async function serve(
  options: ServeOptions,
  { tickMs = 1_000, proveMs = 5_000, lockMs = lockTimes.lockDuration }: Partial<WorkerTimes> = {},
): Promise<WorkerHandle> {
  const { redis } = options;
  if (!redis) throw new ConfigError([noRedis]);
  const logger = options.logger ?? createLogger("worker");
  const prefix = options.prefix ?? defaultPrefix;
  const queue = options.queue ?? defaultQueue;
  const workerId = `${hostname()}-${process.pid}-${nanoid(6)}`;
  const agents = new Map<string, Agent>();
  for (const [name, given] of Object.entries(options.agents)) {
    if (isGraph(given)) agents.set(name, makeAgent(given));
    else agents.set(name, typeof given === "function" ? makeAgent(given) : given);
  }

  if ([...agents.values()].some(({ kind }) => kind === "graph")) prepareForGraphs();

  const commands = connectRedis(redis, "worker", { name: "throughline-worker", logger });
  const subscriber = connectRedis(redis, "subscriber", { name: "throughline-worker", logger });
  const blocking = connectRedis(redis, "blocking", { name: "throughline-worker", logger });
  const connections = [commands, subscriber, blocking];
  try {
    const { warnings } = await checkRedis(commands);
    for (const warning of warnings) logger.warn(warning);
  } catch (error) {
    for (const connection of connections) connection.disconnect();
    throw error;
  }

  const common = { prefix, ...(options.retention === undefined ? {} : { retention: options.retention }) };
  const dispatcher = new Dispatcher(commands, common);
  const registry = new AgentRegistry(commands, prefix);
  // A control message that was lost is found by the next append, or the next tick.
  const control = new LiveSubscriber(subscriber);
  const storeOf = stores(options.store, commands, prefix);
  const runner = new Runner(
    {
      log: new LogWriter(commands, {
        ...common,
        holder: workerId,
        onRetry: refusalTeller((words) =>
          logger.warn(`Redis refuses commands for now, they are repeated and agents wait: ${words}`),
        ),
      }),
      reader: new LogReader(commands, prefix),
      control,
      dispatcher,
      saver: new RedisCheckpointSaver(commands, { prefix }),
      storeOf,
      agents,
      logger,
      prefix,
    },
    {
      cancelGraceMs: options.cancelGraceMs ?? 500,
      maxCrashes: options.maxCrashes ?? 3,
      maxLog: options.maxLog ?? 64 * 1024 * 1024,
      publicError: options.publicError,
    },
  );

  /** One round of a job: an attempt at its run, and what becomes of the job then. */
  const round = async (job: Job<RunJob>): Promise<void> => {
    const outcome = await runner.run(job.data).catch((error: unknown) => {
      logger.error({ err: error, runId: job.data.runId }, "a run could not be taken; it is tried again");
      return "again" as const;
    });
    if (outcome === "done") return;
    if (outcome === "handed-over") {
      await job.moveToWait(job.token);
      throw new WaitingError();
    }
    // Where the run is lost to another worker, that one has the job, and BullMQ refuses this.
    await job.moveToDelayed(parkedUntil, job.token);
    throw new DelayedError();
  };
  const worker: Worker<RunJob> = new Worker<RunJob>(queue, (job) => locks.during(job, () => round(job)), {
    connection: blocking,
    prefix: queuePrefix(prefix),
    concurrency: options.concurrency ?? 100,
    ...lockTimes,
    lockDuration: lockMs,
    skipLockRenewal: true,
    // Crashes are counted where they can end the run in its log: see claim.lua.
    maxStalledCount: 1_000_000,
    skipVersionCheck: true,
  });
  const locks = new JobLocks(worker, lockMs, (runId) => {
    runner.active.get(runId)?.stop(new AttemptLostError("its lock was lost"));
  });
  worker.on("error", (error) => logger.debug({ err: error }, "queue"));
  // What BullMQ refused, or could not be asked.
  worker.on("failed", (job, error) => logger.debug({ err: error, runId: job?.data.runId }, "queue"));

  const offer = {
    queue,
    agents: [...agents].map(([name, { description, modes }]) => ({
      name,
      description,
      modes: [...modes],
    })),
  };
  await registry.offer(workerId, offer);
  const offering = setInterval(() => {
    registry
      .offer(workerId, offer)
      .catch((error) => logger.debug({ err: error }, "could not say what is on offer"));
  }, offerEveryMs);
  const ticking = setInterval(() => runner.tick(), tickMs);
  let bringing = false;
  const bringingBack = setInterval(() => {
    if (bringing) return;
    bringing = true;
    dispatcher
      .bringBack(queue)
      .catch((error) => logger.debug({ err: error }, "could not bring back what is parked"))
      .finally(() => {
        bringing = false;
      });
  }, bringBackEveryMs);
  const proving = setInterval(() => {
    void control.prove(
      (tag) => `${prefix}:{worker-${workerId}-${tag}}:probe`,
      (channel) => publish(commands, channel, "alive"),
      proveMs / 2,
    );
  }, proveMs);
  await worker.waitUntilReady();
  logger.info({ agents: [...agents.keys()], queue, concurrency: worker.concurrency }, "worker is up");

  let closing: Promise<void> | undefined;
  const close = async () => {
    clearInterval(offering);
    clearInterval(bringingBack);
    // Not waited for, with Redis out of reach it may take for ever; and it expires by itself.
    registry.withdraw(workerId).catch(() => {});
    await untilNotReconnecting(await worker.backend.blockingClient);
    // `close` waits for the runs; those that are not done in time are handed over.
    const closed = worker.close();
    const handOver = setTimeout(() => runner.handOver(), options.drainMs ?? 2_000);
    await closed;
    clearTimeout(handOver);
    locks.close();
    clearInterval(ticking);
    clearInterval(proving);
    await dispatcher.close();
    for (const connection of connections) connection.disconnect();
  };
  return {
    workerId,
    get active() {
      return runner.active.size;
    },
    close: () => (closing ??= close()),
  };
}

/** The store of each owner. */
function stores(
  options: ServeOptions["store"] = {},
  redis: ConstructorParameters<typeof RedisStore>[0],
  prefix: string,
): (owner: string) => BaseStore | undefined {
  if (options === false) return () => undefined;
  if ("batch" in options) return () => options;
  const { shared = false, ttl = {} } = options;
  const all = new RedisStore(redis, { prefix, ttl });
  return (owner) => (shared ? all : new RedisStore(redis, { prefix, ttl, owner }));
}

/**
 * BullMQ closes its blocking connection and waits for its end, of which ioredis never tells where the connection was
 * waiting for its next try.
 */
async function untilNotReconnecting(client: BlockingClient | undefined): Promise<void> {
  if (client?.status !== "reconnecting") return;
  await new Promise<void>((resolve) => client.once("connecting", () => resolve()));
}

interface BlockingClient {
  readonly status: string;
  once(event: "connecting", listener: () => void): unknown;
}
