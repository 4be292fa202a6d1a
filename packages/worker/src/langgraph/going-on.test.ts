/** P3: a thread that was stopped goes on from where it was, as often as one likes, whatever comes in between. */
import {
  Annotation,
  Command,
  DeltaChannel,
  interrupt,
  MessagesAnnotation,
  messagesDeltaReducer,
  START,
  StateGraph,
} from "@langchain/langgraph";
import { readState } from "@throughline/checkpoint";
import type { FlatMessage, Keep } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Gate } from "../../../../test/support/agents.ts";
import { type Script, ScriptedModel, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
let calls: string[];

beforeEach(() => {
  shop = new Workshop();
  calls = [];
});
afterEach(() => shop.stop());

type Messages = typeof MessagesAnnotation.State;

/** Says these in turn: the first time it is asked the first, … */
function inTurn(...turns: Script[]): Script {
  let asked = 0;
  return (messages, signal) => turns[Math.min(asked++, turns.length - 1)]!(messages, signal);
}

const says = (...said: string[]): Script =>
  async function* () {
    yield* said;
  };

function llm(name: string, script: Script) {
  return async ({ messages }: Messages) => {
    calls.push(`${name}(${messages.map(({ content }) => content).join("|")})`);
    return { messages: [await new ScriptedModel(script).invoke(messages)] };
  };
}

async function shown(threadId: string, checkpointId?: string): Promise<string[]> {
  const state = await readState(shop.saver, { threadId, checkpointId });
  const { messages = [] } = (state?.values ?? {}) as { messages?: FlatMessage[] };
  return messages.map(({ content, additional_kwargs }) => {
    const cut = (additional_kwargs as { cancelled?: boolean })?.cancelled ? " (cut)" : "";
    return `${content}${cut}`;
  });
}

async function cancelAt(runId: string, text: string, keep: Keep = "thread") {
  await until(async () => {
    let all = "";
    for await (const { part } of shop.reader.parts(runId)) {
      if (part.type === "messages") all += part.data[0].content;
    }
    return all.includes(text);
  });
  await shop.dispatcher.cancel(runId, { keep });
  return await shop.ended(runId);
}

const all = { subgraphs: true, modes: ["messages", "updates", "values"] };

/** first → second → third, each stuck the first time that it is asked; in a subgraph, and then `after`. */
function stuckThrice() {
  const inner = new StateGraph(MessagesAnnotation)
    .addNode("first", llm("first", inTurn(stuckAfter("FIRST…"), says("FIRST"))))
    .addNode("second", llm("second", inTurn(stuckAfter("SECOND…"), says("SECOND"))))
    .addNode("third", llm("third", inTurn(stuckAfter("THIRD…"), says("THIRD"))))
    .addEdge(START, "first")
    .addEdge("first", "second")
    .addEdge("second", "third")
    .compile();
  return new StateGraph(MessagesAnnotation)
    .addNode("team", inner)
    .addNode("after", llm("after", says("AFTER")))
    .addEdge(START, "team")
    .addEdge("team", "after")
    .compile();
}

const whole = ["x", "FIRST… (cut)", "SECOND… (cut)", "THIRD… (cut)", "AFTER"];
const ran = () => calls.map((each) => each.split("(")[0]);

describe("more than one Stop", () => {
  test("each goes on behind the one before", async () => {
    await shop.serve({ graph: stuckThrice() });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
    expect(await shown(threadId)).toEqual(whole.slice(0, 2));
    await cancelAt(await shop.start("graph", all, { threadId }), "SECOND…");
    expect(await shown(threadId)).toEqual(whole.slice(0, 3));
    await cancelAt(await shop.start("graph", all, { threadId }), "THIRD…");
    expect(await shown(threadId)).toEqual(whole.slice(0, 4));
    await shop.ended(await shop.start("graph", all, { threadId }));
    expect(await shown(threadId)).toEqual(whole);
    expect(ran()).toEqual(["first", "second", "third", "after"]);
  });

  test("on branches off branches; and each branch can be gone on from once more", async () => {
    await shop.serve({ graph: stuckThrice() });
    const threadId = shop.newThread();
    const one = await cancelAt(
      await shop.start("graph", { input: "x", ...all }, { threadId }),
      "FIRST…",
      "branch",
    );
    const from = (ended: typeof one) => ({ checkpointId: ended.record.checkpoint!.checkpointId, ...all });
    const two = await cancelAt(await shop.start("graph", from(one), { threadId }), "SECOND…", "branch");
    expect(await shop.saver.head(threadId)).toBeNull();
    const { checkpointId } = from(two);
    expect(await shown(threadId, checkpointId)).toEqual(whole.slice(0, 3));
    const three = await cancelAt(await shop.start("graph", from(two), { threadId }), "THIRD…", "branch");
    // From the second once more: what the third try did there is not done for this one.
    await shop.ended(await shop.start("graph", from(two), { threadId }));
    expect(await shown(threadId)).toEqual([...whole.slice(0, 3), "THIRD", "AFTER"]);
    await shop.ended(await shop.start("graph", from(three), { threadId }));
    expect(await shown(threadId)).toEqual(whole);
    // And from the first: all behind it is done anew.
    await shop.ended(await shop.start("graph", from(one), { threadId }));
    expect(await shown(threadId)).toEqual([...whole.slice(0, 2), "SECOND", "THIRD", "AFTER"]);
    expect(ran().filter((name) => name === "first")).toHaveLength(1);
  });

  test("what goes on is discarded: the thread is as the Stop left it, and goes on again", async () => {
    await shop.serve({ graph: stuckThrice() });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
    const before = await shop.history(threadId);
    await cancelAt(await shop.start("graph", all, { threadId }), "SECOND…", "discard");
    expect(await shop.history(threadId)).toEqual(before);
    await cancelAt(await shop.start("graph", all, { threadId }), "THIRD…");
    expect(await shown(threadId)).toEqual([...whole.slice(0, 2), "SECOND", "THIRD… (cut)"]);
  });

  test("before the run that goes on says anything: nothing is lost", async () => {
    let running = 0;
    const inner = new StateGraph(MessagesAnnotation)
      .addNode("first", llm("first", inTurn(stuckAfter("FIRST…"), says("FIRST"))))
      .addNode("mute", async (_: Messages, { signal }) => {
        running += 1;
        if (running === 1) await new Promise((_, reject) => signal?.addEventListener("abort", reject));
        return { messages: [{ role: "ai", content: "MUTE" }] };
      })
      .addEdge(START, "first")
      .addEdge("first", "mute")
      .compile();
    const graph = new StateGraph(MessagesAnnotation).addNode("team", inner).addEdge(START, "team").compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
    const runId = await shop.start("graph", all, { threadId });
    await until(() => running === 1);
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.ended(runId);
    expect(await shown(threadId)).toEqual(["x", "FIRST… (cut)"]);
    await shop.ended(await shop.start("graph", all, { threadId }));
    expect(await shown(threadId)).toEqual(["x", "FIRST… (cut)", "MUTE"]);
    expect(ran()).toEqual(["first"]);
  });
});

describe("a worker that is lost while a run goes on", () => {
  test.each(["before its first step is over", "behind it"])("%s", async (when) => {
    const graph = stuckThrice();
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
    if (when === "behind it") {
      // Thrice stuck: the third's is what it stands in.
      await cancelAt(await shop.start("graph", all, { threadId }), "SECOND…");
    }
    const runId = await shop.start("graph", all, { threadId });
    const text = when === "behind it" ? "THIRD…" : "SECOND…";
    await until(async () => {
      for await (const { part } of shop.reader.parts(runId)) {
        if (part.type === "messages" && part.data[0].content === text) return true;
      }
      return false;
    });
    const writer = await shop.claimAndDie(runId);
    await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.attempt);
    await first.close();
    await shop.serve({ graph });
    if (when !== "behind it") {
      // Its second node is not stuck any more; the third is, once.
      await cancelAt(runId, "THIRD…");
      expect(await shown(threadId)).toEqual(["x", "FIRST… (cut)", "SECOND", "THIRD… (cut)"]);
    } else {
      await shop.ended(runId);
      expect(await shown(threadId)).toEqual([...whole.slice(0, 3), "THIRD", "AFTER"]);
    }
    expect(ran().filter((name) => name === "first")).toHaveLength(1);
  });

  test("while it was being cancelled: what both runs had said is shown", async () => {
    const graph = stuckThrice();
    const first = await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
    const runId = await shop.start("graph", all, { threadId });
    await until(async () => {
      for await (const { part } of shop.reader.parts(runId)) {
        if (part.type === "messages" && part.data[0].content === "SECOND…") return true;
      }
      return false;
    });
    const writer = await shop.claimAndDie(runId);
    await shop.dispatcher.threadsOf("alice").fence(threadId, runId, writer.attempt);
    await first.close();
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    await shop.serve({ graph });
    expect((await shop.ended(runId)).record.status).toBe("cancelled");
    expect(await shown(threadId)).toEqual(whole.slice(0, 3));
    await cancelAt(await shop.start("graph", all, { threadId }), "THIRD…");
    expect(ran()).toEqual(["first", "second", "third"]);
  });
});

