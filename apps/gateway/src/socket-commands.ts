/** Commands that are about their socket: what it is subscribed to, and whose it is. */
import type { Method } from "@throughline/protocol";
import { ProtocolError } from "@throughline/protocol";
import type { Beginnings, CommandDeps } from "./commands.ts";
import { threadLogId } from "./followed-log.ts";
import { leavePlace } from "./places.ts";
import { ownRun, type RunCommands } from "./run-commands.ts";
import type { RunSubscriber } from "./run-subscriber.ts";
import { watchThread } from "./watch-thread.ts";

type SocketMethod = Extract<
  Method,
  | "run.start"
  | "run.subscribe"
  | "run.unsubscribe"
  | "thread.watch"
  | "thread.unwatch"
  | "agent.list"
  | "auth.refresh"
  | "server.ping"
>;

/** @param runs starts them */
export function socketCommands(
  deps: CommandDeps,
  subscriber: RunSubscriber,
  runs: Pick<RunCommands, "run.start">,
): Beginnings<SocketMethod> {
  const { dispatcher } = deps;
  return {
    "run.start": async (connection, params) => {
      const subscribes = params.subscribe ?? true;
      if (subscribes) subscriber.check(connection, "");
      const result = await runs["run.start"](connection, params);
      if (!subscribes) return { result };
      const run = await ownRun(dispatcher, connection.principal.id, result.runId);
      const begin = await subscriber.subscribeUnasked(connection, run, { pages: params.pages });
      return { result, begin };
    },

    "run.subscribe": async (connection, { runId, ...params }) => {
      const run = await ownRun(dispatcher, connection.principal.id, runId);
      const { epoch, begin } = await subscriber.subscribe(connection, run, params);
      const { status, first, head } = run.record;
      return { result: { runId, status, first, head, epoch }, begin };
    },

    "run.unsubscribe": async (connection, { runId }) => {
      leavePlace(connection, runId);
      return { result: {} };
    },

    "thread.watch": async (connection, params) => await watchThread(deps, subscriber, connection, params),

    "thread.unwatch": async (connection, { threadId }) => {
      leavePlace(connection, threadLogId(connection.principal.id, threadId));
      return { result: {} };
    },

    "agent.list": async () => ({ result: { agents: await dispatcher.agents.live() } }),

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
      return { result: { expiresAt: expiresAt === undefined ? null : new Date(expiresAt).toISOString() } };
    },

    "server.ping": async () => ({ result: {} }),
  };
}
