/**
 * What a run's record tells of what it was asked: made once, when the run is started, so that lists never load a request.
 *
 * Invariant: it is small, whatever was asked: an input that is large is cut down to something to show.
 */
import type { OnDisconnect, RunRecord, StreamMode } from "@throughline/protocol";
import { isRecord } from "@throughline/protocol";
import type { RunRequest } from "./dispatcher.ts";

/** What of a run's record is known when it is started. */
export type Brief = Pick<RunRecord, "input" | "inputCut" | "from" | "modes" | "subgraphs" | "onDisconnect">;

/** Bytes of JSON of an input that is shown whole. */
const maxInputBytes = 4_096;

/** What is looked at of a large input first; it is halved until it is small enough. */
const firstBounds: Bounds = { text: 1_024, items: 64, depth: 12 };

interface Bounds {
  /** Characters of a string, and of a key. */
  text: number;
  /** Values of a list, keys of an object. */
  items: number;
  /** Lists and objects in one another. */
  depth: number;
}

/** What was not asked is not there. */
export function briefOf(request: RunRequest): Brief {
  const { input, checkpointId, fromNothing, modes, subgraphs, onDisconnect } = request;
  const from = fromNothing === true ? null : checkpointId;
  return {
    ...(input === undefined ? {} : shownInput(input)),
    ...(from === undefined ? {} : { from }),
    ...(modes === undefined ? {} : { modes: modes as StreamMode[] }),
    ...(subgraphs === undefined ? {} : { subgraphs }),
    ...(onDisconnect === undefined ? {} : { onDisconnect: onDisconnect as OnDisconnect }),
  };
}

function shownInput(input: unknown): Pick<Brief, "input" | "inputCut"> {
  if (isSmall(input)) return { input: input as Brief["input"] & {} };
  let { text, items, depth } = firstBounds;
  let cut = shortened(input, { text, items, depth });
  while (!isSmall(cut)) {
    text = Math.ceil(text / 2);
    items = Math.ceil(items / 2);
    depth = Math.max(1, depth - 1);
    cut = shortened(input, { text, items, depth });
  }
  return { input: cut as Brief["input"] & {}, inputCut: true };
}

function isSmall(value: unknown): boolean {
  return Buffer.byteLength(JSON.stringify(value)) <= maxInputBytes;
}

/**
 * The same, smaller: of a string its beginning, of a list its end, for a conversation's newest messages are its last; of
 * an object its first keys; and nothing of what is too deep.
 */
function shortened(value: unknown, bounds: Bounds): unknown {
  const { text, items, depth } = bounds;
  if (typeof value === "string") return shortText(value, text);
  if (typeof value !== "object" || value === null) return value;
  const inner = { ...bounds, depth: depth - 1 };
  if (Array.isArray(value))
    return depth === 0 ? [] : value.slice(-items).map((each) => shortened(each, inner));
  if (depth === 0 || !isRecord(value)) return {};
  const keys = Object.keys(value).filter((key) => key.length <= text);
  // Never assigned: a key of the wire may be `__proto__`.
  return Object.fromEntries(keys.slice(0, items).map((key) => [key, shortened(value[key], inner)]));
}

/** Cut between characters, never inside of one. */
function shortText(text: string, length: number): string {
  if (text.length <= length) return text;
  const end = /[\uD800-\uDBFF]/.test(text[length - 1]!) ? length - 1 : length;
  return `${text.slice(0, end)}…`;
}