describe("what comes in between", () => {
  test("thread.update with the partial mended: who goes on finds what was written, behind the node", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("tell", llm("tell", stuckAfter("Once")))
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "tell")
      .addEdge("tell", "after")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "Once");
    const state = (await readState(shop.saver, { threadId }))!;
    const partial = (state.values.messages as FlatMessage[]).at(-1)!;
    const update = { values: { messages: [{ ...partial, content: "mended" }] }, asNode: "tell" };
    await shop.ended(await shop.start("graph", { update } as never, { threadId }));
    await shop.ended(await shop.start("graph", all, { threadId }));
    expect(calls).toEqual(["tell(x)", "after(x|mended)"]);
  });

  test("one node waits for a person, another was speaking: Stop, then the answer", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("ask", async () => ({ messages: [{ role: "ai", content: `asked: ${interrupt("sure?")}` }] }))
      .addNode("tell", llm("tell", inTurn(stuckAfter("Once"), says("again"))))
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "ask")
      .addEdge(START, "tell")
      .addEdge(["ask", "tell"], "after")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "Once");
    const state = (await readState(shop.saver, { threadId }))!;
    expect(state.interrupts).toMatchObject([{ value: "sure?" }]);
    expect(state.next.toSorted()).toEqual(["ask", "tell"]);
    expect(state.tasks.toSorted((a, b) => (a.name < b.name ? -1 : 1))).toMatchObject([
      { name: "ask", interrupts: [{ value: "sure?", answered: false }] },
      { name: "tell", cancelled: true },
    ]);
    const { record } = await shop.ended(
      await shop.start("graph", { command: { resume: "yes" }, ...all }, { threadId }),
    );
    expect(record.status).toBe("completed");
    expect((await shown(threadId)).toSorted()).toEqual(["AFTER", "Once (cut)", "asked: yes", "x"]);
    expect(ran()).toEqual(["tell", "after"]);
  });

  test("a command that says where to go leaves what was stopped behind", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("tell", llm("tell", stuckAfter("Once")))
      .addNode("usual", llm("usual", says("USUAL")))
      .addNode("other", llm("other", says("OTHER")))
      .addEdge(START, "tell")
      .addConditionalEdges("tell", () => "usual", ["usual", "other"])
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "Once");
    await shop.ended(await shop.start("graph", { command: { goto: "other" } }, { threadId }));
    expect(await shown(threadId)).toEqual(["x", "Once (cut)", "OTHER"]);
    expect(ran()).toEqual(["tell", "other"]);
  });

  test("a node that says by a Command where to go", async () => {
    const graph = new StateGraph(MessagesAnnotation)
      .addNode(
        "tell",
        async (state: Messages) =>
          new Command({ update: await llm("tell", stuckAfter("Once"))(state), goto: "after" }),
        { ends: ["after"] },
      )
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "tell")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "Once");
    await shop.ended(await shop.start("graph", all, { threadId }));
    expect(await shown(threadId)).toEqual(["x", "Once (cut)", "AFTER"]);
  });

  test("a Stop while the routers of the node are run: the thread is as it was", async () => {
    const gate = new Gate();
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("tell", llm("tell", inTurn(stuckAfter("Once"), says("again"))))
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "tell")
      .addConditionalEdges("tell", async () => {
        calls.push("router");
        await gate.passed;
        return "after";
      }, ["after"])
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "Once");
    const before = await shop.history(threadId);
    const runId = await shop.start("graph", all, { threadId });
    await until(() => calls.includes("router"));
    await shop.dispatcher.cancel(runId, { keep: "thread" });
    const { record } = await shop.ended(runId);
    expect(record.checkpoint?.checkpointId).toBe(before[0]!.checkpointId);
    // The router that was left alone answers late, and nobody takes it.
    gate.open();
    await shop.ended(await shop.start("graph", all, { threadId }));
    expect(await shown(threadId)).toEqual(["x", "Once (cut)", "AFTER"]);
    expect(calls).toEqual(["tell(x)", "router", "router", "after(x|Once)"]);
  });
});

