/**
 * Holds what clients were told, what the threads' checkpoints say and what cancels were answered with against the logs.
 * A run is audited as soon as it has ended for all who followed it, and what they were told is let go.
 */
import { isDeepStrictEqual } from "node:util";
import { pathOf, RedisCheckpointSaver, readHistory, readState } from "@throughline/checkpoint";
import { ownerScope } from "@throughline/dispatch";
import { type FlatMessage, isEnding, type RunRecord } from "@throughline/protocol";
import { LogReader, RunStore, type StoredRun } from "@throughline/runlog";
import type { Redis } from "ioredis";
import { auditExecutions, readExecutions } from "./executions.ts";
import type { KnownRun, Ledger } from "./ledger.ts";
import { isWanted, type LogPart, readStory, type Story } from "./oracle.ts";
import { maxCrashes } from "./stage.ts";
import { aside, isGraph, plannedFailure, speakerOf, speakers, wholeStory } from "./text.ts";
import { auditSnapshot, readLog } from "./trimmed.ts";
import type { Snapshot, View } from "./view.ts";

/** How many problems of one log are shown: the first one tends to bring the others. */
const shownProblems = 3;

/** How long a gateway waits for a run's end at least before it answers a cancel without it, ms. */
const cancelWaitMs = 9_900;

export class Auditor {
  readonly #ledger: Ledger;
  readonly #reader: LogReader;
  readonly #runs: RunStore;
  readonly #saver: RedisCheckpointSaver;

  constructor(redis: Redis, ledger: Ledger) {
    this.#ledger = ledger;
    this.#reader = new LogReader(redis);
    this.#runs = new RunStore(redis);
    this.#saver = new RedisCheckpointSaver(redis, { scope: ownerScope("local") });
  }

  /** Audits every run that is ready for it. */
  async auditEnded(): Promise<void> {
    for (const run of this.#ledger.runs.values()) {
      const isReady = run.ended && run.outcome === undefined && run.views.every(({ complete }) => complete);
      if (isReady) await this.audit(run);
    }
  }

