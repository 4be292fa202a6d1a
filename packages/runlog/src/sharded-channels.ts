/**
 * Sharded pub/sub: a message stays on the nodes of its channel's slot, so that live traffic grows with the Cluster. One
 * connection to each master carries the subscriptions of its slots. ioredis's own sharded subscribers do not say which
 * channels were subscribed again, nor when; so we subscribe on the connections of the Cluster object itself, which
 * nobody else uses, and keep account here.
 *
 * Invariant: a wanted channel is either at home (acknowledged by a node, and not taken from it since), or it is being
 * subscribed again: by the caller of `subscribe`, or after a loss by this class, which then calls `onGap`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { backoffDelay } from "@throughline/kit/timing";
import type { Cluster, Redis } from "ioredis";
import type { LiveChannels, LiveHooks, LiveProbe } from "./channels.ts";
import { slotOf } from "./cluster.ts";

const retryMs = { min: 20, max: 500 } as const;

export class ShardedChannels implements LiveChannels {
  readonly #cluster: Cluster;
  readonly #hooks: LiveHooks;
  /** Where each channel is subscribed. */
  readonly #homes = new Map<string, Redis>();
  readonly #followed = new WeakSet<Redis>();
  /** Nodes, by host and port, whose connection was lost and has not been made again. */
  readonly #away = new Set<string>();
  #checking = false;

  /** @param cluster a connection that nobody else uses */
  constructor(cluster: Cluster, hooks: LiveHooks) {
    this.#cluster = cluster;
    this.#hooks = hooks;
    cluster.on("+node", (node: Redis) => this.#follow(node));
    for (const node of cluster.nodes()) this.#follow(node);
    cluster.on("refresh", () => this.#check());
  }

  async subscribe(channels: readonly string[]): Promise<void> {
    await this.#insist(channels, () => {});
  }

  unsubscribe(channel: string): void {
    const home = this.#homes.get(channel);
    this.#homes.delete(channel);
    if (home !== undefined) leave(home, channel);
  }

  /**
   * One for each master: the first tag that leads there. A master that cannot be reached is left out.
   */
  async probes(channelOf: (tag: string) => string): Promise<LiveProbe[]> {
    if (this.#cluster.status !== "ready") {
      await new Promise<void>((resolve) => this.#cluster.once("ready", resolve));
    }
    const masters = this.#masters();
    for (const key of this.#away) {
      const node = masters.get(key);
      masters.delete(key);
      if (node?.status === "wait") node.connect().catch(() => {}); // It stays away.
    }
    const left = new Set(this.#cluster.slots.map(([master]) => master!).filter((key) => masters.has(key)));
    const probes: LiveProbe[] = [];
    for (let tag = 0; left.size > 0; tag++) {
      const channel = channelOf(String(tag));
      const key = this.#masterOf(slotOf(channel));
      if (left.delete(key)) probes.push({ channel, replace: () => masters.get(key)!.disconnect() });
    }
    return probes;
  }

  /** The connections to masters, by host and port. */
  #masters(): Map<string, Redis> {
    return new Map(this.#cluster.nodes("master").map((node) => [keyOf(node), node]));
  }

  /** Host and port of a slot's master; "" while none is known. */
  #masterOf(slot: number): string {
    return this.#cluster.slots[slot]?.[0] ?? "";
  }

  #follow(node: Redis): void {
    if (this.#followed.has(node)) return;
    this.#followed.add(node);
    node.on("smessageBuffer", this.#hooks.onMessage);
    node.on("ready", () => this.#away.delete(keyOf(node)));
    node.on("end", () => {
      this.#away.add(keyOf(node));
      this.#bringHome((_, home) => home === node);
    });
    node.on("moved", () => {
      if (this.#checking) return;
      this.#checking = true;
      // Acknowledgements that came with it are handled after this turn, and more `moved` events may follow.
      setImmediate(() => this.#check());
    });
  }

  /**
   * A node takes the channels of a slot that goes elsewhere from us, and then no longer lists them. The news of the slot's
   * new owner may come first.
   */
  #check(): void {
    this.#checking = false;
    const masters = this.#masters();
    const listed = new Map<Redis, Set<string>>();
    for (const node of masters.values()) {
      const subscribed = node.condition?.subscriber;
      listed.set(node, new Set(subscribed ? subscribed.channels("ssubscribe") : []));
    }
    this.#bringHome((channel, home) => {
      return masters.get(this.#masterOf(slotOf(channel))) !== home || !listed.get(home)?.has(channel);
    });
  }

  /** Subscribes channels again that are no longer where they were. */
  #bringHome(isLost: (channel: string, home: Redis) => boolean): void {
    const lost: string[] = [];
    for (const [channel, home] of this.#homes) {
      if (!isLost(channel, home)) continue;
      this.#homes.delete(channel);
      lost.push(channel);
    }
    if (lost.length === 0) return;
    void this.#refreshSlots()
      .then(() => this.#insist(lost, this.#hooks.onGap))
      .catch(() => {}); // Closed for good: nobody listens any more.
  }

  /**
   * Subscribes until every channel that is still wanted has been acknowledged. Rejects once the connection was closed for
   * good.
   */
  async #insist(
    channels: readonly string[],
    onAcknowledged: (channels: readonly string[]) => void,
  ): Promise<void> {
    let left = channels;
    for (let attempt = 0; ; attempt++) {
      left = await this.#attempt(left, onAcknowledged);
      if (left.length === 0) return;
      if (this.#cluster.status === "end") throw new Error("Connection is closed.");
      await sleep(backoffDelay(retryMs, attempt));
      await this.#refreshSlots();
    }
  }

  /** Answers the channels that were not acknowledged, and are still wanted. */
  async #attempt(
    channels: readonly string[],
    onAcknowledged: (channels: readonly string[]) => void,
  ): Promise<string[]> {
    const masters = this.#masters();
    const failed: string[] = [];
    // An SSUBSCRIBE takes the channels of one slot only.
    const byNode = new Map<Redis, Map<number, string[]>>();
    for (const channel of channels) {
      if (!this.#hooks.wanted.has(channel)) continue;
      const slot = slotOf(channel);
      const node = masters.get(this.#masterOf(slot));
      if (node === undefined) {
        failed.push(channel);
        continue;
      }
      const bySlot = byNode.get(node) ?? new Map<number, string[]>();
      byNode.set(node, bySlot.set(slot, [...(bySlot.get(slot) ?? []), channel]));
    }
    await Promise.all(
      [...byNode].map(async ([node, bySlot]) => {
        const answers = await Promise.all(
          [...bySlot.values()].map(async (together) => ({
            together,
            taken: await this.#enter(node, together),
          })),
        );
        failed.push(...answers.flatMap(({ together, taken }) => (taken ? [] : together)));
        const acknowledged = answers.flatMap(({ together, taken }) => (taken ? together : []));
        if (acknowledged.length > 0) onAcknowledged(acknowledged);
      }),
    );
    return failed;
  }

  async #enter(node: Redis, channels: readonly string[]): Promise<boolean> {
    try {
      await node.ssubscribe(...channels);
    } catch {
      return false;
    }
    // The connection was lost before these channels were noted as its own.
    if (node.status !== "ready") return false;
    for (const channel of channels) {
      if (this.#hooks.wanted.has(channel)) this.#homes.set(channel, node);
      else leave(node, channel);
    }
    return true;
  }

  async #refreshSlots(): Promise<void> {
    if (this.#cluster.status !== "ready") return; // ioredis refreshes the slots when it is back.
    await new Promise<void>((resolve) => this.#cluster.refreshSlotsCache(() => resolve()));
  }
}

function keyOf({ options }: Redis): string {
  return `${options.host}:${options.port}`;
}

/** A failure means that the connection, and so the subscription, is gone. */
function leave(node: Redis, channel: string): void {
  if (node.status === "ready") node.sunsubscribe(channel).catch(() => {});
}
