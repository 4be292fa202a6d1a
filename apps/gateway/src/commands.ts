/** What each command does. One function per method; the envelope, limits and answers are socket.ts's. */
import {
  type RedisCheckpointSaver,
  readHistoryPage,
  readOutlinePage,
  readState,
  refuseSerialised,
} from "@throughline/checkpoint";
import { type Dispatcher, ownerScope, type RunRequest, type StartRequest } from "@throughline/dispatch";
import {
  type CommandFrame,
  commands,
  type Method,
  type Params,
  ProtocolError,
  type Result,
} from "@throughline/protocol";
import { isCovered, isPassing, type ListedRun, refusalOf, refusalTeller } from "@throughline/runlog";
import type { Logger } from "pino";
import type { Authenticator } from "./auth.ts";
import type { Answer, ClientSocket } from "./client-socket.ts";
import type { FairTurns } from "./fair-turns.ts";
import { eventFrame } from "./frame.ts";
import type { Hub } from "./hub.ts";
import { OneByOne } from "./one-by-one.ts";
import { short } from "./short.ts";
import { fitsFrame } from "./snapshot.ts";
import { subgraphOf } from "./subgraph.ts";
import { Subscription } from "./subscription.ts";
import { whileFollowing } from "./until-ended.ts";
import { updateThread } from "./update-thread.ts";

export interface CommandDeps {
  dispatcher: Dispatcher;
  /** What may be long is read in turns, on a connection on which nobody else waits. */
  reads: { turns: FairTurns; dispatcher: Dispatcher; saver: RedisCheckpointSaver };
  hub: Hub;
  authenticator: Authenticator;
  logger: Logger;
  maxSubscriptions: number;
  /** How long `run.cancel` waits for the run's end, ms. */
  cancelWaitMs: number;
}

type Handlers = {
  [M in Method]: (
    connection: ClientSocket,
    params: Params<M>,
  ) => Promise<Result<M> | { answer: Result<M>; begin: () => void }>;
};

/** Of params that are wrong in many places, so many are named. */
const maxIssues = 10;
const defaultListLimit = 50;
const defaultHistoryLimit = 20;
/** Characters of JSON in one answer, about: a state, or a run, more may be in it. */
const answerSize = 4 * 1024 * 1024;

/** Answers the commands of every connection. Rejects with ProtocolError only. */
export function commandHandler(
  deps: CommandDeps,
): (connection: ClientSocket, frame: CommandFrame) => Promise<Answer> {
  const handlers = makeHandlers(deps);
  const tellRefusal = refusalTeller((words) =>
    deps.logger.warn(`Redis refuses commands for now, clients are answered unavailable: ${words}`),
  );
  return async (connection, frame) => {
    if (!Object.hasOwn(handlers, frame.method)) {
      const known = Object.keys(handlers).join(", ");
      throw new ProtocolError(
        "unknown_command",
        `there is no command ${short(frame.method)}; there are ${known}`,
      );
    }
    const method = frame.method as Method;
    const parsed = commands[method].params.safeParse(frame.params ?? {});
    if (!parsed.success) {
      const issues = parsed.error.issues
        .slice(0, maxIssues)
        .map(({ path, message }) => ({ path: path.join("."), message }));
      const [first] = issues;
      const where = first?.path ? `params.${first.path}` : "params";
      throw new ProtocolError("invalid_argument", `${method}: ${where}: ${first?.message}`, { issues });
    }
    try {
      const done = await handlers[method](connection, parsed.data as never);
      return "answer" in done && "begin" in done
        ? { result: done.answer, begin: done.begin as () => void }
        : { result: done };
    } catch (error) {
      tellRefusal(error as Error);
      throw protocolError(error as Error, method, connection, deps.logger);
    }
  };
}

