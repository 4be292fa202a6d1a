/**
 * A text as tokens. Invariant: their concatenation is the text, code unit for code unit, whatever is in it.
 *
 * A token is a word with the white space before it, as most models have it. Scripts that put no spaces between words
 * are split by Unicode's rules; what is longer than a word can be is cut.
 */
const wordWithSpace = /\s*\S+|\s+/g;
const unspacedScript =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;
const words = new Intl.Segmenter("en", { granularity: "word" });

/** Code units. The longest words of living languages are shorter; links and base64 are not. */
const longest = 80;

export function* tokens(text: string): Generator<string, void, undefined> {
  for (const [piece] of text.matchAll(wordWithSpace)) {
    if (piece.length <= longest && !unspacedScript.test(piece)) yield piece;
    else yield* long(piece);
  }
}

function* long(piece: string): Generator<string, void, undefined> {
  // Segmenting in stretches keeps the first token of a huge piece from waiting for its last.
  for (const stretch of cut(piece, 4096)) {
    if (unspacedScript.test(stretch)) yield* segments(stretch);
    else yield* cut(stretch, longest);
  }
}

/** Words with the punctuation that follows them. */
function* segments(stretch: string): Generator<string, void, undefined> {
  let pending = "";
  for (const { segment, isWordLike } of words.segment(stretch)) {
    if (isWordLike && /\S/.test(pending)) {
      yield* cut(pending, longest);
      pending = "";
    }
    pending += segment;
  }
  if (pending !== "") yield* cut(pending, longest);
}

/** The piece in pieces of at most `size` code units, no surrogate pair torn apart. */
function* cut(piece: string, size: number): Generator<string, void, undefined> {
  let from = 0;
  while (piece.length - from > size) {
    let to = from + size;
    if (isHigh(piece.charCodeAt(to - 1)) && isLow(piece.charCodeAt(to))) to -= 1;
    yield piece.slice(from, to);
    from = to;
  }
  yield piece.slice(from);
}

const isHigh = (unit: number) => unit >= 0xd800 && unit <= 0xdbff;
const isLow = (unit: number) => unit >= 0xdc00 && unit <= 0xdfff;
