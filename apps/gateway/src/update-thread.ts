/**
 * Writes to a thread's state by hand.
 *
 * What a function agent keeps is written here. A graph has reducers, and edges that say what follows: only who has the
 * graph can write to its state, so that is asked of a worker, as a run of its own in the thread's line.
 */
import {
  graphOf,
  HeadMovedError,
  messageCount,
  type RedisCheckpointSaver,
  refuseSerialised,
  writeState,
} from "@throughline/checkpoint";
import type { Dispatcher, StateUpdate } from "@throughline/dispatch";
import { ProtocolError } from "@throughline/protocol";
import type { Hub } from "./hub.ts";
import type { OneByOne } from "./one-by-one.ts";
import { subgraphOf } from "./subgraph.ts";
import { whileFollowing } from "./until-ended.ts";

/** What it needs of a gateway. */
export interface UpdateDeps {
  dispatcher: Dispatcher;
  /** Of the owner's threads. */
  saver: RedisCheckpointSaver;
  /** Does what reads and writes states when its turn has come. A worker is not waited for in a turn. */
  inTurn: <T>(work: () => Promise<T>) => Promise<T>;
  /** The updates that this gateway has under way, by thread. */
  updates: OneByOne;
  hub: Hub;
  /** How long it waits for a worker that ends what it had begun, ms. */
  cancelWaitMs: number;
}

interface ThreadUpdate extends StateUpdate {
  threadId: string;
  /** The checkpoint to write a child of. Default: the head. */
  checkpointId?: string | undefined;
}

/**
 * @returns the id of the checkpoint that was written
 * @throws ProtocolError thread_busy (an active run, or others that write all the time), no_such_agent, invalid_argument
 * (the graph refuses it), unavailable (no worker took it up in time), no_such_checkpoint (no such subgraph),
 * payload_too_large (the owner has as much stored as it may), rate_limited (too many wait for a turn); what writeState
 * throws
 */
export async function updateThread(deps: UpdateDeps, owner: string, update: ThreadUpdate): Promise<string> {
  const bytes = Buffer.byteLength(JSON.stringify(update.values));
  return await deps.dispatcher.keeping(owner, update.threadId, bytes, () => write(deps, owner, update));
}

async function write(deps: UpdateDeps, owner: string, update: ThreadUpdate): Promise<string> {
  // Each would move the head from under all others, which would have to read it again.
  const done = await deps.updates.run(JSON.stringify([owner, update.threadId]), async () => {
    await refuseBusy(deps.dispatcher, owner, update.threadId);
    return await deps.inTurn(async () => {
      const done = await writeUnlessGraph(deps.saver, update);
      if ("written" in done) await tellHead(deps, owner, update.threadId);
      return done;
    });
  });
  if ("written" in done) return done.written;
  return await updateGraph(deps, owner, done.agent, { ...update, ns: done.ns });
}

/** Tells the thread's watchers. Nobody waits at a checkpoint that was written by hand: it has no tasks. */
async function tellHead({ dispatcher, saver }: UpdateDeps, owner: string, threadId: string): Promise<void> {
  const messages = await messageCount(saver, threadId);
  try {
    await dispatcher.headMoved(owner, threadId, { status: "idle", messages });
  } catch (error) {
    // It was deleted meanwhile: what was written has nobody any more who would.
    if (error instanceof ProtocolError && error.code === "no_such_thread") await saver.deleteThread(threadId);
    throw error;
  }
}

async function refuseBusy(dispatcher: Dispatcher, owner: string, threadId: string): Promise<void> {
  const active = await dispatcher.active(owner, threadId);
  if (active === null) return;
  const message = `thread ${threadId} has an active run: its state is that run's until it ends`;
  throw new ProtocolError("thread_busy", message, { activeRunId: active });
}

/** Writes it, unless a graph wrote the state: then says whose it is. */
async function writeUnlessGraph(
  saver: RedisCheckpointSaver,
  { threadId, checkpointId, values, asNode, ns: named }: ThreadUpdate,
): Promise<{ written: string } | { agent: string; ns: string[] }> {
  const ns = await subgraphOf(saver, { threadId, checkpointId, ns: named });
  const agent = await graphOf(saver, { threadId, checkpointId, ns });
  if (agent !== null) return { agent, ns };
  if (ns.length > 0) {
    throw new ProtocolError("invalid_argument", `nobody knows whose subgraph ${ns.join("|")} is`);
  }
  try {
    const { checkpointId: written } = await writeState(saver, {
      threadId,
      ...(checkpointId === undefined ? {} : { parentId: checkpointId }),
      update: values,
      metadata: { source: "update", ...(asNode === undefined ? {} : { as_node: asNode }) },
    });
    return { written };
  } catch (error) {
    if (!(error instanceof HeadMovedError)) throw error;
    const message = `thread ${threadId} is written to by others all the time: try again later`;
    throw new ProtocolError("thread_busy", message);
  }
}

async function updateGraph(
  { dispatcher, hub, cancelWaitMs }: UpdateDeps,
  owner: string,
  agent: string,
  { threadId, checkpointId, ...update }: ThreadUpdate,
): Promise<string> {
  refuseSerialised(update.values);
  const queue = await dispatcher.agents.queueOf(agent);
  if (queue === null) {
    throw new ProtocolError(
      "no_such_agent",
      `the thread is agent ${agent}'s, which no worker offers any more`,
    );
  }
  const { runId } = await dispatcher.start({
    agent,
    owner,
    threadId,
    multitaskStrategy: "reject",
    metadata: { command: "thread.update" },
    request: { queue, update, ...(checkpointId === undefined ? {} : { checkpointId }) },
  });
  return await whileFollowing(hub.feed(runId), async (ended) => {
    if (!(await ended(cancelWaitMs))) {
      await dispatcher.cancel(runId, { keep: "discard", reason: "thread.update was given up" });
    }
    const record = (await dispatcher.runs.look(runId))?.record;
    if (record?.status === "completed" && record.checkpoint) return record.checkpoint.checkpointId;
    if (record?.status === "failed") {
      throw new ProtocolError(
        "invalid_argument",
        `agent ${agent} refuses the update: ${record.error?.message}`,
      );
    }
    throw new ProtocolError("unavailable", `no worker wrote the update within ${cancelWaitMs / 1000} s`);
  });
}
