/**
 * A whole conversation as one store: the thread's state, the runs that are not yet in it, and what a person can do.
 *
 * Invariants:
 * - what is shown is what `thread.get` says, and on top of it each active run's question and answer;
 * - a turn leaves the screen only when a state has been read that was asked for after its run had ended: nothing flashes;
 * - a message that was sent is on the screen before `send` returns, under the id that the thread will know it by;
 * - nothing here rejects: what is refused is in `error`, and taken back.
 */
import {
  backoffDelay,
  type FlatMessage,
  isEnding,
  isRecord,
  type Keep,
  type Params,
  type ThreadEvent,
  type ThreadHead,
  type ThreadRecord,
  type ThreadRun,
} from "@throughline/protocol";
import type { StartParams } from "../params.ts";
import { randomId, systemClock } from "../platform.ts";
import type { Run } from "../run.ts";
import type { Watched, Watching } from "../watch.ts";
import { makeInput } from "./input.ts";
import type { Message } from "./message.ts";
import type { StorePort } from "./port.ts";
import { Screen } from "./screen.ts";
import { alsoKnownAs, letGo, Store, type StoreOptions } from "./store.ts";
import { Tree } from "./tree.ts";
import { Turn } from "./turn.ts";
import { type ConversationError, type ConversationStatus, type ConversationView, errorOf } from "./view.ts";

/** Params of the runs that a conversation starts, beside those that it sees to itself. */
export type RunParams = Omit<
  StartParams,
  "agent" | "threadId" | "input" | "command" | "checkpointId" | "idempotencyKey" | "filter"
>;

export interface ConversationOptions<Agent extends string = string> extends StoreOptions {
  /** Who answers. */
  agent: Agent;
  /** @default a new thread, which begins with the first message */
  threadId?: string | undefined;
  /** What `thread.get` answered on a server: it is on the screen at once. */
  initial?: ThreadHead;
  /** How many messages are shown at first, and how many more `loadEarlier` shows. @default 50 */
  pageSize?: number;
  /** For every run: `config`, `modes`, `multitaskStrategy`, … */
  run?: RunParams;
}

type Action = ConversationError["action"];
type StartRun = Partial<StartParams>;
type ErrorLike = { code?: unknown; message: string; retryable?: unknown };

/** How many checkpoints a page of the history has. */
const historyPage = 100;
const nothing: readonly never[] = [];
const noState: Readonly<Record<string, unknown>> = {};

export class Conversation<Input = unknown, State = Record<string, unknown>, Custom = unknown> extends Store<
  ConversationView<State, Custom>
