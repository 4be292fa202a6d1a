/** An attempt of a function agent. */
import { InvalidArgumentError } from "@throughline/checkpoint";
import type { CheckpointRef, FlatMessage, StreamMode } from "@throughline/protocol";
import { defaultModes } from "@throughline/protocol";
import type { AgentContext, FunctionAgent } from "./agent.ts";
import { drive } from "./generator.ts";
import type { Assignment, Earlier, Finished, Outcome, Session } from "./session.ts";
import { type Base, inputMessages, readBase, saveOutcome } from "./state.ts";

export class FunctionSession implements Session {
  readonly #agent: FunctionAgent | undefined;
  readonly #work: Assignment;
  readonly #base: Base;
  readonly #input: FlatMessage[];
  #partial: Earlier | null = null;

  private constructor(agent: FunctionAgent | undefined, work: Assignment, base: Base) {
    this.#agent = agent;
    this.#work = work;
    this.#base = base;
    this.#input = inputMessages(work.request.input, work.run.record.runId);
  }

  /** Without an agent, the session can only `save`. */
  static async open(agent: FunctionAgent | undefined, work: Assignment): Promise<FunctionSession> {
    const { runId, threadId } = work.run.record;
    const base = await readBase(work.saver, runId, threadId, work.request.checkpointId);
    return new FunctionSession(agent, work, base);
  }

  async takeOver(earlier: Earlier): ReturnType<Session["takeOver"]> {
    await this.#save("taken-over");
    const { attempt } = this.#work.attempt.writer;
    if (this.#agent?.takeover !== "resume") return { event: "rewound", attempt, to: 0 };
    this.#partial = earlier;
    return { event: "resumed", attempt };
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
      partial: this.#partial,
      metadata,
      config: request.config ?? {},
      store,
    };
    const modes = new Set<StreamMode>((request.modes as StreamMode[] | undefined) ?? defaultModes);
    await drive(this.#agent!, name, context, attempt, modes);
    return { event: "completed" };
  }

  async save(outcome: Outcome): Promise<CheckpointRef | null> {
    // A function agent is never interrupted.
    return outcome === "interrupted" ? null : await this.#save(outcome);
  }

  async #save(outcome: Parameters<typeof saveOutcome>[5]): Promise<CheckpointRef | null> {
    const { run, attempt, saver } = this.#work;
    const { runId, agent } = run.record;
    const identity = { runId, attempt: attempt.writer.attempt, fence: attempt.writer.fence, agent };
    return await saveOutcome(saver, identity, this.#base, this.#input, attempt.fold, outcome);
  }
}
