/**
 * An attempt of a graph. LangGraph runs it, with our saver for its checkpointer; what is done here is to bring its
 * stream into the log, and log and checkpoints into step.
 *
 * Invariants:
 * - a checkpoint, and what a finished task wrote, is stored only when every part of what it holds is in the log: what
 *   a later attempt does not do again, readers have;
 * - every checkpoint of the run knows the offset up to which the log belongs to what it holds (`log_offset`), and where
 *   the thread's head was before the run (`head_before`);
 * - what was not taken into the log, because the attempt was stopped, is in no checkpoint;
 * - nothing that the graph's author wrote is run to save what was streamed, but reducers, and what they throw is caught.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { BaseMessage } from "@langchain/core/messages";
import type { CheckpointTuple } from "@langchain/langgraph";
import {
  ForkView,
  finishedTasks,
  flattenValues,
  type GraphInside,
  GraphSaver,
  INTERRUPT,
  isToldAgain,
  type Marks,
  marksOf,
  mendBeginning,
  type RedisCheckpointSaver,
  RedisStore,
  toBaseMessage,
  type WriteToCome,
  wrapRouters,
} from "@throughline/checkpoint";
import {
  type CheckpointRef,
  defaultModes,
  type FlatMessage,
  type InterruptInfo,
  type Part,
} from "@throughline/protocol";
import type { Graph, GraphAgent } from "../agent.ts";
import { AttemptLostError } from "../attempt.ts";
import { type Answers, noAnswers } from "../repair.ts";
import type { Assignment, Finished, Outcome, Session } from "../session.ts";
import { askedOf, readable } from "./asked.ts";
import { Closing, type Said } from "./closing.ts";
import { graphFor, graphInput, requestedConfig, withAnswerNamed } from "./config.ts";
import { gatesOf, hasGates, isAtGate, requestedGates } from "./gates.ts";
import { goOn } from "./going-on.ts";
import { Intake } from "./intake.ts";
import { type Retraction, Retries } from "./retries.ts";
import { Spoken } from "./spoken.ts";
import { Steps } from "./steps.ts";
import { chunkPart, eventPart, type GraphChunk, type GraphEvent, type GraphMode, Origins } from "./stream.ts";
import { Unfinished } from "./unfinished.ts";
import { asRouter, Witness } from "./witness.ts";

/**
 * Needed whatever the run asked for: tokens for the partial, updates for what they became and for interrupts,
 * checkpoints for where in the log a step ends, tasks for which paths are graphs.
 */
const always: readonly GraphMode[] = ["messages", "updates", "checkpoints", "tasks"];

