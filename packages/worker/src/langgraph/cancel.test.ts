/** P3 with graphs: what was streamed when Stop was pressed is in the thread, and the thread goes on from it. */
import { setTimeout as sleep } from "node:timers/promises";
import {
  Annotation,
  Command,
  END,
  interrupt,
  MessagesAnnotation,
  START,
  StateGraph,
} from "@langchain/langgraph";
import { type FlatMessage, readState } from "@throughline/checkpoint";
import type { Keep } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { type Script, ScriptedModel, saying, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
/** What the nodes of a test's graph saw. */
let calls: string[];

beforeEach(() => {
  shop = new Workshop();
  calls = [];
});
afterEach(() => shop.stop());

type Messages = typeof MessagesAnnotation.State;

/** A node that asks a model with this script, and answers what it said. */
function llm(name: string, script: Script) {
  return async ({ messages }: Messages) => {
    calls.push(`${name}(${messages.map(({ content }) => content).join("|")})`);
    return { messages: [await new ScriptedModel(script).invoke(messages)] };
  };
}

/** A story that gets stuck the first time, and goes on the next. */
function stuckOnce(...tokens: string[]): Script {
  let asked = 0;
  return async function* (messages, signal) {
    if (asked++ === 0) yield* stuckAfter(...tokens)(messages, signal);
    else yield "and so on";
  };
}

const story = (script: Script) =>
  new StateGraph(MessagesAnnotation)
    .addNode("llm", llm("llm", script))
    .addNode("after", async ({ messages }) => {
      calls.push(`after(${messages.length})`);
      return {};
    })
    .addEdge(START, "llm")
    .addEdge("llm", "after")
    .addEdge("after", END)
    .compile();

/** Cancels a run once its log has come that far, and waits for its end. */
async function cancelAt(runId: string, head: number, keep: Keep = "thread") {
  await shop.reached(runId, head);
  await shop.dispatcher.cancel(runId, { keep });
  return await shop.ended(runId);
}

async function state(threadId: string, checkpointId?: string) {
  return (await readState(shop.saver, { threadId, checkpointId }))!;
}

const messagesOf = async (threadId: string, checkpointId?: string) =>
  (await state(threadId, checkpointId)).values.messages as FlatMessage[];

describe("keep: thread", () => {
  test("the partial is in the thread: its text, its id, its mark; and a new turn has it in its history", async () => {
    await shop.serve({ story: story(stuckOnce("Once ", "upon ")) });
    const threadId = shop.newThread();
    const runId = await shop.start("story", { input: "A story" }, { threadId });
    const { record, text, parts, lifecycle } = await cancelAt(runId, 3);
    expect(text).toBe("Once upon ");
    expect(lifecycle.at(-1)).toMatchObject({ event: "cancelled", keep: "thread", checkpoint: { threadId } });
    const [human, partial] = await messagesOf(threadId);
    expect(human).toMatchObject({ type: "human", content: "A story" });
    const streamed = parts.find(({ type }) => type === "messages")!.data as [FlatMessage];
    expect(partial).toEqual({
      type: "ai",
      id: streamed[0].id,
      content: "Once upon ",
      additional_kwargs: { cancelled: true },
    });
    const { metadata, checkpointId } = await state(threadId);
    expect(checkpointId).toBe(record.checkpoint?.checkpointId);
    expect(metadata).toMatchObject({ run_id: runId, partial: "cancelled" });
    expect(calls).toEqual(["llm(A story)"]);

    const next = await shop.start("story", { input: "please continue the story" }, { threadId });
    expect((await shop.ended(next)).text).toBe("and so on");
    expect(calls.slice(1)).toEqual(["llm(A story|Once upon |please continue the story)", "after(4)"]);
  });

  test("without input the thread goes on after the node: no second answer", async () => {
    await shop.serve({ story: story(stuckOnce("Once ")) });
    const threadId = shop.newThread();
    const runId = await shop.start("story", { input: "A story" }, { threadId });
    await cancelAt(runId, 2);
    const { record } = await shop.ended(await shop.start("story", {}, { threadId }));
    expect(record.status).toBe("completed");
    expect(calls).toEqual(["llm(A story)", "after(2)"]);
    expect(await shop.messages(threadId)).toEqual(["human:A story", "ai:Once "]);
  });

  test("the id of the partial is the one that the whole message would have had", async () => {
    await shop.serve({
      story: story(async function* () {
        yield "all";
      }),
    });
    const threadId = shop.newThread();
    const { parts } = await shop.ended(await shop.start("story", { input: "x" }, { threadId }));
    const streamed = parts.find(({ type }) => type === "messages")!.data as [FlatMessage];
    expect((await messagesOf(threadId)).at(-1)?.id).toBe(streamed[0].id);
  });

  test.each(["sync", "exit"] as const)(
    "durability %s: finished steps and the partial are in the thread",
    async (durability) => {
      const graph = new StateGraph(MessagesAnnotation)
        .addNode(
          "one",
          llm("one", async function* () {
            yield "whole";
          }),
        )
        .addNode("two", llm("two", stuckAfter("par", "tial")))
        .addEdge(START, "one")
        .addEdge("one", "two")
        .compile();
      await shop.serve({ graph });
      const threadId = shop.newThread();
      const config = { durability };
      await cancelAt(await shop.start("graph", { input: "x", config }, { threadId }), 5);
      expect(await shop.messages(threadId)).toEqual(["human:x", "ai:whole", "ai:partial"]);
    },
  );

  test("a state without messages has no place for it: the thread stands before the node", async () => {
    const graph = new StateGraph(Annotation.Root({ joke: Annotation<string>, n: Annotation<number> }))
      .addNode("count", () => ({ n: 1 }))
      .addNode("tell", async () => ({
        joke: String((await new ScriptedModel(stuckAfter("ha ")).invoke("x")).content),
      }))
      .addEdge(START, "count")
      .addEdge("count", "tell")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { record, text } = await cancelAt(await shop.start("graph", { input: { n: 0 } }, { threadId }), 3);
    expect(text).toBe("ha ");
    const { checkpointId, values, next } = await state(threadId);
    expect({ values, next }).toEqual({ values: { n: 1 }, next: ["tell"] });
    expect(record.checkpoint?.checkpointId).toBe(checkpointId);
  });

  test("an unfinished tool call is not saved as one, and routes nowhere", async () => {
    const script: Script = stuckAfter(
      "Let me look. ",
      { toolCall: { type: "tool_call_chunk", index: 0, id: "call", name: "search", args: '{"q":"we' } },
      { toolCall: { type: "tool_call_chunk", index: 0, args: "ather" } },
    );
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("llm", llm("llm", script))
      .addNode("tools", async () => {
        calls.push("tools");
        return {};
      })
      .addEdge(START, "llm")
      .addConditionalEdges("llm", ({ messages }) =>
        ((messages.at(-1) as { tool_calls?: unknown[] }).tool_calls ?? []).length > 0 ? "tools" : END,
      )
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "weather?" }, { threadId }), 4);
    const partial = (await messagesOf(threadId)).at(-1);
    expect(partial).toMatchObject({ type: "ai", content: "Let me look. " });
    expect(partial).not.toHaveProperty("tool_calls");
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls).toEqual(["llm(weather?)"]);
  });

  test("a node that says where to go by a Command: the thread goes on there", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode(
        "llm",
        async (state: Messages) =>
          new Command({ update: await llm("llm", stuckAfter("par", "tial"))(state), goto: "after" }),
        { ends: ["after"] },
      )
      .addNode("after", async ({ messages }) => {
        calls.push(`after(${messages.at(-1)?.content})`);
        return {};
      })
      .addEdge(START, "llm")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), 3);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls).toEqual(["llm(x)", "after(partial)"]);
  });

  test("parallel nodes that were streaming each keep theirs; what a finished one wrote stays, and they join", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("a", llm("a", stuckAfter("from a")))
      .addNode("b", llm("b", stuckAfter("from b")))
      .addNode(
        "c",
        llm("c", async function* () {
          yield "c, whole";
        }),
      )
      .addNode("join", async ({ messages }) => {
        calls.push(`join(${messages.length})`);
        return {};
      })
      .addEdge(START, "a")
      .addEdge(START, "b")
      .addEdge(START, "c")
      .addEdge(["a", "b", "c"], "join")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start("graph", { input: "x" }, { threadId });
    // started, three messages, and the update of c
    await cancelAt(runId, 5);
    const messages = await messagesOf(threadId);
    const marks = messages.map(({ content, additional_kwargs: marks }) => [
      content,
      (marks as { cancelled?: true })?.cancelled,
    ]);
    expect(marks.slice(1).sort()).toEqual([
      ["c, whole", undefined],
      ["from a", true],
      ["from b", true],
    ]);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls.slice().sort()).toEqual(["a(x)", "b(x)", "c(x)", "join(4)"]);
  });

  test("nothing was streamed by who was stopped, but another node had finished: that is not lost to a new turn", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("slow", async (_: Messages, { signal }) => {
        await sleep(60_000, undefined, { signal: signal! });
        return {};
      })
      .addNode(
        "quick",
        llm("quick", async function* () {
          yield "done";
        }),
      )
      .addEdge(START, "slow")
      .addEdge(START, "quick")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), 3);
    expect(await shop.messages(threadId)).toEqual(["human:x", "ai:done"]);
  });

  test("a subgraph's partial is in the subgraph: it goes on behind its node", async () => {
    const inner = new StateGraph(MessagesAnnotation)
      .addNode("think", async ({ messages }) => {
        calls.push(`think(${messages.length})`);
        return {};
      })
      .addNode("write", llm("write", stuckAfter("inner ", "partial")))
      .addNode("check", async ({ messages }) => {
        calls.push(`check(${messages.at(-1)?.content})`);
        return {};
      })
      .addEdge(START, "think")
      .addEdge("think", "write")
      .addEdge("write", "check")
      .compile();
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("team", inner)
      .addNode("after", async ({ messages }) => {
        calls.push(`after(${messages.length})`);
        return {};
      })
      .addEdge(START, "team")
      .addEdge("team", "after")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start(
      "graph",
      { input: "x", subgraphs: true, modes: ["messages"] },
      { threadId },
    );
    await cancelAt(runId, 3);
    await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(calls).toEqual(["think(1)", "write(x)", "check(inner partial)", "after(2)"]);
    expect(await shop.messages(threadId)).toEqual(["human:x", "ai:inner partial"]);
  });

  test("the same, and a new turn comes instead: it has the partial in its history", async () => {
    let asked = 0;
    const inner = new StateGraph(MessagesAnnotation)
      .addNode(
        "write",
        llm("write", async function* (messages, signal) {
          if (asked++ === 0) yield* stuckAfter("inner ", "partial")(messages, signal);
          else yield "more";
        }),
      )
      .addEdge(START, "write")
      .compile();
    const graph = new StateGraph(MessagesAnnotation).addNode("team", inner).addEdge(START, "team").compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const runId = await shop.start(
      "graph",
      { input: "x", subgraphs: true, modes: ["messages"] },
      { threadId },
    );
    await cancelAt(runId, 3);
    await shop.ended(await shop.start("graph", { input: "go on" }, { threadId }));
    expect(calls).toEqual(["write(x)", "write(x|inner partial|go on)"]);
    expect(await shop.messages(threadId)).toEqual(["human:x", "ai:inner partial", "human:go on", "ai:more"]);
  });
});

