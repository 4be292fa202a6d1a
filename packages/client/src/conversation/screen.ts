/**
 * What is on the screen: the messages of a state, and on top of them those of the turns that are not yet in it, merged by
 * their ids. What is streamed wins over what the state has; when the turn is over and the state is read, the state wins.
 */
import { type FlatMessage, type FoldedMessage, isRecord, type UnfinishedCall } from "@throughline/protocol";
import { type Message, type MessageStatus, Messages, type Source } from "./message.ts";
import type { Tree } from "./tree.ts";
import type { Turn } from "./turn.ts";

interface Line {
  message: FlatMessage;
  status: MessageStatus;
  calls: readonly UnfinishedCall[];
  turn: Turn | undefined;
}

/** What is known of messages whose turn was followed, also when the state has them. */
interface Origin {
  node: string | undefined;
  ns: readonly string[];
  turn: Turn;
  isFirstAnswer: boolean;
}

const none: readonly never[] = [];

export class Screen {
  readonly #messages = new Messages();
  readonly #origins = new Map<string, Origin>();
  readonly #tree: Tree;
  #lines = new Map<string, Line>();
  #ids: readonly string[] = [];
  #treeVersion = -1;
  #alternatives: ReadonlyMap<string, readonly string[]> = new Map();

  constructor(tree: Tree) {
    this.#tree = tree;
  }

  get ids(): readonly string[] {
    return this.#ids;
  }

  get alternatives(): ReadonlyMap<string, readonly string[]> {
    return this.#alternatives;
  }

  /** The messages in front of this one that are in a state: those of `state`, and of turns that are over. */
  before(id: string, state: readonly FlatMessage[]): FlatMessage[] {
    const known = new Set(state.map(({ id }) => id));
    const all = [...this.#lines.values()].slice(0, this.#ids.indexOf(id));
    const isKept = ({ message, turn }: Line) => (turn?.phase ?? "over") === "over" || known.has(message.id);
    return all.filter(isKept).map(({ message }) => message);
  }

  message(id: string): FlatMessage | undefined {
    return this.#lines.get(id)?.message;
  }

  /** `live`: the ids of the line that is being written, where another is looked at. */
  compose(state: readonly FlatMessage[], turns: readonly Turn[], live?: readonly string[]): void {
    this.#lines = new Map();
    this.#put(state);
    for (const turn of turns) this.#putTurn(turn, turns);
    const ids = [...this.#lines.keys()];
    const isSame = ids.length === this.#ids.length && ids.every((id, i) => id === this.#ids[i]);
    if (isSame && this.#treeVersion === this.#tree.version) return;
    this.#ids = ids;
    this.#treeVersion = this.#tree.version;
    this.#alternatives = this.#tree.alternatives(ids, live);
    // What is on no line of the thread is not shown again.
    for (const id of this.#origins.keys()) {
      if (!this.#lines.has(id) && !this.#tree.has(id) && live?.includes(id) !== true)
        this.#origins.delete(id);
    }
  }

  /** The messages from the `first` on. The same list, where nothing of it has changed. */
  views(first: number, before: readonly Message[], isActive: boolean): readonly Message[] {
    const results = new Map<string, FlatMessage>();
    for (const { message } of this.#lines.values()) {
      if (message.type === "tool") results.set(String(message.tool_call_id), message);
    }
    const views = this.#ids
      .slice(first)
      .map((id) => this.#messages.view(id, this.#source(id, results, isActive), results));
    this.#messages.keep(this.#lines);
    return views.length === before.length && views.every((view, i) => view === before[i]) ? before : views;
  }

  #source(id: string, results: ReadonlyMap<string, FlatMessage>, isActive: boolean): Source {
    const { message, status, calls, turn } = this.#lines.get(id)!;
    const { tool_calls: whole } = message;
    const isOpen = (call: unknown) => !isRecord(call) || !results.has(String(call.id));
    const origin = this.#origins.get(id);
    const works = turn === undefined ? isActive : turn.phase !== "over";
    return {
      message,
      status,
      calls,
      // A message without open calls looks the same whether or not.
      isActive: works && (calls.length > 0 || (Array.isArray(whole) && whole.some(isOpen))),
      node: origin?.node,
      ns: origin?.ns ?? none,
      runId: origin?.turn.runId,
      custom: origin?.isFirstAnswer === true ? origin.turn.custom : none,
      alternatives: this.#alternatives.get(id),
    };
  }

  #put(state: readonly FlatMessage[]): void {
    for (const message of state) {
      const id = message.id ?? `#${this.#lines.size}`;
      this.#lines.set(id, { message, status: markOf(message), calls: none, turn: undefined });
    }
  }

  #putTurn(turn: Turn, turns: readonly Turn[]): void {
    if (turn.from !== undefined && turn.base === undefined) return;
    if (turn.base !== undefined) {
      // Somebody else's that waits behind another does not yet take its place.
      const isNext = turns.every(
        (each) => each === turn || each.phase === "over" || turns.indexOf(each) > turns.indexOf(turn),
      );
      if (!turn.isOwn && !isNext) return;
      this.#lines = new Map();
      this.#put(turn.base);
    }
    if (turn.kept !== undefined) {
      this.#lines = new Map();
      this.#put(turn.kept);
    }
    const { phase } = turn;
    const failed = phase === "over" && turn.ending === "failed";
    const status = failed ? "failed" : phase === "sending" || phase === "queued" ? "sending" : "done";
    for (const message of turn.asked) {
      const id = message.id ?? `#${this.#lines.size}`;
      if (this.#lines.has(id)) continue;
      this.#origins.set(id, { node: undefined, ns: none, turn, isFirstAnswer: false });
      this.#lines.set(id, { message, status, calls: none, turn });
    }
    let isFirstAnswer = true;
    for (const folded of turn.messages) {
      const { message, node, ns, calls, aside } = folded;
      const id = message.id ?? `#${this.#lines.size}`;
      if (message.type === "remove") {
        if (id === "__remove_all__") this.#lines = new Map();
        else this.#lines.delete(id);
      }
      if (message.type === "remove" || aside === true) continue;
      // A graph's update may bring messages again that were there before the turn.
      const known = this.#origins.get(id);
      const origin = known ?? { node, ns, turn, isFirstAnswer: isFirstAnswer && message.type === "ai" };
      if (known === undefined || (known.turn === turn && known.node !== node)) {
        this.#origins.set(id, { ...origin, node, ns });
      }
      if (origin.isFirstAnswer && origin.turn === turn) isFirstAnswer = false;
      this.#lines.set(id, { message, status: statusOf(folded, turn), calls, turn });
    }
  }
}

/** Of a whole message: how it came to its end, as the state marks it. */
function markOf({ additional_kwargs: marks }: FlatMessage): MessageStatus {
  const { cancelled, incomplete } = isRecord(marks) ? marks : ({} as Record<string, unknown>);
  return cancelled === true ? "cancelled" : incomplete === true ? "failed" : "done";
}

function statusOf({ complete, message }: FoldedMessage, { phase, ending }: Turn): MessageStatus {
  if (complete) return markOf(message);
  if (phase !== "over") return "streaming";
  return ending === "cancelled" || ending === "failed" ? ending : "done";
}
