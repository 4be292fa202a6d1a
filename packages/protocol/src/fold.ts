/**
 * The fold: what a run's parts add up to. One function for everyone who needs to know: the worker that ran the agent,
 * the worker that took a dead one's run over, and the client that draws it.
 *
 * Invariants:
 * - parts are added once each, in the order of their offsets;
 * - the text of a message is the concatenation of its chunks' content, code unit for code unit;
 * - `rewound {to}` takes back every non-lifecycle part above `to`;
 * - an unfinished tool call is never in a message: what is streamed of calls stands beside it, in `calls`;
 * - a message that nothing was added to is the same object as before, and costs nothing to ask for again;
 * - a fold that goes on from a snapshot comes to the same messages and values as one of all parts (messages have ids).
 */
import { isRecord } from "./is-record.ts";
import type { FlatMessage, Part, UnfinishedCall } from "./parts.ts";

/** A message under construction: its chunks, kept so that a rewind can cut it and a later state can take its place. */
interface OpenMessage {
  /** Offset of the first chunk. */
  since: number;
  /** Offset of the last one. */
  until: number;
  /** What the chunks brought besides content: the first's fields, then those of each that changed any. */
  patches: { offset: number; fields: Record<string, unknown> }[];
  /** What patches have brought since a state or rewind last said otherwise: what need not be kept again. */
  fields: Record<string, unknown>;
  node: string | undefined;
  ns: readonly string[];
  /** What its metadata say of it: no message of the conversation. */
  aside: boolean;
  /** The chunks' strings. `ends` holds (offset, length of `text` then) pairs, of each chunk that is not in `blocks`. */
  text: string;
  ends: number[];
  /** The chunks' content blocks; `at`: the length of `text` when one came. */
  blocks: { offset: number; at: number; block: unknown }[];
  calls: CallPieces[];
  /** The message is whole while `until` is below this: 0 where it began with a chunk. */
  wholeBelow: number;
}

/** Pieces of a tool call that came in a row. One that brings an id or a name stands alone. */
interface CallPieces {
  index: UnfinishedCall["index"];
  id: string | undefined;
  name: string | undefined;
  /** The pieces' arguments. `ends` holds (offset, length of `args` then) pairs. */
  args: string;
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
  /**
   * True when the message came whole, in an update, in a state, or as a message that is no chunk, and nothing was
   * streamed into it since.
   */
  complete: boolean;
  /**
   * The tool calls that are being streamed, in the order in which they began. Empty when a state or update brings the
   * message: it has its `tool_calls` then. They are never in `message`, nor in a checkpoint.
   */
  calls: readonly UnfinishedCall[];
  /** It was said for a tool's call, or for a router: no message of the conversation. */
  aside?: true;
}

/** What the base, updates and states say of a message. `at`: where the newest of them stands. */
interface Told {
  message: FlatMessage;
  complete: boolean;
  calls: readonly UnfinishedCall[];
  since: number;
  at: number;
}

/** What is stored when a log is trimmed: a fold that later parts can be added to. */
export interface FoldSnapshot {
  offset: number;
  /** The messages that the run's input brought. Default: none. */
  asked?: FlatMessage[];
  messages: FlatMessage[];
  values: Record<string, unknown>;
  /** The ids of those messages that are whole. */
  complete?: string[];
  /** The unfinished calls of messages that have any, by the message's id. Default: none. */
  calls?: Record<string, UnfinishedCall[]>;
}

export class Fold {
  #offset = 0;
  #open = new Map<string, OpenMessage>();
  #changes: Change[] = [];
  #base: FoldSnapshot | undefined;
  #asked: readonly FlatMessage[] = [];
  /** The message that the last chunk belonged to: tokens come in long rows of the same id. */
  #lastId: string | undefined;
  #last: OpenMessage | undefined;
  /** The messages when they were last asked for, and where each is among them; undefined: to be made anew. */
  #list: FoldedMessage[] | undefined;
  #values: Record<string, unknown> | undefined;
  readonly #places = new Map<string, number>();
  readonly #told = new Map<string, Told>();
  /** The ids of those that something has come for since. */
  readonly #dirty = new Set<string>();

