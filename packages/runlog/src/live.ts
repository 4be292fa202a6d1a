/**
 * Many runs' live messages, over one subscriber connection, or, on a Cluster, one to each master.
 *
 * Invariants, whichever it is:
 * - `subscribe` resolves after Redis has acknowledged: what is published from then on arrives, or `onGap` is called;
 * - when a connection was away, or a channel's slot has moved, the channels are subscribed again, acknowledged, and only
 *   then `onGap` is called: listeners read the log again. Published messages are hints, and may be lost;
 * - a channel without a listener is unsubscribed from.
 */
import { deadline } from "@throughline/kit/timing";
import type { Cluster, Redis } from "ioredis";
import {
  type LiveChannels,
  type LiveHooks,
  type LiveListener,
  type LiveProbe,
  PlainChannels,
} from "./channels.ts";
import { isCluster } from "./cluster.ts";
import { ShardedChannels } from "./sharded-channels.ts";

export interface LiveOptions {
  /** Messages of these channels may have been lost: their connection was away, or their slot has moved. */
  onGap?: (channels: readonly string[]) => void;
}

export class LiveSubscriber {
  readonly #channels: LiveChannels;
  readonly #listeners = new Map<string, LiveListener>();
  /** Channels to subscribe to with the next command, and who waits for its acknowledgement. */
  #joining: { channels: string[]; done: Promise<void> } | undefined;

  /** @param redis a connection that nobody else uses, with `autoResubscribe: false` */
  constructor(redis: Redis | Cluster, options: LiveOptions = {}) {
    const hooks: LiveHooks = {
      wanted: this.#listeners,
      onMessage: (channel, message) => this.#listeners.get(channel.toString("latin1"))?.(message),
      onGap: options.onGap ?? (() => {}),
    };
    this.#channels = isCluster(redis) ? new ShardedChannels(redis, hooks) : new PlainChannels(redis, hooks);
  }

  /** How many channels are subscribed to. */
  get size(): number {
    return this.#listeners.size;
  }

  /** Listens to a channel; one listener a channel. Resolves when Redis has acknowledged. */
  subscribe(channel: string, listener: LiveListener): Promise<void> {
    this.#listeners.set(channel, listener);
    if (this.#joining !== undefined) {
      this.#joining.channels.push(channel);
      return this.#joining.done;
    }
    // Everyone who subscribes in this turn of the event loop goes out in one command.
    const channels = [channel];
    const done = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
      this.#joining = undefined;
      return this.#channels.subscribe(channels);
    });
    this.#joining = { channels, done };
    return done;
  }

  /** @param listener the one that is to go; a later one of the same channel stays */
  unsubscribe(channel: string, listener: LiveListener): void {
    if (this.#listeners.get(channel) !== listener) return;
    this.#listeners.delete(channel);
    // A message that still comes finds no listener.
    this.#channels.unsubscribe(channel);
  }

  /**
   * Whether every connection delivers, proven by a message that `publish` sends to a channel of ours. Where none arrives
   * in time the connection is replaced. false also where there is none.
   *
   * @param channelOf names such a channel; on a Cluster a tag in the right place leads to the right master
   */
  async prove(
    channelOf: (tag: string) => string,
    publish: (channel: string) => Promise<unknown>,
    deadlineMs: number,
  ): Promise<boolean> {
    const { passed, clear } = deadline(deadlineMs);
    const probes = await Promise.race([this.#channels.probes(channelOf), passed]);
    const alive =
      probes && (await Promise.all(probes.map((probe) => this.#proveOne(probe, publish, passed))));
    clear();
    return alive !== false && alive.length > 0 && alive.every((each) => each);
  }

  async #proveOne(
    { channel, replace }: LiveProbe,
    publish: (channel: string) => Promise<unknown>,
    late: Promise<false>,
  ): Promise<boolean> {
    let heard!: LiveListener;
    const echo = new Promise<true>((resolve) => {
      heard = () => resolve(true);
      void this.subscribe(channel, heard)
        .then(
          () => publish(channel),
          () => {},
        )
        .catch(() => {});
    });
    const alive = await Promise.race([echo, late]);
    if (!alive) replace();
    this.unsubscribe(channel, heard);
    return alive;
  }
}
