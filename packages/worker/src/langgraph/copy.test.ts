/** A copy of a thread up to a checkpoint goes on as the thread itself would from there. */
import { Command, interrupt, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { readState } from "@throughline/checkpoint";
import type { FlatMessage, Keep } from "@throughline/protocol";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Script, ScriptedModel, stuckAfter } from "../../../../test/support/graphs.ts";
import { until } from "../../../../test/support/until.ts";
import { Workshop } from "../../../../test/support/workers.ts";

let shop: Workshop;
let ran: string[];

beforeEach(() => {
  shop = new Workshop();
  ran = [];
});
afterEach(() => shop.stop());

/** A node that is stuck in its answer the first time, and says it all from then on. */
function stuckOnce(name: string) {
  let asked = 0;
  const word = name.toUpperCase();
  const says: Script = async function* () {
    yield word;
  };
  return async ({ messages }: typeof MessagesAnnotation.State) => {
    ran.push(name);
    const script = asked++ === 0 ? stuckAfter(`${word}…`) : says;
    return { messages: [await new ScriptedModel(script).invoke(messages)] };
  };
}

async function shown(threadId: string): Promise<string[]> {
  const state = await readState(shop.saver, { threadId });
  const { messages = [] } = (state?.values ?? {}) as { messages?: FlatMessage[] };
  return messages.map(({ content }) => String(content));
}

async function cancelAt(runId: string, text: string, keep: Keep): Promise<string> {
  await until(async () => {
    let all = "";
    for await (const { part } of shop.reader.parts(runId)) {
      if (part.type === "messages") all += part.data[0].content;
    }
    return all.includes(text);
  });
  await shop.dispatcher.cancel(runId, { keep });
  return (await shop.ended(runId)).record.checkpoint!.checkpointId;
}

const all = { subgraphs: true, modes: ["messages", "updates", "values"] };

async function copyAt(threadId: string, checkpointId: string): Promise<string> {
  const copy = shop.newThread();
  await shop.saver.copyThread(threadId, copy, { checkpointId });
  return copy;
}

test.each<Keep>(["thread", "branch"])(
  "of where a run was stopped in a subgraph, kept on the %s",
  async (keep) => {
    const inner = new StateGraph(MessagesAnnotation)
      .addNode("first", stuckOnce("first"))
      .addNode("second", stuckOnce("second"))
      .addNode("third", stuckOnce("third"))
      .addEdge(START, "first")
      .addEdge("first", "second")
      .addEdge("second", "third")
      .compile();
    const graph = new StateGraph(MessagesAnnotation).addNode("team", inner).addEdge(START, "team").compile();
    await shop.serve({ graph });
    const threadId = shop.newThread();
    const stop = async (checkpointId: string | undefined, input: object, text: string) =>
      await cancelAt(
        await shop.start("graph", { ...input, ...all, ...(checkpointId && { checkpointId }) }, { threadId }),
        text,
        keep,
      );
    const one = await stop(undefined, { input: "x" }, "FIRST…");
    const two = await stop(one, {}, "SECOND…");
    const three = await stop(two, {}, "THIRD…");
    for (const [checkpointId, said, again] of [
      [two, ["x", "FIRST…", "SECOND…"], ["THIRD"]],
      [one, ["x", "FIRST…"], ["SECOND", "THIRD"]],
      [three, ["x", "FIRST…", "SECOND…", "THIRD…"], []],
    ] as const) {
      const copy = await copyAt(threadId, checkpointId);
      expect(await shown(copy)).toEqual(said);
      ran = [];
      const { record } = await shop.ended(await shop.start("graph", all, { threadId: copy }));
      expect(record.status).toBe("completed");
      expect(await shown(copy)).toEqual([...said, ...again]);
      expect(ran).toEqual(again.map((word) => word.toLowerCase()));
    }
  },
);

test("of a question that was answered since asks it, and takes another answer", async () => {
  const inner = new StateGraph(MessagesAnnotation)
    .addNode("ask", () => ({ messages: [{ role: "ai", content: `asked: ${interrupt("sure?")}` }] }))
    .addEdge(START, "ask")
    .compile();
  const graph = new StateGraph(MessagesAnnotation)
    .addNode("team", inner)
    .addNode("route", () => new Command({ goto: "after" }), { ends: ["after"] })
    .addNode("after", () => ({ messages: [{ role: "ai", content: "after" }] }))
    .addEdge(START, "team")
    .addEdge("team", "route")
    .compile();
  await shop.serve({ graph });
  const threadId = shop.newThread();
  await shop.ended(await shop.start("graph", { input: "x", ...all }, { threadId }));
  const asked = (await readState(shop.saver, { threadId }))!;
  const answer = async (thread: string, resume: string) => {
    const runId = await shop.start("graph", { command: { resume }, ...all }, { threadId: thread });
    expect((await shop.ended(runId)).record.status).toBe("completed");
  };
  await answer(threadId, "yes");
  const copy = await copyAt(threadId, asked.checkpointId);
  expect(await readState(shop.saver, { threadId: copy })).toEqual({ ...asked, threadId: copy });
  await answer(copy, "no");
  expect(await shown(copy)).toEqual(["x", "asked: no", "after"]);
  expect(await shown(threadId)).toEqual(["x", "asked: yes", "after"]);
});
