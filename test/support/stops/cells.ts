/** The cells of the matrix: what can be, what cannot and why, and what must be seen in each. */
import { type Moment, moments, type Place, places } from "./scene.ts";

/** What strikes. The first three are a Stop, by what is kept. */
export const strikes = [
  "thread",
  "branch",
  "discard",
  "SIGKILL",
  "SIGTERM",
  "freeze",
  "the node throws",
] as const;
export type Strike = (typeof strikes)[number];

export const sequels = [
  "new input",
  "no input",
  "on the branch",
  "new input on the branch",
  "an answer",
] as const;
export type Sequel = (typeof sequels)[number];

export interface Cell {
  place: Place;
  moment: Moment;
  strike: Strike;
  sequel: Sequel;
}

export function nameOf({ place, moment, strike, sequel }: Cell): string {
  return `${place}, ${moment}, ${strike}; then ${sequel}`;
}

export const isStop = (strike: Strike): strike is "thread" | "branch" | "discard" =>
  strike === "thread" || strike === "branch" || strike === "discard";

/** A worker that goes is no matter of its run: it goes on, and ends as it would have. */
export const isTakeover = (strike: Strike): boolean =>
  strike === "SIGKILL" || strike === "SIGTERM" || strike === "freeze";

/** Why a cell cannot be; undefined where it can. */
export function impossible({ place, moment, strike, sequel }: Cell): string | undefined {
  if (place === "task" && moment === "in a router") return "a function has no routers";
  if (moment === "while waiting") {
    if (strike === "the node throws") return "a node that waits does nothing";
    if (isTakeover(strike)) return "a run that waits has ended: no worker has it";
    if (sequel === "on the branch" || sequel === "new input on the branch")
      return "the run had ended: there is no branch";
    return undefined;
  }
  if (sequel === "an answer") return "nothing was asked";
  if (strike === "the node throws" && place === "tool") return "a node of tools answers what its tools throw";
  if (
    strike === "the node throws" &&
    moment === "in a tool" &&
    !["send", "parallel", "task"].includes(place)
  ) {
    return "a node of tools answers what its tools throw";
  }
  if (isTakeover(strike) && sequel !== "new input") return "the run goes on by itself, and ends";
  if (strike === "discard" && sequel !== "new input") return "nothing is kept that could be gone on from";
  if (strike === "branch" && sequel === "no input") return "the thread is as before its first run: empty";
  return undefined;
}

export function cells(): { possible: Cell[]; impossible: { cell: Cell; why: string }[] } {
  const found: ReturnType<typeof cells> = { possible: [], impossible: [] };
  for (const place of places)
    for (const moment of moments)
      for (const strike of strikes)
        for (const sequel of sequels) {
          const cell = { place, moment, strike, sequel };
          const why = impossible(cell);
          if (why === undefined) found.possible.push(cell);
          else found.impossible.push({ cell, why });
        }
  return found;
}

/** What LangGraph alone comes to in the same graph, where nothing is struck. */
export interface Undisturbed {
  /** The messages of a first turn, what is cut off in others being all that was said; and those of a second. */
  first: readonly string[];
  second: readonly string[];
}

/** What is cut off there, in the middle of a message; undefined: nothing. */
export function cutOf(moment: Moment): string | undefined {
  return { "in a token": "CUT", "in a call's arguments": "LET" }[moment as string];
}

/** Whether what was cut off counts as its node's answer: a tool and a function answer by themselves, or not at all. */
export function isAnswered({ place, moment }: Pick<Cell, "place" | "moment">): boolean {
  return cutOf(moment) !== undefined && place !== "tool" && place !== "task";
}

/** What the thread, or the branch, shows after the strike: what was finished, and what was cut off, marked. */
export function shownAfter({ place, moment, strike }: Cell, { first }: Undisturbed): string[] {
  const mark = isStop(strike) ? " (cut)" : " (incomplete)";
  const cut = cutOf(moment);
  if (place === "tool") {
    const said = ["FIRST", ...saidInside(moment)].join("\n");
    return [...first.slice(0, 2), `tool:cancelled; so far it had said: ${said}=c (cut)`];
  }
  if (cut !== undefined) {
    const at = first.indexOf(`ai:${cut}`);
    return [...first.slice(0, at), `ai:${cut}${mark}`, ...besides(place, first.slice(at + 1))];
  }
  if (moment === "before a token") {
    const at = first.indexOf("ai:STRIKE");
    return [...first.slice(0, at), ...besides(place, first.slice(at + 1))];
  }
  if (moment === "in a tool") {
    const at = first.indexOf("ai:+c");
    return [...first.slice(0, at + 1), "tool:cancelled=c (cut)", ...besides(place, first.slice(at + 2))];
  }
  const at = first.indexOf("ai:STRIKE");
  return [...first.slice(0, at + 1), ...besides(place, first.slice(at + 1))];
}

function saidInside(moment: Moment): string[] {
  const cut = cutOf(moment);
  if (cut !== undefined) return [cut];
  return moment === "between nodes" || moment === "in a router" ? ["STRIKE"] : [];
}

/** What a new turn finds where the run had failed: what was finished, at whatever depth. */
export function finishedBefore(cell: Cell, undisturbed: Undisturbed): string[] {
  const unfinished = new Set(["tool:cancelled=c (cut)", `ai:${cutOf(cell.moment)} (incomplete)`]);
  if (cell.moment === "in a tool") unfinished.add("ai:+c");
  if (cell.moment === "in a router") unfinished.add("ai:STRIKE");
  return shownAfter(cell, undisturbed).filter((each) => !unfinished.has(each));
}

/** What nodes beside the one that is struck have said: they had finished. */
function besides(place: Place, rest: readonly string[]): string[] {
  const mine = { send: ["ai:SEND 0", "ai:SEND 2"], parallel: ["ai:A", "ai:C"] }[place as string] ?? [];
  return rest.filter((each) => mine.includes(each));
}

/** What the thread comes to where somebody goes on without new input. */
export function goneOn(cell: Cell, { first }: Undisturbed): string[] {
  const { place, moment, strike, sequel } = cell;
  const cut = cutOf(moment);
  if (cut === undefined) return [...first];
  // A thread whose run failed stands before the step that failed.
  const triesAgain = strike === "the node throws" && sequel === "no input";
  if (triesAgain || !isAnswered(cell)) return first.map((each) => each.replace(cut, "STRIKE"));
  const mark = isStop(strike) ? " (cut)" : " (incomplete)";
  const marked = first.map((each) => (each === `ai:${cut}` ? each + mark : each));
  // A node that calls a graph has answered, and what the graph would have gone on with is no matter of its own any more.
  return place === "calling" ? marked.filter((each) => each !== "ai:LAST") : marked;
}

/** The nodes that must have run once, and no more, when the strike and what followed are over. */
export function runOnce({ place, moment }: Cell): string[] {
  const once = ["first"];
  if (place === "send") once.push("send 0", "send 2");
  if (place === "parallel") once.push("a", "c");
  if (place === "tool") once.push("agent");
  if (moment === "between nodes") once.push("strike");
  if (moment === "in a tool" && !["send", "parallel", "task"].includes(place)) once.push("strike");
  return once;
}