describe("a run without input, stopped in the step that the thread stood in", () => {
  /** Asks, and is stuck in what it makes of the answer. */
  const asking = () =>
    new StateGraph(MessagesAnnotation)
      .addNode("ask", async (state: Messages) => {
        const answer = interrupt("sure?");
        return await llm(`ask:${answer}`, stuckAfter("So ", "be it"))(state);
      })
      .addNode("after", async ({ messages }) => {
        calls.push(`after(${messages.length})`);
        return {};
      })
      .addEdge(START, "ask")
      .addEdge("ask", "after")
      .compile();

  async function stopped(keep: Keep) {
    await shop.serve({ graph: asking() });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: "x" }, { threadId }));
    const before = await state(threadId);
    const runId = await shop.start("graph", { command: { resume: "yes" } }, { threadId });
    return { threadId, before, ...(await cancelAt(runId, 3, keep)) };
  }

  test("thread: it goes on behind the node, and does not ask again", async () => {
    const { threadId } = await stopped("thread");
    expect(await shop.messages(threadId)).toEqual(["human:x", "ai:So be it"]);
    // Where it goes from there is found out by who goes on.
    expect(await state(threadId)).toMatchObject({ next: ["ask"], interrupts: [] });
    const { record } = await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(record.status).toBe("completed");
    expect(calls).toEqual(["ask:yes(x)", "after(2)"]);
  });

  test.each(["branch", "discard"] as const)("%s: the thread asks as it did", async (keep) => {
    const { threadId, before, record } = await stopped(keep);
    expect(await state(threadId)).toMatchObject({
      checkpointId: before.checkpointId,
      interrupts: before.interrupts,
    });
    if (keep === "discard") return;
    const branch = record.checkpoint!.checkpointId;
    expect(await shop.messages(threadId, branch)).toEqual(["human:x", "ai:So be it"]);
  });
});