function makeHandlers(deps: CommandDeps): Handlers {
  const { dispatcher, reads, hub } = deps;
  const updates = new OneByOne();

  /** The run, if it is this connection's owner's. */
  const ownRun = async (connection: ClientSocket, runId: string): Promise<ListedRun> => {
    const run = await dispatcher.runs.look(runId);
    if (run === null || run.owner !== connection.principal.id) throw noSuchRun(runId);
    return run;
  };

  const readsOf = ({ principal }: ClientSocket) => reads.saver.scoped(ownerScope(principal.id));

  const ownThread = async (connection: ClientSocket, threadId: string): Promise<void> => {
    if (!(await dispatcher.threadsOf(connection.principal.id).has(threadId))) throw noSuchThread(threadId);
  };

  const checkSubscriptions = (connection: ClientSocket, runId: string): void => {
    if (connection.subscription(runId) !== undefined) return;
    if (connection.subscriptions < deps.maxSubscriptions) return;
    const message = `this socket has ${deps.maxSubscriptions} subscriptions, which is the limit`;
    throw new ProtocolError("too_many_subscriptions", message);
  };

  /** For a client that takes a snapshot in one frame only. */
  const checkSnapshot = async (runId: string): Promise<void> => {
    const bytes = (await hub.reader.snapshotSlice(runId, 0, 0))?.length ?? 0;
    if (fitsFrame(runId, bytes)) return;
    const message = `run ${runId} has a snapshot of ${bytes} bytes, too large for one frame: a client that takes it in pages subscribes with pages: true`;
    throw new ProtocolError("payload_too_large", message);
  };

  /** Takes the run's place among the socket's subscriptions, and says what to do once the answer is on its way. */
  const subscribe = async (
    connection: ClientSocket,
    { record, earlier }: ListedRun,
    params: Omit<Params<"run.subscribe">, "runId">,
    mayRefuse: boolean,
  ): Promise<{ epoch: string; begin: () => void }> => {
    const { runId } = record;
    const ahead = typeof params.after === "number" && params.after > record.head;
    const { epoch = record.epoch } = params;
    const has = typeof params.after === "number" ? params.after : record.head;
    // A client that has nothing but what is in this log too goes on in it, under the name that it has for it.
    const stale = epoch !== record.epoch && !isCovered(epoch, has, earlier);
    const after = ahead || stale ? 0 : params.after === "head" ? record.head : (params.after ?? 0);
    if (mayRefuse && params.pages !== true && after < record.first - 1) await checkSnapshot(runId);
    const feed = hub.feed(runId);
    feed.learn(record);
    await feed.acquire();
    const subscription = new Subscription(feed, after, record.epoch, params, connection);
    try {
      // Checked and taken in one go: commands that come together cannot all find the same place free.
      checkSubscriptions(connection, runId);
    } catch (error) {
      subscription.close();
      throw error;
    }
    connection.addSubscription(subscription);
    const begin = () => {
      if (connection.closed) return subscription.close();
      // Another command has taken its place since.
      if (connection.subscription(runId) !== subscription) return;
      if (ahead || stale) {
        const reason = stale ? "the log has a new epoch" : `the log ends at offset ${record.head}`;
        connection.send(eventFrame("run.reset", { runId, epoch: record.epoch, reason }));
      }
      subscription.start();
    };
    return { epoch: ahead || stale ? record.epoch : epoch, begin };
  };

  return {
    "run.start": async (connection, params) => {
      const subscribes = params.subscribe ?? true;
      if (subscribes) checkSubscriptions(connection, "");
      const start = await startRequest(deps, connection, params);
      const started = { ...(await dispatcher.start(start)) };
      if (!subscribes) return started;
      const run = await ownRun(connection, started.runId);
      const { begin } = await subscribe(connection, run, { pages: params.pages }, false);
      return { answer: started, begin };
    },

    "run.subscribe": async (connection, { runId, ...params }) => {
      const run = await ownRun(connection, runId);
      const { epoch, begin } = await subscribe(connection, run, params, true);
      const { status, first, head } = run.record;
      return { answer: { runId, status, first, head, epoch }, begin };
    },

    "run.unsubscribe": async (connection, { runId }) => {
      const subscription = connection.subscription(runId);
      if (subscription !== undefined) {
        subscription.close();
        connection.removeSubscription(subscription);
      }
      return {};
    },

    "run.cancel": async (connection, { runId, keep = "thread", reason }) => {
      const owner = connection.principal.id;
      return await whileFollowing(hub.feed(runId), async (ended) => {
        const cancelled = await dispatcher.cancel(runId, {
          owner,
          keep,
          ...(reason === undefined ? {} : { reason }),
        });
        if (cancelled.outcome === "missing") throw noSuchRun(runId);
        if (cancelled.outcome === "ended") {
          const { status, offset, checkpoint } = cancelled;
          return { runId, status, offset, checkpoint };
        }
        if (!(await ended(deps.cancelWaitMs))) {
          await dispatcher.revive(runId);
          return { runId, status: "cancelling" as const };
        }
        const { record } = await ownRun(connection, runId);
        return { runId, status: record.status, offset: record.head, checkpoint: record.checkpoint ?? null };
      });
    },

    "run.get": async (connection, { runId }) => {
      return await dispatcher.describe(await ownRun(connection, runId));
    },

    "run.list": async (connection, { threadId, status, limit = defaultListLimit, before }) => {
      const owner = connection.principal.id;
      if (threadId !== undefined) await ownThread(connection, threadId);
      const query = {
        owner,
        limit,
        maxSize: answerSize,
        ...(threadId === undefined ? {} : { threadId }),
        ...(status === undefined ? {} : { status }),
        ...(before === undefined ? {} : { before }),
      };
      return await reads.turns.take(connection, () => reads.dispatcher.list(query));
    },

    "thread.get": async (connection, { threadId, checkpointId, ns }) => {
      await ownThread(connection, threadId);
      const state = await reads.turns.take(connection, async () => {
        const saver = readsOf(connection);
        const path = await subgraphOf(saver, { threadId, checkpointId, ns });
        return await readState(saver, { threadId, checkpointId, ns: path });
      });
      if (state !== null) return state;
      if (checkpointId !== undefined) throw noSuchCheckpoint(threadId, checkpointId);
      throw new ProtocolError("no_such_checkpoint", `thread ${threadId} has no checkpoint yet`);
    },

    "thread.history": async (connection, { threadId, limit = defaultHistoryLimit, before, ns, values }) => {
      const readPage = values === false ? readOutlinePage : readHistoryPage;
      await ownThread(connection, threadId);
      const { states: checkpoints, next } = await reads.turns.take(connection, async () => {
        const saver = readsOf(connection);
        const path = await subgraphOf(saver, { threadId, checkpointId: before, ns });
        return await readPage(saver, { threadId, limit, before, ns: path }, answerSize);
      });
      return { checkpoints, ...(next === undefined ? {} : { next }) };
    },

    "thread.update": async (connection, update) => {
      await ownThread(connection, update.threadId);
      const owner = connection.principal.id;
      const own = {
        dispatcher,
        hub,
        cancelWaitMs: deps.cancelWaitMs,
        saver: readsOf(connection),
        inTurn: <T>(work: () => Promise<T>) => reads.turns.take(connection, work),
        updates,
      };
      const checkpointId = await updateThread(own, owner, update);
      return { threadId: update.threadId, checkpointId };
    },

    // Not there yet.
    "thread.create": notYet,
    "thread.list": notYet,
    "thread.patch": notYet,
    "thread.delete": notYet,
    "thread.copy": notYet,
    "thread.watch": notYet,
    "thread.unwatch": notYet,

    "agent.list": async () => ({ agents: await dispatcher.agents.live() }),

    "auth.refresh": async (connection, { token }) => {
      const principal = await deps.authenticator.authenticate(token);
      if (principal.id !== connection.principal.id) {
        throw new ProtocolError(
          "permission_denied",
          "the new token is somebody else's: connect again with it",
        );
      }
      connection.principal = principal;
      const { expiresAt } = principal;
      return { expiresAt: expiresAt === undefined ? null : new Date(expiresAt).toISOString() };
    },

    "server.ping": async () => ({}),
  };
}