describe("readers of the run that goes on", () => {
  test("begin with what the thread shows, and hear nothing once more", async () => {
    await shop.serve({ graph: stuckThrice() });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
    const { parts } = await cancelAt(await shop.start("graph", all, { threadId }), "SECOND…");
    const root = parts.filter(({ ns }) => ns.length === 0);
    const values = root.find(({ type }) => type === "values")!.data as { messages: FlatMessage[] };
    expect(values.messages.map(({ content }) => content)).toEqual(["x", "FIRST…"]);
    expect(parts.filter(({ type }) => type === "messages")).toHaveLength(1);
    // What the thread shows stays while the run goes on.
    expect(root.some(({ type }) => type === "updates")).toBe(false);
  });
});

test("the history knows what was next at each checkpoint, and nothing of how runs were prepared", async () => {
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("one", llm("one", inTurn(stuckAfter("ONE…"), says("ONE"))))
    .addNode("two", llm("two", says("TWO")))
    .addEdge(START, "one")
    .addEdge("one", "two")
    .compile();
  await shop.serve({ graph });
  const threadId = shop.newThread();
  await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), "ONE…");
  await shop.ended(await shop.start("graph", {}, { threadId }));
  const history = await shop.history(threadId);
  expect(history.map(({ next }) => next)).toEqual([[], ["two"], ["one"], ["one"], ["one"], ["__start__"]]);
  const inner = ["prepares", "as", "shown", "stop", "tasks", "beside"];
  for (const { metadata } of history) expect(inner.filter((key) => key in metadata)).toEqual([]);
});

