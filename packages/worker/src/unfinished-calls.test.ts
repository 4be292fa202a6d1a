/** What was streamed of a tool call that was cut off is in the log, for whoever draws it, and in no checkpoint. */
import { setTimeout as sleep } from "node:timers/promises";
import { MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { type FlatMessage, readState } from "@throughline/checkpoint";
import { Fold, type Keep, type Part } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ScriptedModel, stuckAfter } from "../../../test/support/graphs.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { type AgentContext, update } from "./agent.ts";

let shop: Workshop;
beforeEach(() => {
  shop = new Workshop();
});
afterEach(() => shop.stop());

const pieces = [
  { type: "tool_call_chunk" as const, index: 0, id: "call", name: "search", args: '{"q":"we' },
  { type: "tool_call_chunk" as const, index: 0, args: "ather" },
];
const unfinished = [{ index: 0, id: "call", name: "search", args: '{"q":"weather' }];

function chunk(id: string, content: string, fields: object = {}): Part {
  return { type: "messages", ns: [], data: [{ type: "AIMessageChunk", id, content, ...fields }, {}] };
}

/** Says something, begins to call a tool, and hangs until it is stopped. */
async function* hangs({ signal }: AgentContext) {
  yield chunk("a", "Let me look.");
  for (const piece of pieces) yield chunk("a", "", { tool_call_chunks: [piece] });
  await sleep(60_000, undefined, { signal });
}

async function cancelled(runId: string, head: number, keep: Keep) {
  await shop.reached(runId, head);
  await shop.dispatcher.cancel(runId, { keep });
  return await shop.ended(runId);
}

/** What the log adds up to. */
function folded(parts: readonly Part[]) {
  const fold = new Fold();
  for (const [i, part] of parts.entries()) fold.add(part, i + 1);
  return fold.messages();
}

/** The state as it is stored, and the message of it that was cut off. */
async function saved(at: { threadId: string; checkpointId?: string }) {
  const state = (await readState(shop.saver, at))!;
  const messages = state.values.messages as FlatMessage[];
  return { text: JSON.stringify(state), last: messages.at(-1)! };
}

