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
  type FlatMessage,
  isEnding,
  type Keep,
  type Params,
  type ThreadEvent,
  type ThreadHead,
  type ThreadRecord,
} from "@throughline/protocol";
import type { StartParams } from "../params.ts";
import { randomId } from "../platform.ts";
import type { Run } from "../run.ts";
import type { Watched, Watching } from "../watch.ts";
import { Again } from "./again.ts";
import { makeInput, withText } from "./input.ts";
import { isEqual, type Message } from "./message.ts";
import type { StorePort } from "./port.ts";
import { Screen } from "./screen.ts";
import { initialView, messagesOf, type Phase, statusOf } from "./status.ts";
import { alsoKnownAs, letGo, Store, type StoreOptions } from "./store.ts";
import { Tree } from "./tree.ts";
import { Turn } from "./turn.ts";
import { Turns } from "./turns.ts";
import { type ConversationError, type ConversationView, errorOf } from "./view.ts";

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
/** What a start has beside what every start has. */
type Making = () => Promise<Partial<StartParams>>;

/** How many checkpoints a page of the history has. */
const historyPage = 100;
const nothing: readonly never[] = [];

export class Conversation<Input = unknown, State = Record<string, unknown>, Custom = unknown> extends Store<
  ConversationView<State, Custom>
