/** The messages that a run's tasks stream: where each began, what became of it, and which of them readers had before. */
import { isDeepStrictEqual } from "node:util";
import { flattenValues, toBaseMessage } from "@throughline/checkpoint";
import type { FlatMessage, Fold, Part } from "@throughline/protocol";
import type { Answers } from "../repair.ts";
import { partial } from "../state.ts";
import type { Said } from "./closing.ts";
import type { Step } from "./steps.ts";
import type { Witness } from "./witness.ts";

interface Begun {
  /** The path of the task that streamed it. */
  task: readonly string[];
  /** How many had begun before it. */
  order: number;
  /** Of its first part in the log. */
  offset: number;
}

export class Spoken {
  readonly #fold: Fold;
  readonly #witness: Witness;
  /** By their ids. */
  readonly #begun = new Map<string, Begun>();
  #count = 0;
  /** What readers have had before this attempt, by ids: what it says. */
  readonly #heard = new Map<string, FlatMessage["content"]>();

  /** @param fold of all that was streamed, whether or not it is in the log */
  constructor(fold: Fold, witness: Witness) {
    this.#fold = fold;
    this.#witness = witness;
  }

  /** How many have begun, those that were taken back among them. */
  get count(): number {
    return this.#count;
  }

  get isEmpty(): boolean {
    return this.#begun.size === 0;
  }

  /** A part of a message comes. */
  add(id: string | undefined, task: readonly string[] | undefined, offset: number): void {
    if (id === undefined || task === undefined || this.#begun.has(id)) return;
    this.#begun.set(id, { task, order: this.#count++, offset });
  }

  /** They were taken back. */
  delete(ids: Iterable<string>): void {
    for (const id of ids) this.#begun.delete(id);
  }

  /** Readers have these. */
  hear(messages: readonly FlatMessage[]): void {
    for (const { id = "", content } of messages) this.#heard.set(id, content);
  }

  /**
   * Whether readers have had all of this before: what a graph's nodes had said in an earlier attempt or run, LangGraph
   * takes for news when the graph ends as a node of another, and tells each message once more, as a whole.
   */
  isHeard(part: Part): boolean {
    if (part.type !== "messages") return false;
    const [{ id = "", content }] = part.data;
    return this.#heard.has(id) && isDeepStrictEqual(this.#heard.get(id), content);
  }

  /**
   * What was said behind a checkpoint, with the marks of what was cut off.
   *
   * @param step that the checkpoint begins; undefined: it was stored by an earlier attempt, or run
   * @param end the last offset of what the checkpoint holds
   * @param finished the ids of tasks behind it that have ended: what they had said is whole
   */
  behind(
    { step, end, finished }: { step: Step | undefined; end: number; finished: ReadonlySet<string> },
    cancelled: boolean,
  ): Said[] {
    return this.#fold.messages().flatMap(({ message, complete }): Said[] => {
      const { id = "" } = message;
      const begun = this.#begun.get(id);
      if (begun === undefined || this.#witness.isAside(id)) return [];
      if (step === undefined ? begun.offset <= end : begun.order < step.begun) return [];
      const hasEnded = begun.task.some((segment) =>
        finished.has(segment.slice(segment.lastIndexOf(":") + 1)),
      );
      const whole = complete || hasEnded ? message : this.#wholeOf(message);
      if (whole === undefined && message.content.length === 0) return [];
      const like = whole ?? partial(message, cancelled);
      return [{ message: toBaseMessage(like as never), task: begun.task, isWhole: whole !== undefined }];
    });
  }

  /** What tools have answered, or had said so far. */
  get answers(): Answers {
    const said = (callId: string) => {
      const texts = this.#witness.saidFor(callId).map((id) => this.#fold.text(id));
      return texts.filter((text) => text !== "").join("\n");
    };
    return { answer: (callId) => this.#witness.answer(callId), said };
  }

  /** The message as its model finished it, if all of its text was taken. */
  #wholeOf({ id, content }: FlatMessage): FlatMessage | undefined {
    const message = this.#witness.whole(id ?? "");
    if (message === undefined) return undefined;
    const whole = flattenValues(message) as FlatMessage;
    const isTaken = typeof content !== "string" || content === whole.content;
    return isTaken ? { ...whole, id: id! } : undefined;
  }
}
