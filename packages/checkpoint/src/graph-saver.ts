import type { RunnableConfig } from "@langchain/core/runnables";
import {
  type BaseCheckpointSaver,
  type ChannelVersions,
  type Checkpoint,
  type CheckpointMetadata,
  type CheckpointTuple,
  getCheckpointId,
  type PendingWrite,
} from "@langchain/langgraph-checkpoint";
import { ForkView } from "./fork-view.ts";
import { ERROR, isUnfinished } from "./langgraph.ts";

/**
 * A saver for a running graph, whose writes may be refused. LangGraph leaves what `put` and `putWrites` reject with
 * unhandled until the run ends, which ends the whole Node process first. Here they do not reject: the first error goes
 * to `onError`, and nothing more is written, as LangGraph itself would not write a child of what was not stored.
 *
 * It is for running only: `updateState` has to hear of an error, so give it a `ForkView`.
 */
export class GraphSaver extends ForkView {
  readonly #onError: (error: unknown) => void;
  #failed = false;
  readonly #underWay = new Set<Promise<void>>();
  #head: CheckpointTuple | undefined;
  readonly #isSeen: (head: CheckpointTuple) => boolean;

  /**
   * @param onError hears of the first write that was refused, and has to stop the run
   * @param options.head the thread's head, if it was read: LangGraph begins with it, and need not read it again
   * @param options.isSeen whether the graph is to find this head, of a namespace. @default all of them
   */
  constructor(
    saver: BaseCheckpointSaver,
    onError: (error: unknown) => void,
    {
      head,
      isSeen = () => true,
    }: { head?: CheckpointTuple; isSeen?: (head: CheckpointTuple) => boolean } = {},
  ) {
    super(saver);
    this.#onError = onError;
    this.#head = head;
    this.#isSeen = isSeen;
  }

  override async getTuple(config: RunnableConfig): Promise<CheckpointTuple | undefined> {
    const head = this.#head;
    const { thread_id, checkpoint_ns = "" } = config.configurable ?? {};
    const isAnyHead = getCheckpointId(config) === "";
    const isHead = checkpoint_ns === "" && isAnyHead;
    if (head === undefined || !isHead || thread_id !== head.config.configurable?.thread_id) {
      const tuple = await super.getTuple(config);
      return isAnyHead && tuple !== undefined && !this.#isSeen(tuple) ? undefined : tuple;
    }
    this.#head = undefined;
    return this.seen(head);
  }

  /** Resolves when no write is under way and none follows: LangGraph sends a checkpoint when the one before is stored. */
  async idle(): Promise<void> {
    do {
      await Promise.all(this.#underWay);
      await new Promise(setImmediate);
    } while (this.#underWay.size > 0);
  }

  override async put(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    newVersions: ChannelVersions,
  ): Promise<RunnableConfig> {
    const { thread_id, checkpoint_ns = "" } = config.configurable ?? {};
    const stored = { configurable: { thread_id, checkpoint_ns, checkpoint_id: checkpoint.id } };
    await this.#write(() => super.put(config, checkpoint, metadata, newVersions));
    return stored;
  }

  override async putWrites(
    config: RunnableConfig,
    writes: PendingWrite[],
    taskId: string,
    taskPath?: string,
  ): Promise<void> {
    await this.#write(() => super.putWrites(config, writesOfTask(writes), taskId, taskPath));
  }

  async #write(write: () => Promise<unknown>): Promise<void> {
    this.#head = undefined;
    if (this.#failed) return;
    const done = write().then(
      () => {},
      (error: unknown) => {
        if (this.#failed) return;
        this.#failed = true;
        this.#onError(error);
      },
    );
    this.#underWay.add(done);
    await done;
    this.#underWay.delete(done);
  }
}

/**
 * A task that failed has not finished, whatever it had written: LangGraph 1.4 hands over what came before a router that
 * throws, and later takes it for all that there was.
 */
function writesOfTask(writes: PendingWrite[]): PendingWrite[] {
  return writes.some(([channel]) => channel === ERROR)
    ? writes.filter(([channel]) => isUnfinished(channel))
    : writes;
}
