/**
 * The matrix: every way in which a run can be stopped or lost, at every depth of a graph, and what follows. What must be
 * is what LangGraph alone comes to in the same graph, where nothing is struck, up to what was cut off.
 */
import { readState } from "@throughline/checkpoint";
import type { FlatMessage, Part } from "@throughline/protocol";
import type { ServeOptions } from "@throughline/worker";
import { describe, expect, test } from "vitest";
import { patienceMs, until } from "../until.ts";
import { Workshop } from "../workers.ts";
import {
  type Cell,
  cells,
  finishedBefore,
  goneOn,
  isStop,
  isTakeover,
  nameOf,
  runOnce,
  type Strike,
  shownAfter,
  strikes,
  type Undisturbed,
} from "./cells.ts";
import type { Library } from "./library.ts";
import { type Moment, type Place, Scene } from "./scene.ts";

const question = { messages: [{ role: "user", content: "x" }] };
const next = { messages: [{ role: "user", content: "next" }] };

/** A matrix is one `describe`. Its cells run many at a time, and each is told of by a test of its own. */
export function matrix(name: string, library: Library): void {
  const { possible } = cells();
  describe(name, () => {
    const oracle = new Oracle(library);
    describe.each([...strikes])("%s", (strike) => {
      const round = new Round(
        library,
        oracle,
        strike,
        possible.filter((cell) => cell.strike === strike),
      );
      test.each(round.cells.map((cell) => [nameOf(cell), cell] as const))("%s", async (_, cell) => {
        await round.result(cell);
      });
      test("all workers of the round are gone", () => round.stop());
    });
  });
}

/** What LangGraph alone comes to, with its own saver in memory. */
class Oracle {
  readonly #library: Library;
  readonly #known = new Map<string, Promise<Undisturbed>>();

  constructor(library: Library) {
    this.#library = library;
  }

  undisturbed(place: Place, moment: Moment): Promise<Undisturbed> {
    const key = `${place} ${moment}`;
    const known = this.#known.get(key) ?? this.#run(place, moment);
    this.#known.set(key, known);
    return known;
  }

  async #run(place: Place, moment: Moment): Promise<Undisturbed> {
    const { MemorySaver, Command } = this.#library.graph;
    const scene = new Scene(this.#library, place, moment, "pass");
    const graph = scene.graph as {
      checkpointer: unknown;
      invoke(input: unknown, config: object): Promise<{ messages: FlatMessage[] }>;
    };
    graph.checkpointer = new MemorySaver();
    const config = { configurable: { thread_id: "t" } };
    const turn = async (input: unknown) => {
      const asked = await graph.invoke(input, config);
      if (moment !== "while waiting") return asked;
      return await graph.invoke(new Command({ resume: "yes" }), config);
    };
    const first = told((await turn(question)).messages);
    const both = told((await turn(next)).messages);
    return { first, second: place === "task" ? both : both.slice(first.length) };
  }
}

/** All cells with one kind of strike, on workers that they share. */
class Round {
  readonly cells: readonly Cell[];
  readonly #library: Library;
  readonly #oracle: Oracle;
  readonly #strike: Strike;
  readonly #shop = new Workshop();
  readonly #scenes = new Map<Cell, Scene>();
  #results: Promise<Map<Cell, Error | undefined>> | undefined;

  constructor(library: Library, oracle: Oracle, strike: Strike, mine: readonly Cell[]) {
    this.cells = mine;
    this.#library = library;
    this.#oracle = oracle;
    this.#strike = strike;
  }

