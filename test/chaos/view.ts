/**
 * What one client was told of one run, in the order in which it was told, until it is held against the log. It keeps
 * all that came as text, so that a difference can be shown.
 */
import type { Filter, FoldSnapshot, Part } from "@throughline/protocol";
import type { KnownRun, Ledger } from "./ledger.ts";
import { busyPaceMs } from "./plan.ts";

export interface Told {
  offset: number;
  /** The part's JSON; null: the filter left it out. */
  part: string | null;
}

/** What the offsets up to `offset` added up to, as somebody was told. */
export interface Snapshot {
  offset: number;
  /** Text by message id. */
  texts: Map<string, string>;
  values: unknown;
}

interface Waiting {
  figure: "takeover" | "handOver";
  since: number;
  pid: number;
}

export class View {
  readonly client: string;
  readonly run: KnownRun;
  /** The last offset that was not asked for; undefined: where the head was. */
  after: number | undefined;
  readonly filter: Filter | undefined;
  readonly told: Told[] = [];
  /** What it was told in place of what was trimmed, since it last began from the beginning. */
  readonly snapshots: Snapshot[] = [];
  /** Why it was to drop all it had, and read from the beginning. */
  readonly resets: string[] = [];
  /** What broke a rule of the wire as it came. */
  readonly problems: string[] = [];
  /** The texts of the messages by id, as the client library folded them. */
  folded: Map<string, string> | undefined;
  /** The ending was delivered. */
  complete = false;
  readonly #ledger: Ledger;
  /** Who wrote the last token. */
  #pid = 0;
  #lastAt = 0;
  /** A worker was lost that this run was on, and nothing has come since. */
  #waiting: Waiting | undefined;

  constructor(
    ledger: Ledger,
    client: string,
    run: KnownRun,
    after: number | undefined,
    filter: Filter | undefined,
  ) {
    this.#ledger = ledger;
    this.client = client;
    this.run = run;
    this.after = after;
    this.filter = filter;
  }

  /** Its parts come every moment. */
  get isBusy(): boolean {
    return !this.complete && this.run.turn.input.paceMs <= busyPaceMs;
  }

  part(offset: number, part: Part): void {
    this.told.push({ offset, part: JSON.stringify(part) });
    const now = Date.now();
    if (part.type === "messages") {
      const { pid } = part.data[1];
      if (typeof pid === "number") this.#pid = pid;
    } else if (part.type === "lifecycle") {
      const { event } = part.data;
      const goesOn = event === "resumed" || event === "rewound";
      if (goesOn && this.#waiting !== undefined) this.#measure(this.#waiting);
      this.#waiting = undefined;
    }
    this.#lastAt = now;
  }

  reset(reason: string): void {
    this.resets.push(reason);
    this.told.length = 0;
    this.snapshots.length = 0;
    this.after = 0;
  }

  snapshot(snapshot: Pick<FoldSnapshot, "offset" | "messages"> & { values: unknown }): void {
    this.snapshots.push(toSnapshot(snapshot));
  }

  skipped(from: number, to: number): void {
    for (let offset = from; offset <= to; offset++) this.told.push({ offset, part: null });
  }

  /** A worker is gone, or going. */
  workerLost(pid: number, how: "takeover" | "handOver"): void {
    // Where parts are seldom, a silence is the agent's.
    if (how === "handOver" && !this.isBusy) return;
    if (pid === this.#pid && !this.complete) this.#waiting = { figure: how, since: Date.now(), pid };
  }

  /** The client itself was away, or did not read: what comes next says nothing of the worker. */
  disturbed(): void {
    this.#waiting = undefined;
  }

  #measure({ figure, since, pid }: Waiting): void {
    // What is handed over goes on as long as the worker lets it: the silence counts.
    const from = figure === "handOver" ? Math.max(since, this.#lastAt) : since;
    this.#ledger.measure(figure, from, (fault) => fault.detail.includes(`(${pid})`));
  }
}

export function toSnapshot({
  offset,
  messages,
  values,
}: Pick<FoldSnapshot, "offset" | "messages"> & { values: unknown }): Snapshot {
  return { offset, values, texts: new Map(messages.map(({ id = "", content }) => [id, String(content)])) };
}
