/**
 * An owner's threads by when something last happened to them, by status and by agent, and the log of all of them.
 *
 * Invariants:
 * - the truth is each thread's record, in its own slot; this follows, version by version, and never goes back to an older;
 * - a thread that was deleted is not shown again by whoever comes late, for its life had a name (`birth`);
 * - an event is told once, in the order of its thread's versions.
 */

import type { ThreadStatus } from "@throughline/protocol";
import { defaultPrefix, newEpoch } from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";
import { ownerKey, ownerLogKeys, threadKey } from "./thread-keys.ts";
import { withScripts } from "./thread-scripts.ts";

/** What the index is to have of a thread, as its scripts answer it. */
export interface ThreadState {
  birth: string;
  version: number;
  /** The version that the index is known to have. */
  shown: number;
  /** ms since 1970, by Redis' clock. */
  updated: string;
  status: ThreadStatus;
  /** "": none. */
  agent: string;
  /** version, JSON, … of what it may not have been told. */
  events: string[];
}

export interface Place {
  place: string;
  threadId: string;
  /** The version that the index has, and of which life of the thread. */
  version: string;
  birth: string;
}

/** How long the owner's log is kept after its last event, ms. */
const logTtlMs = 7 * 24 * 60 * 60 * 1000;
/** How long it is known of threads that they were deleted, ms: longer than any step of a process takes. */
const goneForMs = 10 * 60 * 1000;
/** Behind every version of a thread. */
const lastVersion = Number.MAX_SAFE_INTEGER;

export class ThreadIndex {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  readonly #owner: string;
  readonly #keys: string[];
  readonly #watch: string;

  constructor(redis: Redis | Cluster, owner: string, prefix = defaultPrefix) {
    this.#redis = withScripts(redis);
    this.#prefix = prefix;
    this.#owner = owner;
    const { run: told, log: events, live: watch } = ownerLogKeys(prefix, owner);
    const key = (name: string) => ownerKey(prefix, owner, name);
    this.#keys = [key("listed"), key("shown"), key("gone"), told, events];
    this.#watch = watch;
  }

  /**
   * Shows a thread as it is, unless the index has this version or a later one.
   *
   * @param instead what is to be replaced, whichever version it is. Default: any older one
   */
  async show(threadId: string, state: ThreadState | null, instead?: Place): Promise<void> {
    if (state === null || (state.shown === state.version && state.version > 0 && instead === undefined))
      return;
    const { birth, version, updated, status, agent, events } = state;
    await this.#show(threadId, instead, birth, version, updated, status, agent, ...events);
    if (events.length === 0) return;
    await this.#redis.tlShown(threadKey(this.#prefix, this.#owner, threadId, "thread"), birth, version);
  }

  /** Takes a thread out that was deleted. @param event JSON; undefined: nobody was ever told of it */
  async remove(threadId: string, birth: string, event: string | undefined): Promise<void> {
    await this.#show(
      threadId,
      undefined,
      birth,
      0,
      0,
      "",
      "",
      ...(event === undefined ? [] : [lastVersion, event]),
    );
  }

  /** Takes a thread out that is no more there, if the index has it still as it was seen there. */
  async forget(place: Place): Promise<void> {
    await this.#show(place.threadId, place, "", 0, 0, "", "");
  }

  /** The threads behind a place, the newest first. */
  async page(
    of: { status?: string | undefined; agent?: string | undefined },
    before: string,
    count: number,
  ): Promise<Place[]> {
    const [listed, shown] = this.#keys as [string, string];
    const flat = await this.#redis.tlThreads(
      listed,
      shown,
      of.status ?? "",
      plainAgent(of.agent ?? ""),
      before,
      count,
    );
    const places: Place[] = [];
    for (let i = 0; i < flat.length; i += 4) {
      const [place, threadId, version, birth] = flat.slice(i, i + 4) as [string, string, string, string];
      places.push({ place, threadId, version, birth });
    }
    return places;
  }

  async #show(
    threadId: string,
    instead: Place | undefined,
    birth: string,
    version: number,
    updated: string | number,
    status: string,
    agent: string,
    ...events: (string | number)[]
  ): Promise<void> {
    await this.#redis.tlShow(
      ...this.#keys,
      threadId,
      newEpoch(),
      this.#watch,
      logTtlMs,
      goneForMs,
      instead === undefined ? "" : `${instead.birth} ${instead.version}`,
      birth,
      version,
      updated,
      status,
      plainAgent(agent),
      ...events,
    );
  }
}

/** A NUL stands between the segments of an entry. Agents that differ in these alone are told apart by their records. */
function plainAgent(agent: string): string {
  return agent.replaceAll("\0", "");
}