> {
  readonly #connection: StorePort;
  #options: ConversationOptions;
  readonly #pageSize: number;
  readonly #tree = new Tree();
  readonly #screen = new Screen(this.#tree);
  readonly #head = new Again(
    () => this.#readHead(),
    (error) => this.#unreadable(error),
  );
  readonly #turns = new Turns({
    changed: () => this.changed(),
    came: () => {
      this.#selected = undefined;
    },
    over: () => {
      this.draw();
      this.#head.due();
    },
    readBase: (turn, checkpointId) => this.#readBase(turn, checkpointId),
    askOf: (runId) => void this.#askOf(runId),
  });
  readonly #offState: () => void;
  /** The thread's; of a new one it becomes that when its first message is taken. */
  readonly #id: string;
  #threadId: string | undefined;
  #phase: Phase = "new";
  #watch: Watching | undefined;
  /** The watch of all threads, while there is none by the id: it tells when that begins. */
  #waiting: Watching | undefined;
  /** The thread began after its watch had been asked for: a refusal is out of date. */
  #mayBeThere = false;
  #record: ThreadRecord | undefined;
  /** The thread's head. */
  #state: ThreadHead | undefined;
  /** Another branch that is looked at. */
  #selected: ThreadHead | undefined;
  /** The ids of the line that is shown where none is. */
  #live: readonly string[] = [];
  #error: ConversationError | undefined;
  #again: (() => Promise<boolean>) | undefined;
  /** The first message that is shown. */
  #first: number | undefined;
  #values: { state: unknown; fold: unknown; merged: Record<string, unknown> } | undefined;

  constructor(connection: StorePort, options: ConversationOptions) {
    super(initialView(options, connection) as ConversationView<State, Custom>, options);
    this.#connection = connection;
    this.#options = options;
    this.#pageSize = options.pageSize ?? 50;
    this.#threadId = options.threadId;
    this.#id = options.threadId ?? randomId();
    this.#state = options.initial;
    this.#record = options.initial?.thread;
    this.#offState = connection.onState((state) => {
      if (state.status === "closed" && this.#phase !== "deleted") {
        this.#fail({ code: "connection_closed", message: `the connection is closed: ${state.reason}` });
      } else this.changed();
    });
    if (this.#threadId !== undefined) this.#open();
    this.draw();
  }

  /** Of a new thread: once its first message was taken. */
  get threadId(): string | undefined {
    return this.#threadId;
  }

  /** Who answers from now on, and the params of the runs that begin from now on. */
  use({ agent, run }: Pick<ConversationOptions, "agent" | "run">): void {
    const { run: _, ...others } = this.#options;
    this.#options = { ...others, agent, ...(run !== undefined && { run }) };
  }

  /** Once for each time that it was asked for: then it is watched no more. The thread's runs go on. */
  close(): void {
    letGo(this.#connection, this, () => this.#close());
  }

  #close(): void {
    this.isClosed = true;
    this.#offState();
    this.#head.stop();
    this.#watch?.stop();
    this.#waiting?.stop();
    this.#turns.clear();
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
    if (asked === undefined) return this.#refuse("send", id);
    const { question } = makeInput({ ...asked, id: randomId(), content: withText(asked.content, text) });
    return await this.#branch(id, question, options);
  }

  /** The answer once more: to the same question. @default the last answer */
  async regenerate(message?: Message | string, options: RunParams = {}): Promise<boolean> {
    const { ids } = this.#screen;
    const at = message === undefined ? ids.length - 1 : ids.indexOf(idOf(message));
    const id = ids.slice(0, at + 1).findLast((each) => this.#screen.message(each)?.type === "human");
    const asked = id === undefined ? undefined : this.#screen.message(id);
    if (id === undefined || asked === undefined) return this.#refuse("send", id);
    return await this.#branch(id, [asked], options);
  }

  /** Begins anew from right before the message with this id. */
  async #branch(id: string, question: FlatMessage[], options: RunParams): Promise<boolean> {
    const turn = new Turn({ question, isOwn: true });
    const state = messagesOf(this.#shown);
    const base = this.#screen.before(id, state);
    const { active } = this.#turns;
    const other = active.findLast((each) => each.base !== undefined);
    const leaf = other === undefined || this.#selected !== undefined ? this.#shown?.checkpointId : other.from;
    turn.base = base;
    const kept = new Set(state.map(({ id }) => id));
    return await this.#start(turn, async () => {
      await this.#loadTree();
      turn.from = this.#tree.before(leaf ?? null, base.length);
      // Where several messages came at once, no checkpoint ends right before this one: the rest is asked with it.
      const missing = base.slice(this.#tree.depth(turn.from)).filter(({ id }) => kept.has(id));
      const strategy = active.length > 0 ? { multitaskStrategy: "interrupt" as const } : {};
      const input = { messages: [...missing, ...question] };
      return { ...strategy, ...options, input, checkpointId: turn.from };
    });
  }

  /** Answers what the agent waits for; where it asked several things, `id` says which. */
  answer(value?: unknown, id?: string, options: RunParams = {}): Promise<boolean> {
    const { interrupts } = this.getSnapshot();
    const resume = id !== undefined && interrupts.length > 1 ? { [id]: value } : value;
    // Where it was stopped before or after a node there is nothing to answer: it goes on.
    const command = interrupts.length === 0 ? {} : { command: { resume } };
    return this.#start(new Turn({ isOwn: true }), async () => ({ ...options, ...command }));
  }

  /** What was refused, or the run that failed, once more. */
  async retry(options: RunParams = {}): Promise<boolean> {
    if (this.#again !== undefined) return await this.#again();
    const { failed } = this.#turns;
    if (failed === undefined) return false;
    // A graph goes on at the step that failed.
    const goesOn = (this.#state?.next.length ?? 0) > 0;
    const question = failed.asked;
    if (goesOn) return await this.#start(new Turn({ isOwn: true }), async () => options);
    const turn = failed.copy(question);
    const from = turn.from === undefined ? {} : { checkpointId: turn.from };
    const input = failed.sent ?? { messages: question };
    return await this.#start(turn, async () => ({ ...options, ...from, input }));
  }

  /** Stops what is running. `keep`: what becomes of the partial answer. @default `thread` */
  async stop(how: { keep?: Keep } = {}): Promise<boolean> {
    const [turn] = this.#turns.active;
    if (turn === undefined) return false;
    turn.stop = how;
    this.draw();
    // One that is on its way is stopped when its start is answered.
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
    if (other === undefined) return this.#refuse("select", id);
    if (this.#turns.last !== undefined && this.#live.includes(other)) {
      this.#selected = undefined;
      this.draw();
      return true;
    }
    const leaf = this.#tree.leaf([...this.#screen.ids.slice(0, this.#screen.ids.indexOf(id)), other]);
    return await this.#try("select", async () => {
      const isHead = leaf === undefined || leaf === this.#state?.checkpointId;
      const state = isHead ? this.#state : await this.#thread.get({ checkpointId: leaf });
      // While there is a turn, the head that was read last is another branch than the turn's.
      this.#selected = isHead && this.#turns.last === undefined ? undefined : state;
    });
  }

  loadEarlier(): void {
    this.#first = Math.max(0, (this.#first ?? 0) - this.#pageSize);
    this.draw();
  }

  get #thread() {
    return this.#connection.thread(this.#id);
  }

  get #shown(): ThreadHead | undefined {
    return this.#selected ?? this.#state;
  }

  // ——— what this client begins ———

  async #start(turn: Turn, make: Making): Promise<boolean> {
    const selected = this.#selected;
    const { failed } = this.#turns;
    this.#selected = undefined;
    this.#turns.remove(failed);
    this.#turns.add(turn);
    if (this.#phase === "deleted") this.#phase = "new";
    this.draw();
    const done = await this.#try("send", () => this.#begin(turn, make));
    if (this.isClosed) turn.close();
    if (done) failed?.close();
    else if (!this.isClosed) {
      const again = turn.copy();
      this.#turns.drop(turn);
      if (failed !== undefined && this.#turns.last === undefined) this.#turns.add(failed);
      this.#selected ??= selected;
      this.#again = () => this.#start(again, make);
      this.draw();
    }
    return done;
  }

  async #begin(turn: Turn, make: Making): Promise<void> {
    const params: StartParams = {
      ...this.#options.run,
      ...(await make()),
      agent: this.#options.agent,
      threadId: this.#id,
      idempotencyKey: turn.key,
    };
    turn.input = params.input;
    if (this.#watch?.isLive === true) {
      const start = { ...params, subscribe: false } as Params<"run.start">;
      const { runId, status } = await this.#connection.call("run.start", start);
      this.#turns.begun(turn, runId);
      if (isEnding(status)) this.#turns.end(turn);
    } else {
      const run = await this.#connection.start(params);
      if (this.#threadId === undefined) {
        this.#threadId = this.#id;
        alsoKnownAs(this.#connection, this, threadKey(this.#id));
      }
      this.#turns.begun(turn, run.runId);
      turn.ownsRun = turn.run === undefined;
      this.#turns.follow(turn, run);
    }
    if (this.#watch?.isLive !== true) this.#mayBegin("loading");
    if (turn.stop !== undefined) void this.#cancel(turn.runId!, turn.stop, turn);
  }

  async #cancel(runId: string, { keep }: { keep?: Keep }, turn?: Turn): Promise<boolean> {
    const done = await this.#try("stop", async () => {
      await this.#connection.cancel(runId, keep === undefined ? {} : { keep });
    });
    if (!done && turn !== undefined) {
      turn.stop = undefined;
      this.draw();
    }
    return done;
  }

  /** Does it, and shows what was refused. */
  async #try(action: Action, act: () => Promise<void>): Promise<boolean> {
    let refused: ConversationError | undefined;
    this.#error = undefined;
    this.#again = undefined;
    try {
      await act();
    } catch (error) {
      refused = errorOf(action, error as Error);
      this.#error = refused;
    }
    this.draw();
    return refused === undefined;
  }

  /** There is no message for it. */
  #refuse(action: Action, id?: string): false {
    const message =
      id === undefined ? "there is no question before it" : `no such message, or alternative: ${id}`;
    this.#error = errorOf(action, { code: "no_such_message", message });
    this.draw();
    return false;
  }

  // ——— what is told ———

  #open(phase: Phase = "loading"): void {
    this.#phase = phase;
    this.#mayBeThere = false;
    this.#watch = this.#connection.watch(this.#id, {
      watched: (result, runs) => this.#onWatched(result, runs),
      event: (event, run) => this.#onEvent(event, run),
      reset: () => this.#head.due(),
      deleted: () => this.#onGone("deleted"),
      failed: (error) => this.#onRefused(error),
    });
    if (phase === "loading") this.#head.due();
  }

  /** There may be a thread by the id now. */
  #mayBegin(phase = this.#phase): void {
    if (this.isClosed) return;
    if (this.#watch === undefined) this.#open(phase);
    else this.#mayBeThere = true;
  }

  /** As long as there is no thread by the id. */
  #wait(): void {
    if (this.#waiting !== undefined) return;
    // It may have begun before this is heard, too.
    const look = () => this.#mayBegin();
    this.#waiting = this.#connection.watch(undefined, {
      watched: look,
      event: (event) => {
        if (event.event !== "deleted" && event.thread.threadId === this.#id) look();
      },
      reset: look,
      deleted: () => {},
      failed: () => {
        this.#waiting = undefined;
      },
    });
    if (this.#waiting.isLive) look();
  }

  #onWatched({ thread, runs: infos = [] }: Watched, runs: readonly Run[]): void {
    this.#waiting?.stop();
    this.#waiting = undefined;
    this.#mayBeThere = false;
    if (this.#phase === "new" || this.#phase === "deleted") this.#phase = "loading";
    if (thread !== undefined) this.#record = thread;
    for (const [i, info] of infos.entries()) this.#turns.tell(info, runs[i]);
    this.#turns.onlyActive(infos.map(({ runId }) => runId));
    const isNews = thread?.checkpointId !== this.#state?.checkpointId;
    if (isNews || this.#turns.over.length > 0) this.#head.due();
    this.changed();
  }

  #onEvent(event: ThreadEvent, run: Run | undefined): void {
    if (event.event === "deleted") return;
    const { thread } = event;
    this.#record = thread;
    if (event.event === "run") this.#turns.tell(event.run, run);
    // While a run is active, it says itself what is new.
    const isIdle = this.#turns.active.length === 0;
    if (event.event === "head" || (isIdle && thread.checkpointId !== this.#state?.checkpointId))
      this.#head.due();
    this.changed();
  }

  #onRefused(error: Error & { code?: unknown }): void {
    this.#watch = undefined;
    if (error.code !== "no_such_thread") this.#fail(error);
    else if (this.#mayBeThere) this.#open(this.#phase);
    else {
      // One that was there was deleted while nobody was told; else it is an id for a thread that is to begin.
      const wasThere = this.#state !== undefined || this.#phase === "deleted";
      this.#onGone(wasThere ? "deleted" : "new");
    }
  }

  #onGone(phase: "deleted" | "new"): void {
    this.#phase = phase;
    this.#watch = undefined;
    this.#state = undefined;
    this.#record = undefined;
    this.#selected = undefined;
    this.#tree.clear();
    // What is on its way begins the thread anew.
    this.#turns.clear(({ runId }) => runId === undefined);
    this.draw();
    this.#wait();
  }

  #fail(error: { code?: unknown; message: string }): void {
    this.#phase = "unavailable";
    this.#error = errorOf("open", error);
    this.draw();
  }

  // ——— what is read ———

  /** Reads the head. Turns that were over when it was asked for are in it. */
  async #readHead(): Promise<void> {
    const watch = this.#watch;
    const { over } = this.#turns;
    const state = await this.#thread.get();
    // Of a thread that is no more, if there is another by its id now.
    if (this.isClosed || this.#watch !== watch) return;
    this.#state = state;
    const { thread } = state;
    // An event may have told something newer meanwhile.
    if (thread !== undefined && !(thread.updatedAt < (this.#record?.updatedAt ?? ""))) this.#record = thread;
    const { failed } = this.#turns;
    for (const turn of over) {
      if (!turn.waits) this.#turns.drop(turn === failed ? undefined : turn);
      else if (thread?.active.includes(turn.runId!) !== true) {
        // This state may have been read before its question came.
        turn.waits = false;
        this.#head.due();
      }
    }
    if (state.thread?.status === "failed" && this.#turns.last === undefined) await this.#readFailed();
    if (this.isClosed || this.#watch !== watch) return;
    this.#phase = "open";
    this.draw();
    if (state.checkpointId === null) return;
    // It says how the messages branch: nobody has to wait for that, and who branches asks again.
    this.#loadTree().then(
      () => this.changed(),
      () => {},
    );
  }

  #unreadable(error: Error & { code?: unknown }): void {
    // The watch is told the same.
    if (error.code === "no_such_thread" || this.#phase === "deleted" || this.#phase === "new") return;
    // What was read stays true; that nothing more comes, `connection` says.
    if (error.code === "connection_closed" && this.#state !== undefined) return;
    this.#fail(error);
  }

  /** Whether it has ended. One that has not is told of by the watch. */
  async #askOf(runId: string): Promise<void> {
    // Where it cannot be had, the watch is the one to tell.
    const record = await this.#connection.call("run.get", { runId }).catch(() => undefined);
    if (record === undefined || !isEnding(record.status) || this.isClosed) return;
    this.#turns.tell(record, undefined);
    this.changed();
  }

  /** The thread's last run failed before anybody here looked. */
  async #readFailed(): Promise<void> {
    const [record] = await this.#thread.runs({ limit: 1 });
    if (record?.status !== "failed") return;
    const turn = new Turn();
    turn.tell(record);
    const { checkpoint } = record;
    if (turn.from === null) turn.base = [];
    else if (turn.from !== undefined) turn.base = await this.#messagesAt(turn.from);
    // Better on top of the head than not at all.
    if (turn.base === undefined) turn.from = undefined;
    if (checkpoint !== undefined) turn.kept = await this.#messagesAt(checkpoint.checkpointId);
    if (this.#turns.last === undefined) this.#turns.add(turn);
  }

  /** Undefined where there is no such checkpoint any more. */
  async #messagesAt(checkpointId: string): Promise<readonly FlatMessage[] | undefined> {
    try {
      return messagesOf(await this.#thread.get({ checkpointId }));
    } catch (error) {
      if ((error as { code?: unknown }).code === "no_such_checkpoint") return;
      throw error;
    }
  }

  /** What a turn goes on from; until that is read, it is not shown. */
  #readBase(turn: Turn, checkpointId: string): void {
    this.#thread.get({ checkpointId }).then(
      (state) => {
        turn.base = messagesOf(state);
        this.changed();
      },
      () => {
        // Better on top of the wrong messages than not at all: the head follows.
        turn.from = undefined;
        this.changed();
      },
    );
  }

  #loadTree(): Promise<void> {
    const params = { threadId: this.#id, values: false, limit: historyPage };
    return this.#tree.load((before) =>
      this.#connection.call("thread.history", before === undefined ? params : { ...params, before }),
    );
  }

  // ——— what is shown ———

  protected look(before: ConversationView<State, Custom>): ConversationView<State, Custom> {
    const { active, last } = this.#turns;
    const isLoading = this.#phase === "loading" && this.#state === undefined;
    // A graph may tell of messages of before: what others' runs say has its place once the state is read.
    const turns = this.#turns.all.filter(({ isOwn }) => isOwn || !isLoading);
    this.#screen.compose(messagesOf(this.#state), turns);
    this.#live = this.#screen.ids;
    if (this.#selected !== undefined) this.#screen.compose(messagesOf(this.#selected), nothing, this.#live);
    const first = this.#firstOf(this.#screen.ids.length);
    const [phase, head, record, error] = [this.#phase, this.#state, this.#record, this.#error];
    const isLive = this.#watch?.isLive === true;
    const status = statusOf({ phase, turns: this.#turns, head, record, error, isLive });
    const waiting = active.slice(1).filter(({ phase }) => phase === "queued");
    const queue = waiting.map(({ runId, asked }) => ({ runId: runId!, messages: asked }));
    const view: ConversationView<State, Custom> = {
      threadId: this.#threadId,
      thread: record,
      status,
      connection: this.#connection.state,
      messages: this.#screen.views(first, before.messages, active.length > 0) as readonly Message<Custom>[],
      hasEarlier: first > 0,
      state: this.#valuesOf(turns) as Partial<State>,
      custom: (last?.custom ?? before.custom) as readonly Custom[],
      interrupts: active.length > 0 ? nothing : (last?.interrupts ?? this.#shown?.interrupts ?? nothing),
      queue,
      error,
    };
    const kept = (Object.keys(view) as (keyof typeof view)[]).filter((key) =>
      isEqual(before[key], view[key]),
    );
    if (kept.length === Object.keys(view).length) return before;
    return Object.assign(view, Object.fromEntries(kept.map((key) => [key, before[key]])));
  }

  #firstOf(length: number): number {
    // Before anything is read, nothing is known of how many there are.
    if (this.#phase === "loading" && this.#state === undefined) return 0;
    if (this.#first === undefined || this.#first >= length)
      this.#first = Math.max(0, length - this.#pageSize);
    return this.#first;
  }

  #valuesOf(turns: readonly Turn[]): Record<string, unknown> {
    const state = this.#shown?.values;
    const fold = turns.at(-1)?.run?.fold.values();
    if (this.#values === undefined || this.#values.state !== state || this.#values.fold !== fold) {
      const { messages: _, ...merged } = { ...state, ...fold };
      this.#values = { state, fold, merged };
    }
    return this.#values.merged;
  }
}

/** Under which a thread's store is held. */
export function threadKey(threadId: string): string {
  return `thread:${threadId}`;
}

function idOf(message: Message | string): string {
  return typeof message === "string" ? message : message.id;
}