export class GraphSession implements Session {
  /** undefined: its factory did not make it, for a reason. */
  readonly #made: Graph | undefined;
  readonly #notMade: unknown;
  readonly #work: Assignment;
  /** The thread's head when the attempt began. */
  readonly #head: CheckpointTuple | undefined;
  /** The same, where it is a checkpoint that this very run came to. */
  readonly #own: CheckpointTuple | undefined;
  readonly #headBefore: string | null;
  /** Of a run that begins from nothing: where the heads of lasting subgraphs were before it. */
  readonly #headsBefore: Readonly<Record<string, string>>;
  readonly #modes: ReadonlySet<string>;
  readonly #intake = new Intake<GraphChunk | GraphEvent>();
  readonly #steps = new Steps();
  readonly #origins = new Origins();
  readonly #witness: Witness;
  readonly #spoken: Spoken;
  /** What earlier attempts left behind the last checkpoint. */
  readonly #unfinished: Unfinished;
  #toTellAgain: Part[] = [];
  /** The graph runs, or has run. */
  #isBegun = false;
  /** Readers have been told, and were not told otherwise since, that the run waits. */
  #toldGate = false;
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
  /** What the thread showed where the run goes on from a stop: told in place of the state before the step. */
  #shown: CheckpointTuple | undefined;
  readonly #broken = new AbortController();
  /** Until the log has caught up. The stream itself is never waited in, but its models are: for each of their tokens. */
  #behind: Promise<void> | undefined;
  readonly #brake = {
    name: "ThroughlineBrake",
    awaitHandlers: true,
    handleLLMNewToken: () => this.#behind,
  };

  private constructor(
    made: Made,
    work: Assignment,
    head: CheckpointTuple | undefined,
    heads: ReadonlyMap<string, string>,
  ) {
    this.#made = made.graph;
    this.#notMade = made.error;
    this.#work = work;
    this.#head = head;
    const marks = head === undefined ? {} : marksOf(head);
    const isOwn = head !== undefined && marks.run_id === work.run.record.runId;
    this.#own = isOwn && marks.prepares !== true ? head : undefined;
    this.#headBefore = isOwn ? (marks.head_before ?? null) : (head?.checkpoint.id ?? null);
    this.#headsBefore = isOwn ? (marks.heads_before ?? {}) : Object.fromEntries(heads);
    this.#unfinished = this.#own ? new Unfinished(marks.log_offset, marks.attempt) : new Unfinished();
    this.#retries = this.#made && Retries.for(this.#made);
    this.#modes = new Set(work.request.modes ?? defaultModes);
    this.#witness = new Witness(() => work.attempt.reason === undefined);
    this.#spoken = new Spoken(work.attempt.fold, this.#witness);
    const inside = this.#inside;
    if (inside === undefined) return;
    wrapRouters(inside, asRouter);
    mendBeginning(inside, {
      saver: (saver) => saver instanceof ForkView,
      store: (store) => store instanceof RedisStore,
    });
  }

  static async open(agent: GraphAgent, work: Assignment): Promise<GraphSession> {
    const { saver, request } = work;
    const { threadId } = work.run.record;
    const [made, head, heads] = await Promise.all([
      make(agent, work),
      headOf(saver, threadId),
      request.fromNothing === true ? saver.heads(threadId) : new Map<string, string>(),
    ]);
    // Those with task ids in them are of one line only.
    const lasting = new Map([...heads].filter(([ns]) => ns !== "" && !ns.includes(":")));
    return new GraphSession(made, work, head, lasting);
  }

  get #graph(): Graph {
    if (this.#made === undefined) throw this.#notMade;
    return this.#made;
  }

  get #inside(): GraphInside | undefined {
    return this.#made as unknown as GraphInside | undefined;
  }

  get asked(): readonly FlatMessage[] {
    const { request, run } = this.#work;
    return askedOf(this.#inside, request, run.record.runId);
  }

  recall(part: Part, offset: number): void {
    this.#remember(part, offset);
    if (part.type === "messages") this.#witness.recall(part.data[0].id ?? "", part.data[1]);
    this.#toldGate ||= part.type === "updates" && part.ns.length === 0 && INTERRUPT in Object(part.data);
    this.#unfinished.add(part, offset);
  }

  async takeOver(): ReturnType<Session["takeOver"]> {
    const { attempt, logger } = this.#work;
    try {
      await this.#saveUnfinished("taken-over");
    } catch (error) {
      if ((error as { code?: unknown }).code === "stale_attempt") throw error;
      logger.warn({ err: error }, "what the lost attempt had streamed could not be kept aside");
    }
    const { attempt: number, offset } = attempt.writer;
    if (this.#unfinished.isEmpty) return { event: "resumed", attempt: number };
    this.#toldGate = false;
    this.#toTellAgain = await this.#doneBehindCheckpoint();
    return { event: "rewound", attempt: number, to: Math.min(this.#unfinished.end, offset) };
  }

  async #doneBehindCheckpoint(): Promise<Part[]> {
    if (this.#own === undefined) return [];
    const { saver, run } = this.#work;
    const { runId, threadId } = run.record;
    const finished = finishedTasks(this.#own.pendingWrites);
    const { tasks = [] } = marksOf(this.#own);
    const allFinished = tasks.every(([id]) => finished.has(id));
    const ends = new Map<string, number>();
    for (const ns of this.#unfinished.namespaces()) {
      const head = await headOf(saver, threadId, ns);
      if (head === undefined) continue;
      for (const id of finishedTasks(head.pendingWrites)) finished.add(id);
      const { run_id, log_offset } = marksOf(head);
      if (run_id === runId && log_offset !== undefined) ends.set(ns, log_offset);
    }
    const isFinished = (segment: string) => finished.has(segment.slice(segment.lastIndexOf(":") + 1));
    return this.#unfinished.done(isFinished, allFinished, ends);
  }

  async run(): Promise<Finished> {
    this.#isBegun = true;
    this.#witness.begin();
    for (const part of this.#toTellAgain) this.#tell(part);
    this.#spoken.hear(this.#work.attempt.fold.messages().map(({ message }) => message));
    if (this.#made === undefined) throw this.#notMade;
    if (await this.#isAtGate()) {
      if (!this.#toldGate) {
        // As LangGraph has it.
        this.#takeChunk([[], "updates", { [INTERRUPT]: [] }]);
        this.#takeChunk([[], "values", { [INTERRUPT]: [] }]);
      }
      return { event: "interrupted", interrupts: [] };
    }
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

  /** Whether an earlier attempt had come to where the run is to wait, and died before it could say so. */
  async #isAtGate(): Promise<boolean> {
    const { run, request, attempt, saver } = this.#work;
    const { runId, threadId } = run.record;
    const graph = this.#inside!;
    const gates = gatesOf(graph, request);
    if (attempt.writer.attempt === 1 || !hasGates(graph, gates)) return false;
    if (request.fromNothing === true && this.#own === undefined) return false;
    const tuple = await headOf(saver, threadId);
    if (tuple === undefined) return false;
    return await isAtGate(
      { graph, tuple, ns: "", gates },
      {
        runId,
        head: (ns) => headOf(saver, threadId, ns),
        parent: async ({ parentConfig }) => parentConfig && (await saver.getTuple(parentConfig)),
        tasksOf: (each) => this.#tasksOf(each),
      },
    );
  }

  /** What the thread's head holds: later attempts go on from it, or from what comes after it. */
  async rewindFloor(): Promise<number> {
    const { saver, run } = this.#work;
    const head = await headOf(saver, run.record.threadId);
    const { run_id, log_offset = 0 } = head === undefined ? {} : marksOf(head);
    return run_id === run.record.runId ? log_offset : 0;
  }

  async drainWrites(): Promise<void> {
    // Steps that are in the log, and whose checkpoints are on their way.
    await this.#saver?.idle();
    this.#over = true;
  }

  async save(outcome: Outcome): Promise<CheckpointRef | null> {
    const { run, saver } = this.#work;
    const { runId, threadId } = run.record;
    await this.drainWrites();
    if (typeof outcome === "object" && outcome.cancelled === "discard") {
      await this.#fenced().discardRun(threadId, runId, { head: this.#headBefore });
      await this.#restoreHeads();
      return null;
    }
    if (typeof outcome === "object" || outcome === "failed") return await this.#saveUnfinished(outcome);
    const checkpointId = await saver.head(threadId);
    return checkpointId === null ? null : { threadId, checkpointId };
  }

  /** The graph's chunks, and its events where the run is to have them: of one execution. */
  async #stream(): Promise<AsyncIterable<GraphChunk | GraphEvent>> {
    const { run, request, attempt, store } = this.#work;
    const { runId, threadId } = run.record;
    const config = {
      ...requestedConfig(request.config),
      // A graph that has one of its own keeps it.
      ...(store === undefined || this.#graph.store !== undefined ? {} : { store }),
    };
    const gates = requestedGates(this.#inside!, request);
    const signal = AbortSignal.any([attempt.signal, this.#broken.signal]);
    const { input, checkpointId } = await this.#begin({ ...config, signal });
    const fenced = this.#fenced({ before: (write) => this.#beforeWrite(write) });
    const isHead = this.#head?.checkpoint.id === (await this.#work.saver.head(threadId));
    const head = isHead ? this.#head : undefined;
    this.#saver = new GraphSaver(fenced, (error) => this.#onRefusal(error), {
      ...(head === undefined || !this.#isOnLine(head) ? {} : { head }),
      isSeen: (each) => this.#isOnLine(each),
    });
    const graph = withSaver(this.#graph, this.#saver);
    // Nobody is waited for here once the attempt is stopped: a router may have taken its time.
    attempt.signal.throwIfAborted();
    const options = {
      ...config,
      ...gates,
      configurable: {
        ...config.configurable,
        thread_id: threadId,
        ...(checkpointId === undefined ? {} : { checkpoint_id: checkpointId }),
      },
      // By this LangGraph knows a second attempt, and goes on instead of taking the input once more.
      metadata: { ...config.metadata, run_id: runId },
      signal,
      streamMode: [...new Set([...this.#modes, ...always])].filter(
        (mode) => mode !== "events",
      ) as GraphMode[],
      subgraphs: true,
      callbacks: [
        this.#brake,
        this.#witness.handler,
        ...(this.#retries === undefined ? [] : [this.#retries.handler]),
      ],
    };
    if (this.#modes.has("events")) return graph.streamEvents(input, { ...options, version: "v2" }) as never;
    return (await graph.stream(input, options)) as never;
  }

  /** Brings the thread to where the run begins. Answers what LangGraph is to begin with, and at which checkpoint. */
  async #begin(
    config: ReturnType<typeof requestedConfig> & { signal: AbortSignal },
  ): Promise<{ input: unknown; checkpointId?: string }> {
    if (this.#own !== undefined) return { input: null };
    const { run, request, saver } = this.#work;
    const { runId, threadId } = run.record;
    const { checkpointId, fromNothing = false } = request;
    const isElsewhere = fromNothing || (checkpointId !== undefined && checkpointId !== this.#headBefore);
    const head = this.#head;
    const isPrepared = head !== undefined && marksOf(head).run_id === runId;
    const from = isElsewhere && !isPrepared ? await this.#beginning() : head;
    const place = isElsewhere && !isPrepared && checkpointId !== undefined ? { checkpointId } : {};

    const { stop, as } = from === undefined ? ({} as Marks) : marksOf(from);
    if (isNewTurn(request)) {
      if (isElsewhere || from === undefined || stop !== undefined) {
        return { input: graphInput(this.#graph, request, runId), ...place };
      }
      await this.#abandonTurn(from);
      return { input: graphInput(this.#graph, request, runId) };
    }
    const input = graphInput(this.#graph, await withAnswerNamed(request, saver, threadId), runId);
    // A command that says where to go leaves what was stopped behind.
    const { goto, resume, update } = request.command ?? {};
    const onlyUpdates = update !== undefined && goto === undefined && resume === undefined;
    if (goto !== undefined && resume === undefined) return { input, ...place };
    if (stop?.at === null) return { input: request.command === undefined ? stop.input : input, ...place };
    if (isPrepared && as !== undefined) {
      this.#goOnFrom((await tupleAt(saver, threadId, marksOf(from!).shown!))!);
      return { input: onlyUpdates ? null : input };
    }
    if (stop === undefined) return { input, ...place };
    await goOn(from!, {
      graph: this.#graph,
      saver: this.#fenced(),
      threadId,
      marks: this.#marks(0),
      config: { ...config, metadata: { ...config.metadata, run_id: runId } },
      ...(onlyUpdates ? { update: update as Record<string, unknown> } : {}),
    });
    this.#goOnFrom(from!);
    // As a command, LangGraph would begin a step of its own with it, and do again what had finished.
    return { input: onlyUpdates ? null : input };
  }

  /** The checkpoint that the run was asked to begin with; undefined: from nothing. */
  async #beginning(): Promise<CheckpointTuple | undefined> {
    const { run, request, saver } = this.#work;
    const { checkpointId } = request;
    return checkpointId === undefined ? undefined : await tupleAt(saver, run.record.threadId, checkpointId);
  }

  /** Whether a head is one that the run goes on from: one that begins from nothing has only its own. */
  #isOnLine(head: CheckpointTuple): boolean {
    const { run, request } = this.#work;
    return request.fromNothing !== true || marksOf(head).run_id === run.record.runId;
  }

  #goOnFrom(shown: CheckpointTuple): void {
    this.#shown = shown;
    const { messages } = flattenValues(shown.checkpoint.channel_values) as { messages?: FlatMessage[] };
    if (Array.isArray(messages)) this.#spoken.hear(messages);
  }

  /** New input begins a new turn: what an unfinished one had finished stays in the thread. */
  async #abandonTurn(head: CheckpointTuple): Promise<void> {
    const tasks = marksOf(head).tasks ?? (await this.#tasksOf(head));
    if (tasks.length === 0) return;
    await this.#closing({
      saver: this.#fenced(),
      marks: { ...this.#marks(0), prepares: true },
      said: () => [],
      answers: noAnswers,
    }).close(head);
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
    else this.#put(eventPart(each, this.#origins));
  }

  #takeChunk(chunk: GraphChunk): void {
    const [ns, mode] = chunk;
    if (mode !== "messages") this.#look(chunk);
    // Most of what is not asked for does not become a part at all.
    if (!this.#modes.has(mode) && mode !== "messages" && mode !== "updates") return;
    if (mode === "messages") this.#witness.mark(...namesOf(chunk[2]));
    const told = this.#shown === undefined || ns.length > 0 ? chunk : this.#asShown(chunk, this.#shown);
    if (told === undefined) return;
    const part = chunkPart(told, this.#origins);
    if (!this.#spoken.isHeard(part)) this.#put(part);
  }

  /** What a chunk tells of the graph, beside what it tells readers. */
  #look(chunk: GraphChunk): void {
    const [ns, mode, payload] = chunk;
    this.#steps.mark(chunk, this.#work.attempt.writer.offset, this.#spoken.count);
    if (mode === "tasks" || mode === "checkpoints" || mode === "values") this.#origins.see(ns);
    if (mode === "checkpoints" && ns.length === 0) this.#retries?.stepEnded();
    if (mode !== "updates") return;
    this.#warnOfLosses(payload);
    const messages = messagesOfUpdate(payload);
    if (ns.length > 0) this.#witness.finished(messages);
    else {
      this.#witness.told(messages);
      this.#noteInterrupts(payload);
    }
  }

  /**
   * What a run that goes on from a stop begins with: the state as the thread shows it, and what tasks had finished; what
   * those had said that were stopped was told when they said it. undefined: there is nothing to be told.
   */
  #asShown(chunk: GraphChunk, shown: CheckpointTuple): GraphChunk | undefined {
    const [ns, mode, payload] = chunk;
    if (mode === "values" && this.#spoken.isEmpty && payload !== null) {
      const { channel_values: values } = shown.checkpoint;
      const state = Object.entries(payload as object).map(([key, value]) => [
        key,
        Object.hasOwn(values, key) ? values[key] : value,
      ]);
      return [ns, mode, Object.fromEntries(state)];
    }
    if (mode !== "updates" || !isToldAgain(payload)) return chunk;
    const { tasks = [], stop } = marksOf(shown);
    const stopped = new Set(tasks.flatMap(([id, name]) => (Object.hasOwn(stop!.answers, id) ? [name] : [])));
    const left = Object.entries(payload as object).filter(([node]) => !stopped.has(node));
    return left.some(([node]) => node !== "__metadata__") ? [ns, mode, Object.fromEntries(left)] : undefined;
  }

  #put(part: Part): void {
    const { attempt, request } = this.#work;
    const inLog = this.#modes.has(part.type) && (part.ns.length === 0 || request.subgraphs === true);
    const retraction = this.#retries?.before(part);
    if (retraction !== undefined) this.#retract(retraction);
    this.#remember(part, attempt.writer.offset + 1);
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
    this.#spoken.delete(messageIds);
    attempt.rewind(to)?.catch(() => {});
    for (const part of again) this.#tell(part);
  }

  #remember(part: Part, offset: number): void {
    if (part.type !== "messages") return;
    const [{ id }, metadata] = part.data;
    this.#spoken.add(id, this.#origins.of(metadata)?.task, offset);
  }

  /** What no checkpoint holds is there for the nodes that follow, and gone for a worker that takes over. */
  #warnOfLosses(payload: unknown): void {
    for (const [node, delta] of Object.entries((payload ?? {}) as Record<string, unknown>)) {
      if (typeof delta !== "object" || delta === null) continue;
      for (const [key, value] of Object.entries(delta)) {
        if (typeof value !== "function" && typeof value !== "symbol") continue;
        this.#work.logger.warn(`node ${node} put a ${typeof value} into ${key}: no checkpoint holds it`);
      }
    }
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
  async #beforeWrite({ kind, ns, step: number, task }: WriteToCome): Promise<Record<string, unknown> | null> {
    const { attempt } = this.#work;
    await this.#intake.caughtUp();
    if (this.#over) return null;
    const step = kind === "checkpoint" ? this.#steps.at(ns, number) : undefined;
    const isTold = step !== undefined || (task !== undefined && this.#steps.isDone(task));
    if (!isTold && this.#dropped) return null;
    const offset = step?.end ?? attempt.writer.offset;
    await attempt.writer.flush();
    return { ...this.#marks(offset), ...(step === undefined ? {} : { tasks: step.tasks }) };
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
  async #saveUnfinished(occasion: Outcome | "taken-over"): Promise<CheckpointRef | null> {
    const { run, attempt, saver, request } = this.#work;
    const { runId, threadId } = run.record;
    const keep = typeof occasion === "object" ? occasion.cancelled : undefined;
    const head = await headOf(saver, threadId);
    const isOwn = head !== undefined && marksOf(head).run_id === runId;
    const hasBegun = isOwn && marksOf(head).prepares !== true;
    const isElsewhere = (request.checkpointId !== undefined || request.fromNothing === true) && !isOwn;
    const from = isElsewhere ? await this.#beginning() : head;
    const closing = this.#closing({
      saver: this.#fenced({ branch: keep !== "thread" }),
      marks: {
        ...this.#marks(attempt.writer.offset),
        partial: keep !== undefined ? "cancelled" : (occasion as "failed" | "taken-over"),
      },
      said: (tuple) => this.#said(tuple, keep !== undefined),
      answers: this.#spoken.answers,
    });
    let checkpointId: string | null;
    if (!hasBegun && isNewTurn(request)) {
      const messages = readable(request.input, runId).map((message) => toBaseMessage(message as never));
      checkpointId = await closing.keepInput(from, messages, withMessages(request.input, messages));
    } else if (from === undefined) checkpointId = null;
    else if (marksOf(from).stop !== undefined) checkpointId = from.checkpoint.id;
    else checkpointId = await closing.close(from);
    if (keep === "branch") await this.#leaveLine();
    return checkpointId === null ? null : { threadId, checkpointId };
  }

  /** The thread is as it was before the run. */
  async #leaveLine(): Promise<void> {
    const { run, saver } = this.#work;
    const { runId, threadId } = run.record;
    const fenced = this.#fenced();
    await fenced.setHead(threadId, this.#headBefore);
    await fenced.discardWrites(threadId, runId);
    for (const ns of (await saver.heads(threadId)).keys()) {
      // Those with task ids in them are of this line only.
      if (ns === "" || ns.includes(":")) continue;
      let tuple = await headOf(saver, threadId, ns);
      while (tuple !== undefined && marksOf(tuple).run_id === runId) {
        tuple = tuple.parentConfig && (await saver.getTuple(tuple.parentConfig));
      }
      await fenced.setHead(threadId, tuple?.checkpoint.id ?? null, ns);
    }
    await this.#restoreHeads();
  }

  /** A lasting subgraph's line of a run that began from nothing leads back to nowhere. */
  async #restoreHeads(): Promise<void> {
    const fenced = this.#fenced();
    for (const [ns, id] of Object.entries(this.#headsBefore)) {
      await fenced.setHead(this.#work.run.record.threadId, id, ns);
    }
  }

  /** The heads of all namespaces that the run goes on from. */
  async #heads(): Promise<Map<string, string>> {
    const { run, request, saver } = this.#work;
    const { threadId } = run.record;
    const heads = await saver.heads(threadId);
    if (request.fromNothing !== true) return heads;
    for (const ns of heads.keys()) {
      const head = await headOf(saver, threadId, ns);
      if (head === undefined || !this.#isOnLine(head)) heads.delete(ns);
    }
    return heads;
  }

  #closing(options: {
    saver: RedisCheckpointSaver;
    marks: Marks;
    said: (tuple: CheckpointTuple) => readonly Said[];
    answers: Answers;
  }): Closing {
    return new Closing({
      ...options,
      graph: this.#inside,
      threadId: this.#work.run.record.threadId,
      heads: () => this.#heads(),
      isAside: (id) => this.#witness.isAside(id),
      isInTool: (task) => this.#witness.isInTool(task),
      told: (ns) => (this.#isBegun ? [] : this.#unfinished.updates(ns)),
      tasksOf: (tuple) => this.#tasksOf(tuple),
    });
  }

  /** What tasks streamed behind a checkpoint of theirs. */
  #said(tuple: CheckpointTuple, cancelled: boolean): Said[] {
    const ns = String(tuple.config.configurable?.checkpoint_ns ?? "");
    const { run_id, log_offset = 0 } = marksOf(tuple);
    const end = run_id === this.#work.run.record.runId ? log_offset : 0;
    const finished = finishedTasks(tuple.pendingWrites);
    return this.#spoken.behind({ step: this.#steps.at(ns, tuple.metadata?.step), end, finished }, cancelled);
  }

  /** The tasks of a checkpoint that does not know them: asked of LangGraph, which runs channels' reducers for it. */
  async #tasksOf(tuple: CheckpointTuple): Promise<[id: string, name: string][]> {
    try {
      const graph = withSaver(this.#graph, new ForkView(this.#work.saver));
      const { tasks } = await graph.getState(tuple.config);
      return tasks.map(({ id, name }) => [id, name]);
    } catch {
      return [];
    }
  }

  /** What every checkpoint of the run says of it. */
  #marks(offset: number): Marks {
    const { attempt, run } = this.#work;
    return {
      run_id: run.record.runId,
      agent: run.record.agent,
      attempt: attempt.writer.attempt,
      log_offset: offset,
      head_before: this.#headBefore,
      ...(Object.keys(this.#headsBefore).length === 0 ? {} : { heads_before: { ...this.#headsBefore } }),
    };
  }

  #fenced(options: Partial<Parameters<RedisCheckpointSaver["fenced"]>[0]> = {}): RedisCheckpointSaver {
    const { run, attempt, saver } = this.#work;
    return saver.fenced({ ...options, runId: run.record.runId, fence: attempt.writer.fence });
  }
}

/** A run's graph, or why there is none. */
type Made = { graph: Graph; error?: undefined } | { graph?: undefined; error: unknown };

/** How long a factory may still take when its run was stopped, ms. */
const factoryGraceMs = 500;

/** What is streamed is saved without the graph as well, though not as well as with it. */
async function make(agent: GraphAgent, work: Assignment): Promise<Made> {
  const { attempt } = work;
  const making = graphFor(agent, work).then(
    (graph): Made => ({ graph }),
    (error: unknown): Made => ({ error }),
  );
  const stopped = attempt.stopped.then(async (reason): Promise<Made> => {
    await sleep(factoryGraceMs, undefined, { ref: false });
    return { error: reason };
  });
  return await Promise.race([making, stopped]);
}

/** The graph with another checkpointer; the one that it was compiled with stays as it is. */
function withSaver(graph: Graph, saver: ForkView): Graph {
  const copy = graph.withConfig({}) as Graph;
  copy.checkpointer = saver;
  return copy;
}

/** Whether a run begins a turn of its own. One without input, or with a command, goes on where the thread stands. */
function isNewTurn({ input }: Assignment["request"]): boolean {
  return input !== undefined && input !== null;
}

/** The input with these messages, which have ids. */
function withMessages(input: unknown, messages: readonly BaseMessage[]): unknown {
  if (messages.length === 0) return input;
  return typeof input === "object" ? { ...input, messages } : { messages };
}

/** The id of a streamed message, and its metadata: one object for all chunks of the message. */
function namesOf(payload: unknown): [id: string | undefined, metadata: Record<string, unknown>] {
  const [message, metadata] = payload as [BaseMessage, Record<string, unknown>];
  return [message.id, metadata];
}

function messagesOfUpdate(payload: unknown): BaseMessage[] {
  const deltas = Object.values((payload ?? {}) as Record<string, unknown>);
  return deltas.flatMap((delta) => {
    const { messages } = (delta ?? {}) as { messages?: BaseMessage | BaseMessage[] };
    return messages === undefined ? [] : [messages].flat();
  });
}

async function headOf(
  saver: RedisCheckpointSaver,
  threadId: string,
  ns = "",
): Promise<CheckpointTuple | undefined> {
  return await saver.getTuple({ configurable: { thread_id: threadId, checkpoint_ns: ns } });
}

async function tupleAt(
  saver: RedisCheckpointSaver,
  threadId: string,
  checkpointId: string,
): Promise<CheckpointTuple | undefined> {
  const configurable = { thread_id: threadId, checkpoint_ns: "", checkpoint_id: checkpointId };
  return await saver.getTuple({ configurable });
}
