/**
 * A run as lines and words: what goes to stdout is the text of the AI's messages, token by token; what goes to stderr is
 * said about it. Pure: an event in, what to write out.
 *
 * What was written cannot be unwritten. Where a part of it is taken back, that is said, and the text begins anew.
 */

import { Fold, type Part, type RunEvent } from "@throughline/client";
import { isRecord } from "@throughline/protocol";

/** `text` goes to stdout as it is; `note` is a line for stderr; `aside` is one that matters less. */
export type Output = { readonly kind: "text" | "note" | "aside"; readonly text: string };

const asideLength = 100;

export class Transcript {
  #fold = new Fold();
  /** The text as it stands in the output, since it last began anew. */
  #text = "";
  /** The message that was written to last. */
  #messageId: string | undefined;
  readonly #seen = new Set<string>();

  add(event: RunEvent): Output[] {
    switch (event.kind) {
      case "skipped":
        return [];
      case "part":
        this.#fold.add(event.part, event.offset);
        return this.#part(event.part);
      case "rewound":
        this.#fold.add(event.part, event.offset);
        return this.#anew(`a worker was lost; another goes on from offset ${event.to}`);
      case "reset":
        this.#fold = new Fold();
        return this.#anew(`the run's log was replaced (${event.reason}); it begins again`);
      case "snapshot":
        this.#fold = Fold.from({ ...event });
        return this.#anew(`the log begins after offset ${event.offset}; this is what came before`);
    }
  }

  #part(part: Part): Output[] {
    switch (part.type) {
      case "messages": {
        const [chunk] = part.data;
        return isAi(chunk.type) ? this.#write(chunk.id, textOf(chunk.content)) : [];
      }
      case "updates":
        // What is asked comes once more, with the ending, where it can be answered.
        if (isRecord(part.data) && "__interrupt__" in part.data) return [];
        return [...this.#unstreamed(part.data), aside(`update ${summary(part.data)}`)];
      case "lifecycle":
        return lifecycleLine(part.data);
      default:
        return [aside(`${part.type} ${summary(part.data)}`)];
    }
  }

  #write(id: string | undefined, text: string): Output[] {
    if (text === "") return [];
    const begins = this.#text !== "" && id !== this.#messageId;
    const written = begins ? `\n${text}` : text;
    this.#messageId = id;
    if (id !== undefined) this.#seen.add(id);
    this.#text += written;
    return [{ kind: "text", text: written }];
  }

  /** Messages that an update brings whole, without having been streamed. */
  #unstreamed(update: unknown): Output[] {
    if (!isRecord(update)) return [];
    return Object.values(update).flatMap((delta) => {
      const messages: unknown[] = isRecord(delta) ? [delta.messages].flat() : [];
      return messages.flatMap((message) => {
        if (!isRecord(message) || !isAi(message.type)) return [];
        const id = typeof message.id === "string" ? message.id : undefined;
        return id !== undefined && this.#seen.has(id) ? [] : this.#write(id, textOf(message.content));
      });
    });
  }

  /** Goes on behind what is written, where that still holds; else writes all that holds once more. */
  #anew(why: string): Output[] {
    const ai = this.#fold.messages().filter(({ message }) => isAi(message.type));
    const text = ai.map(({ message }) => textOf(message.content)).join("\n");
    const before = this.#text;
    this.#text = text;
    this.#messageId = ai.at(-1)?.message.id;
    this.#seen.clear();
    for (const { message } of ai) if (message.id !== undefined) this.#seen.add(message.id);
    if (text.startsWith(before)) {
      const rest = text.slice(before.length);
      return [note(why), ...(rest === "" ? [] : [{ kind: "text", text: rest } as const])];
    }
    return [note(`${why}; the text so far, as it holds:`), { kind: "text", text: `\n${text}` }];
  }
}

export function lifecycleLine(data: Extract<Part, { type: "lifecycle" }>["data"]): Output[] {
  switch (data.event) {
    case "started":
      return [aside("started")];
    case "resumed":
      return [note(`another worker goes on (attempt ${data.attempt})`)];
    case "interrupted":
      if (data.interrupts.length === 0) return [note("waits where it was told to")];
      return data.interrupts.map(({ id, value }) => {
        // By its id each of several is answered by itself.
        const which = data.interrupts.length > 1 ? ` (${id})` : "";
        return note(`waits for an answer${which}: ${whole(value)}`);
      });
    case "failed":
      return [note(`failed: ${data.error.name}: ${data.error.message}`)];
    case "completed":
      return [aside(`completed${savedIn(data.checkpoint)}`)];
    default:
      return [];
  }
}

/** `; saved in checkpoint … of thread …`, or nothing. */
export function savedIn(checkpoint: { threadId: string; checkpointId: string } | null | undefined): string {
  return checkpoint
    ? `; saved in checkpoint ${checkpoint.checkpointId} of thread ${checkpoint.threadId}`
    : "";
}

function note(text: string): Output {
  return { kind: "note", text };
}

function aside(text: string): Output {
  return { kind: "aside", text };
}

/** One line of JSON, cut where it becomes long. */
function summary(data: unknown): string {
  const text = JSON.stringify(data) ?? "";
  return text.length > asideLength ? `${text.slice(0, asideLength)}…` : text;
}

/** What somebody is to answer has to be seen whole: on a line of its own for each field where it is long. */
function whole(value: unknown): string {
  const text = JSON.stringify(value) ?? "";
  return text.length > asideLength ? JSON.stringify(value, null, 2) : text;
}

function isAi(type: unknown): boolean {
  return type === "ai" || type === "AIMessageChunk";
}

/** The text of a message's content: a string, or blocks of which some are text. */
export function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content
    .map((block) => (isRecord(block) && typeof block.text === "string" ? block.text : ""))
    .join("");
}

/** A run for programs: a line of JSON for each part, with its offset; what is no part has no offset of its own. */
export function jsonLine(event: RunEvent): string {
  if (event.kind === "part" || event.kind === "rewound") {
    return JSON.stringify({ offset: event.offset, ...event.part });
  }
  const { kind, ...data } = event;
  return JSON.stringify({ [kind]: data });
}