describe("states of other kinds", () => {
  const stuckIn = (State: typeof MessagesAnnotation) =>
    new StateGraph(State)
      .addNode("first", llm("first", says("FIRST")))
      .addNode("tell", llm("tell", inTurn(stuckAfter("Once"), says("again"))))
      .addNode("after", llm("after", says("AFTER")))
      .addEdge(START, "first")
      .addEdge("first", "tell")
      .addEdge("tell", "after")
      .compile();
  const input = { messages: [{ role: "user", content: "x" }] };

  test.each(["goes on", "new input"])("messages in a delta channel: %s", async (then) => {
    const State = Annotation.Root({
      messages: new DeltaChannel(messagesDeltaReducer as never) as never,
    }) as never as typeof MessagesAnnotation;
    await shop.serve({ graph: stuckIn(State) });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input, ...all }, { threadId }), "Once");
    expect(await shown(threadId)).toEqual(["x", "FIRST", "Once (cut)"]);
    if (then === "goes on") {
      await shop.ended(await shop.start("graph", all, { threadId }));
      expect(calls.at(-1)).toBe("after(x|FIRST|Once)");
    } else {
      await shop.ended(
        await shop.start("graph", { input: { messages: [{ role: "user", content: "y" }] } }, { threadId }),
      );
      expect(calls.slice(2)).toEqual([
        "first(x|FIRST|Once|y)",
        "tell(x|FIRST|Once|y|FIRST)",
        "after(x|FIRST|Once|y|FIRST|again)",
      ]);
    }
  });

  test("messages without a reducer: the node's answer is the whole list, and so is the partial", async () => {
    const State = Annotation.Root({
      messages: Annotation<Messages["messages"]>,
    }) as never as typeof MessagesAnnotation;
    const tell = async ({ messages }: Messages) => ({
      messages: [...messages, ...(await llm("tell", stuckAfter("Once"))({ messages })).messages],
    });
    const graph = new StateGraph(State)
      .addNode("tell", tell)
      .addNode("after", async ({ messages }) => {
        calls.push(`after(${messages.map(({ content }) => content).join("|")})`);
        return {};
      })
      .addEdge(START, "tell")
      .addEdge("tell", "after")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const withId = { messages: [{ role: "user", content: "x", id: "x" }] };
    await cancelAt(await shop.start("graph", { input: withId, ...all }, { threadId }), "Once");
    expect(await shown(threadId)).toEqual(["x", "Once (cut)"]);
    await shop.ended(await shop.start("graph", all, { threadId }));
    expect(calls).toEqual(["tell(x)", "after(x|Once)"]);
  });

  test("other keys: what finished siblings wrote is in the thread, and is not applied twice", async () => {
    const State = Annotation.Root({
      ...MessagesAnnotation.spec,
      count: Annotation<number>({ reducer: (a, b) => a + b, default: () => 0 }),
      note: Annotation<string>,
    });
    const graph = new StateGraph(State)
      .addNode("quick", async () => ({ count: 1, note: "done" }))
      .addNode("tell", llm("tell", stuckAfter("Once")))
      .addNode("after", async ({ count, note }) => {
        calls.push(`after ${count} ${note}`);
        return { count: 10 };
      })
      .addEdge(START, "quick")
      .addEdge(START, "tell")
      .addEdge(["quick", "tell"], "after")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input, ...all }, { threadId }), "Once");
    expect((await readState(shop.saver, { threadId }))?.values).toMatchObject({ count: 1, note: "done" });
    await shop.ended(await shop.start("graph", all, { threadId }));
    expect(calls).toEqual(["tell(x)", "after 1 done"]);
    expect((await readState(shop.saver, { threadId }))?.values).toMatchObject({ count: 11, note: "done" });
  });

  test.each(["sync", "exit"] as const)("durability %s", async (durability) => {
    await shop.serve({ graph: stuckIn(MessagesAnnotation) });
    const threadId = shop.newThread();
    const config = { durability };
    await cancelAt(await shop.start("graph", { input, config, ...all }, { threadId }), "Once");
    expect(await shown(threadId)).toEqual(["x", "FIRST", "Once (cut)"]);
    await shop.ended(await shop.start("graph", { config, ...all }, { threadId }));
    expect(await shown(threadId)).toEqual(["x", "FIRST", "Once (cut)", "AFTER"]);
    expect(ran()).toEqual(["first", "tell", "after"]);
  });

  test("two calls of graphs in one node: what the first had finished stays", async () => {
    const inner = (name: string, script: Script) =>
      new StateGraph(MessagesAnnotation).addNode(name, llm(name, script)).addEdge(START, name).compile();
    const one = inner("one", says("ONE"));
    const two = inner("two", stuckAfter("TWO…"));
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("both", async ({ messages }) => {
        const a = await one.invoke({ messages });
        const b = await two.invoke({ messages: a.messages });
        return { messages: b.messages };
      })
      .addEdge(START, "both")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input, ...all }, { threadId }), "TWO…");
    expect(await shown(threadId)).toEqual(["x", "ONE", "TWO… (cut)"]);
  });
});