test("P3, P5: an answer was given, and its node has said nothing yet: the cancel ends the run, and it can be answered again", async () => {
  let tries = 0;
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("ask", async (_: Messages, { signal }) => {
      const answer = interrupt("sure?");
      tries += 1;
      if (tries === 1) await new Promise((_, reject) => signal?.addEventListener("abort", reject));
      return { messages: [{ role: "ai", content: `So ${answer}` }] };
    })
    .addEdge(START, "ask")
    .compile();
  await shop.serve({ graph });
  const threadId = shop.newThread();
  await shop.ended(await shop.start("graph", { input: "x" }, { threadId }));
  const runId = await shop.start("graph", { command: { resume: "yes" } }, { threadId });
  await until(() => tries === 1);
  await shop.dispatcher.cancel(runId, { keep: "thread" });
  expect((await shop.ended(runId)).record.status).toBe("cancelled");
  await shop.ended(await shop.start("graph", { command: { resume: "no" } }, { threadId }));
  expect(await shop.messages(threadId)).toEqual(["human:x", "ai:So no"]);
});

describe("keep: branch and discard", () => {
  test("branch: the head stays where it was; a run from the branch goes on with the partial", async () => {
    let asked = 0;
    const script: Script = async function* (messages, signal) {
      if (asked++ === 1) yield* stuckAfter("Once ", "upon ")(messages, signal);
      else yield `answer ${asked}`;
    };
    await shop.serve({ story: story(script) });
    const threadId = shop.newThread();
    const first = await shop.ended(await shop.start("story", { input: "hello" }, { threadId }));
    const runId = await shop.start("story", { input: "A story" }, { threadId });
    const { record } = await cancelAt(runId, 3, "branch");
    expect(await shop.saver.head(threadId)).toBe(first.record.checkpoint?.checkpointId);
    const checkpointId = record.checkpoint!.checkpointId;
    expect(await shop.messages(threadId, checkpointId)).toEqual([
      "human:hello",
      "ai:answer 1",
      "human:A story",
      "ai:Once upon ",
    ]);
    await shop.ended(
      await shop.start("story", { input: "please continue the story", checkpointId }, { threadId }),
    );
    expect(calls.at(-2)).toBe("llm(hello|answer 1|A story|Once upon |please continue the story)");
    expect((await shop.messages(threadId)).at(-1)).toBe("ai:answer 3");
  });

  test("discard: the thread is as it was, and nothing of the run is left in it", async () => {
    let asked = 0;
    const script: Script = async function* (messages, signal) {
      if (asked++ === 1) yield* stuckAfter("Once ", "upon ")(messages, signal);
      else yield `answer ${asked}`;
    };
    await shop.serve({ story: story(script) });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("story", { input: "hello" }, { threadId }));
    const before = await shop.history(threadId);
    const runId = await shop.start("story", { input: "A story" }, { threadId });
    const { record } = await cancelAt(runId, 3, "discard");
    expect(record.checkpoint).toBeUndefined();
    expect(await shop.history(threadId)).toEqual(before);
    expect(await shop.saver.head(threadId)).toBe(before[0]?.checkpointId);
  });

  test("discard of a thread's first run: there is no checkpoint", async () => {
    await shop.serve({ story: story(stuckAfter("Once ")) });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("story", { input: "A story" }, { threadId }), 2, "discard");
    expect(await shop.history(threadId)).toEqual([]);
  });
});