  /** A fold that goes on from what an earlier one added up to. */
  static from(snapshot: FoldSnapshot): Fold {
    const fold = new Fold();
    fold.restore(snapshot);
    return fold;
  }

  /** Makes what an earlier fold added up to the beginning of this one, which must be empty. */
  restore(snapshot: FoldSnapshot): void {
    this.#base = snapshot;
    this.#list = undefined;
    this.#values = undefined;
    this.#asked = snapshot.asked ?? [];
    this.#offset = snapshot.offset;
  }

  /** The offset of the last part that was added. */
  get offset(): number {
    return this.#offset;
  }

  /** The messages that the run's input brought: the question. They are not among `messages`, and no rewind takes them. */
  get asked(): readonly FlatMessage[] {
    return this.#asked;
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
        // A graph that waits for a person says so where its state would be.
        if (part.ns.length === 0 && isRecord(part.data) && !Object.hasOwn(part.data, "__interrupt__")) {
          this.#change(offset, true, part.data);
        }
        break;
      case "lifecycle":
        if (part.data.event === "rewound") this.#rewind(part.data.to);
        else if (part.data.event === "started") this.#asked = part.data.messages ?? [];
        break;
    }
  }

  /** The messages so far, in the order in which they began, and the state's other keys. */
  snapshot(): FoldSnapshot {
    const all = this.messages();
    const messages = all.map((each) => each.message);
    const complete = all.flatMap(({ message: { id }, complete }) =>
      complete && id !== undefined ? [id] : [],
    );
    const calls = all.flatMap(({ message: { id }, calls }): [string, UnfinishedCall[]][] =>
      calls.length > 0 && id !== undefined ? [[id, [...calls]]] : [],
    );
    const snapshot: FoldSnapshot = { offset: this.#offset, messages, values: this.values(), complete };
    if (this.#asked.length > 0) snapshot.asked = [...this.#asked];
    if (calls.length > 0) snapshot.calls = Object.fromEntries(calls);
    return snapshot;
  }

  /**
   * Every message of the run, in the order in which they began. What an update or state says of a message takes the
   * place of what was streamed of it before; what is streamed after is added to it.
   */
  messages(): FoldedMessage[] {
    if (this.#list === undefined) this.#list = this.#makeList();
    for (const id of this.#dirty) {
      const place = this.#places.get(id) ?? this.#list.length;
      this.#places.set(id, place);
      this.#list[place] = this.#close(id);
    }
    this.#dirty.clear();
    return [...this.#list];
  }

  #makeList(): FoldedMessage[] {
    this.#told.clear();
    this.#places.clear();
    this.#dirty.clear();
    const whole = new Set(this.#base?.complete);
    const unfinished = new Map(Object.entries(this.#base?.calls ?? {}));
    for (const message of this.#base?.messages ?? []) {
      const id = message.id ?? `base-${this.#told.size}`;
      const calls = unfinished.get(id) ?? none;
      this.#told.set(id, { message, complete: whole.has(id), calls, since: 0, at: 0 });
    }
    for (const change of this.#changes) this.#tell(change);
    const since = new Map([...this.#told].map(([id, told]) => [id, told.since]));
    for (const [id, open] of this.#open) since.set(id, Math.min(open.since, since.get(id) ?? open.since));
    return [...since]
      .sort(([, a], [, b]) => a - b)
      .map(([id], place) => {
        this.#places.set(id, place);
        return this.#close(id);
      });
  }

  /** Takes in the messages of an update or a state. */
  #tell({ offset, values }: Change): void {
    for (const message of messagesOf(values.messages)) {
      const id = message.id ?? `${offset}-${this.#told.size}`;
      const since = this.#told.get(id)?.since ?? offset;
      this.#told.set(id, { message, complete: true, calls: none, since, at: offset });
      this.#dirty.add(id);
    }
  }

  /** What was told of a message, and what was streamed of it since. */
  #close(id: string): FoldedMessage {
    const told = this.#told.get(id);
    const open = this.#open.get(id);
    if (open === undefined) {
      const { message, complete, calls } = told!;
      return { message, node: undefined, ns: [], complete, calls };
    }
    const { node, ns } = open;
    const aside = open.aside ? { aside: true as const } : {};
    if (told !== undefined && told.at >= open.until) {
      const { message, complete, calls } = told;
      return { message, node, ns, complete, calls, ...aside };
    }
    const after = told?.at ?? 0;
    const message = closeMessage(open, told?.message, after);
    const complete = told === undefined && open.until < open.wholeBelow;
    return {
      message,
      node,
      ns,
      complete,
      calls: closeCalls(open.calls, told?.calls ?? none, after),
      ...aside,
    };
  }

  /** The state's keys but `messages`, as updates and states set them; the same object until one does. */
  values(): Record<string, unknown> {
    if (this.#values !== undefined) return this.#values;
    const from = this.#changes.findLastIndex((change) => change.whole);
    const values: Record<string, unknown> = from === -1 ? { ...this.#base?.values } : {};
    for (const change of from === -1 ? this.#changes : this.#changes.slice(from)) {
      for (const key in change.values) setOwn(values, key, change.values[key]);
    }
    delete values.messages;
    this.#values = values;
    return values;
  }

  /** The text of the message with this id, or of the newest that has any. */
  text(id?: string): string {
    const isIt = ({ message }: FoldedMessage) =>
      (id === undefined || message.id === id) && textOf(message.content) !== "";
    const found = this.messages().findLast(isIt);
    return found === undefined ? "" : textOf(found.message.content);
  }

  #chunk(chunk: FlatMessage, metadata: Record<string, unknown>, ns: readonly string[], offset: number): void {
    const id = chunk.id ?? "";
    let open = id === this.#lastId ? this.#last : this.#find(id, offset);
    if (open === undefined) open = this.#begin(id, chunk, metadata, ns, offset);
    else {
      const fields = newFields(open.fields, chunk);
      if (fields !== undefined) {
        open.patches.push({ offset, fields });
        open.fields = mergeFields(open.fields, fields);
      }
    }
    open.until = offset;
    // Who never asks for the messages, as a worker, does not keep book of them.
    if (this.#list !== undefined) this.#dirty.add(id);
    const { content, tool_call_chunks: pieces } = chunk;
    if (pieces !== undefined && hasPieces(chunk)) {
      for (const piece of pieces as unknown[]) addPiece(open.calls, piece, offset);
    }
    if (typeof content === "string") {
      open.text += content;
      open.ends.push(offset, open.text.length);
    } else {
      const { length } = open.blocks;
      for (const block of content) {
        if (!isCallBlock(block) || open.wholeBelow === Number.POSITIVE_INFINITY) {
          open.blocks.push({ offset, at: open.text.length, block });
        } else if (isChunk(chunk) && !hasPieces(chunk)) addPiece(open.calls, block, offset);
      }
      if (open.blocks.length === length) open.ends.push(offset, open.text.length);
    }
  }

  /** The message that a part goes on with; the parts after it most likely do so, too. */
  #find(id: string, offset: number): OpenMessage | undefined {
    const open = this.#open.get(id);
    if (open === undefined) return undefined;
    if (open.until < open.wholeBelow) open.wholeBelow = offset;
    this.#last = open;
    this.#lastId = id;
    return open;
  }

  #begin(
    id: string,
    chunk: FlatMessage,
    metadata: Record<string, unknown>,
    ns: readonly string[],
    offset: number,
  ): OpenMessage {
    const node = metadata.langgraph_node;
    const isWhole = !isChunk(chunk);
    const fields = isWhole ? fieldsOf(chunk) : withoutCalls(fieldsOf(chunk));
    const open: OpenMessage = {
      since: offset,
      until: offset,
      patches: [{ offset, fields }],
      fields,
      node: typeof node === "string" ? node : undefined,
      ns,
      aside: isRecord(metadata.aside),
      text: "",
      ends: [],
      blocks: [],
      calls: [],
      wholeBelow: isWhole ? Number.POSITIVE_INFINITY : 0,
    };
    this.#open.set(id, open);
    // What comes after a whole message is to be noticed: it goes through `#find`.
    if (!isWhole) {
      this.#last = open;
      this.#lastId = id;
    }
    return open;
  }

  /** LangGraph's form is `{node: delta}`; the delta's keys are the state's. `__metadata__` is of no node. */
  #update(data: unknown, offset: number): void {
    if (!isRecord(data)) return;
    for (const [node, delta] of Object.entries(data)) {
      if (node !== "__metadata__" && isRecord(delta)) this.#change(offset, false, delta);
    }
  }

  #change(offset: number, whole: boolean, values: Record<string, unknown>): void {
    if (whole) {
      // A whole state makes what came before it redundant for a reader, but a rewind may need it again.
      const last = this.#changes.at(-1);
      if (last?.whole && last.offset === offset) {
        this.#changes.pop();
        this.#list = undefined;
      }
    }
    for (const { id } of messagesOf(values.messages)) {
      const open = id === undefined ? undefined : this.#open.get(id);
      if (open !== undefined) open.fields = {};
    }
    this.#values = undefined;
    const change = { offset, whole, values };
    this.#changes.push(change);
    if (this.#list !== undefined) this.#tell(change);
  }

  #rewind(to: number): void {
    // A snapshot cannot be cut: where some of it is above `to`, all of it goes.
    if (this.#base !== undefined && to < this.#base.offset) this.#base = undefined;
    this.#changes = this.#changes.filter((change) => change.offset <= to);
    this.#list = undefined;
    this.#values = undefined;
    this.#last = undefined;
    this.#lastId = undefined;
    for (const [id, open] of this.#open) {
      if (open.since > to) this.#open.delete(id);
      else if (open.until > to) cut(open, to);
    }
  }
}

/** Takes back what chunks above `to` brought; the first chunk is not one of them. */
function cut(open: OpenMessage, to: number): void {
  open.text = open.text.slice(0, cutEnds(open.ends, to));
  open.blocks = open.blocks.filter((each) => each.offset <= to);
  open.patches = open.patches.filter((each) => each.offset <= to);
  for (const pieces of open.calls) pieces.args = pieces.args.slice(0, cutEnds(pieces.ends, to));
  open.calls = open.calls.filter(({ ends }) => ends.length > 0);
  open.fields = {};
  open.until = Math.max(open.ends.at(-2) ?? 0, open.blocks.at(-1)?.offset ?? 0);
}

/** Takes back the pairs above `to`. @returns the length that the text had at `to` */
function cutEnds(ends: number[], to: number): number {
  while (ends.length > 0 && ends[ends.length - 2]! > to) ends.length -= 2;
  return ends.at(-1) ?? 0;
}

/** The length that the text had at `offset`. What is asked for is most often the beginning, or the end. */
function lengthAt(ends: readonly number[], offset: number): number {
  let i = ends.length;
  if (i > 0 && ends[0]! > offset) return 0;
  while (i > 0 && ends[i - 2]! > offset) i -= 2;
  return ends[i - 1] ?? 0;
}

/** Assigns without ever reaching a setter: a key of the wire may be `__proto__`. */
function setOwn(record: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__") {
    Object.defineProperty(record, key, { value, enumerable: true, configurable: true, writable: true });
  } else record[key] = value;
}

/** `messages` of a state: one message or many; what is no message is passed over. */
function messagesOf(value: unknown): FlatMessage[] {
  const all = Array.isArray(value) ? value : value === undefined ? [] : [value];
  return all.filter((each): each is FlatMessage => isRecord(each) && typeof each.type === "string");
}

/** Whether this is a chunk of a message, and not a message. */
function isChunk({ type }: FlatMessage): boolean {
  return type.endsWith("Chunk");
}

function fieldsOf(message: FlatMessage): Record<string, unknown> {
  const { content: _, tool_call_chunks: __, ...fields } = message;
  return fields;
}

function withoutCalls(fields: Record<string, unknown>): Record<string, unknown> {
  const { tool_calls: _, invalid_tool_calls: __, ...rest } = fields;
  return rest;
}

const notMerged = new Set(["type", "id", "content", "tool_call_chunks", "tool_calls", "invalid_tool_calls"]);

/** What of a later chunk's fields is not among those already there; undefined where nothing is, as with most tokens. */
function newFields(fields: Record<string, unknown>, chunk: FlatMessage): Record<string, unknown> | undefined {
  let found: Record<string, unknown> | undefined;
  for (const key in chunk) {
    if (notMerged.has(key) || holds(fields[key], chunk[key])) continue;
    found ??= {};
    setOwn(found, key, chunk[key]);
  }
  return found;
}

function holds(before: unknown, value: unknown): boolean {
  if (before === value) return true;
  if (!isRecord(before) || !isRecord(value)) return false;
  for (const key in value) if (before[key] !== value[key] || !Object.hasOwn(before, key)) return false;
  return true;
}

/** Later chunks bring usage and finish reasons: newest wins, records merge one level deep. */
function mergeFields(
  fields: Record<string, unknown>,
  patch: Record<string, unknown>,
): Record<string, unknown> {
  const merged = { ...fields };
  for (const key in patch) {
    const before = merged[key];
    const value = patch[key];
    setOwn(merged, key, isRecord(before) && isRecord(value) ? { ...before, ...value } : value);
  }
  return merged;
}

/** Content blocks in which a tool is called, or answers: where a model puts calls into its content. */
function isCallBlock(block: unknown): boolean {
  return isRecord(block) && typeof block.type === "string" && callBlock.test(block.type);
}

const callBlock = /(^|_)tool_(use|call|call_chunk|result)$|^input_json_delta$|^function_call$/;

/** Whether a chunk has pieces of calls. Where it has, they may be in its content once more. */
function hasPieces(chunk: FlatMessage): boolean {
  return Array.isArray(chunk.tool_call_chunks) && chunk.tool_call_chunks.length > 0 && isChunk(chunk);
}

/**
 * Adds a piece of a call: a LangChain chunk of one, or a content block. Anthropic's blocks have `input`; OpenAI's have
 * `arguments`, and a `call_id` besides their own id.
 */
function addPiece(calls: CallPieces[], piece: unknown, offset: number): void {
  if (!isRecord(piece) || String(piece.type).endsWith("result")) return;
  const index = typeof piece.index === "number" ? piece.index : textIn(piece.index);
  const id = textIn(piece.call_id) ?? textIn(piece.id);
  const name = textIn(piece.name);
  let row = calls.at(-1);
  if (row === undefined || index === undefined || row.index !== index || row.id || row.name || id || name) {
    row = { index, id, name, args: "", ends: [] };
    calls.push(row);
  }
  row.args += argsIn(piece.args ?? piece.input ?? piece.arguments);
  row.ends.push(offset, row.args.length);
}

function textIn(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

/** Arguments that are no text come all at once; a call begins with empty ones. */
function argsIn(value: unknown): string {
  if (typeof value === "string") return value;
  return isRecord(value) && Object.keys(value).length > 0 ? JSON.stringify(value) : "";
}

const none: readonly UnfinishedCall[] = [];

/**
 * The calls that the pieces after offset `after` make of those that were there before them. They belong together as in
 * LangChain: by their index, unless both have an id and not the same one; without an index, by their id.
 */
function closeCalls(
  pieces: readonly CallPieces[],
  before: readonly UnfinishedCall[],
  after: number,
): readonly UnfinishedCall[] {
  if (pieces.length === 0) return before;
  const calls = before.map((call) => ({ ...call }));
  for (const { index, id, name, args, ends } of pieces) {
    if (ends.at(-2)! <= after) continue;
    let call = calls.find((each) => {
      if (each.index !== index) return false;
      if (index === undefined) return id !== undefined && each.id === id;
      return id === undefined || each.id === undefined || each.id === id;
    });
    if (call === undefined) {
      call = index === undefined ? { args: "" } : { index, args: "" };
      calls.push(call);
    }
    if (id !== undefined) call.id = id;
    if (name !== undefined) call.name = name;
    call.args += args.slice(lengthAt(ends, after));
  }
  return calls;
}

/** The message that the chunks after offset `after` make of what was there before them. */
function closeMessage(chunks: OpenMessage, before: FlatMessage | undefined, after: number): FlatMessage {
  const open = before === undefined || chunks.wholeBelow === 0 ? chunks : asChunks(chunks);
  let fields: Record<string, unknown> = before ?? {};
  for (const patch of open.patches) if (patch.offset > after) fields = mergeFields(fields, patch.fields);
  const type =
    before?.type ??
    String(fields.type)
      .replace(/MessageChunk$/, "")
      .toLowerCase();
  return { ...fields, type, content: closeContent(open, before?.content ?? "", after) } as FlatMessage;
}

/** A whole message that goes on with another is what a chunk is: its calls are none of that other one's. */
function asChunks(open: OpenMessage): OpenMessage {
  const patches = open.patches.map(({ offset, fields }) => ({ offset, fields: withoutCalls(fields) }));
  return { ...open, patches, blocks: open.blocks.filter(({ block }) => !isCallBlock(block)) };
}

function closeContent(
  open: OpenMessage,
  before: FlatMessage["content"],
  after: number,
): FlatMessage["content"] {
  let from = lengthAt(open.ends, after);
  const blocks = open.blocks.filter((each) => each.offset > after);
  if (blocks.length === 0 && typeof before === "string") return before + open.text.slice(from);
  const all: unknown[] = typeof before === "string" ? textBlocks(before) : [...before];
  for (const { at, block } of blocks) {
    all.push(...textBlocks(open.text.slice(from, at)), block);
    from = at;
  }
  all.push(...textBlocks(open.text.slice(from)));
  return joinBlocks(all);
}

function textBlocks(text: string): { type: "text"; text: string }[] {
  return text === "" ? [] : [{ type: "text", text }];
}

/** In blocks that belong together these go on from each other; of all else the newest holds. */
const streamed = new Set(["text", "thinking", "reasoning", "signature", "refusal"]);

/** Blocks of one type and index are one block; so are text blocks without an index that follow on each other. */
function joinBlocks(blocks: unknown[]): FlatMessage["content"] {
  const joined: unknown[] = [];
  const byIndex = new Map<string, Record<string, unknown>>();
  for (const block of blocks) {
    if (!isRecord(block)) {
      joined.push(block);
      continue;
    }
    const key = block.index === undefined ? undefined : `${block.type} ${block.index}`;
    const last = joined.at(-1);
    const twin =
      key !== undefined
        ? byIndex.get(key)
        : block.type === "text" && isRecord(last) && last.type === "text" && last.index === undefined
          ? last
          : undefined;
    if (twin === undefined) {
      const own = { ...block };
      joined.push(own);
      if (key !== undefined) byIndex.set(key, own);
      continue;
    }
    for (const name in block) {
      const before = twin[name];
      const value = block[name];
      const goesOn = streamed.has(name) && typeof before === "string" && typeof value === "string";
      setOwn(twin, name, goesOn ? before + value : value);
    }
  }
  return joined as FlatMessage["content"];
}

function textOf(content: FlatMessage["content"]): string {
  if (typeof content === "string") return content;
  let text = "";
  for (const block of content) {
    if (typeof block === "string") text += block;
    else if (isRecord(block) && block.type === "text" && typeof block.text === "string") text += block.text;
  }
  return text;
}
