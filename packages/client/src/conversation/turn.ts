/**
 * A turn: one run of the conversation while it is not yet in the thread's state, from the moment in which somebody sent
 * its question. It knows what of the screen is its own.
 */
import {
  type FlatMessage,
  type FoldedMessage,
  type InterruptInfo,
  isEnding,
  isRecord,
  type Keep,
  type RunError,
  type ThreadRun,
} from "@throughline/protocol";
import { randomId } from "../platform.ts";
import type { Run } from "../run.ts";

/** `sending`: the gateway has not answered; `over`: only the thread's state is missing. */
export type TurnPhase = "sending" | "queued" | "running" | "over";

const noMessages: readonly FoldedMessage[] = [];

export class Turn {
  runId: string | undefined;
  info: ThreadRun | undefined;
  run: Run | undefined;
  /** The question, as this client sent it, or as the run's record has it. */
  question: readonly FlatMessage[];
  /** The checkpoint that it goes on from; undefined: the head. */
  from: string | null | undefined;
  /** The messages of `from`; undefined: not read yet. */
  base: readonly FlatMessage[] | undefined;
  /** Of a failed run of before: all that its thread would show. */
  kept: readonly FlatMessage[] | undefined;
  /** This client sent it. */
  readonly isOwn: boolean;
  /** The same whenever it is sent: one that was refused may have begun all the same. */
  key = randomId();
  /** It follows the run by itself, because no watch does. */
  ownsRun = false;
  /** What was sent. */
  input: unknown;
  /** Stop was pressed. */
  stop: { keep?: Keep } | undefined;
  /** The run's custom data, with their offsets. */
  #custom: readonly { offset: number; data: unknown }[] = [];
  custom: readonly unknown[] = [];
  #isOver = false;
  #off: (() => void)[] = [];

  constructor(own: { question?: readonly FlatMessage[]; isOwn?: boolean } = {}) {
    this.question = own.question ?? [];
    this.isOwn = own.isOwn ?? false;
  }

  /** It was stopped before it began: its question comes into the thread when its turn in the line has come. */
  waits = false;

  get phase(): TurnPhase {
    if (this.#isOver || this.status === "over") return "over";
    if (this.runId === undefined) return "sending";
    return this.status === "running" ? "running" : "queued";
  }

  private get status(): TurnPhase {
    const status = this.run?.status;
    if (status !== undefined && isEnding(status)) return "over";
    return status === "running" || this.info?.status === "running" ? "running" : "queued";
  }

  /** How the run ended, as far as is known. */
  get ending(): string | undefined {
    const of = [this.run?.status, this.info?.status];
    return of.find((status) => status !== undefined && isEnding(status));
  }

  error: RunError | undefined;
  /** What the run asked a person, once it is over. */
  interrupts: readonly InterruptInfo[] | undefined;

  get asked(): readonly FlatMessage[] {
    const asked = this.run?.fold.asked ?? [];
    return asked.length > 0 ? asked : this.question;
  }

  get messages(): readonly FoldedMessage[] {
    return this.run?.fold.messages() ?? noMessages;
  }

  /** Whether the run is the one that this turn is about to be told of. */
  isAsked({ input }: ThreadRun): boolean {
    const id = this.question[0]?.id;
    if (this.runId !== undefined || id === undefined || !isRecord(input)) return false;
    return Array.isArray(input.messages) && input.messages.some((each) => isRecord(each) && each.id === id);
  }

  /** The same, to be sent again. */
  copy(question = this.question): Turn {
    const turn = new Turn({ question, isOwn: true });
    turn.base = this.base;
    turn.from = this.from;
    // One that no gateway has taken, as far as is known, is the same start; a run that ended is to be another.
    if (this.runId === undefined) turn.key = this.key;
    return turn;
  }

  /** The input, as far as it is known whole. */
  get sent(): unknown {
    return this.input ?? (this.info?.inputCut === true ? undefined : this.info?.input);
  }

  tell(info: ThreadRun): void {
    const hasBegun = this.info?.status === "running" && info.status === "queued";
    this.info = { ...this.info, ...info, ...(hasBegun && { status: "running" }) };
    this.runId = info.runId;
    if (info.from !== undefined) this.from = info.from;
    if (this.question.length === 0 && info.inputCut !== true) this.question = questionIn(info);
    if (info.error !== undefined) this.error = info.error;
    if (isEnding(info.status)) {
      this.interrupts ??= info.interrupts ?? [];
      this.end();
    }
  }

  /** Nothing of it is awaited any more. */
  end(): void {
    this.#isOver = true;
  }

  /** What another has heard of the same run. */
  take(other: Turn): void {
    this.#custom = other.#custom;
    this.custom = other.custom;
    other.#stop();
  }

  follow(run: Run, changed: () => void, ended: () => void): void {
    if (this.run !== undefined) return;
    this.run = run;
    this.runId = run.runId;
    const off = run.onEvent((event) => {
      const before = this.#custom.length;
      if (event.kind === "reset" || event.kind === "snapshot") this.#custom = [];
      else if (event.kind === "rewound")
        this.#custom = this.#custom.filter(({ offset }) => offset <= event.to);
      else if (event.kind === "part" && event.part.type === "custom") {
        this.#custom = [...this.#custom, { offset: event.offset, data: event.part.data }];
      }
      if (this.#custom.length !== before) this.custom = this.#custom.map(({ data }) => data);
    });
    this.#off = [off, run.onChange(changed)];
    run.ended.then(
      (ending) => {
        if (ending.event === "failed") this.error = ending.error;
        this.interrupts = ending.event === "interrupted" ? ending.interrupts : [];
        this.waits = ending.event === "cancelled" && ending.keep === "thread" && run.offset === 1;
        ended();
      },
      () => {},
    );
  }

  /** It is in the thread's state: what it was made of may go. */
  close(): void {
    this.#stop();
    if (this.ownsRun) this.run?.detach();
    // Its messages on the screen still ask it for its run and its custom data.
    this.run = this.base = this.kept = this.input = this.info = undefined;
    this.question = this.#custom = [];
  }

  #stop(): void {
    for (const off of this.#off) off();
  }
}

/** The messages of an input, with the ids that they will have in the thread. */
export function questionIn({ runId, input }: { runId: string; input?: unknown }): FlatMessage[] {
  let given: unknown = input;
  if (isRecord(input)) given = input.messages;
  else if (typeof input !== "string") return [];
  const list = Array.isArray(given) ? given : given === undefined ? [] : [given];
  return list.flatMap((each: unknown, i): FlatMessage[] => {
    const id = `${runId}-input-${i}`;
    if (typeof each === "string") return [{ type: "human", id, content: each }];
    return isMessage(each) ? [{ id, ...each }] : [];
  });
}

export function isMessage(value: unknown): value is FlatMessage {
  return isRecord(value) && typeof value.type === "string" && "content" in value;
}
