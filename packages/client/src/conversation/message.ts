/**
 * A message as something to draw. One frozen object per message as long as nothing of it changes, so that a list of 500
 * renders the one that is being streamed.
 */
import { type FlatMessage, isRecord, type UnfinishedCall } from "@throughline/protocol";

export type MessageStatus =
  /** On its way to the agent: not yet taken by the gateway, or in a run that waits for its turn. */
  | "sending"
  | "streaming"
  | "done"
  /** Cut off by a stop. */
  | "cancelled"
  /** Of a run that failed. */
  | "failed";

/**
 * `streaming`: its arguments are still coming, as text; `running`: the agent works on it; `open`: nobody does, and it has no
 * answer; `done` and `failed`: answered.
 */
export type ToolCallStatus = "streaming" | "running" | "open" | "done" | "failed";

export interface ToolCall {
  readonly id: string | undefined;
  readonly name: string;
  /** Undefined while they are streamed. */
  readonly args: Readonly<Record<string, unknown>> | undefined;
  /** Their JSON, which may be cut off anywhere while they are streamed. */
  readonly argsText: string;
  readonly status: ToolCallStatus;
  /** What the tool answered. */
  readonly result: FlatMessage["content"] | undefined;
  /** The message that it answered with: `artifact`, … */
  readonly message: FlatMessage | undefined;
}

/** Which of its alternatives a message is. */
export interface Branches {
  readonly index: number;
  readonly count: number;
}

export interface Message<Custom = unknown> {
  readonly id: string;
  /** `human`, `ai`, `tool`, `system`, … */
  readonly type: string;
  readonly status: MessageStatus;
  readonly text: string;
  readonly reasoning: string;
  /** Text, or the blocks of its content, as the agent has them. */
  readonly content: FlatMessage["content"];
  readonly toolCalls: readonly ToolCall[];
  /** The tokens that it took, as the model's provider counts them. */
  readonly usage: Readonly<Record<string, unknown>> | undefined;
  /** The node that streamed it; known of turns that were followed. */
  readonly node: string | undefined;
  readonly ns: readonly string[];
  /** The run that it came from; known of turns that were followed. */
  readonly runId: string | undefined;
  /** Custom data of its turn, with the first answer of the turn. */
  readonly custom: readonly Custom[];
  /** Undefined where it has no alternatives. */
  readonly branches: Branches | undefined;
  /** As the thread's state has it. */
  readonly message: FlatMessage;
}

/** What a message is made of. */
export interface Source {
  message: FlatMessage;
  status: MessageStatus;
  calls: readonly UnfinishedCall[];
  /** Its run has not ended. */
  isActive: boolean;
  node: string | undefined;
  ns: readonly string[];
  runId: string | undefined;
  custom: readonly unknown[];
  alternatives: readonly string[] | undefined;
}

interface Made {
  source: Source;
  results: readonly (FlatMessage | undefined)[];
  view: Message;
}

const nothing: readonly never[] = [];

export class Messages {
  readonly #made = new Map<string, Made>();

  /** Forgets all but these. */
  keep(ids: { has(id: string): boolean; readonly size: number }): void {
    if (this.#made.size <= ids.size) return;
    for (const id of this.#made.keys()) if (!ids.has(id)) this.#made.delete(id);
  }

  /** The view of a message: the one of before, where nothing has changed. `results`: tools' answers, by the call's id. */
  view(id: string, source: Source, results: ReadonlyMap<string, FlatMessage>): Message {
    const made = this.#made.get(id);
    const answers = callsOf(source.message).map((call) => results.get(String(call.id)));
    if (made !== undefined && isSame(made, source, answers)) {
      made.source = source;
      made.results = answers;
      return made.view;
    }
    const view = Object.freeze(makeView(id, source, answers));
    this.#made.set(id, { source, results: answers, view });
    return view;
  }
}

function isSame({ source: old, results }: Made, now: Source, answers: Made["results"]): boolean {
  for (const key in now) {
    const [before, after] = [old[key as keyof Source], now[key as keyof Source]];
    if (before !== after && (typeof after !== "object" || !isEqual(before, after))) return false;
  }
  return answers.length === results.length && answers.every((each, i) => isEqual(each, results[i]));
}

/** Of JSON. A message that comes anew, from another source, is most often equal to what was there. */
export function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && isEqual(a[key as never], b[key as never]));
}

function makeView(id: string, source: Source, answers: Made["results"]): Message {
  const { message, status, calls, isActive, alternatives } = source;
  const { content } = message;
  const whole = callsOf(message).map((call, i): ToolCall => {
    const answer = answers[i];
    const failed = answer?.status === "error";
    const args = isRecord(call.args) ? call.args : {};
    return {
      id: textOf(call.id) || undefined,
      name: textOf(call.name),
      args,
      argsText: JSON.stringify(args),
      status: answer === undefined ? (isActive ? "running" : "open") : failed ? "failed" : "done",
      result: answer?.content,
      message: answer,
    };
  });
  const unfinished = calls.map(
    ({ id, name = "", args }): ToolCall => ({
      id,
      name,
      args: undefined,
      argsText: args,
      status: isActive ? "streaming" : "open",
      result: undefined,
      message: undefined,
    }),
  );
  const { usage_metadata: usage, additional_kwargs: more } = message;
  const said = typeof content === "string" ? content : blocksText(content, ["text"], ["text"]);
  const thought =
    (typeof content === "string"
      ? ""
      : blocksText(content, ["thinking", "reasoning"], ["thinking", "reasoning"])) ||
    (isRecord(more) ? textOf(more.reasoning_content) : "");
  return {
    id,
    type: message.type,
    status,
    text: said,
    reasoning: thought,
    content,
    toolCalls: calls.length + whole.length === 0 ? nothing : [...whole, ...unfinished],
    usage: isRecord(usage) ? usage : undefined,
    node: source.node,
    ns: source.ns,
    runId: source.runId,
    custom: source.custom,
    branches:
      alternatives === undefined
        ? undefined
        : { index: alternatives.indexOf(id), count: alternatives.length },
    message,
  };
}

function callsOf(message: FlatMessage): readonly Record<string, unknown>[] {
  const { tool_calls: calls } = message;
  return Array.isArray(calls) ? calls.filter(isRecord) : nothing;
}

function blocksText(blocks: readonly unknown[], types: readonly string[], fields: readonly string[]): string {
  let text = "";
  for (const block of blocks) {
    if (typeof block === "string" && types[0] === "text") text += block;
    if (!isRecord(block) || !types.includes(textOf(block.type))) continue;
    for (const field of fields) text += textOf(block[field]);
  }
  return text;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}
