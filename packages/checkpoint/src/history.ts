/** A thread's checkpoints as a gateway lists them: with the state at each of them, or without. */
import type { BaseCheckpointSaver } from "@langchain/langgraph-checkpoint";
import type { RedisCheckpointSaver } from "./saver.ts";
import { at, flatReader, type Position, stateOf, type ThreadState, threadState } from "./thread-state.ts";

/** A page of them: `before` is the last id of the page before. */
export interface PagePosition extends Position {
  limit: number;
  before?: string | undefined;
}

/** The states of all lines of a thread, branches included, newest first; `before` is a checkpoint's id. */
export async function readHistory(
  saver: BaseCheckpointSaver,
  { threadId, limit, before, ns }: Position & { limit?: number | undefined; before?: string | undefined },
): Promise<ThreadState[]> {
  const options = {
    ...(limit !== undefined && { limit }),
    ...(before && { before: at(threadId, before, ns) }),
  };
  const states: ThreadState[] = [];
  const reader = flatReader(saver);
  for await (const tuple of reader.list(at(threadId, undefined, ns), options)) {
    states.push(await threadState(reader, threadId, tuple));
  }
  return states;
}

/**
 * The beginning of a history that is about as large as it may be: at least one checkpoint, and no more read at once than
 * the sizes of those before let expect.
 *
 * @param maxSize characters of JSON
 * @returns `next`: the last one's id, where there may be more behind that were to be had
 */
export async function readHistoryPage(
  saver: BaseCheckpointSaver,
  { threadId, limit, before, ns }: PagePosition,
  maxSize: number,
): Promise<{ states: ThreadState[]; next?: string }> {
  const states: ThreadState[] = [];
  let size = 0;
  while (states.length < limit) {
    const typical = size / states.length;
    const fits = states.length === 0 ? 1 : Math.max(1, Math.floor((maxSize - size) / typical));
    const wanted = Math.min(limit - states.length, fits);
    const last = states.at(-1)?.checkpointId ?? before;
    const more = await readHistory(saver, { threadId, limit: wanted, before: last, ns });
    for (const state of more) {
      states.push(state);
      size += JSON.stringify(state).length;
    }
    if (more.length < wanted) return { states };
    if (size >= maxSize && states.length < limit) return { states, next: states.at(-1)!.checkpointId };
  }
  return { states };
}

/**
 * The same without values and tasks' results: `messages` says how many there are, and the ids of those that the
 * checkpoint's parent has not, in their order.
 *
 * @param maxSize characters of JSON
 * @returns `next`: the last one's id, where there may be more behind that were to be had
 */
export async function readOutlinePage(
  saver: RedisCheckpointSaver,
  { threadId, limit, before, ns = [] }: PagePosition,
  maxSize: number,
): Promise<{ states: ThreadState[]; next?: string }> {
  const reader = saver.outlines(threadId, ns.join("|"));
  const states: ThreadState[] = [];
  let size = 0;
  while (states.length < limit) {
    const last = states.at(-1)?.checkpointId ?? before;
    const { outlines, isLast } = await reader.page(limit - states.length, last);
    for (const [i, { tuple, count, added }] of outlines.entries()) {
      const { tasks, ...state } = stateOf(threadId, tuple, {});
      const withoutResults = tasks.map(({ result: _, ...task }) => task);
      states.push({ ...state, tasks: withoutResults, messages: { count, added } });
      size += JSON.stringify(states.at(-1)).length;
      const isOver = states.length === limit || (isLast && i === outlines.length - 1);
      if (size >= maxSize && !isOver) return { states, next: tuple.checkpoint.id };
    }
    if (isLast) break;
  }
  return { states };
}

/**
 * How many messages a thread has at a checkpoint, by default at its head; 0 where there is none. Of a list that is
 * stored by its elements none is read.
 */
export async function messageCount(
  saver: RedisCheckpointSaver,
  threadId: string,
  checkpointId?: string,
): Promise<number> {
  return await saver.outlines(threadId).count(checkpointId ?? "");
}
