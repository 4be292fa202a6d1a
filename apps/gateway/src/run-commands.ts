/** What commands do with runs, for whoever asks: nothing here knows of frames. */
import type { Dispatcher } from "@throughline/dispatch";
import type { ListedRun } from "@throughline/runlog";
import type { CommandDeps, Commands } from "./commands.ts";
import { noSuchRun, noSuchThread } from "./refused.ts";
import { startRequest } from "./start-request.ts";
import { whileFollowing } from "./until-ended.ts";

const defaultListLimit = 50;
/** Characters of JSON in one answer, about: a run, a thread, or a state, more may be in it. */
export const answerSize = 4 * 1024 * 1024;

export type RunCommands = Commands<"run.start" | "run.cancel" | "run.get" | "run.list">;

/** The run, if it is this owner's. @throws ProtocolError no_such_run */
export async function ownRun(dispatcher: Dispatcher, owner: string, runId: string): Promise<ListedRun> {
  const run = await dispatcher.runs.look(runId);
  if (run === null || run.owner !== owner) throw noSuchRun(runId);
  return run;
}

export function runCommands(deps: CommandDeps): RunCommands {
  const { dispatcher, reads, hub } = deps;
  return {
    /** Starts it. Who is subscribed to it, is its caller's. */
    "run.start": async (caller, params) => {
      return { ...(await dispatcher.start(await startRequest(deps, caller, params))) };
    },

    "run.cancel": async ({ principal: { id: owner } }, { runId, keep = "thread", reason }) => {
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
        const { record } = await ownRun(dispatcher, owner, runId);
        return { runId, status: record.status, offset: record.head, checkpoint: record.checkpoint ?? null };
      });
    },

    "run.get": async ({ principal }, { runId }) => {
      return await dispatcher.describe(await ownRun(dispatcher, principal.id, runId));
    },

    "run.list": async (caller, { threadId, status, limit = defaultListLimit, before }) => {
      const owner = caller.principal.id;
      if (threadId !== undefined && !(await dispatcher.threadsOf(owner).has(threadId)))
        throw noSuchThread(threadId);
      const query = {
        owner,
        limit,
        maxSize: answerSize,
        ...(threadId === undefined ? {} : { threadId }),
        ...(status === undefined ? {} : { status }),
        ...(before === undefined ? {} : { before }),
      };
      return await reads.turns.take(caller, () => reads.dispatcher.list(query));
    },
  };
}
