/**
 * The runs of a thread that a socket watches: each that is in line, or comes, is subscribed to, once the client has been
 * told of it.
 *
 * Invariants:
 * - a run is subscribed to once for a watch, however often it is told of, and not at all where the socket has it already;
 * - one that comes again after its end is told from its beginning, behind `run.reset`;
 * - it is subscribed to behind the event, or the result, that names it;
 * - they are taken up one after the other, and none any more once the watch is over.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { backoffDelay } from "@throughline/kit/timing";
import { isEnding, ProtocolError, type ThreadEvent } from "@throughline/protocol";
import { isPassing } from "@throughline/runlog";
import type { Batch } from "./batch.ts";
import type { Witness } from "./subscription.ts";

/** What a client has of a run. */
export interface Known {
  after: number;
  epoch?: string | undefined;
}

export interface WatchedRunsDeps {
  /** Subscribes the socket to a run, unless it has it. Rejects where Redis is out of reach. */
  subscribe(runId: string, from: Known): Promise<void>;
  /** The thread's runs that have not ended. */
  active(): Promise<readonly string[]>;
  /** Neither of these did what it should: it is not tried again. */
  onFailure(error: unknown): void;
  /** Whether the watch is over. */
  isOver(): boolean;
}

/** How many runs that have ended are remembered: a thread's log tells of no more. */
const remembered = 100;
/** No log has it: who goes on in it is told to begin anew. */
const noEpoch = "";

const retryMs = { min: 100, max: 2_000 } as const;

export class WatchedRuns implements Witness {
  readonly #deps: WatchedRunsDeps;
  readonly #known: Map<string, Known>;
  /** Those that have not ended, as far as the client was told, and were taken up. */
  #taken = new Set<string>();
  /** Those of which the client was told that they ended. */
  readonly #ended = new Set<string>();
  readonly #queue: (() => Promise<void>)[] = [];
  #isWorking = false;

  /** @param known what the client has of some runs */
  constructor(deps: WatchedRunsDeps, known: Readonly<Record<string, Known>> = {}) {
    this.#deps = deps;
    this.#known = new Map(Object.entries(known));
  }

  /** These were named to the client. */
  take(runIds: Iterable<string>): void {
    for (const runId of runIds) this.#take(runId);
  }

  onSent(batch: Batch, from: number): void {
    for (const entry of batch.entries(from) as ThreadEvent[]) {
      if (entry.event !== "run") continue;
      const { runId, status } = entry.run;
      // Of one that has ended the client has a part already, or was not told before.
      if (!isEnding(status) || this.#known.has(runId)) this.#take(runId);
      if (isEnding(status)) this.#end(runId);
    }
  }

  /** Events were passed over: what they told of is looked up. */
  onReset(): void {
    this.#do(async () => {
      const active = await this.#deps.active();
      for (const runId of this.#taken) if (!active.includes(runId)) this.#end(runId);
      this.take(active);
    });
  }

  #take(runId: string): void {
    if (this.#taken.has(runId)) return;
    this.#taken.add(runId);
    // One that had ended lives again where Redis came back with an older copy: its client has parts of another log.
    const beginning = this.#ended.has(runId) ? { after: 0, epoch: noEpoch } : { after: 0 };
    const from = this.#known.get(runId) ?? beginning;
    this.#known.delete(runId);
    this.#do(() => this.#deps.subscribe(runId, from));
  }

  #end(runId: string): void {
    this.#taken.delete(runId);
    this.#ended.add(runId);
    const [oldest] = this.#ended;
    if (this.#ended.size > remembered) this.#ended.delete(oldest!);
  }

  #do(work: () => Promise<void>): void {
    this.#queue.push(work);
    if (!this.#isWorking) void this.#work();
  }

  async #work(): Promise<void> {
    this.#isWorking = true;
    for (let failures = 0; this.#queue.length > 0 && !this.#deps.isOver(); ) {
      try {
        await this.#queue[0]!();
        this.#queue.shift();
        failures = 0;
      } catch (error) {
        // Redis is away, or too many wait for their turn: the runs are still there later.
        if (isTemporary(error as Error)) await sleep(backoffDelay(retryMs, failures++));
        else {
          this.#queue.shift();
          this.#deps.onFailure(error);
        }
      }
    }
    this.#isWorking = false;
  }
}

function isTemporary(error: Error): boolean {
  return error instanceof ProtocolError ? error.retryable : isPassing(error);
}
