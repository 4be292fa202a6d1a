/**
 * Where a command writes, and how it is told to stop. Text and remarks may share a screen: a remark never begins in the
 * middle of the text's line there.
 */
import type { Output } from "./transcript.ts";

export interface Stream {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

export class Terminal {
  readonly #out: Stream;
  readonly #err: Stream;
  readonly #color: boolean;
  readonly #quiet: boolean;
  /** The text on the screen does not end its line. */
  #midLine = false;

  constructor(out: Stream, err: Stream, options: { color: boolean; quiet?: boolean }) {
    this.#out = out;
    this.#err = err;
    this.#color = options.color;
    this.#quiet = options.quiet ?? false;
  }

  show(output: Output): void {
    if (output.kind === "text") this.text(output.text);
    else if (output.kind === "note") this.note(output.text);
    else if (!this.#quiet) this.#line(output.text, true);
  }

  text(text: string): void {
    if (text === "") return;
    this.#out.write(this.#out.isTTY === true ? printable(text) : text);
    this.#midLine = !text.endsWith("\n");
  }

  /** A whole line on stdout. */
  line(text: string): void {
    this.text(`${text}\n`);
  }

  /** A remark, on stderr. */
  note(text: string): void {
    this.#line(text, false);
  }

  /** Ends the text's line on a screen; what is piped stays exactly the text. */
  end(): void {
    if (this.#midLine && this.#out.isTTY === true) this.text("\n");
  }

  #line(text: string, dim: boolean): void {
    const shared = this.#out.isTTY === true && this.#err.isTTY === true;
    const begin = this.#midLine && shared ? "\n" : "";
    if (shared) this.#midLine = false;
    const shown = this.#err.isTTY === true ? printable(text) : text;
    this.#err.write(`${begin}${dim && this.#color ? `\u001b[2m${shown}\u001b[22m` : shown}\n`);
  }
}

/** Without what a terminal would obey: what an agent says is not to colour a screen, clear it, or name its window. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}

/** A terminal sends Ctrl-C to every process in it, and npm passes on what it got: one press may come twice. */
const samePressMs = 200;

/** Counts presses of Ctrl-C. */
export class Presses {
  readonly #now: () => number;
  #last = Number.NEGATIVE_INFINITY;
  #count = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Which press this signal belongs to: 1, 2, …; undefined: it is the last one again. */
  signal(): number | undefined {
    const now = this.#now();
    if (now - this.#last < samePressMs) return undefined;
    this.#last = now;
    this.#count += 1;
    return this.#count;
  }
}
