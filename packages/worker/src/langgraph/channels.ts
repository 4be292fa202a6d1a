/**
 * A graph's state at a checkpoint, to be changed without the graph: reducers are its author's, so one that throws costs
 * the change of its own channel, and nothing else.
 */
import type { BaseMessage } from "@langchain/core/messages";
import type { CheckpointTuple } from "@langchain/langgraph";
import {
  type Channel,
  channelOf,
  DeltaSnapshot,
  type GraphInside,
  isDelta,
  isLastValue,
  isStateKey,
  isUntracked,
  type RedisCheckpointSaver,
} from "@throughline/checkpoint";
import { typeOf } from "../repair.ts";

export class Channels {
  readonly #graph: GraphInside | undefined;
  readonly #values: Record<string, unknown>;
  readonly #changed = new Set<string>();

  private constructor(graph: GraphInside | undefined, values: Record<string, unknown>) {
    this.#graph = graph;
    this.#values = values;
  }

  /** Without the graph, only its messages can be changed. */
  static async at(
    graph: GraphInside | undefined,
    tuple: CheckpointTuple,
    saver: RedisCheckpointSaver,
  ): Promise<Channels> {
    const values: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(tuple.checkpoint.channel_values)) {
      if (isStateKey(key)) values[key] = value instanceof DeltaSnapshot ? value.value : value;
    }
    const deltas = Object.keys(graph?.channels ?? {}).filter(
      (key) => isDelta(channelOf(graph!, key)) && !Object.hasOwn(values, key),
    );
    // A thread that has no checkpoint has no history.
    if (deltas.length > 0 && tuple.config.configurable !== undefined) {
      const histories = await saver.getDeltaChannelHistory({ config: tuple.config, channels: deltas });
      for (const key of deltas) {
        const { seed, writes } = histories[key]!;
        attempt(() => {
          const channel = channelOf(graph!, key)!.fromCheckpoint(seed);
          channel.replayWrites!(writes);
          values[key] = channel.get();
        });
      }
    }
    return new Channels(graph, values);
  }

  get(key: string): unknown {
    return this.#values[key];
  }

  /** Whether the state has this key. */
  has(key: string): boolean {
    return this.#graph === undefined ? Object.hasOwn(this.#values, key) : this.#channel(key) !== undefined;
  }

  /** The channels that have another value now, as a checkpoint holds them. */
  changes(): Map<string, unknown> {
    return new Map(
      [...this.#changed].map((key) => {
        const value = this.#values[key];
        return [key, isDelta(this.#channel(key)) ? new DeltaSnapshot(value) : value];
      }),
    );
  }

  /** The values that a checkpoint does not hold, for they are rebuilt from writes: as one that does. */
  snapshots(): Map<string, unknown> {
    const keys = Object.keys(this.#graph?.channels ?? {}).filter(
      (key) => isDelta(this.#channel(key)) && this.#values[key] !== undefined,
    );
    return new Map(keys.map((key) => [key, new DeltaSnapshot(this.#values[key])]));
  }

  set(key: string, value: unknown): void {
    this.#values[key] = value;
    this.#changed.add(key);
  }

  /** What tasks of one step wrote to a key. @returns false where its reducer refuses */
  update(key: string, writes: unknown[]): boolean {
    const channel = this.#channel(key);
    if (channel === undefined || isUntracked(channel)) return false;
    return attempt(() => {
      const updated = channel.fromCheckpoint(ownList(this.#values[key]));
      if (updated.update(writes)) this.set(key, updated.get());
    });
  }

  /** Whether `messages` of the state is a list of messages, or may become one. */
  get holdsMessages(): boolean {
    if (!this.has("messages")) return false;
    const { messages } = this.#values;
    return messages === undefined || isMessages(messages);
  }

  get messages(): BaseMessage[] {
    const { messages } = this.#values;
    return isMessages(messages) ? messages : [];
  }

  /** Adds messages, and replaces those that are there by id: by the state's reducer, or as LangGraph's own does it. */
  addMessages(messages: readonly BaseMessage[]): void {
    if (messages.length === 0 || !this.holdsMessages) return;
    const channel = this.#channel("messages");
    if (channel !== undefined && !isLastValue(channel)) {
      const before = this.#values.messages;
      if (this.update("messages", [[...messages]]) && isMessages(this.#values.messages)) return;
      this.#values.messages = before;
    }
    this.set("messages", mergedById(this.messages, messages));
  }

  #channel(key: string): Channel | undefined {
    return this.#graph && isStateKey(key) ? channelOf(this.#graph, key) : undefined;
  }
}

/** A reducer may push to the list that it is given; what it is given is the checkpoint's. */
function ownList(value: unknown): unknown {
  return Array.isArray(value) ? [...value] : value;
}

function attempt(change: () => void): boolean {
  try {
    change();
    return true;
  } catch {
    return false;
  }
}

function mergedById(before: readonly BaseMessage[], messages: readonly BaseMessage[]): BaseMessage[] {
  const merged = [...before];
  for (const message of messages) {
    const at = merged.findIndex(({ id }) => id !== undefined && id === message.id);
    if (at === -1) merged.push(message);
    else merged[at] = message;
  }
  return merged;
}

function isMessages(value: unknown): value is BaseMessage[] {
  return Array.isArray(value) && value.every(isMessage);
}

/** Also plain objects, `{role, content}`: reducers of their author's own may keep what they are given. */
function isMessage(value: unknown): value is BaseMessage {
  return typeof value === "object" && value !== null && typeOf(value as BaseMessage) !== undefined;
}
