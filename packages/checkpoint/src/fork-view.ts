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
import { marksOf } from "./marks.ts";

/**
 * A saver as a graph sees it: a fork goes by the id of the checkpoint that it stands for, and what was written to prepare
 * a run is no work of that run: LangGraph would take it for a run that goes on, and leave its input.
 *
 * The ids of a step's tasks, of its interrupts and of the namespaces below hang on the id of the checkpoint before the
 * step. Under its own id, a fork would be a step in which nothing had been done.
 */
export class ForkView extends BaseCheckpointSaver {
  readonly #saver: BaseCheckpointSaver;
  /** By namespace and the id that the graph knows: the id of the fork. */
  readonly #forks = new Map<string, string>();

  constructor(saver: BaseCheckpointSaver) {
    super(saver.serde);
    this.#saver = saver;
    // LangGraph takes it off its saver, and calls it alone.
    this.getNextVersion = this.getNextVersion.bind(this);
  }

  override async getTuple(config: RunnableConfig): Promise<CheckpointTuple | undefined> {
    const tuple = await this.#saver.getTuple(this.#stored(config));
    return tuple && this.seen(tuple);
  }

  /** The tuple as a graph sees it. */
  seen(tuple: CheckpointTuple): CheckpointTuple {
    const { as, prepares, run_id: _, ...marks } = marksOf(tuple);
    const metadata = prepares === true ? (marks as CheckpointMetadata) : tuple.metadata;
    if (as === undefined) return { ...tuple, ...(metadata === undefined ? {} : { metadata }) };
    this.#forks.set(key(tuple.config, as), tuple.checkpoint.id);
    return {
      ...tuple,
      config: withId(tuple.config, as),
      checkpoint: { ...tuple.checkpoint, id: as },
      ...(metadata === undefined ? {} : { metadata }),
    };
  }

  /** As the saver has them: for looking back, where forks are what they are. */
  override list(config: RunnableConfig, options?: CheckpointListOptions): AsyncGenerator<CheckpointTuple> {
    return this.#saver.list(config, options);
  }

  override async put(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    newVersions: ChannelVersions,
  ): Promise<RunnableConfig> {
    // With durability "exit" a checkpoint that was loaded may be put once more.
    const id = this.#forks.get(key(config, checkpoint.id)) ?? checkpoint.id;
    return await this.#saver.put(this.#stored(config), { ...checkpoint, id }, metadata, newVersions);
  }

  override async putWrites(
    config: RunnableConfig,
    writes: PendingWrite[],
    taskId: string,
    taskPath?: string,
  ): Promise<void> {
    await this.#saver.putWrites(this.#stored(config), writes, taskId, taskPath);
  }

  override deleteThread(threadId: string): Promise<void> {
    return this.#saver.deleteThread(threadId);
  }

  override getDeltaChannelHistory({
    config,
    channels,
  }: {
    config: RunnableConfig;
    channels: string[];
  }): Promise<Record<string, DeltaChannelHistory>> {
    return this.#saver.getDeltaChannelHistory({ config: this.#stored(config), channels });
  }

  override getNextVersion(current: number | undefined): number {
    return this.#saver.getNextVersion(current);
  }

  #stored(config: RunnableConfig): RunnableConfig {
    const id: unknown = config.configurable?.checkpoint_id;
    const fork = typeof id === "string" ? this.#forks.get(key(config, id)) : undefined;
    return fork === undefined ? config : withId(config, fork);
  }
}

function key({ configurable }: RunnableConfig, id: string): string {
  return `${configurable?.checkpoint_ns ?? ""} ${id}`;
}

function withId(config: RunnableConfig, id: string): RunnableConfig {
  return { ...config, configurable: { ...config.configurable, checkpoint_id: id } };
}
