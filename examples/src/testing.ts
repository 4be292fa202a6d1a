/** For the tests: an agent driven directly, without a worker. */
import type { AgentContext, FunctionAgent, Yielded } from "@throughline/worker";
import type { Message } from "./input.ts";

/** The context of a run on a new thread, but for what is given. */
export function contextOf(given: Partial<AgentContext> = {}): AgentContext {
  return {
    input: null,
    messages: [],
    threadId: "thread",
    runId: "run",
    attempt: 1,
    signal: new AbortController().signal,
    checkpoint: null,
    command: null,
    partial: null,
    step: null,
    metadata: {},
    config: {},
    store: null,
    ...given,
  };
}

export function run(
  agent: FunctionAgent,
  given: Partial<AgentContext> = {},
): AsyncIterator<Yielded> & AsyncIterable<Yielded> {
  const parts = (agent.run as (context: AgentContext) => AsyncIterable<Yielded>)(contextOf(given));
  return parts as AsyncIterator<Yielded> & AsyncIterable<Yielded>;
}

/** All that an agent yielded, and what that is. */
export class Recorded {
  readonly parts: Yielded[] = [];

  static async of(parts: AsyncIterable<Yielded>): Promise<Recorded> {
    const recorded = new Recorded();
    for await (const part of parts) recorded.parts.push(part);
    return recorded;
  }

  get tokens(): string[] {
    return this.parts.flatMap((part) => {
      if (typeof part === "string") return [part];
      return part.type === "messages" ? [part.data[0].content as string] : [];
    });
  }

  get text(): string {
    return this.tokens.join("");
  }

  get chunks(): Message[] {
    return this.parts.flatMap((part) =>
      typeof part === "object" && part.type === "messages" ? [part.data[0]] : [],
    );
  }

  get custom(): unknown[] {
    return this.parts.flatMap((part) =>
      typeof part === "object" && part.type === "custom" ? [part.data] : [],
    );
  }

  /** The state's keys as the run's updates left them. */
  get state(): Record<string, unknown> {
    let state: Record<string, unknown> = {};
    for (const part of this.parts) {
      if (typeof part !== "object" || part.type !== "updates") continue;
      for (const delta of Object.values(part.data as Record<string, Record<string, unknown>>)) {
        state = { ...state, ...delta };
      }
    }
    return state;
  }

  /** The run's answer, as a thread keeps it when the run was cancelled. */
  cancelled(id: string): Message {
    let fields: Record<string, unknown> = {};
    for (const chunk of this.chunks) fields = { ...chunk, ...fields };
    return { ...fields, type: "ai", id, content: this.text, additional_kwargs: { cancelled: true } };
  }
}

/** What is yielded until `tokens` tokens have come; then the reader stops, as a worker does on a cancel. */
export async function take(parts: AsyncIterable<Yielded>, tokens: number): Promise<Recorded> {
  const recorded = new Recorded();
  for await (const part of parts) {
    recorded.parts.push(part);
    if (recorded.tokens.length >= tokens) break;
  }
  return recorded;
}