  /** Audits a run, whether or not it has ended for everybody: in the end that is a violation. */
  async audit(run: KnownRun): Promise<void> {
    const stored = await this.#runs.get(run.runId);
    if (stored === null) {
      this.#violation(run, "its record is gone");
      return;
    }
    const { record } = stored;
    const { log, trimmed, whole } = await readLog(this.#reader, run.runId, run.views);
    const signed = !isGraph(run.turn.agent);
    const story = readStory(log, signed, whole ? undefined : trimmed);
    if (trimmed !== undefined) this.#auditSnapshots(run, trimmed, whole ? log : undefined, signed);
    for (const problem of story.problems.slice(0, shownProblems)) this.#violation(run, `its log: ${problem}`);
    this.#auditRecord(run, stored, log.at(-1)?.offset ?? 0, story);
    this.#auditText(run, record, story);
    for (const view of run.views) {
      if (view.resets.length > 0 && !this.#ledger.mayHaveRenewed(run.startedAt)) {
        this.#violation(run, `${view.client} was reset, with no reason to: ${view.resets.join(", ")}`);
      }
      for (const problem of auditView(view, log, story)) this.#violation(run, `${view.client} ${problem}`);
      this.#ledger.count("transcripts held against logs");
      this.#ledger.count("parts told", view.told.length);
      view.told.length = 0;
    }
    this.#auditCancels(run, record);
    const said = await this.#auditCheckpoint(run, record, story);
    run.outcome = { record, texts: story.texts, values: story.values, said };
    if (isGraph(run.turn.agent)) await this.#auditExecutions(run, log);
    this.#ledger.count(`runs ${record.status}`);
    this.#ledger.count("takeovers", Math.max(0, log.filter(isTakeover).length));
  }

  /** After all is over: the log is as it was when it was audited. */
  async auditAgain(run: KnownRun): Promise<void> {
    const then = run.outcome?.record;
    const now = (await this.#runs.get(run.runId))?.record;
    if (then === undefined || isDeepStrictEqual(then, now)) return;
    this.#violation(run, `it has changed after its end, from ${show(then)} to ${show(now)}`);
  }

  /** @param log the log, where it is known as a whole */
  #auditSnapshots(
    run: KnownRun,
    stored: Snapshot,
    log: readonly LogPart[] | undefined,
    signed: boolean,
  ): void {
    this.#ledger.count("logs trimmed");
    if (log === undefined) {
      this.#ledger.count("logs trimmed, of whose beginning nobody was told all");
      return;
    }
    for (const snapshot of [stored, ...run.views.flatMap(({ snapshots }) => snapshots)]) {
      this.#ledger.count("snapshots held against logs");
      const problem = auditSnapshot(snapshot, log, signed);
      if (problem !== undefined) this.#violation(run, cut(problem));
    }
  }

  #auditRecord(run: KnownRun, stored: StoredRun, last: number, { ending }: Story): void {
    const { record } = stored;
    if (!isEnding(record.status)) this.#violation(run, `it is ${record.status}, and should have ended`);
    if (ending !== undefined && ending.event !== record.status) {
      this.#violation(run, `its record says ${record.status}, its log ${ending.event}`);
    }
    if (record.head !== last) this.#violation(run, `its head is ${record.head}, its log ends at ${last}`);
    if (record.epoch !== run.epoch && !this.#ledger.mayHaveRenewed(run.startedAt))
      this.#violation(run, `its epoch is ${record.epoch}, and was ${run.epoch}`);
    const { error, status } = record;
    if (status === "failed" && !isExpectedFailure(run, stored)) {
      this.#violation(run, `it failed in attempt ${record.attempt}: ${error?.name} ${error?.message}`);
    }
    if (status === "cancelled" && record.cancel === undefined)
      this.#violation(run, "nobody asked for its cancel");
    const { agent, answers, input } = run.turn;
    if (status === "completed" && agent === "failing") this.#violation(run, "it should have failed");
    const asks = agent === "asking" && !answers;
    if (status === (asks ? "completed" : "interrupted")) this.#violation(run, `it should not be ${status}`);
    if (status !== "interrupted") return;
    const asked = record.interrupts?.map(({ value }) => value);
    if (isDeepStrictEqual(asked, [{ question: input.seed }])) return;
    this.#violation(run, `it asks ${show(asked)}, not for ${input.seed}`);
  }

  /** The text of a run that has completed is the agent's, to the end; of any other, its beginning. */
  #auditText({ turn, runId, ...rest }: KnownRun, record: RunRecord, { texts }: Story): void {
    const whole = wholeStory(turn);
    const run = { turn, runId, ...rest };
    const told = new Map<string, string>();
    for (const [id, text] of texts) {
      const speaker = speakerOf(runId, id) ?? "";
      const expected = whole.get(speaker);
      if (told.has(speaker)) this.#violation(run, `${speaker} has said its message twice`);
      told.set(speaker, text);
      if (expected === undefined) this.#violation(run, `nobody says message ${id}`);
      else if (!expected.startsWith(text)) {
        this.#violation(
          run,
          `message ${id} is no beginning of the story: ${firstDifference(expected, text)}`,
        );
      }
    }
    if (record.status !== "completed" && record.status !== "interrupted") return;
    for (const [speaker, expected] of whole) {
      const text = told.get(speaker) ?? "";
      if (text === expected) continue;
      const difference = firstDifference(expected, text);
      this.#violation(run, `it is ${record.status}, and ${speaker} has not said all: ${difference}`);
    }
  }

  /** No node of a graph was executed again once a checkpoint had what it said. */
  async #auditExecutions(run: KnownRun, log: readonly LogPart[]): Promise<void> {
    const { runId, threadId } = run;
    const executions = readExecutions(runId, log);
    const stored: Record<string, unknown>[] = [];
    for (const ns of (await this.#saver.heads(threadId)).keys()) {
      const states = await readHistory(this.#saver, { threadId, ns: pathOf(ns) });
      for (const { metadata, values, tasks } of states) {
        // What is kept aside of a lost attempt has what readers were told: the attempt may have died before it was stored.
        if (metadata.run_id !== runId || metadata.partial === "taken-over") continue;
        stored.push(values);
        for (const { result } of tasks) stored.push(...finishedBy(result));
      }
    }
    const problems = [...executions.problems, ...auditExecutions(runId, executions, stored)];
    for (const problem of problems.slice(0, shownProblems)) this.#violation(run, problem);
    this.#ledger.count("executions of nodes", [...executions.begun.values()].flat().length);
    this.#ledger.count("checkpoints of graphs", stored.length);
  }

  #auditCancels(run: KnownRun, record: RunRecord): void {
    for (const { client, answer, tookMs } of run.cancels) {
      if (answer === undefined) {
        this.#violation(run, `${client}'s cancel was never answered`);
      } else if (answer.status === "cancelling") {
        this.#ledger.count("cancels answered with cancelling");
        if (tookMs < cancelWaitMs) this.#violation(run, `${client}'s cancel was given up after ${tookMs} ms`);
      } else if (answer.status !== record.status || answer.offset !== record.head) {
        const said = `${answer.status} at ${answer.offset}`;
        this.#violation(
          run,
          `${client}'s cancel was answered with ${said}; it is ${record.status} at ${record.head}`,
        );
      } else if (!isDeepStrictEqual(answer.checkpoint ?? null, record.checkpoint ?? null)) {
        const said = `${show(answer.checkpoint)}, not ${show(record.checkpoint)}`;
        this.#violation(run, `${client}'s cancel was answered with the checkpoint ${said}`);
      }
    }
  }

  /**
   * The checkpoint that the run ended in has its input once, and each streamed message once, with the text of the log.
   *
   * @returns the names of the messages that the run brought
   */
  async #auditCheckpoint(run: KnownRun, record: RunRecord, { texts, values }: Story): Promise<string[]> {
    const { checkpoint, status } = record;
    const { runId, turn } = run;
    const kept = status !== "cancelled" || record.cancel?.keep !== "discard";
    const inputs = turn.input.messages.map(({ content }) => content);
    if (checkpoint === undefined) {
      // A run that nobody had picked up has said nothing, nor has one that failed without a chance to save.
      if (kept && texts.size > 0) this.#violation(run, "it ended without a checkpoint");
      // What its user said comes into its thread all the same.
      return status === "cancelled" && kept && record.attempt === 0 ? inputs : [];
    }
    if (!kept) {
      this.#violation(run, `it was discarded, and has the checkpoint ${show(checkpoint)}`);
      return [];
    }
    const state = await readState(this.#saver, checkpoint);
    if (state === null) {
      this.#violation(run, `its checkpoint ${show(checkpoint)} is not there`);
      return [];
    }
    if (run.shown !== undefined && !isDeepStrictEqual(run.shown, state.values)) {
      this.#violation(run, `its client was shown ${cut(show(run.shown))}, not ${cut(show(state.values))}`);
    }
    const messages = (state.values.messages ?? []) as FlatMessage[];
    const own = messages.filter((each) => each.id?.startsWith(runId) || inputs.includes(nameOf(each)));
    const found = own.map(nameOf);
    const told = [...texts]
      .filter(([id, text]) => text !== "" && speakerOf(runId, id) !== aside)
      .map(([id]) => id);
    const expected = [...inputs, ...inOrder(run, told, found)];
    const unanswered = unansweredCalls(messages);
    if (unanswered.length > 0) this.#violation(run, `its checkpoint leaves calls open: ${unanswered.join()}`);
    if (!isDeepStrictEqual(found, expected)) {
      const instead = `where there should be ${expected.join(", ")}`;
      this.#violation(run, `its checkpoint has the messages ${found.join(", ")}, ${instead}`);
    }
    for (const { id = "", content } of own) {
      const text = texts.get(id) ?? inputs[0] ?? "";
      if (content !== text) {
        this.#violation(
          run,
          `its checkpoint has other text in ${id}: ${firstDifference(text, String(content))}`,
        );
      }
    }
    for (const [key, value] of Object.entries(values)) {
      if (isDeepStrictEqual(state.values[key], value)) continue;
      this.#violation(run, `its checkpoint has ${key} ${show(state.values[key])}, the log ${show(value)}`);
    }
    return found;
  }

  #violation({ runId, turn, client, startedAt }: KnownRun, what: string): void {
    const since = this.#ledger.at(startedAt);
    this.#ledger.violation(`run ${runId} (${turn.agent}, ${client}, since ${since}): ${what}`, startedAt);
  }
}

