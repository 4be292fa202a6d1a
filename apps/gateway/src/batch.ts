/**
 * A batch: consecutive entries of one log, parts of a run or events of a thread, as bytes. It is framed at most once, and
 * parsed at most once, however many sockets it goes to; parsed only if one of them filters, or has to know what is in it.
 */
import { dropLines } from "@throughline/runlog";
import type { FollowedLog } from "./followed-log.ts";
import { bodyOf, textFrame } from "./frame.ts";

/** Whether an entry goes to a socket. Entries are a part's JSON, or an event's, as they were written. */
export type Passes = (entry: never) => boolean;

export class Batch {
  readonly first: number;
  readonly last: number;
  /** Of the log that it is a part of. */
  readonly epoch: string;
  /** Its last entry is the log's last. */
  readonly ending: boolean;
  /** A JSON array with one entry per line. */
  #body: Buffer;
  #frame: Buffer | undefined;
  #lines: { text: string; entry: unknown }[] | undefined;

  constructor(first: number, last: number, epoch: string, ending: boolean, body: Buffer) {
    this.first = first;
    this.last = last;
    this.epoch = epoch;
    this.ending = ending;
    this.#body = body;
  }

  /** From a live message: `<first>:<entries>:<epoch>[:e]\n<body>`. */
  static parse(message: Buffer): Batch {
    let at = 0;
    let first = 0;
    let count = 0;
    for (; message[at] !== 0x3a; at++) first = first * 10 + message[at]! - 0x30;
    for (at++; message[at]! >= 0x30 && message[at]! <= 0x39; at++) count = count * 10 + message[at]! - 0x30;
    const from = ++at;
    while (message[at] !== 0x3a && message[at] !== 0x0a) at++;
    const epoch = message.toString("latin1", from, at);
    const ending = message[at] === 0x3a;
    return new Batch(first, first + count - 1, epoch, ending, message.subarray(ending ? at + 3 : at + 1));
  }

  /** The frame of the entries from offset `from` on. All of a batch's frames are of one log. */
  frame(log: FollowedLog, from: number, passes: Passes | undefined): Buffer {
    if (passes !== undefined) return this.#filtered(log, from, passes);
    if (from > this.first) return log.batchFrame(from, dropLines(this.#body, from - this.first));
    if (this.#frame === undefined) {
      this.#frame = log.batchFrame(this.first, this.#body);
      // The same bytes, once in memory.
      this.#body = bodyOf(this.#frame, this.#body.length);
    }
    return this.#frame;
  }

  /** The entries from offset `from` on. */
  entries(from: number): unknown[] {
    return this.#linesFrom(from).map(({ entry }) => entry);
  }

  /** What the filter leaves out stands as null; where it leaves out everything, only their number is sent. */
  #filtered({ opening, listName }: FollowedLog, from: number, passes: Passes): Buffer {
    const lines = this.#linesFrom(from);
    let kept = 0;
    const texts = lines.map(({ text, entry }) => {
      if (!passes(entry as never)) return "null";
      kept++;
      return text;
    });
    const rest =
      kept === 0 ? `"skipped":${lines.length},"${listName}":[]` : `"${listName}":[${texts.join(",\n")}]`;
    return textFrame(`${opening}${from},${rest}}}`);
  }

  #linesFrom(from: number): { text: string; entry: unknown }[] {
    this.#lines ??= parseLines(this.#body);
    return from === this.first ? this.#lines : this.#lines.slice(from - this.first);
  }
}

function parseLines(body: Buffer): { text: string; entry: unknown }[] {
  const lines = body.toString().slice(1, -1).split(",\n");
  return lines.map((text) => ({ text, entry: JSON.parse(text) as unknown }));
}
