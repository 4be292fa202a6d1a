/** A saver for a graph to run on whose writes may be refused. */
import type { RunnableConfig } from "@langchain/core/runnables";
import {
  BaseCheckpointSaver,
  type ChannelVersions,
  type Checkpoint,
  type CheckpointListOptions,
  type CheckpointMetadata,
  type CheckpointTuple,
  type DeltaChannelHistory,
  type PendingWrite,
} from "@langchain/langgraph-checkpoint";

/**
 * The same saver for a running graph. LangGraph leaves what `put` and `putWrites` reject with unhandled until the run
 * ends, which ends the whole Node process first. Here they do not reject: the first error goes to `onError`, which has
 * to stop the run, and nothing more is written, as LangGraph itself would not write a child of what was not stored.
 *
 * It is for running only: `updateState` has to hear of an error, so give it the saver itself.
 */
export function forGraph(saver: BaseCheckpointSaver, onError: (error: unknown) => void): GraphSaver {
  return new GraphSaver(saver, onError);
}

export class GraphSaver extends BaseCheckpointSaver {
  readonly #saver: BaseCheckpointSaver;
  readonly #onError: (error: unknown) => void;
  #failed = false;
  readonly #underWay = new Set<Promise<void>>();

  constructor(saver: BaseCheckpointSaver, onError: (error: unknown) => void) {
    super(saver.serde);
    this.#saver = saver;
    this.#onError = onError;
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
    await this.#write(() => this.#saver.put(config, checkpoint, metadata, newVersions));
    return stored;
  }

  override async putWrites(config: RunnableConfig, writes: PendingWrite[], taskId: string): Promise<void> {
    await this.#write(() => this.#saver.putWrites(config, writes, taskId));
  }

  override getTuple(config: RunnableConfig): Promise<CheckpointTuple | undefined> {
    return this.#saver.getTuple(config);
  }

  override list(config: RunnableConfig, options?: CheckpointListOptions): AsyncGenerator<CheckpointTuple> {
    return this.#saver.list(config, options);
  }

  override deleteThread(threadId: string): Promise<void> {
    return this.#saver.deleteThread(threadId);
  }

  override getDeltaChannelHistory(options: {
    config: RunnableConfig;
    channels: string[];
  }): Promise<Record<string, DeltaChannelHistory>> {
    return this.#saver.getDeltaChannelHistory(options);
  }

  override getNextVersion(current: number | undefined): number {
    return this.#saver.getNextVersion(current);
  }

  async #write(write: () => Promise<unknown>): Promise<void> {
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
