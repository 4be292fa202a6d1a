/**
 * A thread behind a scripted gateway: it answers watches, states and histories from what a test has put into it, and
 * leaves all else to the test.
 */
import type { FlatMessage, Part, Result, ThreadEvent, ThreadRecord, ThreadRun } from "@throughline/protocol";
import { lifecycle } from "@throughline/protocol";
import type { Command, Peer, ScriptedGateway } from "./gateway.ts";

type State = Result<"thread.get">;

export class ScriptedThread {
  readonly threadId: string;
  peer!: Peer;
  epoch = "w1";
  exists = true;
  #events: ThreadEvent[] = [];
  readonly #ownersEvents: ThreadEvent[] = [];
  readonly #states: State[] = [];
  readonly #runs = new Map<string, ThreadRun>();
  readonly #offsets = new Map<string, number>();
  #head: string | null = null;
  #checkpoints = 0;
  status: ThreadRecord["status"] = "idle";
  /** Answers these itself; false: the test does. */
  answers: Record<string, boolean> = { "thread.watch": true, "thread.get": true, "thread.history": true };
  readonly gets: Command<"thread.get">[] = [];
  /** Runs that have ended and are in line all the same: their input is yet to come into the thread. */
  readonly inLine = new Set<string>();

  constructor(threadId = "t1") {
    this.threadId = threadId;
  }

  /** Looks after every connection of the gateway from now on. */
  serve(gateway: ScriptedGateway): void {
    gateway.onPeer = (peer) => {
      this.peer = peer;
      peer.onCommand = (command) => this.#answer(command);
    };
  }

  get record(): ThreadRecord {
    const active = [...this.#runs.values()].filter(
      ({ runId, status }) => status === "queued" || status === "running" || this.inLine.has(runId),
    );
    return {
      threadId: this.threadId,
      status: active.length > 0 ? "busy" : this.status,
      createdAt: "2026-01-01T00:00:00.000Z",
      updatedAt: new Date(Date.UTC(2026, 0, 1) + this.#events.length * 1000).toISOString(),
      metadata: {},
      checkpointId: this.#head,
      messages: 0,
      runs: this.#runs.size,
      active: active.map(({ runId }) => runId),
    };
  }

  /** Saves a checkpoint: a child of the head, or of `parentId`. The head moves to it. */
  save(messages: FlatMessage[], more: Partial<State> & { isAside?: boolean } = {}): string {
    const { isAside, ...fields } = more;
    this.#checkpoints += 1;
    const checkpointId = `k${this.#checkpoints}`;
    this.#states.push({
      threadId: this.threadId,
      checkpointId,
      parentId: this.#head,
      ns: [],
      values: { messages },
      next: [],
      interrupts: [],
      metadata: {},
      createdAt: "2026-01-01T00:00:00.000Z",
      ...fields,
    } as State);
    if (isAside !== true) this.#head = checkpointId;
    return checkpointId;
  }

  tell(event: ThreadEvent): void {
    this.#events.push(event);
    this.peer.event("thread.events", {
      threadId: this.threadId,
      offset: this.#events.length,
      events: [event],
    });
  }

  /** A run comes into line, begins, or ends. */
  run(runId: string, status: ThreadRun["status"], more: Partial<ThreadRun> = {}): void {
    const run = { ...(this.#runs.get(runId) ?? { runId, agent: "chat" }), ...more, status } as ThreadRun;
    this.#runs.set(runId, run);
    this.tell({ event: "run", thread: this.record, run });
  }

  /** A run ends, and nobody is told. */
  endSilently(runId: string, status: ThreadRun["status"]): void {
    this.#runs.set(runId, { ...this.#runs.get(runId)!, status });
  }

  /** Parts of a run that the watch follows. */
  parts(runId: string, ...parts: Part[]): void {
    const offset = (this.#offsets.get(runId) ?? 0) + 1;
    this.#offsets.set(runId, offset + parts.length - 1);
    this.peer.parts(runId, offset, parts);
  }

  started(runId: string, messages: FlatMessage[] = []): void {
    this.run(runId, "running");
    this.parts(runId, lifecycle({ event: "started", attempt: 1, messages }));
  }

  /** It is there from now on; the watch of all threads is told. */
  begin(): void {
    this.exists = true;
    this.tellOwner({ event: "created", thread: this.record });
  }

  tellOwner(event: ThreadEvent): void {
    this.#ownersEvents.push(event);
    this.peer.event("thread.events", { offset: this.#ownersEvents.length, events: [event] });
  }

  delete(): void {
    this.exists = false;
    this.#states.length = 0;
    this.#runs.clear();
    this.#head = null;
    this.tell({ event: "deleted", threadId: this.threadId });
    this.peer.event("thread.unwatched", { threadId: this.threadId, reason: "deleted" });
  }

  #answer(command: Command): boolean {
    if (this.answers[command.method] !== true) {
      if (command.method === "thread.unwatch") this.peer.answer(command as Command<"thread.unwatch">, {});
      return command.method === "thread.unwatch";
    }
    const watch = command as Command<"thread.watch">;
    if (command.method === "thread.watch" && watch.params.threadId === undefined) {
      const { length: head } = this.#ownersEvents;
      this.peer.answer(watch, { first: 1, head, epoch: this.epoch });
      return true;
    }
    if (!this.exists) {
      this.peer.refuse(command, "no_such_thread");
      return true;
    }
    if (command.method === "thread.watch") this.#watch(command as Command<"thread.watch">);
    if (command.method === "thread.get") this.get(command as Command<"thread.get">);
    if (command.method === "thread.history") {
      const checkpoints = this.#states.map(({ values: _, thread: __, ...state }) => {
        const ids = this.#ids(state.checkpointId);
        const before = this.#ids(state.parentId);
        const messages = { count: ids.length, added: ids.filter((id) => !before.includes(id)) };
        return { ...state, values: {}, messages } as Result<"thread.history">["checkpoints"][number];
      });
      this.peer.answer(command as Command<"thread.history">, { checkpoints: checkpoints.reverse() });
    }
    return true;
  }

  get(command: Command<"thread.get">): void {
    this.gets.push(command);
    const { checkpointId = this.#head } = command.params;
    const found = this.#states.find((state) => state.checkpointId === checkpointId);
    const empty = {
      threadId: this.threadId,
      checkpointId: null,
      parentId: null,
      ns: [],
      values: {},
      next: [],
      interrupts: [],
      metadata: {},
      createdAt: "2026-01-01T00:00:00.000Z",
    };
    const thread = command.params.checkpointId === undefined ? { thread: this.record } : {};
    this.peer.answer(command, { ...(found ?? empty), ...thread } as State);
  }

  #ids(checkpointId: string | null): string[] {
    const state = this.#states.find((each) => each.checkpointId === checkpointId);
    return ((state?.values.messages ?? []) as FlatMessage[]).map(({ id }) => id!);
  }

  #watch(command: Command<"thread.watch">): void {
    const head = this.#events.length;
    const { after = "head" } = command.params;
    const { record } = this;
    const runs = record.active.map((runId) => this.#runs.get(runId)!);
    this.peer.answer(command, {
      threadId: this.threadId,
      thread: record,
      runs,
      first: 1,
      head,
      epoch: this.epoch,
    });
    if (after !== "head" && after < head) {
      this.peer.event("thread.events", {
        threadId: this.threadId,
        offset: after + 1,
        events: this.#events.slice(after),
      });
    }
  }
}
