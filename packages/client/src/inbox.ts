/** What has come and waits to be read: in order, counted, and with one reader that can wait for more. */
import type { RunEvent } from "./run-event.ts";

export interface Waiting {
  event: RunEvent;
  /** UTF-16 code units of frame text. */
  size: number;
  /** The fold was brought up to it when it came, because nobody was reading. */
  folded: boolean;
}

/** What an event that brings no part counts for. */
export const smallSize = 64;

export class Inbox {
  #items: Waiting[] = [];
  /** Items before it were taken; they are cut off now and then, so that taking one costs nothing. */
  #first = 0;
  #size = 0;
  #wake: (() => void) | undefined;

  get size(): number {
    return this.#size;
  }

  /** What waits, oldest first. */
  get items(): readonly Waiting[] {
    return this.#items.slice(this.#first);
  }

  push(item: Waiting): void {
    const last = this.#first < this.#items.length ? this.#items.at(-1) : undefined;
    const joined = last?.folded === item.folded ? joinSkipped(last.event, item.event) : undefined;
    if (last !== undefined && joined !== undefined) {
      last.event = joined;
      return;
    }
    this.#items.push(item);
    this.#size += item.size;
  }

  shift(): Waiting | undefined {
    const item = this.#items[this.#first];
    if (item === undefined) return undefined;
    this.#first += 1;
    this.#size -= item.size;
    if (this.#first === this.#items.length || this.#first >= 1024) {
      this.#items.splice(0, this.#first);
      this.#first = 0;
    }
    return item;
  }

  clear(): void {
    this.#items = [];
    this.#first = 0;
    this.#size = 0;
  }

  /** Resolves with the next call of `wake`. */
  async more(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  wake(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}

/** A narrow filter leaves out thousands of parts between two that it lets through: they become one event. */
function joinSkipped(before: RunEvent, after: RunEvent): RunEvent | undefined {
  if (before.kind !== "skipped" || after.kind !== "skipped") return undefined;
  return before.to === after.offset - 1 ? { ...before, to: after.to } : undefined;
}
