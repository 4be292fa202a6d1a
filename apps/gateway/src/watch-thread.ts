/** `thread.watch`: what happens to a thread, or to all of an owner's, as it happens. */
import {
  type Params,
  ProtocolError,
  type Result,
  type ThreadRecord,
  type ThreadRun,
} from "@throughline/protocol";
import type { ClientSocket } from "./client-socket.ts";
import type { CommandDeps } from "./commands.ts";
import type { Feed } from "./feed.ts";
import { passingEvents } from "./filter.ts";
import { threadLogId } from "./followed-log.ts";
import { eventFrame } from "./frame.ts";
import { takePlace } from "./places.ts";
import { noSuchThread } from "./refused.ts";
import type { RunSubscriber } from "./run-subscriber.ts";
import { beginningOf, Subscription } from "./subscription.ts";
import { type Known, WatchedRuns } from "./watched-runs.ts";

type WatchDeps = Pick<CommandDeps, "dispatcher" | "reads" | "hub" | "logger" | "maxSubscriptions">;

/** What a watch is answered, and what begins it. @throws ProtocolError no_such_thread, too_many_subscriptions */
export async function watchThread(
  deps: WatchDeps,
  subscriber: RunSubscriber,
  connection: ClientSocket,
  params: Params<"thread.watch">,
): Promise<{ result: Result<"thread.watch">; begin: () => void }> {
  const { threadId, after = "head", epoch, events, runs: wanted } = params;
  const owner = connection.principal.id;
  if (threadId === undefined && wanted !== undefined) {
    throw new ProtocolError("invalid_argument", "thread.watch: runs are of one thread: name it");
  }
  // Asked first: a feed that nobody may follow would be one for nothing.
  subscriber.check(connection, threadLogId(owner, threadId));
  if (threadId !== undefined && !(await deps.dispatcher.threadsOf(owner).has(threadId)))
    throw noSuchThread(threadId);
  /** There may be many, and large ones. */
  const activeRuns = async (): Promise<ThreadRun[]> => {
    if (threadId === undefined) return [];
    const { turns, dispatcher } = deps.reads;
    return await turns.take(connection, () => dispatcher.activeRuns(owner, threadId));
  };
  const feed = deps.hub.threadFeed(owner, threadId);
  await feed.acquire();
  let seen: Seen;
  try {
    seen = await look(deps, feed, owner, threadId, activeRuns);
  } catch (error) {
    feed.release();
    throw error;
  }
  const { log, thread, runs } = seen;
  const beginning = beginningOf(feed.log, { after, epoch }, log);
  const watchedRuns =
    threadId === undefined || wanted === undefined
      ? undefined
      : watchRuns(deps, subscriber, connection, { ...wanted, activeRuns, isOver: () => watch.closed });
  const wants = { passes: passingEvents(events), witness: watchedRuns };
  const watch = new Subscription(feed, beginning, wants, connection);
  const start = takePlace(connection, watch, deps.maxSubscriptions);
  return {
    result: {
      ...(threadId === undefined ? {} : { threadId }),
      ...(thread === undefined ? {} : { thread }),
      ...(runs === undefined ? {} : { runs }),
      first: log.logFirst,
      head: log.head,
      epoch: beginning.epoch,
    },
    begin: () => {
      start();
      // All that the record names: also one that ended before it was looked at.
      watchedRuns?.take(thread?.active ?? []);
    },
  };
}

interface Seen {
  log: NonNullable<Awaited<ReturnType<Feed["look"]>>>;
  thread?: ThreadRecord;
  runs?: ThreadRun[];
}

/** The log first, then the record: that is of its head, or later. What comes behind the head comes as an event. */
async function look(
  { dispatcher }: WatchDeps,
  feed: Feed,
  owner: string,
  threadId: string | undefined,
  activeRuns: () => Promise<ThreadRun[]>,
): Promise<Seen> {
  const log = await feed.look();
  if (threadId === undefined) return { log: log! }; // An owner's is empty where it is not there.
  if (log === null) throw noSuchThread(threadId);
  const thread = await dispatcher.threadRecord(owner, threadId);
  if (thread === null) throw noSuchThread(threadId);
  // One that came into line since has an event of its own.
  const runs = (await activeRuns()).filter(({ runId }) => thread.active.includes(runId));
  return { log, thread, runs };
}

/** Subscribes the socket to the thread's runs. */
function watchRuns(
  { dispatcher, logger }: WatchDeps,
  subscriber: RunSubscriber,
  connection: ClientSocket,
  {
    filter,
    pages,
    known,
    activeRuns,
    isOver,
  }: NonNullable<Params<"thread.watch">["runs"]> & {
    activeRuns: () => Promise<ThreadRun[]>;
    isOver: () => boolean;
  },
): WatchedRuns {
  /** One that it has is left as it is. */
  const isWanted = (runId: string) => !isOver() && connection.subscription(runId) === undefined;
  const subscribe = async (runId: string, from: Known): Promise<void> => {
    if (!isWanted(runId)) return;
    const run = await dispatcher.runs.look(runId);
    if (run === null || run.owner !== connection.principal.id) return;
    try {
      const wants = { ...from, filter, pages };
      const begin = await subscriber.subscribeUnasked(connection, run, wants, () => isWanted(runId));
      begin();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      connection.send(eventFrame("run.unsubscribed", { runId, reason: error.code }));
    }
  };
  return new WatchedRuns(
    {
      subscribe,
      active: async () => (await activeRuns()).map(({ runId }) => runId),
      isOver,
      onFailure: (error) =>
        logger.error({ err: error, connectionId: connection.id }, "could not follow a watched thread's run"),
    },
    known,
  );
}
