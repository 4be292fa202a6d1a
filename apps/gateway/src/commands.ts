/**
 * Answers commands: checks what came, has it done, and says what went wrong. What each does is in a room for its kind:
 * runs and threads by who asks, whatever door they came through; subscriptions, watches and the rest, by socket.
 */
import type { RedisCheckpointSaver } from "@throughline/checkpoint";
import type { Dispatcher } from "@throughline/dispatch";
import {
  type CommandFrame,
  commands,
  type Method,
  type Params,
  ProtocolError,
  type Result,
} from "@throughline/protocol";
import { refusalTeller } from "@throughline/runlog";
import type { Logger } from "pino";
import type { Authenticator } from "./auth.ts";
import type { Answer, ClientSocket } from "./client-socket.ts";
import { protocolError } from "./failures.ts";
import type { FairTurns, Taker } from "./fair-turns.ts";
import type { Hub } from "./hub.ts";
import { runCommands } from "./run-commands.ts";
import { RunSubscriber } from "./run-subscriber.ts";
import { short } from "./short.ts";
import { socketCommands } from "./socket-commands.ts";
import { threadCommands } from "./thread-commands.ts";

export interface CommandDeps {
  dispatcher: Dispatcher;
  /** What may be long is read in turns, on a connection on which nobody else waits. */
  reads: { turns: FairTurns; dispatcher: Dispatcher; saver: RedisCheckpointSaver };
  hub: Hub;
  authenticator: Authenticator;
  logger: Logger;
  maxSubscriptions: number;
  /** How long nobody may read a run that ends then, ms. */
  disconnectGraceMs: number;
  /** How long `run.cancel` waits for the run's end, ms. */
  cancelWaitMs: number;
}

/** Some of the commands. What they do they do for a caller: a socket, or whatever else has a principal and its turns. */
export type Commands<M extends Method, Caller = Taker> = {
  [Each in M]: (caller: Caller, params: Params<Each>) => Promise<Result<Each>>;
};

/** The same of commands after which something begins on their socket, once the answer is on its way. */
export type Beginnings<M extends Method> = {
  [Each in M]: (
    connection: ClientSocket,
    params: Params<Each>,
  ) => Promise<{ result: Result<Each>; begin?: () => void }>;
};

/** Of params that are wrong in many places, so many are named. */
const maxIssues = 10;

/** Answers the commands of every connection. Rejects with ProtocolError only. */
export function commandHandler(
  deps: CommandDeps,
): (connection: ClientSocket, frame: CommandFrame) => Promise<Answer> {
  const subscriber = new RunSubscriber(deps.hub, deps.maxSubscriptions);
  const runs = runCommands(deps);
  const plain = { ...runs, ...threadCommands(deps) };
  const onSocket = socketCommands(deps, subscriber, runs);
  const tellRefusal = refusalTeller((words) =>
    deps.logger.warn(`Redis refuses commands for now, clients are answered unavailable: ${words}`),
  );
  const answer = async (connection: ClientSocket, method: Method, params: never): Promise<Answer> =>
    isOneOf(onSocket, method)
      ? await onSocket[method](connection, params)
      : { result: await plain[method as keyof typeof plain](connection, params) };
  return async (connection, frame) => {
    if (!Object.hasOwn(commands, frame.method)) {
      const known = Object.keys(commands).join(", ");
      throw new ProtocolError(
        "unknown_command",
        `there is no command ${short(frame.method)}; there are ${known}`,
      );
    }
    const method = frame.method as Method;
    const params = paramsOf(method, frame.params ?? {});
    try {
      return await answer(connection, method, params as never);
    } catch (error) {
      tellRefusal(error as Error);
      throw protocolError(error as Error, method, connection.id, deps.logger);
    }
  };
}

function isOneOf<T extends object>(handlers: T, method: Method): method is Method & keyof T {
  return Object.hasOwn(handlers, method);
}

function paramsOf<M extends Method>(method: M, params: unknown): Params<M> {
  const parsed = commands[method].params.safeParse(params);
  if (parsed.success) return parsed.data as Params<M>;
  const issues = parsed.error.issues
    .slice(0, maxIssues)
    .map(({ path, message }) => ({ path: path.join("."), message }));
  const [first] = issues;
  const where = first?.path ? `params.${first.path}` : "params";
  throw new ProtocolError("invalid_argument", `${method}: ${where}: ${first?.message}`, { issues });
}