async function notYet(): Promise<never> {
  throw new ProtocolError("not_supported", "this gateway does not do that yet");
}

/** Checks what a new run names, before anything is written. */
async function startRequest(
  { dispatcher, reads }: CommandDeps,
  connection: ClientSocket,
  params: Params<"run.start">,
): Promise<StartRequest> {
  const { agent, threadId, checkpointId, metadata, multitaskStrategy, idempotencyKey } = params;
  const owner = connection.principal.id;
  const queue = await dispatcher.agents.queueOf(agent);
  if (queue === null) {
    const names = (await dispatcher.agents.live()).map(({ name }) => name);
    const known = names.length === 0 ? "no live worker offers any" : `there are ${names.join(", ")}`;
    throw new ProtocolError("no_such_agent", `there is no agent ${short(agent)}; ${known}`);
  }
  if (typeof checkpointId === "string") {
    if (threadId === undefined) {
      throw new ProtocolError(
        "invalid_argument",
        "run.start: a checkpointId needs the threadId of its thread",
      );
    }
    if (!(await dispatcher.threadsOf(owner).has(threadId))) throw noSuchThread(threadId);
    const read = () => readState(reads.saver.scoped(ownerScope(owner)), { threadId, checkpointId });
    if ((await reads.turns.take(connection, read)) === null) throw noSuchCheckpoint(threadId, checkpointId);
  }
  if (params.command !== undefined && params.input !== undefined) {
    throw new ProtocolError("invalid_argument", "run.start: give input or command, not both");
  }
  const { input, modes, subgraphs, config, command, interruptBefore, interruptAfter, timeoutMs } = params;
  refuseSerialised([input, config, command]);
  const asked = {
    input,
    checkpointId: checkpointId ?? undefined,
    fromNothing: checkpointId === null ? true : undefined,
    modes,
    subgraphs,
    config,
    command,
    interruptBefore,
    interruptAfter,
    timeoutMs,
  };
  const given = Object.entries(asked).filter(([, value]) => value !== undefined);
  const request = { queue, ...Object.fromEntries(given) } as RunRequest;
  return {
    agent,
    owner,
    request,
    ...(threadId === undefined ? {} : { threadId }),
    ...(metadata === undefined ? {} : { metadata }),
    ...(multitaskStrategy === undefined ? {} : { multitaskStrategy }),
    ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
  };
}

