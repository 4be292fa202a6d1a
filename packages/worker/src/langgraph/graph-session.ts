/**
 * An attempt of a graph. LangGraph runs it, with our saver for its checkpointer; what is done here is to bring its
 * stream into the log, and log and checkpoints into step.
 *
 * Invariants:
 * - a checkpoint, and what a finished task wrote, is stored only when every part of what it holds is in the log: what
 *   a later attempt does not do again, readers have;
 * - every checkpoint of the run knows the offset up to which the log belongs to what it holds (`log_offset`), and where
 *   the thread's head was before the run (`head_before`);
 * - what was not taken into the log, because the attempt was stopped, is in no checkpoint.
 */
import type { CheckpointTuple } from "@langchain/langgraph";
import {
  flattenValues,
  forGraph,
  type GraphSaver,
  type RedisCheckpointSaver,
  type WriteToCome,
} from "@throughline/checkpoint";
import { type CheckpointRef, defaultModes, type InterruptInfo, type Part } from "@throughline/protocol";
import type { Graph, GraphAgent } from "../agent.ts";
import { AttemptLostError } from "../attempt.ts";
import type { Assignment, Finished, Outcome, Session } from "../session.ts";
import { inputMessages, partial, readBase, saveOutcome } from "../state.ts";
import { graphInput, requestedConfig, withAnswerNamed } from "./config.ts";
import { Intake } from "./intake.ts";
import {
  completeStep,
  keepAside,
  liftPartials,
  type StreamedMessage,
  tasksAt,
  withSaver,
} from "./partials.ts";
import { type Retraction, Retries } from "./retries.ts";
import { Steps } from "./steps.ts";
import { chunkPart, eventPart, type GraphChunk, type GraphEvent, type GraphMode, taskOf } from "./stream.ts";
import { Unfinished } from "./unfinished.ts";

/** What a checkpoint's metadata say of the run that wrote it. */
interface RunMarks {
  run_id?: string;
  attempt?: number;
  log_offset?: number;
  head_before?: string | null;
}

/**
 * Needed whatever the run asked for: tokens for the partial, updates for what they became and for interrupts,
 * checkpoints for where in the log a step ends.
 */
const always: readonly GraphMode[] = ["messages", "updates", "checkpoints"];

/**
 * Unless told otherwise LangChain calls handlers in the background, one after another for the whole process, and tokens
 * come by a handler: one that is slow would keep back every run's, and those that come when their graph is done are
 * lost. LangChain looks here whenever a handler is made.
 */
process.env.LANGCHAIN_CALLBACKS_BACKGROUND ??= "false";