describe("a state that is written to behind a Stop", () => {
  const State = Annotation.Root({
    ...MessagesAnnotation.spec,
    log: Annotation<string[]>({ reducer: (a, b) => a.concat(b), default: () => [] }),
  });
  /** `done` and `cut` at once, and `last` when both are there. */
  const joined = () =>
    new StateGraph(State)
      .addNode("done", () => {
        calls.push("done");
        return { log: ["done"] };
      })
      .addNode("cut", llm("cut", inTurn(stuckAfter("CUT…"), says("CUT"))))
      .addNode("last", llm("last", says("LAST")))
      .addEdge(START, "done")
      .addEdge(START, "cut")
      .addEdge(["done", "cut"], "last")
      .compile();

  test.each<[string, object[]]>([
    ["as the node that was cut off", [{ update: { values: { log: ["mine"] }, asNode: "cut" } }, {}]],
    ["as whichever it is", [{ update: { values: { log: ["mine"] } } }, {}]],
    ["by the command that goes on", [{ command: { update: { log: ["mine"] } } }]],
  ])("%s: what had finished is not run again, and a join has what came to it", async (_, requests) => {
    await shop.serve({ graph: joined() });
    const threadId = shop.newThread();
    await cancelAt(await shop.start("graph", { input: "x" }, { threadId }), "CUT…");
    for (const request of requests) {
      const { record } = await shop.ended(await shop.start("graph", request, { threadId }));
      expect(record.status).toBe("completed");
    }
    expect(calls.toSorted()).toEqual(["cut(x)", "done", "last(x|CUT…)"]);
    expect(await shown(threadId)).toEqual(["x", "CUT… (cut)", "LAST"]);
    const { values } = (await readState(shop.saver, { threadId }))!;
    expect((values.log as string[]).toSorted()).toEqual(["done", "mine"]);
  });

  test("as a node that waits for a person: it is not asked again", async () => {
    const graph = new StateGraph(State)
      .addNode("ask", () => {
        interrupt("ok?");
        return {};
      })
      .addNode("beside", () => ({ log: ["beside"] }))
      .addNode("last", () => ({ log: ["last"] }))
      .addEdge(START, "ask")
      .addEdge(START, "beside")
      .addEdge("ask", "last")
      .compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    await shop.ended(await shop.start("graph", { input: "x" }, { threadId }));
    const update = { values: { log: ["mine"] }, asNode: "ask" };
    await shop.ended(await shop.start("graph", { update }, { threadId }));
    expect(await readState(shop.saver, { threadId })).toMatchObject({ next: ["last"], interrupts: [] });
    const { record } = await shop.ended(await shop.start("graph", {}, { threadId }));
    expect(record.status).toBe("completed");
    expect((await readState(shop.saver, { threadId }))!.values.log).toEqual(["beside", "mine", "last"]);
  });
});

