/**
 * Looks at the text of a command before anything is made of it: one pass over its bytes, whatever they are. What is
 * passed on costs about as much as its length says.
 */

export interface JsonLimits {
  /** Lists and objects inside of each other. */
  maxDepth: number;
  /** Values: each list, object, key, text, number, and each of true, false, null. */
  maxValues: number;
}

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const colon = 0x3a;
const openings = new Set([0x5b, 0x7b]);
const closings = new Set([0x5d, 0x7d]);
/** Shorter numbers without an exponent are finite. */
const maxDigits = 300;

/**
 * What is wrong with a text that may be JSON. It is not a parser: what is no JSON may pass.
 *
 * @returns a sentence's end, for a client; undefined: nothing
 */
export function jsonProblem(text: Buffer, { maxDepth, maxValues }: JsonLimits): string | undefined {
  let depth = 0;
  let values = 1;
  for (let at = 0; at < text.length; at++) {
    const byte = text[at]!;
    if (byte === quote) {
      at = endOfString(text, at);
    } else if (openings.has(byte)) {
      if (++depth > maxDepth) return `is nested deeper than ${maxDepth}`;
      values++;
    } else if (closings.has(byte)) {
      depth--;
    } else if (byte === comma || byte === colon) {
      values++;
    } else if (isDigit(byte)) {
      const end = endOfNumber(text, at);
      if (!isFiniteNumber(text, at, end)) return "has a number that is not finite";
      at = end - 1;
    }
    if (values > maxValues) return `has more than ${maxValues} values`;
  }
  return undefined;
}

/** The place of the quote that ends the string which begins at `start`; the text's end, if none does. */
function endOfString(text: Buffer, start: number): number {
  for (let from = start + 1; ; ) {
    const end = text.indexOf(quote, from);
    if (end === -1) return text.length;
    let before = end;
    while (text[before - 1] === backslash && before - 1 >= from) before--;
    if ((end - before) % 2 === 0) return end;
    from = end + 1;
  }
}

function endOfNumber(text: Buffer, start: number): number {
  let end = start;
  while (isOfNumber(text[end])) end++;
  return end;
}

function isFiniteNumber(text: Buffer, start: number, end: number): boolean {
  const isPlain = end - start < maxDigits && !hasExponent(text, start, end);
  return isPlain || Number.isFinite(Number(text.toString("latin1", start, end)));
}

function hasExponent(text: Buffer, start: number, end: number): boolean {
  for (let at = start; at < end; at++) if (text[at] === 0x65 || text[at] === 0x45) return true;
  return false;
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

/** A digit, or one of `. e E + -`. */
function isOfNumber(byte: number | undefined): boolean {
  return isDigit(byte) || byte === 0x2e || byte === 0x65 || byte === 0x45 || byte === 0x2b || byte === 0x2d;
}
