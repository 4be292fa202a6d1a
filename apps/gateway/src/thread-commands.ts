/** What commands do with threads, for whoever asks: nothing here knows of frames. */
import {
  messageCount,
  type RedisCheckpointSaver,
  readHistoryPage,
  readOutlinePage,
  readState,
} from "@throughline/checkpoint";
import { ownerScope } from "@throughline/dispatch";
import type { Method, ThreadHead, ThreadRecord } from "@throughline/protocol";
import type { CommandDeps, Commands } from "./commands.ts";
import type { Taker } from "./fair-turns.ts";
import { OneByOne } from "./one-by-one.ts";
import { noSuchCheckpoint, noSuchThread } from "./refused.ts";
import { answerSize } from "./run-commands.ts";
import { subgraphOf } from "./subgraph.ts";
import { updateThread } from "./update-thread.ts";

const defaultListLimit = 50;
const defaultHistoryLimit = 20;

type ThreadMethod = Exclude<Extract<Method, `thread.${string}`>, "thread.watch" | "thread.unwatch">;

export function threadCommands(deps: CommandDeps): Commands<ThreadMethod> {
  const { dispatcher, reads, hub, cancelWaitMs } = deps;
  const updates = new OneByOne();

  const checkpointsOf = ({ principal }: Taker): RedisCheckpointSaver =>
    reads.saver.scoped(ownerScope(principal.id));

  const ownThread = async ({ principal }: Taker, threadId: string): Promise<void> => {
    if (!(await dispatcher.threadsOf(principal.id).has(threadId))) throw noSuchThread(threadId);
  };

  return {
    "thread.create": async ({ principal }, { threadId, metadata }) => {
      return await dispatcher.createThread(principal.id, {
        ...(threadId === undefined ? {} : { threadId }),
        ...(metadata === undefined ? {} : { metadata }),
      });
    },

    "thread.list": async (caller, { status, agent, metadata, limit = defaultListLimit, before }) => {
      const query = {
        owner: caller.principal.id,
        limit,
        maxSize: answerSize,
        ...(status === undefined ? {} : { status }),
        ...(agent === undefined ? {} : { agent }),
        ...(metadata === undefined ? {} : { metadata }),
        ...(before === undefined ? {} : { before }),
      };
      return await reads.turns.take(caller, () => reads.dispatcher.listThreads(query));
    },

    "thread.patch": async ({ principal }, { threadId, metadata }) => {
      return await dispatcher.patchThread(principal.id, threadId, metadata);
    },

    "thread.delete": async (caller, { threadId }) => {
      await dispatcher.deleteThread(caller.principal.id, threadId, checkpointsOf(caller));
      return {};
    },

    "thread.copy": async (caller, { threadId, checkpointId, to, metadata }) => {
      const how = {
        ...(checkpointId === undefined ? {} : { checkpointId }),
        ...(to === undefined ? {} : { to }),
        ...(metadata === undefined ? {} : { metadata }),
      };
      const saver = checkpointsOf(caller);
      const checkpoints = {
        copyThread: (...args: Parameters<typeof saver.copyThread>) => saver.copyThread(...args),
        size: (of: string) => saver.size(of),
        head: async (of: string) => ({
          messages: await messageCount(saver, of),
          asks: ((await readState(saver, { threadId: of }))?.interrupts.length ?? 0) > 0,
        }),
      };
      const copy = () => dispatcher.copyThread(caller.principal.id, threadId, how, checkpoints);
      return await reads.turns.take(caller, copy);
    },

    "thread.get": async (caller, { threadId, checkpointId, ns }) => {
      await ownThread(caller, threadId);
      const state = await reads.turns.take(caller, async () => {
        const saver = checkpointsOf(caller);
        const path = await subgraphOf(saver, { threadId, checkpointId, ns });
        return await readState(saver, { threadId, checkpointId, ns: path });
      });
      if (checkpointId !== undefined) {
        if (state === null) throw noSuchCheckpoint(threadId, checkpointId);
        return state;
      }
      // A subgraph without a state is none that the thread has: that was refused above.
      if (state !== null && state.ns.length > 0) return state;
      // Read behind the head: what moved it is in the record already.
      const thread = await dispatcher.threadRecord(caller.principal.id, threadId);
      if (thread === null) throw noSuchThread(threadId);
      return state === null ? emptyHead(thread) : { ...state, thread };
    },

    "thread.history": async (caller, { threadId, limit = defaultHistoryLimit, before, ns, values }) => {
      const readPage = values === false ? readOutlinePage : readHistoryPage;
      await ownThread(caller, threadId);
      const { states: checkpoints, next } = await reads.turns.take(caller, async () => {
        const saver = checkpointsOf(caller);
        const path = await subgraphOf(saver, { threadId, checkpointId: before, ns });
        return await readPage(saver, { threadId, limit, before, ns: path }, answerSize);
      });
      return { checkpoints, ...(next === undefined ? {} : { next }) };
    },

    "thread.update": async (caller, update) => {
      await ownThread(caller, update.threadId);
      const own = {
        dispatcher,
        hub,
        cancelWaitMs,
        saver: checkpointsOf(caller),
        inTurn: <T>(work: () => Promise<T>) => reads.turns.take(caller, work),
        updates,
      };
      const checkpointId = await updateThread(own, caller.principal.id, update);
      return { threadId: update.threadId, checkpointId };
    },
  };
}

/** Of a thread that has no checkpoint yet. */
function emptyHead(thread: ThreadRecord): ThreadHead {
  const { threadId, createdAt } = thread;
  return {
    threadId,
    checkpointId: null,
    parentId: null,
    ns: [],
    values: {},
    next: [],
    interrupts: [],
    tasks: [],
    metadata: {},
    createdAt,
    thread,
  };
}
