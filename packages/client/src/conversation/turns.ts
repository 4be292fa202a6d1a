/**
 * The turns that are not yet in the thread's state, in the order of the thread's line. Of a run there is one turn, whoever
 * tells of it first: the answer to its start, or the watch.
 */
import { isEnding, type ThreadRun } from "@throughline/protocol";
import type { Run } from "../run.ts";
import { Turn } from "./turn.ts";

export interface TurnHooks {
  changed(): void;
  /** A run that nobody here started came into line. */
  came(): void;
  /** A turn is over: the thread's state has something new. */
  over(): void;
  /** A turn goes on from a checkpoint whose messages are not known. */
  readBase(turn: Turn, checkpointId: string): void;
  /** Nobody has told of this run but the answer to its start. */
  askOf(runId: string): void;
}

/** Of how many runs it is remembered that they ended: late news comes of the newest ones alone. */
const knownEndings = 200;

export class Turns {
  readonly #hooks: TurnHooks;
  /** Runs whose end was told. */
  readonly #ended = new Set<string>();
  #all: Turn[] = [];

  constructor(hooks: TurnHooks) {
    this.#hooks = hooks;
  }

  get all(): readonly Turn[] {
    return this.#all;
  }

  get last(): Turn | undefined {
    return this.#all.at(-1);
  }

  /** Those whose run has not ended. */
  get active(): readonly Turn[] {
    return this.#all.filter(({ phase }) => phase !== "over");
  }

  get over(): readonly Turn[] {
    return this.#all.filter(({ phase }) => phase === "over");
  }

  /** The last turn, where its run failed: it stays until another begins. */
  get failed(): Turn | undefined {
    const { last } = this;
    return last?.phase === "over" && last.ending === "failed" ? last : undefined;
  }

  add(turn: Turn): void {
    this.#all.push(turn);
  }

  /** Takes it off the screen, without an end to it. */
  remove(turn: Turn | undefined): void {
    this.#all = this.#all.filter((each) => each !== turn);
  }

  drop(turn: Turn | undefined): void {
    this.remove(turn);
    turn?.close();
  }

  /** What is of a thread that is no more. */
  clear(keep: (turn: Turn) => boolean = () => false): void {
    for (const turn of this.#all) if (!keep(turn)) turn.close();
    this.#all = this.#all.filter(keep);
  }

  /** The start of a turn was answered; the watch may have told of the run before. */
  begun(turn: Turn, runId: string): void {
    turn.runId = runId;
    const told = this.#all.find((each) => each !== turn && each.runId === runId);
    if (told !== undefined) {
      this.remove(told);
      if (told.info !== undefined) turn.tell(told.info);
      if (told.run !== undefined) {
        turn.take(told);
        this.follow(turn, told.run);
      }
    }
    if (this.#ended.has(runId)) this.end(turn);
  }

  /** The watch tells of a run. */
  tell(info: ThreadRun, run: Run | undefined): void {
    // What its log told may be ahead of what the watch tells.
    const isOver = isEnding(info.status) || this.#ended.has(info.runId);
    if (isOver) this.#endedOf(info.runId);
    let turn = this.#all.find(({ runId }) => runId === info.runId);
    turn ??= this.#all.find((each) => each.isAsked(info));
    if (turn === undefined && isOver) this.#hooks.over();
    if (turn === undefined && !isOver) {
      this.drop(this.failed);
      this.#hooks.came();
      turn = new Turn();
      this.add(turn);
    }
    if (turn === undefined) return;
    turn.tell(info);
    if (run !== undefined) this.follow(turn, run);
    if (turn.base === undefined && turn.from === null) turn.base = [];
    else if (turn.base === undefined && typeof turn.from === "string") this.#hooks.readBase(turn, turn.from);
    // As they came into line; behind them what is not known to be there yet.
    const place = ({ info }: Turn) => info?.ordinal ?? Number.MAX_SAFE_INTEGER;
    this.#all.sort((a, b) => place(a) - place(b));
    if (isOver) this.end(turn);
  }

  /**
   * The watch says that only these are active: others ended while nobody was there to hear it. One that it never told of
   * may have begun after this was known.
   */
  onlyActive(runIds: readonly string[]): void {
    for (const turn of this.#all) {
      const { runId, phase } = turn;
      if (runId === undefined || turn.ownsRun || runIds.includes(runId)) continue;
      if (turn.info !== undefined) turn.end();
      else if (phase !== "over") this.#hooks.askOf(runId);
    }
  }

  follow(turn: Turn, run: Run): void {
    turn.follow(
      run,
      () => this.#hooks.changed(),
      () => this.end(turn),
    );
  }

  end(turn: Turn): void {
    if (turn.runId !== undefined) this.#endedOf(turn.runId);
    turn.end();
    this.#hooks.over();
  }

  #endedOf(runId: string): void {
    this.#ended.add(runId);
    const [oldest] = this.#ended;
    if (this.#ended.size > knownEndings) this.#ended.delete(oldest!);
  }
}