/** Which executions a task's result tells of: a functional task has them under `by`. */
function finishedBy(result: unknown): Record<string, unknown>[] {
  const values = (result ?? {}) as Record<string, unknown>;
  return [values, (values.by ?? {}) as Record<string, unknown>];
}

/** The calls of tools that nobody answers: providers refuse them. */
function unansweredCalls(messages: readonly FlatMessage[]): string[] {
  const answered = messages.map(({ tool_call_id }) => tool_call_id);
  const calls = messages.flatMap(({ tool_calls }) => (tool_calls ?? []) as { id: string }[]);
  return calls.map(({ id }) => id).filter((id) => !answered.includes(id));
}

/** What a message is called in comparisons: the user's by what they say, for some graphs give them ids of their own. */
export function nameOf({ id = "", type, content }: FlatMessage): string {
  return type === "human" ? String(content) : id;
}

/** The messages of a run as its checkpoint has them: by steps, and in any order within one. */
function inOrder({ turn, runId }: KnownRun, told: readonly string[], found: readonly string[]): string[] {
  if (!isGraph(turn.agent)) return [...told];
  const steps = speakers(turn);
  const step = (id: string) => steps.findIndex((each) => each.includes(speakerOf(runId, id) ?? ""));
  return told.toSorted((a, b) => step(a) - step(b) || found.indexOf(a) - found.indexOf(b));
}