  async result(cell: Cell): Promise<void> {
    this.#results ??= this.#run();
    const error = (await this.#results).get(cell);
    if (error !== undefined) throw error;
  }

  async stop(): Promise<void> {
    for (const scene of this.#scenes.values()) scene.release();
    await this.#shop.stop();
  }

  async #run(): Promise<Map<Cell, Error | undefined>> {
    const agents: ServeOptions["agents"] = {};
    for (const cell of this.cells) {
      const fate = cell.strike === "the node throws" ? "throw" : "stand";
      const scene = new Scene(this.#library, cell.place, cell.moment, fate);
      this.#scenes.set(cell, scene);
      agents[nameOf(cell)] = scene.graph as never;
    }
    // A run that has lost two workers would be tried alone, one after the other: that has tests of its own.
    // And where no worker is lost, none is to lose a run because hundreds of them have one event loop.
    const times = isTakeover(this.#strike) ? {} : { lockMs: 600_000 };
    const serve = () => this.#shop.serve(agents, { concurrency: 1_000, maxCrashes: 1_000 }, times);
    const first = await serve();
    const results = new Map<Cell, Error | undefined>();
    const each = async (cell: Cell, run: (cell: Cell) => Promise<void>) => {
      try {
        await run(cell);
        results.set(cell, undefined);
      } catch (error) {
        results.set(cell, error as Error);
      }
    };
    if (!isTakeover(this.#strike)) {
      await inTurns(this.cells, 16, (cell) => each(cell, (one) => this.#stopped(one)));
      return results;
    }
    const runs = new Map<Cell, string>();
    await inTurns(this.cells, 16, async (cell) => {
      runs.set(cell, await this.#start(cell, { input: question }));
      await this.#struck(cell, runs.get(cell)!);
    });
    if (this.#strike !== "SIGTERM") {
      for (const runId of runs.values()) {
        const { threadId } = await this.#shop.record(runId);
        const writer = await this.#shop.claimAndDie(runId);
        await this.#shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.attempt);
      }
    }
    if (this.#strike !== "freeze") await first.close();
    await serve();
    await inTurns(this.cells, 16, (cell) => each(cell, (one) => this.#takenOver(one, runs.get(one)!)));
    return results;
  }

  async #start(cell: Cell, request: object, threadId = nameOf(cell).replaceAll(/[^a-z0-9]/gi, "-")) {
    const all = { subgraphs: true, modes: ["messages", "updates"] };
    return await this.#shop.start(nameOf(cell), { ...all, ...request } as never, { threadId });
  }

  /** Waits until the run stands where it is struck, and what it told is in the log. */
  async #struck(cell: Cell, runId: string): Promise<void> {
    const scene = this.#scenes.get(cell)!;
    if (cell.moment === "while waiting" || cell.strike === "the node throws") {
      await this.#shop.ended(runId);
      return;
    }
    await until(() => scene.struck, patienceMs, `${nameOf(cell)} to be struck`);
    // What it said before is on its way: all of its text, and what is written with that.
    let head = -1;
    await until(async () => {
      const now = (await this.#shop.record(runId)).head;
      const isStill = now === head;
      head = now;
      await new Promise((resolve) => setTimeout(resolve, 25));
      return isStill && (await this.#textOf(runId)) >= scene.said;
    });
  }

  /** How many characters of text a run's log has. */
  async #textOf(runId: string): Promise<number> {
    let length = 0;
    for await (const { part } of this.#shop.reader.parts(runId)) {
      if (part.type === "messages") length += String(part.data[0].content).length;
    }
    return length;
  }

  async #stopped(cell: Cell): Promise<void> {
    const { place, moment, strike, sequel } = cell;
    const undisturbed = await this.#oracle.undisturbed(place, moment);
    const runId = await this.#start(cell, { input: question });
    const { threadId } = await this.#shop.record(runId);
    await this.#struck(cell, runId);
    if (isStop(strike)) await this.#shop.dispatcher.cancel(runId, { keep: strike });
    const { record } = await this.#shop.ended(runId);
    if (moment === "while waiting") return await this.#answered(cell, threadId, undisturbed);
    expect(record.status).toBe(isStop(strike) ? "cancelled" : "failed");
    if (strike === "the node throws") expect(record.error?.name).toMatch(/RangeError/);

    const kept = record.checkpoint?.checkpointId;
    const expected = shownAfter(cell, undisturbed);
    if (strike === "discard") expect(kept).toBeUndefined();
    else expect(await this.#shown(threadId, kept)).toEqual(ordered(place, expected));
    if (strike === "thread") expect(await this.#shown(threadId)).toEqual(ordered(place, expected));
    if (strike === "branch" || strike === "discard") expect(await this.#shop.saver.head(threadId)).toBeNull();

    const isOnBranch = sequel === "on the branch" || sequel === "new input on the branch";
    const from = isOnBranch ? { checkpointId: kept } : {};
    const hasInput = sequel === "new input" || sequel === "new input on the branch";
    const before =
      strike === "the node throws" && !isOnBranch
        ? finishedBefore(cell, undisturbed)
        : await this.#shown(threadId, isOnBranch ? kept : undefined);
    const { record: after } = await this.#shop.ended(
      await this.#start(cell, { ...(hasInput ? { input: next } : {}), ...from }, threadId),
    );
    expect(after).toMatchObject({ status: "completed" });
    const shown = await this.#shown(threadId);
    if (hasInput)
      expect(shown).toEqual(ordered(place, [...this.#turned(before, cell), ...undisturbed.second]));
    else {
      expect(shown).toEqual(ordered(place, goneOn(cell, undisturbed)));
      this.#check(cell, runOnce(cell));
    }
    if (place !== "send" && place !== "parallel") checkCalls(await this.#messages(threadId));
  }

  /** A run that waits has ended: who cancels it is told so, and the thread is as LangGraph would have it. */
  async #answered(cell: Cell, threadId: string, { first, second }: Undisturbed): Promise<void> {
    const { place, sequel } = cell;
    const before = await this.#shown(threadId);
    if (sequel === "new input") {
      await this.#shop.ended(await this.#start(cell, { input: next }, threadId));
      const { record } = await this.#shop.ended(
        await this.#start(cell, { command: { resume: "yes" } }, threadId),
      );
      expect(record.status).toBe("completed");
      const shown = await this.#shown(threadId);
      // What was finished stays, at whatever depth.
      expect(shown.slice(-second.length)).toEqual(ordered(place, second));
      if (place !== "task") expect(shown.slice(0, before.length)).toEqual(before);
      return;
    }
    const request = sequel === "an answer" ? { command: { resume: "yes" } } : {};
    const { record } = await this.#shop.ended(await this.#start(cell, request, threadId));
    if (sequel === "no input") {
      expect(record.status).toBe("interrupted");
      expect(await this.#shown(threadId)).toEqual(before);
      return;
    }
    expect(record.status).toBe("completed");
    expect(await this.#shown(threadId)).toEqual(ordered(place, first));
    this.#check(cell, [...runOnce(cell), "answered"]);
  }

  async #takenOver(cell: Cell, runId: string): Promise<void> {
    const { place, moment } = cell;
    const { first, second } = await this.#oracle.undisturbed(place, moment);
    const { record, parts } = await this.#shop.ended(runId);
    expect(record).toMatchObject({ status: "completed" });
    const whole = goneOn({ ...cell, place: "task" }, { first, second });
    const { threadId } = record;
    expect(await this.#shown(threadId)).toEqual(ordered(place, whole));
    // Readers have each message once.
    const said = saidIn(parts).filter((text) => text !== "");
    expect(new Set(said).size).toBe(said.length);
    this.#check(cell, runOnce(cell));
    const scene = this.#scenes.get(cell)!;
    if (cell.strike === "freeze") {
      const head = await this.#shop.saver.head(threadId);
      scene.release();
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(await this.#shop.saver.head(threadId)).toBe(head);
    }
    const turn = await this.#shop.ended(await this.#start(cell, { input: next }, threadId));
    expect(turn.record).toMatchObject({ status: "completed" });
    expect(await this.#shown(threadId)).toEqual(ordered(place, [...this.#turned(whole, cell), ...second]));
  }

  /** What a second turn leaves of the first. A function's state is what it returned last. */
  #turned(before: readonly string[], { place }: Cell): readonly string[] {
    return place === "task" ? [] : before;
  }

  #check(cell: Cell, names: readonly string[]): void {
    const { ran } = this.#scenes.get(cell)!;
    const more = names.filter((name) => ran.get(name) !== 1);
    expect(Object.fromEntries(more.map((name) => [name, ran.get(name)]))).toEqual({});
  }

  async #messages(threadId: string, checkpointId?: string): Promise<FlatMessage[]> {
    const state = await readState(this.#shop.saver, { threadId, checkpointId });
    return (state?.values.messages ?? []) as FlatMessage[];
  }

  async #shown(threadId: string, checkpointId?: string): Promise<string[]> {
    const { place } = this.cells.find((cell) => threadId.startsWith(cell.place))!;
    return ordered(place, told(await this.#messages(threadId, checkpointId)));
  }
}

/** Messages as `type:text+calls=answered (mark)`. */
function told(messages: readonly FlatMessage[]): string[] {
  return messages.map((message) => {
    const { content, tool_calls = [], tool_call_id, additional_kwargs = {} } = message;
    const { getType } = message as { getType?: () => string };
    const type = getType === undefined ? message.type : getType.call(message);
    const kind = type ?? { user: "human", assistant: "ai" }[String(message.role)] ?? String(message.role);
    const calls = "+c".repeat((tool_calls as unknown[]).length);
    const marks = additional_kwargs as { cancelled?: boolean; incomplete?: boolean };
    const mark = marks.cancelled ? " (cut)" : marks.incomplete ? " (incomplete)" : "";
    return `${kind}:${content}${calls}${tool_call_id === undefined ? "" : "=c"}${mark}`;
  });
}

/** What runs beside each other comes in any order. */
function ordered(place: Place, messages: readonly string[]): string[] {
  if (place !== "send" && place !== "parallel") return [...messages];
  const sorted: string[] = [];
  let beside: string[] = [];
  for (const each of messages) {
    if (/^ai:(A|C|SEND \d|STRIKE|CUT|LET|STRIKE yes)( |$)|\+c|=c/.test(each)) beside.push(each);
    else {
      sorted.push(...beside.sort(), each);
      beside = [];
    }
  }
  return [...sorted, ...beside.sort()];
}

/** Providers take a history only where every call is answered, once, before anything else is said. */
function checkCalls(messages: readonly FlatMessage[]): void {
  let open: unknown[] = [];
  for (const { tool_calls = [], tool_call_id } of messages) {
    if (tool_call_id === undefined) expect(open).toEqual([]);
    else expect(open).toContain(tool_call_id);
    open = open.filter((id) => id !== tool_call_id);
    open.push(...(tool_calls as { id: string }[]).map(({ id }) => id));
  }
  expect(open).toEqual([]);
}

/** The texts of the messages that a reader has in the end. */
function saidIn(parts: readonly Part[]): string[] {
  let kept: { offset: number; part: Part }[] = [];
  for (const [i, part] of parts.entries()) {
    if (part.type === "lifecycle" && part.data.event === "rewound") {
      const { to } = part.data;
      kept = kept.filter((each) => each.offset <= to);
    } else if (part.type === "messages") kept.push({ offset: i + 1, part });
  }
  const texts = new Map<string, string>();
  for (const { part } of kept) {
    if (part.type !== "messages") continue;
    const [{ id, content }] = part.data;
    texts.set(id!, `${texts.get(id!) ?? ""}${content}`);
  }
  return [...texts.values()];
}

async function inTurns<T>(all: readonly T[], atOnce: number, run: (each: T) => Promise<void>): Promise<void> {
  const left = [...all];
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (let each = left.shift(); each !== undefined; each = left.shift()) await run(each);
    }),
  );
}
