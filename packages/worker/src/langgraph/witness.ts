/**
 * What LangChain's callbacks tell that LangGraph's stream does not: when a model's message is whole, what a tool
 * answered before its node had finished, and which models speak for a tool or a router, so that what they say is no
 * message of the conversation.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import type { CallbackHandlerMethods } from "@langchain/core/callbacks/base";
import type { BaseMessage } from "@langchain/core/messages";

/** Set while a router runs. */
const routing = new AsyncLocalStorage<true>();

/** Runs a router: see wrapRouters. */
export function asRouter<T>(run: () => T): T {
  return routing.run(true, run);
}

/** For whom a message was said that is none of the conversation: a tool's call, or else a router. On the wire as it is. */
interface Aside {
  tool_call_id?: string;
}

interface Tool {
  callId: string | undefined;
  /** The namespace of the task that runs it. */
  task: unknown;
  /** The messages that models said inside of it. */
  said: string[];
  /** What it threw is its task's to deal with: that speaks next, or fails as well. */
  hasFailed?: true;
}

export class Witness {
  readonly #isLive: () => boolean;
  /** Of every run under way: the one that it is part of. */
  readonly #parents = new Map<string, string | undefined>();
  /** Those that have not answered. */
  readonly #tools = new Map<string, Tool>();
  /** Models that speak for a tool, or for a router (undefined), until their message is known by its id. */
  readonly #aside = new Map<string, { tool: Tool | undefined; known: boolean }>();
  readonly #whole = new Map<string, BaseMessage>();
  readonly #answers = new Map<string, BaseMessage>();
  /** By the ids of their messages. */
  readonly #helpers = new Map<string, Aside>();
  /** The runs of tools that a lost attempt had begun: they stand for their calls until this one begins. */
  #lost: string[] = [];

  /** @param isLive whether what comes now is still taken into the log */
  constructor(isLive: () => boolean) {
    this.#isLive = isLive;
  }

  /** The message with this id, as its model or its graph has finished it. */
  whole(id: string): BaseMessage | undefined {
    return this.#whole.get(id);
  }

  /** Whether a message was said for a tool or a router. */
  isAside(id: string): boolean {
    return this.#helpers.has(id);
  }

