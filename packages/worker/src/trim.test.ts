/** P1 with logs that are trimmed: what a late reader gets is the run, whatever was taken back after the cut. */
import { setTimeout as sleep } from "node:timers/promises";
import { MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { Fold } from "@throughline/protocol";
import { describe, expect, test } from "vitest";
import { Gate } from "../../../test/support/agents.ts";
import { type Script, ScriptedModel } from "../../../test/support/graphs.ts";
import { patienceMs, until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import type { AgentContext, AgentFunction, Graph } from "./agent.ts";

const tokenMs = 1;
/** A worker's tick, in which it trims: so short that many of them are soon over. */
const tickMs = 20;

/** At least so many, and until the gate is open. */
async function* tokens(name: string, count: number, signal: AbortSignal | undefined, gate?: Gate) {
  for (let i = 0; (i < count || gate?.isOpen === false) && !signal?.aborted; i++) {
    yield `${name}${i} ${"x".repeat(500)} `;
    await sleep(tokenMs);
  }
}

function textOf(name: string, count: number): string {
  return Array.from({ length: count }, (_, i) => `${name}${i} ${"x".repeat(500)} `).join("");
}

function llm(script: Script) {
  return async ({ messages }: typeof MessagesAnnotation.State) => ({
    messages: [await new ScriptedModel(script).invoke(messages)],
  });
}

/** Talks without end when it is asked for the first time, and a little when it is asked again. */
function talksOn(): Script {
  let asked = 0;
  return (_, signal) =>
    asked++ === 0 ? tokens("lost", Number.POSITIVE_INFINITY, signal) : tokens("two", 3, signal);
}

interface Shop {
  shop: Workshop;
  runId: string;
}

async function started(agent: Graph | AgentFunction<never>): Promise<Shop> {
  const shop = new Workshop();
  await shop.serve({ agent }, { maxLog: 20_000 }, { tickMs, lockMs: 60_000 });
  return { shop, runId: await shop.start("agent", { input: "hi", modes: ["messages"] }) };
}

/** Waits until the log was trimmed, and might have been again. */
async function trimmed(run: Shop): Promise<void> {
  await until(async () => (await run.shop.record(run.runId)).first > 1, patienceMs, "the log's first cut");
  await mayBeTrimmed(run);
}

/** Waits until the log is as much longer as makes a cut due, twice, and for more ticks than that takes. */
async function mayBeTrimmed({ shop, runId }: Shop): Promise<void> {
  const { head } = await shop.record(runId);
  const began = performance.now();
  const due = async () =>
    (await shop.record(runId)).head > head + 80 && performance.now() - began > 10 * tickMs;
  await until(due, patienceMs, "more rounds");
}

/** The worker of this run dies, and another takes it over. */
async function takenOver({ shop, runId }: Shop, agent: Graph | AgentFunction<never>): Promise<void> {
  const writer = await shop.claimAndDie(runId);
  const { threadId } = await shop.record(runId);
  await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.fence);
  await shop.workers[0]!.close();
  await shop.serve({ agent });
}

/** What somebody has who comes when the run has ended. */
async function late({ shop, runId }: Shop): Promise<{ first: number; texts: unknown[] }> {
  await until(async () => (await shop.record(runId)).status === "completed", patienceMs, "the end");
  const snapshot = await shop.reader.snapshot(runId);
  const fold = new Fold();
  if (snapshot !== null) fold.restore(snapshot);
  for await (const { offset, part } of shop.reader.parts(runId, fold.offset)) fold.add(part, offset);
  const texts = fold.messages().map(({ message }) => message.content);
  return { first: (await shop.record(runId)).first, texts };
}

describe.concurrent("a log that is trimmed", () => {
  test("in a graph's second step, and taken over: the first step's text is not lost", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode(
        "one",
        llm((_, signal) => tokens("one", 150, signal)),
      )
      .addNode("two", llm(talksOn()))
      .addEdge(START, "one")
      .addEdge("one", "two")
      .compile();
    const run = await started(graph);
    try {
      await trimmed(run);
      await takenOver(run, graph);
      const { first, texts } = await late(run);
      expect(first).toBeGreaterThan(1);
      expect(texts).toEqual([textOf("one", 150), textOf("two", 3)]);
    } finally {
      await run.shop.stop();
    }
  });

  test("after a node failed and began its answer anew: what it had said first is gone, what others said is not", async () => {
    const gate = new Gate();
    let isLast = false;
    let tries = 0;
    const flaky: Script = async function* (_, signal) {
      if (tries++ > 0) yield* tokens("again", 3, signal);
      else {
        yield* tokens("failed", 150, signal);
        throw new Error("try me again");
      }
    };
    const graph = new StateGraph(MessagesAnnotation)
      .addNode(
        "one",
        llm((_, signal) => tokens("one", 3, signal)),
      )
      .addNode("flaky", llm(flaky), {
        retryPolicy: { maxAttempts: 2, initialInterval: 1, logWarning: false },
      })
      .addNode(
        "last",
        llm((_, signal) => {
          isLast = true;
          return tokens("last", 1, signal, gate);
        }),
      )
      .addEdge(START, "one")
      .addEdge("one", "flaky")
      .addEdge("flaky", "last")
      .compile();
    const run = await started(graph);
    try {
      await until(() => isLast);
      await mayBeTrimmed(run);
      gate.open();
      const { texts } = await late(run);
      const count = String(texts[2]).split("last").length - 1;
      expect(texts).toEqual([textOf("one", 3), textOf("again", 3), textOf("last", count)]);
    } finally {
      await run.shop.stop();
    }
  });

  test("of a function agent that begins anew: its new text is all that there is", async () => {
    const script = talksOn();
    const agent = ({ signal }: AgentContext) => script([], signal) as AsyncGenerator<string>;
    const run = await started(agent as AgentFunction<never>);
    try {
      await trimmed(run);
      await takenOver(run, agent as AgentFunction<never>);
      const { first, texts } = await late(run);
      expect(first).toBeGreaterThan(1);
      expect(texts).toEqual([textOf("two", 3)]);
    } finally {
      await run.shop.stop();
    }
  });
});
