/**
 * The fold: what a run's parts add up to. One function for everyone who needs to know: the worker that ran the agent,
 * the worker that took a dead one's run over, and the client that draws it.
 *
 * Invariants:
 * - parts are added once each, in the order of their offsets;
 * - the text of a message is the concatenation of its chunks' content, code unit for code unit;
 * - `rewound {to}` takes back every non-lifecycle part above `to`;
 * - an unfinished tool call never shows up as a call: chunks of tool calls are not folded.
 */
import type { FlatMessage, Part } from "./parts.ts";

/** A message under construction. `ends` holds (offset, length so far) pairs, so that a rewind can cut it. */
interface OpenMessage {
  /** Offset of the first chunk. */
  since: number;
  /** The first chunk's fields, and what later chunks added to them. */
  fields: Record<string, unknown>;
  node: string | undefined;
  ns: readonly string[];
  text: string;
  /** Content blocks, where content is not a string. */
  blocks: unknown[] | undefined;
  ends: number[];
}

/** A state update, or a whole state (`values`), that a part brought. */
interface Change {
  offset: number;
  whole: boolean;
  values: Record<string, unknown>;
}

/** A message that was streamed, with the node and namespace that streamed it. */
export interface FoldedMessage {
  message: FlatMessage;
  node: string | undefined;
  ns: readonly string[];
  /** True when an update or state brought the whole message; false: it was still being streamed. */
  complete: boolean;
}

/** What is stored when a log is trimmed: a fold that later parts can be added to. */
export interface FoldSnapshot {
  offset: number;
  messages: FlatMessage[];
  values: Record<string, unknown>;
}

export class Fold {
  #offset = 0;
  #open = new Map<string, OpenMessage>();
  #changes: Change[] = [];
  #base: FoldSnapshot | undefined;
  /** The message that the last chunk belonged to: tokens come in long rows of the same id. */
  #lastId: string | undefined;
  #last: OpenMessage | undefined;

  /** A fold that goes on from what an earlier one added up to. */
  static from(snapshot: FoldSnapshot): Fold {
    const fold = new Fold();
    fold.restore(snapshot);
    return fold;
  }

  /** Makes what an earlier fold added up to the beginning of this one, which must be empty. */
  restore(snapshot: FoldSnapshot): void {
    this.#base = snapshot;
    this.#offset = snapshot.offset;
  }

  /** The offset of the last part that was added. */
  get offset(): number {
    return this.#offset;
  }

  /** Adds the part at `offset`. */
  add(part: Part, offset: number): void {
    this.#offset = offset;
    switch (part.type) {
      case "messages":
        this.#chunk(part.data[0], part.data[1], part.ns, offset);
        break;
      case "updates":
        if (part.ns.length === 0) this.#update(part.data, offset);
        break;
      case "values":
        if (part.ns.length === 0 && isRecord(part.data)) this.#change(offset, true, part.data);
        break;
      case "lifecycle":
        if (part.data.event === "rewound") this.#rewind(part.data.to);
        break;
    }
  }

  /** The messages so far, in the order in which they began, and the state's other keys. */
  snapshot(): FoldSnapshot {
    const messages = this.messages().map((each) => each.message);
    return { offset: this.#offset, messages, values: this.values() };
  }

  /** Every message of the run, streamed and updated ones merged by id, in the order in which they began. */
  messages(): FoldedMessage[] {
    const byId = new Map<string, FoldedMessage & { since: number }>();
    for (const message of this.#base?.messages ?? []) {
      byId.set(message.id ?? `base-${byId.size}`, {
        message,
        node: undefined,
        ns: [],
        complete: false,
        since: 0,
      });
    }
    for (const [id, open] of this.#open) {
      const before = byId.get(id);
      byId.set(id, {
        message: closeMessage(open, before?.message),
        node: open.node,
        ns: open.ns,
        complete: false,
        since: before?.since ?? open.since,
      });
    }
    for (const change of this.#changes) {
      for (const message of messagesOf(change.values.messages)) {
        const id = message.id ?? `${change.offset}-${byId.size}`;
        const before = byId.get(id);
        byId.set(id, {
          message,
          node: before?.node,
          ns: before?.ns ?? [],
          complete: true,
          since: before?.since ?? change.offset,
        });
      }
    }
    return [...byId.values()].sort((a, b) => a.since - b.since);
  }

  /** The state's keys but `messages`, as updates and states set them. */
  values(): Record<string, unknown> {
    let values: Record<string, unknown> = { ...this.#base?.values };
    for (const change of this.#changes) {
      values = change.whole ? { ...change.values } : { ...values, ...change.values };
    }
    delete values.messages;
    return values;
  }

  /** The text of the message with this id, or of the newest that has any. */
  text(id?: string): string {
    const found =
      id === undefined ? this.messages().at(-1) : this.messages().find((m) => m.message.id === id);
    const content = found?.message.content;
    return typeof content === "string" ? content : "";
  }

  #chunk(chunk: FlatMessage, metadata: Record<string, unknown>, ns: readonly string[], offset: number): void {
    const id = chunk.id ?? "";
    let open = id === this.#lastId ? this.#last : this.#open.get(id);
    if (open === undefined) {
      const node = metadata.langgraph_node;
      open = {
        since: offset,
        fields: withoutToolCallChunks(chunk),
        node: typeof node === "string" ? node : undefined,
        ns,
        text: "",
        blocks: undefined,
        ends: [],
      };
      this.#open.set(id, open);
    } else {
      mergeFields(open.fields, chunk);
    }
    this.#lastId = id;
    this.#last = open;
    const content = chunk.content;
    if (typeof content === "string") open.text += content;
    else appendBlocks(open, content);
    open.ends.push(offset, open.blocks === undefined ? open.text.length : open.blocks.length);
  }

  /** LangGraph's form is `{node: delta}`; the delta's keys are the state's. */
  #update(data: unknown, offset: number): void {
    if (!isRecord(data)) return;
    for (const delta of Object.values(data)) {
      if (isRecord(delta)) this.#change(offset, false, delta);
    }
  }