describe("a graph whose nodes wait for each other", () => {
  /** `left` and `right` at once, and then `both`; which says nothing more when it has come to `stuckIn`. */
  const joining = (stuckIn: string) => {
    const script = (name: string): Script =>
      inTurn(name === stuckIn ? stuckAfter(`${name}…`) : says(name), says(name));
    return new StateGraph(MessagesAnnotation)
      .addNode("left", llm("left", script("left")))
      .addNode("right", llm("right", script("right")))
      .addNode("late", llm("late", script("late")))
      .addNode("both", llm("both", script("both")))
      .addEdge(START, "left")
      .addEdge(START, "right")
      .addEdge("right", "late")
      .addEdge(["left", "late"], "both")
      .compile();
  };

  test.each(["left", "late", "both"])(
    "stopped in %s: the next turn runs each of them once",
    async (stuckIn) => {
      await shop.serve({ graph: joining(stuckIn) });
      const threadId = shop.newThread();
      await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), `${stuckIn}…`);
      calls.length = 0;
      const { record } = await shop.ended(await shop.start("graph", { input: "y", ...all }, { threadId }));
      expect(record.status).toBe("completed");
      expect(ran().sort()).toEqual(["both", "late", "left", "right"]);
      expect(ran().at(-1)).toBe("both");
      // And the one after.
      calls.length = 0;
      await shop.ended(await shop.start("graph", { input: "z", ...all }, { threadId }));
      expect(ran().sort()).toEqual(["both", "late", "left", "right"]);
      expect(ran().at(-1)).toBe("both");
    },
  );

  test.each(["left", "late", "both"])(
    "stopped in %s: what goes on waits for all of them",
    async (stuckIn) => {
      await shop.serve({ graph: joining(stuckIn) });
      const threadId = shop.newThread();
      await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), `${stuckIn}…`);
      await shop.ended(await shop.start("graph", all, { threadId }));
      expect(ran().sort()).toEqual(["both", "late", "left", "right"]);
      expect(ran().at(-1)).toBe("both");
    },
  );
});

test("what was told before a Stop is not told again when its graph goes on and ends", async () => {
  await shop.serve({ graph: stuckThrice() });
  const threadId = shop.newThread();
  await cancelAt(await shop.start("graph", { input: "x", ...all }, { threadId }), "FIRST…");
  await cancelAt(await shop.start("graph", all, { threadId }), "SECOND…");
  await cancelAt(await shop.start("graph", all, { threadId }), "THIRD…");
  const { parts } = await shop.ended(await shop.start("graph", all, { threadId }));
  const texts = parts.flatMap((part) => (part.type === "messages" ? [part.data[0].content] : []));
  expect(texts.join("")).toBe("AFTER");
});
