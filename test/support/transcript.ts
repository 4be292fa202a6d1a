/**
 * What one client has been told of one run, across all its sockets. It knows nothing but the protocol's rules, and holds
 * the gateway to them: frames are contiguous, nothing is sent twice, nothing comes after the ending (P1).
 */
import {
  type EventFrame,
  type EventParams,
  type events,
  isEnding,
  type LifecycleData,
  type Part,
} from "@throughline/protocol";
import { patienceMs, until } from "./until.ts";

export interface Delivered {
  readonly offset: number;
  /** null: the filter left it out. */
  readonly part: Part | null;
}

export class Transcript {
  readonly runId: string;
  /** Every offset that came, in the order in which it came. */
  readonly delivered: Delivered[] = [];
  readonly snapshots: EventParams<"run.snapshot">[] = [];
  readonly resets: { epoch: string; reason: string }[] = [];
  /** What broke a rule. */
  readonly problems: string[] = [];
  readonly unsubscribed: string[] = [];
  /** How many frames brought parts. */
  frames = 0;
  /** The offset that must come next; undefined: whatever comes first. */
  next: number | undefined;

  constructor(runId: string, after?: number) {
    this.runId = runId;
    this.next = after === undefined ? undefined : after + 1;
  }

  /** The last offset that was delivered: what a client resumes after. */
  get last(): number {
    return this.next === undefined ? 0 : this.next - 1;
  }

  get parts(): Part[] {
    return this.delivered.flatMap(({ part }) => (part === null ? [] : [part]));
  }

  get offsets(): number[] {
    return this.delivered.map(({ offset }) => offset);
  }

  get lifecycle(): LifecycleData[] {
    return this.parts.flatMap((part) => (part.type === "lifecycle" ? [part.data] : []));
  }

  get ending(): LifecycleData | undefined {
    const last = this.delivered.at(-1)?.part;
    return last?.type === "lifecycle" && isEnding(last.data.event) ? last.data : undefined;
  }

  /** The text of all tokens, those that a rewind took back left out. */
  get text(): string {
    let tokens: { offset: number; text: string }[] = [];
    for (const { offset, part } of this.delivered) {
      if (part?.type === "messages" && typeof part.data[0].content === "string") {
        tokens.push({ offset, text: part.data[0].content });
      } else if (part?.type === "lifecycle" && part.data.event === "rewound") {
        const { to } = part.data;
        tokens = tokens.filter((token) => token.offset <= to);
      }
    }
    return tokens.map(({ text }) => text).join("");
  }

  /** A subscription was opened anew after this offset: what came of the one before it comes again. */
  goBack(after: number): void {
    while ((this.delivered.at(-1)?.offset ?? 0) > after) this.delivered.pop();
    this.next = after + 1;
  }

  onEvent(frame: EventFrame): void {
    switch (frame.method) {
      case "run.parts":
        this.#onParts(frame.params);
        break;
      case "run.reset":
        this.delivered.length = 0;
        this.snapshots.length = 0;
        this.next = 1;
        this.resets.push(frame.params);
        break;
      case "run.snapshot": {
        const { offset } = frame.params;
        if (offset < this.last) this.problems.push(`a snapshot of ${offset} came after ${this.last}`);
        this.next = offset + 1;
        this.snapshots.push(frame.params);
        break;
      }
      case "run.unsubscribed":
        this.unsubscribed.push(frame.params.reason);
        break;
    }
  }

  #onParts({ offset, parts, skipped }: ReturnType<(typeof events)["run.parts"]["parse"]>): void {
    this.frames++;
    if (this.next !== undefined && offset !== this.next) {
      this.problems.push(`offset ${offset} came where ${this.next} was next`);
    }
    if (this.ending !== undefined) this.problems.push(`offset ${offset} came after the ending`);
    if (skipped !== undefined && parts.length > 0) this.problems.push("a frame has parts and skipped");
    const all = skipped === undefined ? parts : Array.from({ length: skipped }, () => null);
    for (const [i, part] of all.entries()) this.delivered.push({ offset: offset + i, part });
    this.next = offset + all.length;
  }

  /** Resolves with the ending once it has been delivered; throws at once where a rule was broken. */
  async ended(): Promise<LifecycleData> {
    await until(
      () => this.problems.length > 0 || this.ending !== undefined,
      patienceMs,
      `the end of ${this.runId} (at ${this.last})`,
    );
    this.check();
    return this.ending as LifecycleData;
  }

  /** Throws where a rule was broken. */
  check(): void {
    if (this.problems.length > 0) throw new Error(`${this.runId}: ${this.problems.join("; ")}`);
  }
}