describe("what stops a graph", () => {
  test("the signal, with a reason that its nodes find; a node that ignores it changes nothing any more", async () => {
    let reason: unknown;
    const gate = new Gate();
    let late = false;
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("deaf", async (_: Messages, config) => {
        config.signal!.addEventListener("abort", () => {
          reason = config.signal!.reason;
        });
        await saying("before ").invoke("x", config);
        await gate.passed;
        late = true;
        return { messages: ["late"] };
      })
      .addEdge(START, "deaf")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const { text } = await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), 2);
    expect(reason).toMatchObject({ name: "AbortError", code: "run_cancelled" });
    expect(text).toBe("before ");
    const head = await shop.saver.head(threadId);
    gate.open();
    await until(() => late);
    await sleep(50);
    expect(await shop.saver.head(threadId)).toBe(head);
    expect(await shop.messages(threadId)).toEqual(["human:x", "ai:before "]);
  });

  test("tokens without a pause: it stops within a batch, and the checkpoint has the text of the log", async () => {
    const script: Script = async function* (_, signal) {
      for (let i = 0; !signal?.aborted; i++) {
        yield `${i} `;
        if (i % 50 === 0) await sleep(0);
      }
    };
    await shop.serve({ story: story(script) });
    for (let i = 0; i < 5; i++) {
      const threadId = shop.newThread();
      const { text } = await cancelAt(await shop.start("story", { input: "x" }, { threadId }), 200 + 37 * i);
      expect((await shop.messages(threadId))[1]).toBe(`ai:${text}`);
    }
  });

  test("in the moment in which a node is done: what the log has, the thread has", async () => {
    const Steps = Annotation.Root({ ...MessagesAnnotation.spec, n: Annotation<number> });
    const graph = new StateGraph(Steps)
      .addNode("llm", async ({ messages, n = 0 }) => ({
        messages: [await saying(`${n} `, "b ").invoke(messages)],
        n: n + 1,
      }))
      .addEdge(START, "llm")
      .addConditionalEdges("llm", ({ n }) => (n < 40 ? "llm" : END))
      .compile();
    await shop.serve({ graph });
    for (let i = 0; i < 6; i++) {
      const threadId = shop.newThread();
      const config = { recursionLimit: 1_000 };
      const runId = await shop.start("graph", { input: "x", config }, { threadId });
      const { text, record } = await cancelAt(runId, 20 + 3 * i);
      expect(record.status).toBe("cancelled");
      const said = (await messagesOf(threadId)).slice(1).map(({ content }) => content);
      expect(said.join("")).toBe(text);
    }
  });
});
