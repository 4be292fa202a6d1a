/**
 * An attempt of a function agent.
 *
 * Invariants:
 * - what an agent has given to `step` is in the run's record before readers are told of the step, and the step is in the
 *   log before the agent goes on: what it does next is never done twice for want of it;
 * - a later attempt begins at the last step that the log has, with the state that belongs to it: never with a later one
 *   that was kept and not told.
 */
import { flattenValues, InvalidArgumentError } from "@throughline/checkpoint";
import type { CheckpointRef, FlatMessage, FoldedMessage, Part, StreamMode } from "@throughline/protocol";
import { defaultModes, lifecycle } from "@throughline/protocol";
import type { AgentContext, FunctionAgent } from "./agent.ts";
import { drive } from "./generator.ts";
import type { Assignment, Earlier, Finished, Outcome, Session } from "./session.ts";
import { type Base, beginning, beyond, inputMessages, readBase, saveOutcome } from "./state.ts";

/** Characters of JSON that an agent may give to one step: each claim of the run reads it. */
const maxStepState = 1024 * 1024;

export class FunctionSession implements Session {
  readonly #agent: FunctionAgent | undefined;
  readonly #work: Assignment;
  readonly #base: Base;
  readonly #input: FlatMessage[];
  readonly #modes: ReadonlySet<StreamMode>;
  /** The offset of the last step that was told; 0: none. */
  #steppedAt = 0;
  /** The agent goes on from what earlier attempts left. */
  #goesOn = false;

  private constructor(agent: FunctionAgent | undefined, work: Assignment, base: Base) {
    this.#agent = agent;
    this.#work = work;
    this.#base = base;
    this.#input = inputMessages(work.request.input, work.run.record.runId);
    this.#modes = new Set((work.request.modes as StreamMode[] | undefined) ?? defaultModes);
  }

  /** Without an agent, the session can only `save`. */
  static async open(agent: FunctionAgent | undefined, work: Assignment): Promise<FunctionSession> {
    const { runId, threadId } = work.run.record;
    const base = await readBase(work.saver, runId, threadId, work.request);
    return new FunctionSession(agent, work, base);
  }

  get asked(): readonly FlatMessage[] {
    return this.#input.filter(({ type }) => type !== "remove");
  }

  recall(part: Part, offset: number): void {
    if (part.type !== "lifecycle") return;
    const { data } = part;
    if (data.event === "stepped") this.#steppedAt = offset;
    // A worker from before there were steps began anew.
    else if (data.event === "rewound" && data.to < this.#steppedAt) this.#steppedAt = 0;
  }

  async takeOver(): ReturnType<Session["takeOver"]> {
    const { writer } = this.#work.attempt;
    const { attempt, offset } = writer;
    await this.#save("taken-over");
    const isResumed = this.#agent?.takeover === "resume";
    this.#goesOn = isResumed || this.#steppedAt > 0;
    if (isResumed || this.#steppedAt === offset) return { event: "resumed", attempt };
    return { event: "rewound", attempt, to: this.#steppedAt };
  }

  async run(): Promise<Finished> {
    const { run, request, attempt, store = null } = this.#work;
    const { runId, threadId, agent: name, metadata = {} } = run.record;
    if (request.interruptBefore !== undefined || request.interruptAfter !== undefined) {
      throw new InvalidArgumentError(`agent ${name} is a function: it has no nodes to interrupt a run at`);
    }
    const { checkpointId, values, messages } = this.#base;
    const context: AgentContext = {
      input: request.input,
      command: request.command ?? null,
      messages: [...messages, ...this.#input],
      threadId,
      runId,
      attempt: attempt.writer.attempt,
      signal: attempt.signal,
      checkpoint: checkpointId === null ? null : { checkpointId, values },
      partial: this.#goesOn ? this.#partial() : null,
      step: this.#steppedState(),
      metadata,
      config: request.config ?? {},
      store,
    };
    if (this.#modes.has("values") && !this.#goesOn) {
      const begun = flattenValues(beginning(this.#base, this.#input));
      const wait = attempt.take({ type: "values", ns: [], data: begun as never });
      if (wait !== undefined) await wait;
    }
    await drive(this.#agent!, name, context, attempt, this.#modes, (state) => this.#step(state));
    return { event: "completed" };
  }

  /** Below the last step nothing is ever taken back. The step itself stays in the log, for a later attempt to find. */
  async rewindFloor(): Promise<number> {
    return this.#steppedAt === 0 ? Number.POSITIVE_INFINITY : this.#steppedAt - 1;
  }

  async save(outcome: Outcome): Promise<CheckpointRef | null> {
    // A function agent is never interrupted.
    return outcome === "interrupted" ? null : await this.#save(outcome);
  }

  /** Ends a step: see the invariants at the top. */
  async #step(state: unknown): Promise<void> {
    const { attempt } = this.#work;
    const { writer } = attempt;
    const json = JSON.stringify(flattenValues(state) ?? null);
    if (json.length > maxStepState) {
      throw new InvalidArgumentError(`step: a state of ${json.length} characters; at most ${maxStepState}`);
    }
    await writer.keepStep(json, this.#steppedAt);
    if (attempt.reason !== undefined) return;
    void attempt.take(lifecycle({ event: "stepped", attempt: writer.attempt }))?.catch(() => {});
    this.#steppedAt = writer.offset;
    await writer.flush();
  }

  /** What the agent gave to the last step that the log has. */
  #steppedState(): unknown {
    const kept = this.#work.run.steps.find(({ offset }) => offset === this.#steppedAt);
    return kept === undefined ? null : JSON.parse(kept.state);
  }

  #partial(): Earlier {
    const { messages, values } = this.#own();
    return { messages: messages.map(({ message }) => message), values };
  }

  /** What the run has said, and what it changed. */
  #own(): { messages: FoldedMessage[]; values: Record<string, unknown> } {
    const { fold } = this.#work.attempt;
    const folded = { messages: fold.messages(), values: fold.values() };
    return this.#modes.has("values") ? beyond(beginning(this.#base, this.#input), folded) : folded;
  }

  async #save(outcome: Parameters<typeof saveOutcome>[5]): Promise<CheckpointRef | null> {
    const { run, attempt, saver } = this.#work;
    const { runId, agent } = run.record;
    const identity = { runId, attempt: attempt.writer.attempt, fence: attempt.writer.fence, agent };
    return await saveOutcome(saver, identity, this.#base, this.#input, this.#own(), outcome);
  }
}
