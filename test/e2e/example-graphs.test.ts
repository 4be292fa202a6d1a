/** The example graphs through gateways and sockets: what `npm run cli` does with them, part by part. */
import { chatGraph, defaultStory, research, tokens } from "@throughline/examples";
import type { FlatMessage, Part, ThreadState } from "@throughline/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import { until } from "../support/until.ts";

let line: Line;
let client: TestClient;
let other: TestClient;
let threads = 0;
const newThread = () => `thread-${threads++}`;

beforeAll(async () => {
  line = await startLine({ agents: { "chat-graph": chatGraph({}), research: research({}) }, gateways: 2 });
  client = await line.client();
  other = await line.client(1);
});
afterAll(() => line.stop());

type State = ThreadState;
const texts = ({ values }: State) =>
  (values.messages as FlatMessage[]).map(({ type, content }) => `${type}: ${content}`);
const custom = (parts: Part[]) => parts.flatMap((part) => (part.type === "custom" ? [part.data] : []));

/** Starts the story slowly, and stops it in its middle. */
async function stopped(threadId: string, keep: "thread" | "branch") {
  const input = { messages: "Tell me a story", tokensPerSecond: 200 };
  const run = await client.start({ agent: "chat-graph", threadId, input });
  await until(() => run.text.length > 200);
  const { checkpoint, offset } = await other.call("run.cancel", { runId: run.runId, keep });
  expect(await run.ended()).toMatchObject({ event: "cancelled", keep });
  expect(run.last).toBe(offset);
  expect(defaultStory.startsWith(run.text)).toBe(true);
  return { run, checkpointId: checkpoint!.checkpointId };
}

/** A new turn, as fast as it goes. */
async function turn(threadId: string, content: string, checkpointId?: string) {
  const run = await other.start({
    agent: "chat-graph",
    threadId,
    input: { messages: content, tokensPerSecond: 0 },
    ...(checkpointId === undefined ? {} : { checkpointId }),
  });
  expect(await run.ended()).toMatchObject({ event: "completed" });
  return run;
}

describe("chat-graph", () => {
  test("P1: streams its story token by token, and the thread has it whole", async () => {
    const threadId = newThread();
    const run = await turn(threadId, "Tell me a story");
    const said = run.parts.flatMap((part) => (part.type === "messages" ? [part.data[0].content] : []));
    expect(said.filter((text) => text !== "")).toEqual([...tokens(defaultStory)]);
    const state = await client.state(threadId);
    expect(texts(state)).toEqual(["human: Tell me a story", `ai: ${defaultStory}`]);
    expect(state.next).toEqual([]);
  });

  test("P3: stopped, its partial is in the thread, and the story goes on with its next word", async () => {
    const threadId = newThread();
    const { run, checkpointId } = await stopped(threadId, "thread");
    const state = await other.state(threadId);
    expect(state.checkpointId).toBe(checkpointId);
    expect(texts(state)).toEqual(["human: Tell me a story", `ai: ${run.text}`]);
    const rest = await turn(threadId, "Please continue the story");
    expect(run.text + rest.text).toBe(defaultStory);
  });

  test("P3: stopped and kept on a branch, the thread is as before; the branch can be gone on with, and is in the tree", async () => {
    const threadId = newThread();
    await turn(threadId, "Tell me a story");
    const before = await client.state(threadId);
    const { run, checkpointId } = await stopped(threadId, "branch");
    expect(await other.state(threadId)).toEqual(before);
    const branch = await other.state(threadId, checkpointId);
    expect(texts(branch)).toEqual([...texts(before), "human: Tell me a story", `ai: ${run.text}`]);

    const rest = await turn(threadId, "Go on", checkpointId);
    expect(run.text + rest.text).toBe(defaultStory);
    const onBranch = await client.state(threadId);
    expect(texts(onBranch)).toEqual([...texts(branch), "human: Go on", `ai: ${rest.text}`]);

    // A third line, from where the thread was before: the tree has all three, and every parent is in it.
    const third = await turn(threadId, "Once more", before.checkpointId);
    expect(third.text).toBe(defaultStory);
    const { checkpoints } = await client.call("thread.history", { threadId, limit: 200 });
    const ids = new Set(checkpoints.map(({ checkpointId }) => checkpointId));
    const parents = checkpoints.map(({ parentId }) => parentId);
    expect(parents.filter((id) => id !== null && !ids.has(id))).toEqual([]);
    expect(parents.filter((id) => id === null)).toHaveLength(1);
    const tips = checkpoints
      .filter(({ checkpointId }) => !parents.includes(checkpointId))
      .map(({ checkpointId }) => checkpointId);
    const head = await client.state(threadId);
    expect(tips.sort()).toEqual([onBranch.checkpointId, head.checkpointId].sort());
    // Lines part where the thread was before the second turn.
    expect(parents.filter((id) => id === before.checkpointId)).toHaveLength(2);
  });
});