> {
  readonly #connection: StorePort;
  readonly #options: ConversationOptions;
  readonly #pageSize: number;
  readonly #tree = new Tree();
  readonly #screen = new Screen(this.#tree);
  readonly #offState: () => void;
  #threadId: string | undefined;
  #phase: "new" | "loading" | "open" | "deleted" | "unavailable" = "new";
  #watch: Watching | undefined;
  #record: ThreadRecord | undefined;
  #head: ThreadHead | undefined;
  /** Another branch that is looked at. */
  #selected: ThreadHead | undefined;
  #turns: Turn[] = [];
  /** Runs whose end was told. */
  readonly #ended = new Set<string>();
  #error: ConversationError | undefined;
  #again: (() => Promise<boolean>) | undefined;
  /** The first message that is shown. */
  #first: number | undefined;
  #isReading = false;
  #isDue = false;
  #failures = 0;
  #timer: unknown;
  #state: { head: unknown; fold: unknown; merged: Record<string, unknown> } | undefined;

  constructor(connection: StorePort, options: ConversationOptions) {
    super(initialView(options, connection) as ConversationView<State, Custom>, options);
    this.#connection = connection;
    this.#options = options;
    this.#pageSize = options.pageSize ?? 50;
    this.#threadId = options.threadId;
    this.#head = options.initial;
    this.#record = options.initial?.thread;
    this.#offState = connection.onState(() => this.changed());
    if (this.#threadId !== undefined) this.#open();
    this.draw();
  }

  get threadId(): string | undefined {
    return this.#threadId;
  }

  /** Once for each time that it was asked for: then it is watched no more. The thread's runs go on. */
  close(): void {
    letGo(this.#connection, this, () => this.#close());
  }

  #close(): void {
    this.isClosed = true;
    this.#offState();
    this.#watch?.stop();
    systemClock.clearTimeout(this.#timer);
    for (const turn of this.#turns) turn.close();
  }

  /** Sends a message: text, a message, or an input of the agent's own. Answers whether it was taken. */
  send(what: Input | string | FlatMessage, options: RunParams = {}): Promise<boolean> {
    const { input, question } = makeInput(what);
    const turn = new Turn({ question, isOwn: true });
    const selected = this.#selected;
    if (selected === undefined) return this.#start(turn, async () => ({ ...options, input }));
    turn.base = messagesOf(selected);
    turn.from = selected.checkpointId;
    return this.#start(turn, async () => ({ ...options, input, checkpointId: selected.checkpointId }));
  }

  /** The question once more with another text. Both branches stay. */
  async edit(message: Message | string, text: string, options: RunParams = {}): Promise<boolean> {
    const id = idOf(message);
    const asked = this.#screen.message(id);
    if (asked === undefined) return false;
    const { input, question } = makeInput({ ...asked, id: randomId(), content: text });
    return await this.#branch(id, input, question, options);
  }

  /** The answer once more: to the same question. @default the last answer */
  async regenerate(message?: Message | string, options: RunParams = {}): Promise<boolean> {
    const { ids } = this.#screen;
    const at = message === undefined ? ids.length - 1 : ids.indexOf(idOf(message));
    const id = ids.slice(0, at + 1).findLast((each) => this.#screen.message(each)?.type === "human");
    const asked = id === undefined ? undefined : this.#screen.message(id);
    if (id === undefined || asked === undefined) return false;
    return await this.#branch(id, { messages: [asked] }, [asked], options);
  }

  /** Begins anew from right before the message with this id. */
  async #branch(id: string, input: unknown, question: FlatMessage[], options: RunParams): Promise<boolean> {
    const turn = new Turn({ question, isOwn: true });
    const base = this.#screen.before(id);
    const other = this.#turns.findLast((each) => each.phase !== "over" && each.base !== undefined);
    const leaf = other === undefined ? this.#shown?.checkpointId : other.from;
    const isBusy = this.#turns.some((each) => each.phase !== "over");
    turn.base = base;
    return await this.#start(turn, async () => {
      await this.#loadTree();
      turn.from = this.#tree.before(leaf ?? null, base.length);
      const strategy = isBusy ? { multitaskStrategy: "interrupt" as const } : {};
      return { ...strategy, ...options, input, checkpointId: turn.from };
    });
  }

  /** Answers what the agent waits for; where it asked several things, `id` says which. */
  answer(value?: unknown, id?: string, options: RunParams = {}): Promise<boolean> {
    const interrupts = this.getSnapshot().interrupts;
    const resume = id !== undefined && interrupts.length > 1 ? { [id]: value } : value;
    const turn = new Turn({ isOwn: true });
    const go = interrupts.length === 0 ? {} : { command: { resume } };
    return this.#start(turn, async () => ({ ...options, ...go }) as StartRun);
  }

  /** What was refused, or the run that failed, once more. */
  async retry(options: RunParams = {}): Promise<boolean> {
    if (this.#again !== undefined) return await this.#again();
    const failed = this.#failed;
    if (failed === undefined) return false;
    // A graph goes on at the step that failed.
    if ((this.#head?.next.length ?? 0) > 0)
      return await this.#start(new Turn({ isOwn: true }), async () => options);
    const question = failed.asked;
    const sent = failed.input ?? (failed.info?.inputCut === true ? undefined : failed.info?.input);
    const input = sent ?? { messages: question };
    return await this.#start(new Turn({ question, isOwn: true }), async () => ({ ...options, input }));
  }

  /** Stops what is running. `keep`: what becomes of the partial answer. @default `thread` */
  async stop(how: { keep?: Keep } = {}): Promise<boolean> {
    const turn = this.#turns.find(({ phase }) => phase !== "over");
    if (turn === undefined) return false;
    turn.stop = how;
    this.draw();
    return turn.runId === undefined ? true : await this.#cancel(turn.runId, how, turn);
  }

  /** Takes a run out of the queue. */
  unqueue(runId: string): Promise<boolean> {
    return this.#cancel(runId, { keep: "discard" });
  }

  /** Shows another of a message's alternatives; the next message goes on from there. */
  async select(message: Message | string, index: number): Promise<boolean> {
    const id = idOf(message);
    const other = this.#screen.alternatives.get(id)?.[index];
    if (other === undefined) return false;
    const leaf = this.#tree.leaf([...this.#screen.ids.slice(0, this.#screen.ids.indexOf(id)), other]);
    return await this.#try("select", async () => {
      const isHead = leaf === this.#head?.checkpointId;
      this.#selected =
        isHead || leaf === undefined ? undefined : await this.#thread.get({ checkpointId: leaf });
    });
  }

  loadEarlier(): void {
    this.#first = Math.max(0, (this.#first ?? 0) - this.#pageSize);
    this.draw();
  }

  get #thread() {
    return this.#connection.thread(this.#threadId!);
  }

  get #shown(): ThreadHead | undefined {
    return this.#selected ?? this.#head;
  }

  get #failed(): Turn | undefined {
    const last = this.#turns.at(-1);
    return last?.phase === "over" && last.ending === "failed" ? last : undefined;
  }

  // ——— what this client begins ———

  async #start(turn: Turn, makeParams: () => Promise<StartRun>): Promise<boolean> {
    const selected = this.#selected;
    const failed = this.#failed;
    this.#selected = undefined;
    this.#turns = [...this.#turns.filter((each) => each !== failed), turn];
    if (this.#phase === "deleted") this.#phase = "new";
    if (this.#threadId === undefined) {
      this.#threadId = randomId();
      alsoKnownAs(this.#connection, this, threadKey(this.#threadId));
    }
    this.draw();
    const done = await this.#try("send", async () => {
      const params: StartParams = {
        ...this.#options.run,
        ...(await makeParams()),
        agent: this.#options.agent,
        threadId: this.#threadId!,
        idempotencyKey: randomId(),
      };
      turn.input = params.input;
      await this.#begin(turn, params);
    });
    if (done) failed?.close();
    else if (!this.isClosed) {
      this.#drop(turn);
      this.#selected ??= selected;
      if (failed !== undefined && this.#turns.length === 0) this.#turns = [failed];
      this.#again = () => this.#start(turn.copy(), makeParams);
      this.draw();
    }
    return done;
  }

  async #begin(turn: Turn, params: StartParams): Promise<void> {
    if (this.#watch?.isLive === true) {
      const start = { ...params, subscribe: false } as Params<"run.start">;
      const { runId, status } = await this.#connection.call("run.start", start);
      this.#begun(turn, runId);
      if (isEnding(status)) this.#end(turn);
    } else {
      const run = await this.#connection.start(params);
      this.#begun(turn, run.runId);
      turn.ownsRun = turn.run === undefined;
      this.#follow(turn, run);
      if (this.#watch === undefined) this.#open();
    }
    if (turn.stop !== undefined) void this.#cancel(turn.runId!, turn.stop, turn);
  }

  /** The start was answered; the watch may have told of the run before. */
  #begun(turn: Turn, runId: string): void {
    turn.runId = runId;
    const told = this.#turns.find((each) => each !== turn && each.runId === runId);
    if (told !== undefined) {
      this.#turns = this.#turns.filter((each) => each !== told);
      if (told.info !== undefined) turn.tell(told.info);
      if (told.run !== undefined) this.#follow(turn, told.run);
    }
    if (this.#ended.has(runId)) this.#end(turn);
    this.draw();
  }

  async #cancel(runId: string, { keep }: { keep?: Keep }, turn?: Turn): Promise<boolean> {
    const done = await this.#try("stop", async () => {
      await this.#connection.cancel(runId, keep === undefined ? {} : { keep });
    });
    if (!done && turn !== undefined) turn.stop = undefined;
    return done;
  }

  /** Does it, and shows what was refused. */
  async #try(action: Action, act: () => Promise<void>): Promise<boolean> {
    let failed: ConversationError | undefined;
    this.#error = undefined;
    this.#again = undefined;
    try {
      await act();
    } catch (error) {
      failed = errorOf(action, error as ErrorLike);
      this.#error = failed;
    }
    this.draw();
    return failed === undefined;
  }

  // ——— what is told ———

  #open(): void {
    this.#phase = "loading";
    this.#watch = this.#connection.watch(this.#threadId, {
      watched: (result, runs) => this.#onWatched(result, runs),
      event: (event, run) => this.#onEvent(event, run),
      reset: () => this.#refresh(),
      deleted: () => this.#onGone("deleted"),
      failed: (error) => {
        this.#watch = undefined;
        if (error.code === "no_such_thread" && this.#phase === "loading") this.#onGone("new");
        else this.#fail(error);
      },
    });
    this.#refresh();
  }

  #onWatched({ thread, runs: infos = [] }: Watched, runs: readonly Run[]): void {
    if (thread !== undefined) this.#record = thread;
    for (const [i, info] of infos.entries()) this.#onRun(info, runs[i]);
    for (const turn of this.#turns) {
      const { runId } = turn;
      if (runId === undefined || turn.ownsRun) continue;
      // It ended while nobody was there to hear it.
      if (!infos.some((info) => info.runId === runId)) turn.end();
    }
    const isNews = this.#head === undefined || thread?.checkpointId !== this.#head.checkpointId;
    if (isNews || this.#turns.some(({ phase }) => phase === "over")) this.#refresh();
    this.changed();
  }

  #onEvent(event: ThreadEvent, run: Run | undefined): void {
    if (event.event === "deleted") return;
    this.#record = event.thread;
    if (event.event === "run") this.#onRun(event.run, run);
    const isIdle = this.#turns.every(({ phase }) => phase === "over");
    if (event.event === "head" || (isIdle && event.thread.checkpointId !== this.#head?.checkpointId))
      this.#refresh();
    this.changed();
  }

  #onRun(info: ThreadRun, run: Run | undefined): void {
    const { runId, status } = info;
    const isOver = isEnding(status);
    if (isOver) this.#ended.add(runId);
    let turn =
      this.#turns.find((each) => each.runId === runId) ?? this.#turns.find((each) => each.isAsked(info));
    if (turn === undefined && !isOver) {
      this.#selected = undefined;
      this.#clearFailed();
      turn = new Turn();
      this.#turns.push(turn);
    }
    if (turn !== undefined) {
      turn.tell(info);
      if (run !== undefined) this.#follow(turn, run);
      if (turn.base === undefined && turn.from !== undefined) this.#readBase(turn, turn.from);
      const active = this.#record?.active ?? [];
      const place = ({ phase, runId = "" }: Turn) =>
        phase === "over" ? -1 : active.includes(runId) ? active.indexOf(runId) : active.length;
      this.#turns.sort((a, b) => place(a) - place(b));
      if (isOver) this.#end(turn);
    } else if (isOver) this.#refresh();
  }

  #follow(turn: Turn, run: Run): void {
    turn.follow(
      run,
      () => this.changed(),
      () => this.#end(turn),
    );
  }

  /** What it goes on from; until that is read, it is not shown. */
  #readBase(turn: Turn, checkpointId: string | null): void {
    if (checkpointId === null) {
      turn.base = [];
      return;
    }
    this.#thread.get({ checkpointId }).then(
      (state) => {
        turn.base = messagesOf(state);
        this.changed();
      },
      () => {
        turn.from = undefined;
        this.changed();
      },
    );
  }

  #end(turn: Turn): void {
    if (turn.runId !== undefined) this.#ended.add(turn.runId);
    turn.end();
    this.draw();
    this.#refresh();
  }

  #drop(turn: Turn): void {
    this.#turns = this.#turns.filter((each) => each !== turn);
    turn.close();
  }

  #clearFailed(): void {
    const failed = this.#failed;
    if (failed !== undefined) this.#drop(failed);
  }

  #onGone(phase: "deleted" | "new"): void {
    this.#phase = phase;
    this.#watch = undefined;
    this.#head = undefined;
    this.#record = undefined;
    this.#selected = undefined;
    const own = phase === "new" ? this.#turns.filter((turn) => turn.runId === undefined) : [];
    for (const turn of this.#turns) if (!own.includes(turn)) turn.close();
    this.#turns = own;
    this.draw();
  }

  #fail(error: ErrorLike): void {
    this.#phase = "unavailable";
    this.#error = errorOf("open", error);
    this.draw();
  }

  // ——— what is read ———

  /** Reads the head; turns that were over when it was asked for are in it. */
  #refresh(): void {
    this.#isDue = true;
    if (this.#isReading || this.isClosed) return;
    this.#isReading = true;
    this.#read().then(
      () => {
        this.#failures = 0;
        this.#isReading = false;
        if (this.#isDue) this.#refresh();
      },
      (error: ErrorLike) => {
        this.#isReading = false;
        if (this.isClosed || this.#phase === "deleted" || this.#phase === "new") return;
        if (error.retryable === true) {
          const ms = backoffDelay(this.#failures++, Math.random);
          this.#timer = systemClock.setTimeout(() => this.#refresh(), ms);
        } else if (error.code !== "no_such_thread") this.#fail(error);
      },
    );
  }

  async #read(): Promise<void> {
    this.#isDue = false;
    const over = this.#turns.filter(({ phase }) => phase === "over");
    const head = await this.#thread.get();
    if (this.isClosed || this.#phase === "deleted") return;
    this.#phase = "open";
    this.#head = head;
    if (head.thread !== undefined) this.#record = head.thread;
    const failed = this.#failed;
    for (const turn of over) if (turn !== failed) this.#drop(turn);
    if (head.thread?.status === "failed" && this.#turns.length === 0) await this.#readFailed();
    this.draw();
    // It says how the messages branch: nobody has to wait for that.
    if (head.checkpointId !== null)
      this.#loadTree().then(
        () => this.changed(),
        () => {},
      );
  }

  /** The thread's last run failed before anybody looked. */
  async #readFailed(): Promise<void> {
    const [record] = await this.#thread.runs({ limit: 1 });
    if (record?.status !== "failed" || this.#turns.length > 0) return;
    const turn = new Turn();
    turn.tell(record);
    const { checkpoint } = record;
    if (checkpoint !== undefined) turn.kept = messagesOf(await this.#thread.get(checkpoint));
    if (this.#turns.length === 0) this.#turns.push(turn);
  }

  #loadTree(): Promise<void> {
    const { threadId } = this.#thread;
    return this.#tree.load((before) =>
      this.#connection.call("thread.history", {
        threadId,
        values: false,
        limit: historyPage,
        ...(before !== undefined && { before }),
      }),
    );
  }

  // ——— what is shown ———

  protected look(before: ConversationView<State, Custom>): ConversationView<State, Custom> {
    const turns = this.#selected === undefined ? this.#turns : nothing;
    const active = this.#turns.filter(({ phase }) => phase !== "over");
    this.#screen.compose(messagesOf(this.#shown), turns);
    const { length } = this.#screen.ids;
    if (this.#first === undefined || this.#first >= length) {
      const first = Math.max(0, length - this.#pageSize);
      // Before anything was read, nothing is known of how many there are.
      this.#first = this.#phase === "loading" && this.#head === undefined ? undefined : first;
    }
    const first = this.#first ?? 0;
    const status = this.#status(active[0]);
    return {
      threadId: this.#threadId,
      thread: this.#record,
      status: sameStatus(before.status, status) ? before.status : status,
      connection: this.#connection.state,
      messages: this.#screen.views(first, before.messages, active.length > 0) as readonly Message<Custom>[],
      hasEarlier: first > 0,
      state: this.#values(turns) as Partial<State>,
      custom: (this.#turns.at(-1)?.custom ?? before.custom) as readonly Custom[],
      interrupts:
        active.length > 0 ? nothing : (this.#turns.at(-1)?.interrupts ?? this.#shown?.interrupts ?? nothing),
      queue: active
        .slice(1)
        .flatMap(({ runId, phase, asked }) =>
          runId === undefined || phase !== "queued" ? [] : [{ runId, messages: asked }],
        ),
      error: this.#error,
    };
  }

  #values(turns: readonly Turn[]): Record<string, unknown> {
    const head = this.#shown?.values;
    const fold = turns.at(-1)?.run?.fold.values();
    if (this.#state?.head !== head || this.#state?.fold !== fold || this.#state === undefined) {
      const { messages: _, ...merged } = { ...head, ...fold };
      this.#state = { head, fold, merged };
    }
    return this.#state.merged;
  }

  #status(first: Turn | undefined): ConversationStatus {
    switch (this.#phase) {
      case "deleted":
        return { status: "deleted" };
      case "unavailable":
        return { status: "unavailable", error: this.#error! };
      case "loading":
        if (this.#head === undefined && first === undefined) return { status: "loading" };
    }
    if (first !== undefined) {
      const { phase, runId, stop } = first;
      if (stop !== undefined) return { status: "stopping", runId };
      return phase === "queued" || phase === "running" ? { status: phase, runId } : { status: "sending" };
    }
    const failed = this.#failed;
    if (failed !== undefined) {
      const { message = "the run failed", code = "failed" } = failed.error ?? {};
      return { status: "failed", error: { code, message, retryable: true, action: "run" } };
    }
    const last = this.#turns.at(-1);
    if (last !== undefined) return { status: last.ending === "interrupted" ? "interrupted" : "idle" };
    if (this.#head === undefined) return { status: "new" };
    const waits = this.#head.interrupts.length > 0 || this.#record?.status === "interrupted";
    return { status: waits ? "interrupted" : "idle" };
  }
}

/** Under which a thread's store is held. */
export function threadKey(threadId: string): string {
  return `thread:${threadId}`;
}

/** What is shown of a conversation before there is a store: on a server, and in a browser's first render. */
export function initialView(
  { threadId, initial, pageSize = 50 }: Partial<ConversationOptions>,
  connection?: StorePort,
): ConversationView {
  const screen = new Screen(new Tree());
  screen.compose(messagesOf(initial), []);
  const first = Math.max(0, screen.ids.length - pageSize);
  const { messages: _, ...state } = initial?.values ?? noState;
  const interrupts = initial?.interrupts ?? nothing;
  const known = interrupts.length > 0 ? "interrupted" : "idle";
  return {
    threadId,
    thread: initial?.thread,
    status: { status: threadId === undefined ? "new" : initial === undefined ? "loading" : known },
    connection: connection?.state ?? { status: "connecting", attempt: 1 },
    messages: screen.views(first, nothing, false),
    hasEarlier: first > 0,
    state,
    custom: nothing,
    interrupts,
    queue: nothing,
    error: undefined,
  };
}

function messagesOf(state: ThreadHead | undefined): readonly FlatMessage[] {
  const messages = state?.values.messages;
  return Array.isArray(messages) ? (messages.filter(isRecord) as FlatMessage[]) : nothing;
}

function idOf(message: Message | string): string {
  return typeof message === "string" ? message : message.id;
}

function sameStatus(a: ConversationStatus, b: ConversationStatus): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