  #change(offset: number, whole: boolean, values: Record<string, unknown>): void {
    if (whole) {
      // A whole state makes what came before it redundant for a reader, but a rewind may need it again.
      const last = this.#changes.at(-1);
      if (last?.whole && last.offset === offset) this.#changes.pop();
    }
    this.#changes.push({ offset, whole, values });
  }

  #rewind(to: number): void {
    this.#changes = this.#changes.filter((change) => change.offset <= to);
    this.#last = undefined;
    this.#lastId = undefined;
    for (const [id, open] of this.#open) {
      if (open.since > to) {
        this.#open.delete(id);
        continue;
      }
      while (open.ends.length > 0 && open.ends[open.ends.length - 2]! > to) open.ends.length -= 2;
      const length = open.ends.at(-1) ?? 0;
      if (open.blocks === undefined) open.text = open.text.slice(0, length);
      else open.blocks.length = length;
    }
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `messages` of a state: one message or many; what is no message is passed over. */
function messagesOf(value: unknown): FlatMessage[] {
  const all = Array.isArray(value) ? value : value === undefined ? [] : [value];
  return all.filter((each): each is FlatMessage => isRecord(each) && typeof each.type === "string");
}

function withoutToolCallChunks(chunk: FlatMessage): Record<string, unknown> {
  const { tool_call_chunks: _, tool_calls: __, invalid_tool_calls: ___, ...fields } = chunk;
  return fields;
}

const chunkOnly = new Set(["type", "id", "content", "tool_call_chunks", "tool_calls", "invalid_tool_calls"]);

/** Later chunks bring usage and finish reasons: newest wins, records merge one level deep. */
function mergeFields(fields: Record<string, unknown>, chunk: FlatMessage): void {
  for (const key in chunk) {
    if (chunkOnly.has(key)) continue;
    const value = chunk[key];
    const before = fields[key];
    fields[key] = isRecord(before) && isRecord(value) ? { ...before, ...value } : value;
  }
}

/** Text blocks with the same index, or following on each other, are one block; others stand for themselves. */
function appendBlocks(open: OpenMessage, content: unknown[]): void {
  open.blocks ??= open.text === "" ? [] : [{ type: "text", text: open.text }];
  open.blocks.push(...content);
}

function closeMessage(open: OpenMessage, before: FlatMessage | undefined): FlatMessage {
  const type =
    open.fields.type === "AIMessageChunk"
      ? "ai"
      : String(open.fields.type)
          .replace(/MessageChunk$/, "")
          .toLowerCase();
  const earlier = typeof before?.content === "string" ? before.content : "";
  const content = open.blocks === undefined ? earlier + open.text : joinBlocks(open.blocks);
  return { ...before, ...open.fields, type, content } as FlatMessage;
}

function joinBlocks(blocks: unknown[]): FlatMessage["content"] {
  const joined: Record<string, unknown>[] = [];
  for (const block of blocks) {
    if (!isRecord(block)) continue;
    const last = joined.at(-1);
    const sameText = last?.type === "text" && block.type === "text" && last.index === block.index;
    if (sameText) last.text = String(last.text ?? "") + String(block.text ?? "");
    else joined.push({ ...block });
  }
  return joined as FlatMessage["content"];
}