describe("research", () => {
  const sources = [
    { title: "bees", text: "Bees dance to tell other bees where flowers are." },
    { title: "cats", text: "A cat sleeps for most of the day, and hunts at night." },
    { title: "both", text: "When a cat comes near the hive, the bees do not dance." },
  ];
  const input = { messages: "Why do bees dance?", sources, tokensPerSecond: 0 };

  test("asks, is answered over another gateway, reads in parallel, and writes what it found", async () => {
    const threadId = newThread();
    const asking = await client.start({ agent: "research", threadId, input });
    const ending = await asking.ended();
    if (ending.event !== "interrupted") throw new Error(`it is ${ending.event}`);
    expect(ending.interrupts).toEqual([
      {
        id: expect.any(String),
        value: expect.objectContaining({ kind: "approval", sources: ["bees", "cats", "both"] }),
      },
    ]);
    const waiting = await other.state(threadId);
    expect(waiting).toMatchObject({ next: ["approve"], interrupts: ending.interrupts });

    const run = await other.start({
      agent: "research",
      threadId,
      command: { resume: { sources: ["bees", "both"] } },
      modes: ["messages", "updates", "custom", "tools"],
      subgraphs: true,
    });
    expect(await run.ended()).toMatchObject({ event: "completed" });
    expect(run.text).toBe(
      "On “Why do bees dance?”:\n\n- Bees dance to tell other bees where flowers are. (bees, Paragraph 1)\n- When a cat comes near the hive, the bees do not dance. (both, Paragraph 1)\n",
    );
    expect(custom(run.parts)).toEqual(
      expect.arrayContaining([
        { kind: "progress", step: "read", title: "bees", found: 1 },
        { kind: "progress", step: "read", title: "both", found: 1 },
        { kind: "progress", step: "write", quoted: 2 },
      ]),
    );
    const readers = run.parts.filter(({ type }) => type === "tools").map(({ ns }) => ns.join("|"));
    expect(new Set(readers).size).toBe(2);
    expect(readers.every((ns) => ns.startsWith("reader:"))).toBe(true);
    const state = await client.state(threadId);
    expect(state).toMatchObject({ next: [], interrupts: [] });
    expect(texts(state)).toEqual(["human: Why do bees dance?", `ai: ${run.text}`]);
  });

  test("what was asked and answered is asked anew from the checkpoint where it was asked, and answered otherwise", async () => {
    const threadId = newThread();
    await (await client.start({ agent: "research", threadId, input })).ended();
    const asked = await client.state(threadId);
    const answer = async (resume: boolean) => {
      const run = await client.start({ agent: "research", threadId, command: { resume } });
      expect(await run.ended()).toMatchObject({ event: "completed" });
      return run.text;
    };
    expect(await answer(false)).toBe("The plan was declined; nothing was read.");
    // An answer given there would be LangGraph's second to the same question: the first one holds. So it asks again.
    const again = await other.start({ agent: "research", threadId, checkpointId: asked.checkpointId });
    expect(await again.ended()).toMatchObject({ event: "interrupted" });
    expect(await answer(true)).toContain("Bees dance to tell");
    const { checkpoints } = await client.call("thread.history", { threadId, limit: 200 });
    const byId = new Map(checkpoints.map((each) => [each.checkpointId, each]));
    const linesOf = checkpoints.filter(
      ({ values }) => (values.messages as FlatMessage[] | undefined)?.length === 2,
    );
    const line = (from: State | undefined): string[] =>
      from === undefined ? [] : [from.checkpointId, ...line(byId.get(from.parentId ?? ""))];
    const [accepted, declined] = linesOf.map(line);
    // Both answers are in the tree, on lines that part where the question was.
    expect(accepted!.find((id) => declined!.includes(id))).toBe(asked.checkpointId);
  });

  test("P3: stopped while it writes, it keeps what it found and has written", async () => {
    const threadId = newThread();
    await (
      await client.start({ agent: "research", threadId, input: { ...input, tokensPerSecond: 20 } })
    ).ended();
    const run = await client.start({ agent: "research", threadId, command: { resume: true } });
    await until(() => run.text.length > 20);
    await client.call("run.cancel", { runId: run.runId });
    expect(await run.ended()).toMatchObject({ event: "cancelled", keep: "thread" });
    const state = await other.state(threadId);
    expect(state.values.findings).toHaveLength(2);
    expect(texts(state)).toEqual(["human: Why do bees dance?", `ai: ${run.text}`]);
  });
});