describe("a tool call that is cut off", () => {
  test.each<Keep>(["thread", "branch"])("in a function agent, and kept as %s", async (keep) => {
    await shop.serve({ hangs });
    const runId = await shop.start("hangs", { input: "Hot?" });
    const { parts, record } = await cancelled(runId, 4, keep);
    expect(folded(parts)).toMatchObject([{ message: { content: "Let me look." }, calls: unfinished }]);
    const { text, last } = await saved(record.checkpoint!);
    expect(last).toEqual({
      type: "ai",
      id: "a",
      content: "Let me look.",
      additional_kwargs: { cancelled: true },
    });
    expect(text).not.toMatch(/call|search|weather/);
  });

  test("in a function agent that fails", async () => {
    await shop.serve({
      async *fails() {
        yield chunk("a", "Let me look.", { tool_call_chunks: [pieces[0]] });
        throw new Error("no more");
      },
    });
    const { record, parts } = await shop.ended(await shop.start("fails", { input: "Hot?" }));
    expect(folded(parts)).toMatchObject([{ calls: [{ name: "search" }] }]);
    const { text, last } = await saved(record.checkpoint!);
    expect(last).toMatchObject({ content: "Let me look.", additional_kwargs: { incomplete: true } });
    expect(text).not.toMatch(/call|search/);
  });

  test("in a graph", async () => {
    const model = new ScriptedModel(stuckAfter("Let me look.", ...pieces.map((toolCall) => ({ toolCall }))));
    const graph = new StateGraph(MessagesAnnotation)
      .addNode("llm", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
      .addEdge(START, "llm")
      .compile();
    await shop.serve({ graph });
    const runId = await shop.start("graph", { input: "Hot?" });
    const { parts, record } = await cancelled(runId, 4, "thread");
    expect(folded(parts)).toMatchObject([{ message: { content: "Let me look." }, calls: unfinished }]);
    const { text, last } = await saved(record.checkpoint!);
    expect(last).toMatchObject({ content: "Let me look.", additional_kwargs: { cancelled: true } });
    expect(text).not.toMatch(/call|search/);
  });
});

test("a message that came whole is saved as it came, and is not marked as cut off", async () => {
  const tool_calls = [{ type: "tool_call", id: "call", name: "search", args: { q: "weather" } }];
  const asked = { type: "ai", id: "a", content: "", tool_calls };
  const answered = { type: "tool", id: "b", content: "Hot.", tool_call_id: "call" };
  await shop.serve({
    async *whole({ signal }: AgentContext) {
      yield { type: "messages", ns: [], data: [asked, {}] } as Part;
      yield { type: "messages", ns: [], data: [answered, {}] } as Part;
      yield chunk("c", "It is h");
      await sleep(60_000, undefined, { signal });
    },
  });
  const runId = await shop.start("whole", { input: "Hot?" });
  const { parts, record } = await cancelled(runId, 4, "thread");
  expect(folded(parts).map(({ complete }) => complete)).toEqual([true, true, false]);
  const state = (await readState(shop.saver, record.checkpoint!))!;
  expect((state.values.messages as FlatMessage[]).slice(1)).toEqual([
    asked,
    answered,
    { type: "ai", id: "c", content: "It is h", additional_kwargs: { cancelled: true } },
  ]);
});

describe("a tool call that nobody answered", () => {
  const calls = [
    { id: "one", name: "search", args: { q: "a" }, type: "tool_call" },
    { id: "two", name: "search", args: { q: "b" }, type: "tool_call" },
  ];
  const asks = { type: "ai", id: "a", content: "Let me look.", tool_calls: calls };
  const answer = { type: "tool", id: "t", tool_call_id: "one", name: "search", content: "found" };

  /** Calls two tools, of which one answers, and hangs. */
  async function* looks({ signal }: AgentContext) {
    yield update({ messages: [asks] });
    yield update({ messages: [answer] });
    await sleep(60_000, undefined, { signal });
  }

  test.each<Keep>(["thread", "branch"])("has an answer that says so, kept as %s", async (keep) => {
    await shop.serve({ looks });
    const { record } = await cancelled(await shop.start("looks", { input: "Hot?" }), 3, keep);
    const { values } = (await readState(shop.saver, record.checkpoint!))!;
    expect(values.messages).toMatchObject([
      { type: "human" },
      { type: "ai", tool_calls: calls },
      { type: "tool", tool_call_id: "one", content: "found" },
      { type: "tool", tool_call_id: "two", content: "cancelled", additional_kwargs: { cancelled: true } },
    ]);
    expect(values.messages).toHaveLength(4);
  });

  test("is the reader's, where the agent was done", async () => {
    await shop.serve({
      async *asks() {
        yield update({ messages: [asks] });
      },
    });
    const { record } = await shop.ended(await shop.start("asks", { input: "Hot?" }));
    const { values } = (await readState(shop.saver, record.checkpoint!))!;
    expect(values.messages).toHaveLength(2);
  });

  test("nor is a thought that was cut off before it was signed: providers refuse one in a history", async () => {
    const thinking = (more: object) => [{ type: "thinking", index: 0, ...more }];
    await shop.serve({
      async *thinks({ signal }: AgentContext) {
        yield chunk("a", thinking({ thinking: "signed", signature: "s" }) as never);
        yield chunk("b", thinking({ thinking: "not yet" }) as never);
        yield chunk("b", "So", {});
        await sleep(60_000, undefined, { signal });
      },
    });
    const { record } = await cancelled(await shop.start("thinks", { input: "Hot?" }), 4, "thread");
    const { values } = (await readState(shop.saver, record.checkpoint!))!;
    const [, signed, unsigned] = values.messages as { content: unknown }[];
    expect(JSON.stringify(signed!.content)).toContain("signature");
    expect(JSON.stringify(unsigned!.content)).not.toContain("not yet");
    expect(JSON.stringify(unsigned!.content)).toContain("So");
  });

  test("as some providers stream it beside the message, is not in what is kept", async () => {
    const raw = [{ index: 0, id: "call", function: { name: "search", arguments: '{"q' } }];
    await shop.serve({
      async *raw({ signal }: AgentContext) {
        yield chunk("a", "Let me", { additional_kwargs: { tool_calls: raw, function_call: {}, own: 1 } });
        yield chunk("a", " look.");
        await sleep(60_000, undefined, { signal });
      },
    });
    const { record } = await cancelled(await shop.start("raw", { input: "Hot?" }), 3, "thread");
    const { last } = await saved(record.checkpoint!);
    expect(last).toMatchObject({ content: "Let me look." });
    expect(last.additional_kwargs).toEqual({ own: 1, cancelled: true });
  });
});
