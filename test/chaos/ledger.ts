/** What is known of a round: the runs that were started, who followed them, what struck when, and what broke a rule. */
import type { Result, RunRecord } from "@throughline/protocol";
import type { FaultName } from "./faults.ts";
import { type FigureName, Figures } from "./figures.ts";
import type { PlannedTurn } from "./plan.ts";
import type { View } from "./view.ts";

/** A cancel that somebody asked for, and what it was answered with. */
export interface AskedCancel {
  client: string;
  keep: string;
  /** undefined: it was not answered yet. */
  answer: Result<"run.cancel"> | undefined;
  /** From the first frame to the answer, all tries included. */
  tookMs: number;
}

/** What a run came to, as its log has it. */
export interface Outcome {
  readonly record: RunRecord;
  /** Streamed text by message id, in the order in which the messages began. */
  readonly texts: ReadonlyMap<string, string>;
  /** The state, as its updates told of it. */
  readonly values: Readonly<Record<string, unknown>>;
  /** The messages that the run brought into its checkpoint, by their names: see `nameOf`. */
  readonly said: readonly string[];
}

export interface KnownRun {
  readonly runId: string;
  readonly threadId: string;
  readonly epoch: string;
  readonly turn: PlannedTurn;
  readonly client: string;
  /** When its start was asked for first. */
  readonly startedAt: number;
  readonly views: View[];
  readonly cancels: AskedCancel[];
  /** The state at its final checkpoint, as a gateway showed it to its client. */
  shown: Readonly<Record<string, unknown>> | undefined;
  /** How it ended, as its own client was told; undefined: it was not. */
  ending: string | undefined;
  /** Its own client has seen it end. */
  ended: boolean;
  /** What the audit of its log found; undefined: it was not held yet. */
  outcome: Outcome | undefined;
}

export interface FaultRecord {
  readonly name: FaultName | "crash";
  readonly detail: string;
  readonly from: number;
  /** Infinity while it holds. */
  until: number;
  readonly ofRedis: boolean;
  /** Logs of runs that were under way may have a new epoch afterwards. */
  readonly renewsEpochs: boolean;
  /** How long the line may need to get over it: what happens in that time is not calm. */
  readonly aftermathMs: number;
}

/** How many faults a violation is shown with. */
const shownFaults = 8;

export class Ledger {
  readonly startedAt = Date.now();
  readonly runs = new Map<string, KnownRun>();
  readonly faults: FaultRecord[] = [];
  readonly violations: string[] = [];
  readonly figures = new Figures();
  readonly counts: Record<string, number> = {};

  count(what: string, by = 1): void {
    this.counts[what] = (this.counts[what] ?? 0) + by;
  }

  /** The run with this id, which is made known where it is not. */
  run(
    runId: string,
    known: Pick<KnownRun, "threadId" | "epoch" | "turn" | "client" | "startedAt">,
  ): KnownRun {
    let run = this.runs.get(runId);
    if (run === undefined) {
      run = {
        ...known,
        runId,
        views: [],
        cancels: [],
        shown: undefined,
        ending: undefined,
        ended: false,
        outcome: undefined,
      };
      this.runs.set(runId, run);
    } else if (run.threadId !== known.threadId || run.turn !== known.turn) {
      this.violation(`${known.client} was given ${runId} for its start, which is ${run.client}'s`);
    }
    return run;
  }

  /** The runs that have not ended yet, as far as their clients know. */
  get active(): KnownRun[] {
    return [...this.runs.values()].filter((run) => !run.ended);
  }

  byThread(): Map<string, KnownRun[]> {
    const threads = new Map<string, KnownRun[]>();
    for (const run of this.runs.values()) {
      const runs = threads.get(run.threadId) ?? [];
      threads.set(run.threadId, runs);
      runs.push(run);
    }
    return threads;
  }

  /** Notes what broke a rule, with what struck last, or, where it is told since when to look, from then on. */
  violation(what: string, since?: number): void {
    const struck = since === undefined ? this.faults : this.faults.filter(({ until }) => until >= since);
    const some = since === undefined ? struck.slice(-shownFaults) : struck.slice(0, shownFaults);
    const named = some.map((fault) => `${fault.name} ${fault.detail} at ${this.at(fault.from)}`);
    this.violations.push(`at ${this.at(Date.now())}: ${what}\n    faults: ${named.join(", ") || "none"}`);
  }

  /** A time as seconds of the round. */
  at(ms: number): string {
    return `${((ms - this.startedAt) / 1000).toFixed(1)} s`;
  }

  strike(fault: Omit<FaultRecord, "from" | "until">): FaultRecord {
    const record = { ...fault, from: Date.now(), until: Number.POSITIVE_INFINITY };
    this.faults.push(record);
    return record;
  }

  /** Whether nothing was broken between two times, but for what began with them. */
  calm(from: number, to: number, cause?: (fault: FaultRecord) => boolean): boolean {
    return !this.faults.some(
      (fault) => fault.until + fault.aftermathMs > from && fault.from < to && !(cause?.(fault) ?? false),
    );
  }

  redisTroubled(since: number): boolean {
    return this.faults.some((fault) => fault.ofRedis && fault.until + fault.aftermathMs > since);
  }

  /** Whether the log of a run that was begun at `since` may have got a new epoch. */
  mayHaveRenewed(since: number): boolean {
    return this.faults.some((fault) => fault.renewsEpochs && fault.until > since);
  }

  /** A figure that began at `from` and ends now. `cause`: the fault whose consequence it is. */
  measure(name: FigureName, from: number, cause?: (fault: FaultRecord) => boolean): void {
    const now = Date.now();
    this.figures.add(name, Math.max(0, now - from), this.calm(from, now, cause));
  }
}
