/** What a conformance test is, and what it may ask of the gateway that it is pointed at. */
import assert from "node:assert/strict";
import type { FlatMessage, Part, Result } from "@throughline/protocol";
import { Socket, type SocketOptions } from "./client.ts";

/** The gateway that a suite is pointed at. */
export interface GatewayTarget extends Partial<Hooks> {
  /** `ws://host:8787/v1/ws` */
  url: string;
  /** An agent like our `storyteller`: input {text, tokensPerSecond}, streams the text. Default: storyteller. */
  agent?: string;
}

/** What a URL alone does not give. A test that needs one that is not there is skipped. */
export interface Hooks {
  /** A token, where the gateway asks for one. */
  token: string;
  /** Another token of the same principal. */
  freshToken: string;
  /** A token of somebody else's. */
  otherToken: string;
  /** An `Origin` that the gateway refuses. */
  forbiddenOrigin: string;
  /** A token that runs out within seconds, on a gateway that notices within seconds. */
  expiring: () => Promise<{ url: string; token: string }>;
  /** A gateway with limits that a test can reach: a short heartbeat, few subscriptions, few commands and bytes a second, few runs in a thread's line. */
  tight: () => Promise<{ url: string; maxSubscriptions: number; slowSocketMs: number; maxInLine: number }>;
  /** A gateway that bounds what an owner has, and a token of an owner that has nothing yet: another with each call. */
  bounded: () => Promise<{ url: string; token: string; maxRuns: number; maxBytes: number }>;
  /** A gateway that takes few connections a second. */
  crowded: () => Promise<{ url: string; connectionsPerSecond: number }>;
  /** A gateway that can be told to go. */
  draining: () => Promise<{ url: string; drain: () => Promise<void> }>;
  /** A gateway, and a way to take its Redis away. */
  cutOff: () => Promise<{ url: string; cut: () => Promise<void> }>;
  /** A run whose log has lost its beginning: `first` is higher than 1. `text`: of its one message, all of it. */
  trimmedRun: () => Promise<{ runId: string; first: number; head: number; text: string }>;
  /** As `trimmedRun`, with more than 1 MiB of text in what its log has lost. */
  largeTrimmedRun: () => Promise<{ runId: string; first: number; head: number; text: string }>;
  /** A run that waits for a person. */
  interruptedRun: () => Promise<{ runId: string; interrupts: { id: string; value: unknown }[] }>;
  /** A run that no cancel ends. */
  hungRun: () => Promise<{ runId: string }>;
  /** A run that appends when it is told to, with a batch among others that no gateway is told of; it ends with the last. */
  lossyRun: () => Promise<{ runId: string; append: () => Promise<void> }>;
  /**
   * The name of an agent whose graph is `before` → `inside` → `after`, `inside` being a graph of `one` → `two`. Each
   * node adds its name to the list `trail`, or what its input has as `called`. Where the input has `ask`, `two` asks
   * that first. Where it has `aside`, `after` runs a tool, called with the id `aside`, in which a model says that, and
   * does not end before its run is cancelled.
   */
  graph: string;
  /** A run of an agent that has ended a step, lost its worker behind it, and ended. */
  steppedRun: () => Promise<{ runId: string }>;
  /** A run that has ended, with parts of several modes, namespaces, nodes and tags. */
  variedRun: () => Promise<{ runId: string; parts: Part[] }>;
}

export interface ConformanceTest {
  /** Its id in PROTOCOL.md. */
  rule: string;
  name: string;
  needs: readonly (keyof Hooks)[];
  run(target: GatewayTarget): Promise<void>;
}

/** A test of one rule. `needs`: the hooks without which it is skipped. */
export function test<K extends keyof Hooks = never>(
  rule: string,
  name: string,
  needs: readonly K[],
  run: (t: Context<GatewayTarget & Required<Pick<Hooks, K>>>) => Promise<void>,
): ConformanceTest {
  return {
    rule,
    name,
    needs,
    async run(target) {
      const t = new Context(target as GatewayTarget & Required<Pick<Hooks, K>>);
      try {
        await run(t);
      } finally {
        await t.close();
      }
    },
  };
}

