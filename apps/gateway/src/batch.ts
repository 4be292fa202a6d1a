/**
 * A batch: consecutive parts of one run, as bytes. It is framed at most once, and parsed at most once, however many
 * sockets it goes to; parsed only if one of them filters.
 */
import type { Filter, Part } from "@throughline/protocol";
import { dropLines } from "@throughline/runlog";
import { matches } from "./filter.ts";
import { bodyOf, partsFrame, textFrame } from "./frame.ts";

export class Batch {
  readonly first: number;
  readonly last: number;
  /** Of the log that it is a part of. */
  readonly epoch: string;
  /** Its last part is the run's ending. */
  readonly ending: boolean;
  /** A JSON array with one part per line. */
  #body: Buffer;
  #frame: Buffer | undefined;
  #lines: { text: string; part: Part }[] | undefined;

  constructor(first: number, last: number, epoch: string, ending: boolean, body: Buffer) {
    this.first = first;
    this.last = last;
    this.epoch = epoch;
    this.ending = ending;
    this.#body = body;
  }

  /** From a live message: `<first>:<parts>:<epoch>[:e]\n<body>`. */
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

  /** The frame of the parts from offset `from` on. */
  frame(runId: string, from: number, filter: Filter | undefined): Buffer {
    if (filter !== undefined) return this.#filtered(runId, from, filter);
    if (from > this.first) return partsFrame(runId, from, dropLines(this.#body, from - this.first));
    if (this.#frame === undefined) {
      this.#frame = partsFrame(runId, this.first, this.#body);
      // The same bytes, once in memory.
      this.#body = bodyOf(this.#frame, this.#body.length);
    }
    return this.#frame;
  }

  /** What the filter leaves out stands as null; where it leaves out everything, only their number is sent. */
  #filtered(runId: string, from: number, filter: Filter): Buffer {
    this.#lines ??= parseLines(this.#body);
    const lines = from === this.first ? this.#lines : this.#lines.slice(from - this.first);
    let kept = 0;
    const texts = lines.map(({ text, part }) => {
      if (!matches(filter, part)) return "null";
      kept++;
      return text;
    });
    const rest = kept === 0 ? `"skipped":${lines.length},"parts":[]` : `"parts":[${texts.join(",\n")}]`;
    return textFrame(
      `{"type":"event","method":"run.parts","params":{"runId":"${runId}","offset":${from},${rest}}}`,
    );
  }
}

function parseLines(body: Buffer): { text: string; part: Part }[] {
  const lines = body.toString().slice(1, -1).split(",\n");
  return lines.map((text) => ({ text, part: JSON.parse(text) as Part }));
}