/** What Redis answers to writes while it serves reads. */
const refusesWrites: ReadonlySet<string> = new Set(["OOM", "READONLY", "NOREPLICAS", "MISCONF"]);

/** Everything that goes wrong, as the wire says it. What nobody foresaw is logged, once, here. */
function protocolError(
  error: Error & { code?: unknown },
  method: Method,
  connection: ClientSocket,
  logger: Logger,
): ProtocolError {
  if (error instanceof ProtocolError) return error;
  if (isNamed(error.code)) return new ProtocolError(error.code, error.message);
  if (isPassing(error)) {
    const refusal = refusalOf(error);
    const cause =
      refusal === undefined
        ? "Redis is out of reach"
        : `Redis refuses ${refusesWrites.has(refusal) ? "writes" : "commands"} for now`;
    return new ProtocolError("unavailable", `${cause}; what was asked for may be asked for again`);
  }
  logger.error({ err: error, method, connectionId: connection.id }, "a command failed");
  return new ProtocolError("internal", "something went wrong here; it is in the gateway's log");
}

/** What the packages below throw under the names that the wire has for it. */
function isNamed(code: unknown): code is "no_such_checkpoint" | "no_such_run" | "invalid_argument" {
  return code === "no_such_checkpoint" || code === "no_such_run" || code === "invalid_argument";
}

function noSuchRun(runId: string): ProtocolError {
  return new ProtocolError("no_such_run", `there is no run ${short(runId)}`);
}

function noSuchThread(threadId: string): ProtocolError {
  return new ProtocolError("no_such_thread", `there is no thread ${short(threadId)}`);
}

function noSuchCheckpoint(threadId: string, checkpointId: string): ProtocolError {
  return new ProtocolError(
    "no_such_checkpoint",
    `thread ${short(threadId)} has no checkpoint ${short(checkpointId)}`,
  );
}