  /** Notes in a message's metadata for whom it was said: who takes the run over knows it from there. */
  mark(id: string | undefined, metadata: Record<string, unknown>): void {
    if (this.#helpers.size === 0 || metadata.aside !== undefined) return;
    const aside = this.#helpers.get(id ?? "");
    if (aside !== undefined) metadata.aside = aside;
  }

  /** A message with such metadata is in the log, from an earlier attempt. */
  recall(id: string, { aside, langgraph_checkpoint_ns: task }: Record<string, unknown>): void {
    if (typeof aside !== "object" || aside === null || this.#helpers.has(id)) return;
    this.#helpers.set(id, aside);
    const { tool_call_id: callId } = aside as Aside;
    const known = [...this.#tools.values()].find((tool) => tool.callId === callId && tool.task === task);
    if (known !== undefined) known.said.push(id);
    else if (callId !== undefined) {
      const run = `lost ${callId} ${task}`;
      this.#lost.push(run);
      this.#tools.set(run, { callId, task, said: [id] });
    }
  }

  /** An attempt begins: none of the tools runs that an earlier one had begun. */
  begin(): void {
    for (const run of this.#lost) this.#tools.delete(run);
    this.#lost = [];
  }

  /** What a tool answered to a call. */
  answer(callId: string): BaseMessage | undefined {
    return this.#answers.get(callId);
  }

  /** The ids of the messages that were said inside of the tool that was called so, and has not answered. */
  saidFor(callId: string): readonly string[] {
    return [...this.#tools.values()].find((tool) => tool.callId === callId)?.said ?? [];
  }

  /** Whether a task had called a tool that did not answer. */
  isInTool(task: readonly string[]): boolean {
    const ns = task.join("|");
    return [...this.#tools.values()].some((tool) => tool.task === ns);
  }

  /** A subgraph told of messages in their final form. */
  finished(messages: readonly BaseMessage[]): void {
    for (const message of messages) if (message.id !== undefined) this.#whole.set(message.id, message);
  }

  /** The root told of them: the log knows what need not be remembered here. */
  told(messages: readonly BaseMessage[]): void {
    for (const message of messages) {
      if (message.id !== undefined) this.#whole.delete(message.id);
      if (isToolMessage(message)) this.#answers.delete(message.tool_call_id);
    }
  }

  /** For the graph's callbacks. */
  get handler(): CallbackHandlerMethods & { name: string; awaitHandlers: boolean } {
    return {
      name: "ThroughlineWitness",
      awaitHandlers: true,
      handleChainStart: (...[, , runId, parent]) => {
        this.#parents.set(runId, parent);
      },
      handleChainEnd: (_, runId) => {
        this.#parents.delete(runId);
      },
      handleChainError: (_, runId) => {
        this.#parents.delete(runId);
      },
      handleToolStart: (...[, , runId, parent, , metadata, , callId]) => {
        this.#parents.set(runId, parent);
        this.#tools.set(runId, { callId, task: metadata?.langgraph_checkpoint_ns, said: [] });
      },
      // A tool that ends when the run has been stopped has answered nobody.
      handleToolEnd: (output: unknown, runId) => {
        if (!this.#isLive()) return;
        const callId = this.#tools.get(runId)?.callId;
        this.#tools.delete(runId);
        this.#parents.delete(runId);
        const answer = answerIn(output);
        if (callId !== undefined && answer !== undefined) this.#answers.set(callId, answer);
      },
      handleToolError: (_, runId) => {
        this.#parents.delete(runId);
        const tool = this.#tools.get(runId);
        if (tool !== undefined && this.#isLive()) tool.hasFailed = true;
      },
      handleChatModelStart: (...[, , runId, parent, , , metadata]) => {
        const tool = this.#toolAround(parent) ?? this.#toolIn(metadata?.langgraph_checkpoint_ns);
        if (tool === undefined) this.#leaveFailed(metadata?.langgraph_checkpoint_ns);
        if (tool !== undefined || routing.getStore() === true) this.#aside.set(runId, { tool, known: false });
      },
      handleLLMNewToken: (...[, , runId, , , fields]) => {
        if (this.#aside.size === 0) return;
        this.#saidAside(runId, (fields?.chunk as { message?: BaseMessage } | undefined)?.message);
      },
      handleLLMEnd: ({ generations }, runId) => {
        const { message } = (generations[0]?.[0] ?? {}) as { message?: BaseMessage };
        const isAside = this.#saidAside(runId, message);
        this.#aside.delete(runId);
        if (message === undefined || isAside || !this.#isLive()) return;
        this.#whole.set(message.id ?? idOf(runId), message);
      },
      handleLLMError: (_, runId) => {
        if (this.#isLive()) this.#aside.delete(runId);
      },
    };
  }

  #toolAround(runId: string | undefined): Tool | undefined {
    for (let at = runId; at !== undefined; at = this.#parents.get(at)) {
      const tool = this.#tools.get(at);
      if (tool !== undefined && !tool.hasFailed) return tool;
    }
    return undefined;
  }

  /** A tool whose author does not hand its config on is known by its task only: of several it may be any. */
  #toolIn(task: unknown): Tool | undefined {
    if (this.#tools.size === 0 || typeof task !== "string") return undefined;
    const open = [...this.#tools.values()].filter(
      (tool) => !tool.hasFailed && (task === tool.task || task.startsWith(`${tool.task}|`)),
    );
    return open.length > 1 ? { callId: undefined, task, said: [] } : open[0];
  }

  #leaveFailed(task: unknown): void {
    for (const [runId, tool] of this.#tools)
      if (tool.hasFailed && tool.task === task) this.#tools.delete(runId);
  }

  #saidAside(runId: string, message: BaseMessage | undefined): boolean {
    const model = this.#aside.get(runId);
    if (model === undefined) return false;
    if (model.known) return true;
    model.known = true;
    const id = message?.id ?? idOf(runId);
    const callId = model.tool?.callId;
    this.#helpers.set(id, callId === undefined ? {} : { tool_call_id: callId });
    model.tool?.said.push(id);
    return true;
  }
}

/** The id that LangChain gives a message whose model gives it none. */
function idOf(runId: string): string {
  return `run-${runId}`;
}

/**
 * What a tool says to its caller, where that is all that it does. A command that also goes somewhere, or changes other
 * keys, is its task's to carry out.
 */
function answerIn(output: unknown): BaseMessage | undefined {
  if (isToolMessage(output)) return output;
  const { lg_name, goto, graph, update } = (output ?? {}) as Record<string, unknown>;
  if (lg_name !== "Command" || graph !== undefined || [goto ?? []].flat().length > 0) return undefined;
  const { messages, ...others } = (update ?? {}) as { messages?: unknown };
  const [message, another] = [messages ?? []].flat();
  if (Object.keys(others).length > 0 || another !== undefined) return undefined;
  return isToolMessage(message) ? message : undefined;
}

function isToolMessage(value: unknown): value is BaseMessage & { tool_call_id: string } {
  return typeof value === "object" && value !== null && (value as { type?: unknown }).type === "tool";
}