/** A text that is worth streaming: not all of it is ASCII. */
export const text = "Every token 🧵 of a thread, été or 漢字, once and in order.";
/** Runs for ten seconds where nobody stops it. */
export const longInput = { text: `${text} `.repeat(50), tokensPerSecond: 50 };

type Start = Result<"run.start">;

/** What one test uses; all of it goes when the test is done. */
export class Context<T extends GatewayTarget = GatewayTarget> {
  readonly target: T;
  readonly #sockets: Socket[] = [];
  readonly #running: { socket: Socket; runId: string }[] = [];

  constructor(target: T) {
    this.target = target;
  }

  /** A socket that has not been greeted yet. */
  dial(url: string, options: SocketOptions = {}): Socket {
    const socket = new Socket(url, options);
    this.#sockets.push(socket);
    return socket;
  }

  /** A socket that has been greeted, of this target or of one that a hook gave; of the target's principal or another. */
  async connect(where: { url?: string; token?: string; options?: SocketOptions } = {}): Promise<Socket> {
    const token = where.token ?? this.target.token;
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const socket = this.dial(where.url ?? this.target.url, {
      ...where.options,
      headers: { ...headers, ...where.options?.headers },
    });
    await socket.event("server.hello");
    return socket;
  }

  get agent(): string {
    return this.target.agent ?? "storyteller";
  }

  /** Starts a run of the agent. */
  async start(
    socket: Socket,
    input: unknown = { text, tokensPerSecond: 0 },
    params: Record<string, unknown> = {},
  ): Promise<Start> {
    return await socket.call("run.start", { agent: this.agent, input, ...params });
  }

  /** Starts a run that streams for long, and waits until it does. */
  async startLong(socket: Socket, params: Record<string, unknown> = {}): Promise<Start> {
    const started = await this.start(socket, longInput, params);
    this.#running.push({ socket, runId: started.runId });
    if (params.subscribe !== false) await socket.until("tokens", () => tokens(socket, started.runId) > 2);
    return started;
  }

  /** Runs the agent to its end. Answers the run, and all that came. */
  async run(
    socket: Socket,
    params: Record<string, unknown> = {},
  ): Promise<Start & { parts: Part[]; seen: number }> {
    const started = await this.start(socket, { text, tokensPerSecond: 0 }, params);
    const seen = await socket.ended(started.runId);
    return { ...started, parts: seen.map(({ part }) => part!), seen: seen.length };
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#running
        .filter(({ socket }) => socket.closed === undefined)
        .map(({ socket, runId }) => socket.call("run.cancel", { runId, keep: "discard" }).catch(() => {})),
    );
    for (const socket of this.#sockets) socket.close();
  }
}

/** How many tokens of a run a socket has got. */
function tokens(socket: Socket, runId: string): number {
  return socket.parts(runId).filter(({ part }) => part?.type === "messages").length;
}

/** The state at a thread's head, without the thread's record: that changes also where the state does not. */
export async function headState(socket: Socket, threadId: string) {
  const { thread: _, ...state } = await socket.call("thread.get", { threadId });
  return state;
}

/** The text that `messages` parts streamed. */
export function streamedText(parts: readonly (Part | null)[]): string {
  let streamed = "";
  for (const part of parts) {
    if (part?.type === "messages" && typeof part.data[0].content === "string")
      streamed += part.data[0].content;
  }
  return streamed;
}

/** The texts of a state's messages that an agent wrote. */
export function answers(values: Record<string, unknown>): string[] {
  const messages = (values.messages ?? []) as FlatMessage[];
  return messages.filter(({ type }) => type === "ai").map(({ content }) => content as string);
}

/** The lifecycle part that must be there, and must be the last. */
export function ending(parts: readonly (Part | null)[], event: string): Record<string, unknown> {
  const last = parts.at(-1);
  assert.ok(last?.type === "lifecycle", `the last part is ${JSON.stringify(last)}, not an ending`);
  assert.equal(last.data.event, event);
  const before = parts.slice(0, -1).map((part) => (part?.type === "lifecycle" ? part.data.event : undefined));
  for (const early of ["completed", "interrupted", "cancelled", "failed"]) {
    assert.ok(!before.includes(early as never), `the run ended twice: ${early}, then ${event}`);
  }
  return last.data as Record<string, unknown>;
}
