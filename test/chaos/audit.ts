/**
 * Holds what clients were told, what the threads' checkpoints say and what cancels were answered with against the logs.
 * A run is audited as soon as it has ended for all who followed it, and what they were told is let go.
 */
import { isDeepStrictEqual } from "node:util";
import { RedisCheckpointSaver, readState } from "@throughline/checkpoint";
import { type FlatMessage, isEnding, type RunRecord } from "@throughline/protocol";
import { LogReader, RunStore, type StoredRun } from "@throughline/runlog";
import type { Redis } from "ioredis";
import type { KnownRun, Ledger } from "./ledger.ts";
import { isWanted, type LogPart, readStory, type Story } from "./oracle.ts";
import { maxCrashes } from "./stage.ts";
import { plannedFailure, tokensIn, wholeStory } from "./text.ts";
import type { View } from "./view.ts";

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
    this.#saver = new RedisCheckpointSaver(redis);
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
    const log: LogPart[] = [];
    for await (const part of this.#reader.parts(run.runId)) log.push(part);
    const story = readStory(log);
    run.outcome = { record, texts: story.texts };
    for (const problem of story.problems.slice(0, shownProblems)) this.#violation(run, `its log: ${problem}`);
    this.#auditRecord(run, stored, log, story);
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
    await this.#auditCheckpoint(run, record, story);
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

  #auditRecord(run: KnownRun, stored: StoredRun, log: readonly LogPart[], { ending }: Story): void {
    const { record } = stored;
    if (!isEnding(record.status)) this.#violation(run, `it is ${record.status}, and should have ended`);
    if (ending !== undefined && ending.event !== record.status) {
      this.#violation(run, `its record says ${record.status}, its log ${ending.event}`);
    }
    if (record.head !== log.length)
      this.#violation(run, `its head is ${record.head}, its log ${log.length} long`);
    if (record.epoch !== run.epoch && !this.#ledger.mayHaveRenewed(run.startedAt))
      this.#violation(run, `its epoch is ${record.epoch}, and was ${run.epoch}`);
    const { error, status } = record;
    if (status === "failed" && !isExpectedFailure(run, stored)) {
      this.#violation(run, `it failed in attempt ${record.attempt}: ${error?.name} ${error?.message}`);
    }
    if (status === "cancelled" && record.cancel === undefined)
      this.#violation(run, "nobody asked for its cancel");
    if (status === "completed" && run.turn.agent === "failing") this.#violation(run, "it should have failed");
  }

  /** The text of a run that has completed is the agent's, to the end; of any other, its beginning. */
  #auditText({ turn, runId, ...rest }: KnownRun, record: RunRecord, { texts }: Story): void {
    const whole = wholeStory(turn.agent, runId, turn.input);
    const run = { turn, runId, ...rest };
    for (const [id, text] of texts) {
      const expected = whole.get(id);
      if (expected === undefined) this.#violation(run, `nobody says message ${id}`);
      else if (!expected.startsWith(text)) {
        this.#violation(
          run,
          `message ${id} is no beginning of the story: ${firstDifference(expected, text)}`,
        );
      }
    }
    if (record.status !== "completed") return;
    for (const [id, expected] of whole) {
      const text = texts.get(id) ?? "";
      if (text === expected) continue;
      const said = tokensIn(turn.input.seed, text);
      this.#violation(run, `it completed with ${said ?? "other"} of ${turn.input.tokens} tokens in ${id}`);
    }
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

  /** The checkpoint that the run ended in has its input once, and each streamed message once, with the text of the log. */
  async #auditCheckpoint(run: KnownRun, record: RunRecord, { texts, values }: Story): Promise<void> {
    const { checkpoint, status } = record;
    const kept =
      status === "completed" ||
      status === "failed" ||
      (status === "cancelled" && record.cancel?.keep !== "discard");
    if (checkpoint === undefined) {
      // A run that nobody had picked up has nothing to keep, nor has one that failed without a chance to save.
      if (kept && texts.size > 0) this.#violation(run, "it ended without a checkpoint");
      return;
    }
    if (!kept) return this.#violation(run, `it was discarded, and has the checkpoint ${show(checkpoint)}`);
    const state = await readState(this.#saver, checkpoint);
    if (state === null) return this.#violation(run, `its checkpoint ${show(checkpoint)} is not there`);
    if (run.shown !== undefined && !isDeepStrictEqual(run.shown, state.values)) {
      this.#violation(run, `its client was shown ${cut(show(run.shown))}, not ${cut(show(state.values))}`);
    }
    const messages = (state.values.messages ?? []) as FlatMessage[];
    const own = messages.filter(({ id }) => id?.startsWith(run.runId));
    const expected = [`${run.runId}-input-0`, ...texts.keys()];
    if (
      !isDeepStrictEqual(
        own.map(({ id }) => id),
        expected,
      )
    ) {
      const said = own.map(({ id }) => id).join(", ");
      this.#violation(
        run,
        `its checkpoint has the messages ${said}, where there should be ${expected.join(", ")}`,
      );
    }
    for (const { id = "", content } of own) {
      const text = texts.get(id) ?? run.turn.input.messages[0]!.content;
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
  }

  #violation({ runId, turn, client, startedAt }: KnownRun, what: string): void {
    const since = this.#ledger.at(startedAt);
    this.#ledger.violation(`run ${runId} (${turn.agent}, ${client}, since ${since}): ${what}`, startedAt);
  }
}

/** What differs between what a client was told and the log. */
export function auditView(view: View, log: readonly LogPart[], story: Story): string[] {
  const { told, problems, filter, complete, folded } = view;
  const found = problems.map((problem) => `was told what cannot be: ${problem}`);
  const first = view.after === undefined ? (told[0]?.offset ?? log.length + 1) : view.after + 1;
  for (const [i, { offset, part }] of told.entries()) {
    const original = log[first - 1 + i];
    if (original === undefined || original.offset !== offset) {
      found.push(
        `was told offset ${offset} as part ${i + 1}, where ${original?.offset ?? "nothing"} was next`,
      );
      break;
    }
    const expected = isWanted(filter, original.part) ? JSON.stringify(original.part) : null;
    if (part === expected) continue;
    found.push(`was told ${cut(part)} at ${offset}, where the log has ${cut(expected)}`);
    break;
  }
  if (!complete) found.push(`was told no ending; it stands at ${told.at(-1)?.offset ?? 0}`);
  // Who came when all was over is told the ending by the run's record.
  else if (view.after !== undefined && told.at(-1)?.offset !== log.length) {
    found.push(`was told ${told.at(-1)?.offset ?? 0} offsets of ${log.length}`);
  }
  if (folded !== undefined && filter === undefined && view.after === 0 && complete) {
    const texts = new Map([...story.texts]);
    if (!isDeepStrictEqual(folded, texts))
      found.push(`folded ${cut(show([...folded]))}, not ${cut(show([...texts]))}`);
  }
  return found;
}

function isExpectedFailure({ turn }: KnownRun, { record: { error }, crashes }: StoredRun): boolean {
  if (turn.agent === "failing" && error?.message === plannedFailure) return true;
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