/** What differs between what a client was told and the log. */
export function auditView(view: View, log: readonly LogPart[], story: Story): string[] {
  const { told, problems, filter, complete, folded, snapshots } = view;
  const found = problems.map((problem) => `was told what cannot be: ${problem}`);
  const known = log[0]?.offset ?? 1;
  const last = log.at(-1)?.offset ?? 0;
  let next = view.after === undefined ? told[0]?.offset : view.after + 1;
  for (const [i, { offset, part }] of told.entries()) {
    // A snapshot stands for what is left out.
    const jumped = snapshots.some((snapshot) => snapshot.offset === offset - 1 && offset > next!);
    if ((offset !== next && !jumped) || offset > last) {
      found.push(
        `was told offset ${offset} as part ${i + 1}, where ${next! > last ? "nothing" : next} was next`,
      );
      break;
    }
    next = offset + 1;
    // Trimmed, and nobody knows it all.
    if (offset < known) continue;
    const original = log[offset - known]!;
    const expected = isWanted(filter, original.part) ? JSON.stringify(original.part) : null;
    if (part === expected) continue;
    found.push(`was told ${cut(part)} at ${offset}, where the log has ${cut(expected)}`);
    break;
  }
  if (!complete) found.push(`was told no ending; it stands at ${told.at(-1)?.offset ?? 0}`);
  // Who came when all was over is told the ending by the run's record.
  else if (view.after !== undefined && told.at(-1)?.offset !== last) {
    found.push(`was told ${told.at(-1)?.offset ?? 0} offsets of ${last}`);
  }
  if (folded !== undefined && filter === undefined && view.after === 0 && complete) {
    const texts = new Map([...story.texts]);
    // A subgraph's answer, and a functional graph's, bring what they were given as well.
    const { runId } = view.run;
    const isOwn = (id: string) => id.startsWith(runId) && !id.startsWith(`${runId}-input-`);
    const own = new Map([...folded].filter(([id]) => texts.has(id) || isOwn(id)));
    if (!isDeepStrictEqual(own, texts))
      found.push(`folded ${cut(show([...folded]))}, not ${cut(show([...texts]))}`);
  }
  return found;
}

function isExpectedFailure({ turn }: KnownRun, { record: { error }, crashes }: StoredRun): boolean {
  if (turn.agent === "failing" && error?.message === plannedFailure) return true;
  // Only who is blamed fails, and none of these agents goes down when it is alone, but what a fault strikes then.
  return error?.name === "WorkerCrashedError" && crashes >= maxCrashes;
}

function isTakeover({ part }: LogPart): boolean {
  return part.type === "lifecycle" && (part.data.event === "resumed" || part.data.event === "rewound");
}

function firstDifference(expected: string, text: string): string {
  let i = 0;
  while (i < text.length && text[i] === expected[i]) i++;
  const around = (whole: string) => show(whole.slice(Math.max(0, i - 20), i + 40));
  return `at ${i} there is ${around(text)}, where there should be ${around(expected)}`;
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? "nothing";
}

function cut(text: string | null): string {
  if (text === null) return "nothing";
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