export class GraphSession implements Session {
  readonly #graph: Graph;
  readonly #work: Assignment;
  /** The thread's head, where it is a checkpoint of this very run. */
  readonly #own: CheckpointTuple | undefined;
  #headBefore: string | null;
  readonly #modes: ReadonlySet<string>;
  readonly #intake = new Intake<GraphChunk | GraphEvent>();
  readonly #steps = new Steps();
  /** Of every message: the task that streamed it. */
  readonly #tasks = new Map<string, readonly string[]>();
  /** What earlier attempts left behind the last checkpoint. */
  readonly #unfinished: Unfinished;
  #toTellAgain: Part[] = [];
  readonly #retries: Retries | undefined;
  readonly #interrupts: InterruptInfo[] = [];
  #interrupted = false;
  /** Parts may have come that were not taken. */
  #dropped = false;
  /** What the running graph writes through. */
  #saver: GraphSaver | undefined;
  /** The run's state is being saved, or the run handed over: the graph writes nothing more. */
  #over = false;
  /** Why the saver does not write for the running graph any more. */
  #refused: unknown;
  /** The graph's own run among LangChain's events: the first that there is one of. */
  #rootRun: string | undefined;
  readonly #broken = new AbortController();
  /** Until the log has caught up. The stream itself is never waited in, but its models are: for each of their tokens. */
  #behind: Promise<void> | undefined;
  readonly #brake = {
    name: "ThroughlineBrake",
    awaitHandlers: true,
    handleLLMNewToken: () => this.#behind,
  };

  private constructor(agent: GraphAgent, work: Assignment, head: CheckpointTuple | undefined) {
    this.#graph = agent.graph;
    this.#work = work;
    const marks = (head?.metadata ?? {}) as RunMarks;
    const isOwn = head !== undefined && marks.run_id === work.run.record.runId;
    this.#own = isOwn ? head : undefined;
    this.#headBefore = isOwn ? (marks.head_before ?? null) : (head?.checkpoint.id ?? null);
    this.#unfinished = isOwn ? new Unfinished(marks.log_offset, marks.attempt) : new Unfinished();
    this.#retries = Retries.for(agent.graph);
    this.#modes = new Set(work.request.modes ?? defaultModes);
  }

  static async open(agent: GraphAgent, work: Assignment): Promise<GraphSession> {
    return new GraphSession(agent, work, await headOf(work.saver, work.run.record.threadId));
  }

  recall(part: Part, offset: number): void {
    this.#remember(part);
    this.#unfinished.add(part, offset);
  }

  async takeOver(): ReturnType<Session["takeOver"]> {
    await this.#savePartials("taken-over");
    const { attempt, offset } = this.#work.attempt.writer;
    if (this.#unfinished.isEmpty) return { event: "resumed", attempt };
    this.#toTellAgain = await this.#doneBehindCheckpoint();
    return { event: "rewound", attempt, to: Math.min(this.#unfinished.end, offset) };
  }

  async #doneBehindCheckpoint(): Promise<Part[]> {
    if (this.#own === undefined) return [];
    const { saver, run } = this.#work;
    const { runId, threadId } = run.record;
    const { open, finished } = await tasksAt({ graph: this.#graph, saver, threadId });
    const ends = new Map<string, number>();
    for (const ns of this.#unfinished.namespaces()) {
      const { metadata } = (await headOf(saver, threadId, ns)) ?? {};
      const { run_id, log_offset } = (metadata ?? {}) as RunMarks;
      if (run_id === runId && log_offset !== undefined) ends.set(ns, log_offset);
    }
    return this.#unfinished.done((segment) => finished.has(segment), open.size === 0, ends);
  }

  async run(): Promise<Finished> {
    for (const part of this.#toTellAgain) this.#tell(part);
    try {
      // Never waited in: it holds no graph back, and what a stream that breaks off has not handed out is lost.
      await this.#intake.read(this.#stream(), (each) => {
        if (this.#work.attempt.reason === undefined) this.#take(each);
        else this.#dropped = true;
      });
    } catch (error) {
      this.#dropped = true;
      throw this.#refused ?? error;
    }
    if (this.#refused !== undefined) throw this.#refused;
    if (!this.#interrupted) return { event: "completed" };
    return { event: "interrupted", interrupts: this.#interrupts };
  }

  /** What the thread's head holds: later attempts go on from it, or from what comes after it. */
  async settled(): Promise<number> {
    const { saver, run } = this.#work;
    const { metadata } = (await headOf(saver, run.record.threadId)) ?? {};
    const { run_id, log_offset = 0 } = (metadata ?? {}) as RunMarks;
    return run_id === run.record.runId ? log_offset : 0;
  }

  async settle(): Promise<void> {
    // Steps that are in the log, and whose checkpoints are on their way.
    await this.#saver?.idle();
    this.#over = true;
  }

  async save(outcome: Outcome): Promise<CheckpointRef | null> {
    const { run, attempt, saver } = this.#work;
    const { runId, threadId } = run.record;
    await this.settle();
    if (typeof outcome === "object" && outcome.cancelled === "discard") {
      const fenced = saver.fenced({ runId, attempt: attempt.writer.fence });
      await fenced.discardRun(threadId, runId, { head: this.#headBefore });
      return null;
    }
    if (typeof outcome === "object" || outcome === "failed") return await this.#savePartials(outcome);
    const checkpointId = await saver.head(threadId);
    return checkpointId === null ? null : { threadId, checkpointId };
  }

  /** The graph's chunks, and its events where the run is to have them: of one execution. */
  async #stream(): Promise<AsyncIterable<GraphChunk | GraphEvent>> {
    const { run, request, attempt, saver } = this.#work;
    const { runId, threadId } = run.record;
    const fenced = saver.fenced({
      runId,
      attempt: attempt.writer.fence,
      before: (write) => this.#beforeWrite(write),
    });
    this.#saver = forGraph(fenced, (error) => this.#onRefusal(error));
    const graph = withSaver(this.#graph, this.#saver);
    const config = requestedConfig(request.config);
    const { checkpointId } = request;
    const isElsewhere =
      this.#own === undefined && checkpointId !== undefined && checkpointId !== this.#headBefore;
    const options = {
      ...config,
      configurable: {
        ...config.configurable,
        thread_id: threadId,
        ...(isElsewhere ? { checkpoint_id: checkpointId } : {}),
      },
      // By this LangGraph knows a second attempt, and goes on instead of taking the input once more.
      metadata: { ...config.metadata, run_id: runId },
      signal: AbortSignal.any([attempt.signal, this.#broken.signal]),
      streamMode: [...new Set([...this.#modes, ...always])].filter(
        (mode) => mode !== "events",
      ) as GraphMode[],
      subgraphs: true,
      callbacks: [this.#brake, ...(this.#retries === undefined ? [] : [this.#retries.handler])],
    };
    const input =
      this.#own === undefined
        ? graphInput(graph, await withAnswerNamed(request, saver, threadId), runId)
        : null;
    if (input !== null && request.command === undefined && !isElsewhere) await this.#abandonTurn();
    if (this.#modes.has("events")) return graph.streamEvents(input, { ...options, version: "v2" }) as never;
    return (await graph.stream(input, options)) as never;
  }

  /** New input begins a new turn: what a subgraph kept of the one that was stopped becomes part of the thread. */
  async #abandonTurn(): Promise<void> {
    const { run, attempt, saver } = this.#work;
    const { runId, threadId } = run.record;
    const fenced = saver.fenced({ runId, attempt: attempt.writer.fence });
    await liftPartials({ graph: this.#graph, saver: fenced, threadId });
    this.#headBefore = await saver.head(threadId);
  }

  #take(each: GraphChunk | GraphEvent): void {
    if (Array.isArray(each)) {
      this.#takeChunk(each);
      return;
    }
    // The chunks of a graph's stream are events of their own as well: they are taken as what they are.
    this.#rootRun ??= each.run_id;
    const isChunk = each.event === "on_chain_stream" && each.run_id === this.#rootRun;
    if (isChunk) this.#takeChunk(each.data.chunk as GraphChunk);
    else this.#put(eventPart(each));
  }

  #takeChunk(chunk: GraphChunk): void {
    const [ns, mode, payload] = chunk;
    this.#steps.mark(chunk, this.#work.attempt.writer.offset);
    if (mode === "checkpoints" && ns.length === 0) this.#retries?.stepEnded();
    if (mode === "updates" && ns.length === 0) this.#noteInterrupts(payload);
    // Most of what is not asked for does not become a part at all.
    if (!this.#modes.has(mode) && mode !== "messages" && mode !== "updates") return;
    this.#put(chunkPart(chunk));
  }

  #put(part: Part): void {
    const { attempt, request } = this.#work;
    const inLog = this.#modes.has(part.type) && (part.ns.length === 0 || request.subgraphs === true);
    const retraction = this.#retries?.before(part);
    if (retraction !== undefined) this.#retract(retraction);
    this.#remember(part);
    if (inLog) this.#tell(part);
    else attempt.foldOnly(part);
  }

  #tell(part: Part): void {
    const { attempt } = this.#work;
    // Answers a promise where the log is behind; it is rejected where the attempt is lost, which stops it.
    this.#behind = attempt.take(part)?.catch(() => {});
    this.#retries?.told(part, attempt.writer.offset);
  }

  /** A node failed, and begins its answer anew. */
  #retract({ to, again, messageIds }: Retraction): void {
    const { attempt } = this.#work;
    for (const id of messageIds) this.#tasks.delete(id);
    attempt.rewind(to)?.catch(() => {});
    for (const part of again) this.#tell(part);
  }

  #remember(part: Part): void {
    if (part.type !== "messages") return;
    const [{ id }, metadata] = part.data;
    if (id === undefined || this.#tasks.has(id)) return;
    const task = taskOf(metadata);
    if (task !== undefined) this.#tasks.set(id, task);
  }

  #noteInterrupts(payload: unknown): void {
    const { __interrupt__: interrupts } = (payload ?? {}) as { __interrupt__?: InterruptInfo[] };
    if (interrupts === undefined) return;
    this.#interrupted = true;
    for (const { id, value } of interrupts) {
      this.#interrupts.push({ id, value: (flattenValues(value) ?? null) as never });
    }
  }

  /** See the invariants at the top. */
  async #beforeWrite({ kind, ns, step }: WriteToCome): Promise<Record<string, unknown> | null> {
    const { attempt } = this.#work;
    await this.#intake.caughtUp();
    const end = kind === "checkpoint" ? this.#steps.end(ns, step) : undefined;
    if (this.#over || (end === undefined && this.#dropped)) return null;
    const offset = end ?? attempt.writer.offset;
    await attempt.writer.flush();
    return this.#marks(offset);
  }

  #onRefusal(error: unknown): void {
    const { attempt } = this.#work;
    if (attempt.reason !== undefined) return;
    if ((error as { code?: unknown }).code === "invalid_argument") {
      this.#refused = error;
      this.#broken.abort(error);
    } else attempt.stop(new AttemptLostError(error));
  }

  /** Keeps what unfinished tasks had streamed: on the thread's line, or off it where the run does not go on from it. */
  async #savePartials(occasion: Outcome | "taken-over"): Promise<CheckpointRef | null> {
    const { run, attempt, saver, request } = this.#work;
    const { runId, threadId, agent } = run.record;
    const keep = typeof occasion === "object" ? occasion.cancelled : undefined;
    const { attempt: number, fence } = attempt.writer;
    // Without input, and before its first checkpoint, the run is in the step that the thread stood in.
    const goesOn = request.input === undefined && request.checkpointId === undefined;
    if (!goesOn && !(await this.#inThread())) {
      // Not even its input is in the thread: it is kept as if no graph had been there.
      const base = await readBase(saver, runId, threadId, request.checkpointId);
      const said = attempt.fold.messages().length > 0;
      if (!said) return this.#headBefore === null ? null : { threadId, checkpointId: this.#headBefore };
      const input = inputMessages(request.input, runId);
      const identity = { runId, attempt: number, fence, agent };
      return await saveOutcome(saver, identity, base, input, attempt.fold, occasion as never);
    }
    const cancelled = keep !== undefined;
    const view = saver.fenced({
      runId,
      attempt: fence,
      branch: !cancelled,
      before: async () => ({
        ...this.#marks(attempt.writer.offset),
        partial: cancelled ? "cancelled" : occasion,
      }),
    });
    const place = { graph: this.#graph, saver: view, threadId };
    const streamed = this.#streamed(cancelled);
    let checkpointId: string | null;
    if (cancelled) {
      await completeStep(place, streamed, { inSubgraphs: keep === "thread", runId });
      checkpointId = await saver.head(threadId);
    } else checkpointId = (await keepAside(place, streamed)) ?? (await saver.head(threadId));
    if (keep === "branch") await saver.fenced({ runId, attempt: fence }).setHead(threadId, this.#headBefore);
    return checkpointId === null ? null : { threadId, checkpointId };
  }

  /** What tasks streamed, with the marks of what was cut off. */
  #streamed(cancelled: boolean): StreamedMessage[] {
    return this.#work.attempt.fold.messages().flatMap(({ message, complete }) => {
      const task = this.#tasks.get(message.id ?? "");
      if (task === undefined || message.content.length === 0) return [];
      return [{ task, message: complete ? message : partial(message, cancelled) }];
    });
  }

  /** What every checkpoint of the run says of it. */
  #marks(offset: number): Record<string, unknown> {
    const { attempt, run } = this.#work;
    return {
      agent: run.record.agent,
      attempt: attempt.writer.attempt,
      log_offset: offset,
      head_before: this.#headBefore,
    };
  }

  async #inThread(): Promise<boolean> {
    const { saver, run } = this.#work;
    const head = await headOf(saver, run.record.threadId);
    return (head?.metadata as RunMarks | undefined)?.run_id === run.record.runId;
  }
}

async function headOf(
  saver: RedisCheckpointSaver,
  threadId: string,
  ns = "",
): Promise<CheckpointTuple | undefined> {
  return await saver.getTuple({ configurable: { thread_id: threadId, checkpoint_ns: ns } });
}
