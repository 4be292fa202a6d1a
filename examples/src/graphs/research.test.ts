import { Command, INTERRUPT, isInterrupted, MemorySaver } from "@langchain/langgraph";
import { expect, test } from "vitest";
import { documentation } from "./library.ts";
import { research } from "./research.ts";

const sources = [
  {
    title: "bees",
    text: "Bees dance to tell other bees where flowers are. The hive is dark, and so they feel it.",
  },
  { title: "cats", text: "A cat sleeps for most of the day, and hunts at night. Nobody taught cats that." },
  {
    title: "both",
    text: "When a cat comes near the hive, the bees do not dance any longer than they have to.",
  },
];
const question = "Why do bees dance?";

let threads = 0;
/** A graph on a thread of its own: what it is asked, and all that it streams. */
function onThread() {
  const { graph } = research({});
  graph.checkpointer = new MemorySaver();
  const config = { configurable: { thread_id: `t${threads++}` } };
  return {
    graph,
    config,
    async streamed(input: unknown) {
      const chunks: [string[], string, Record<string, unknown>][] = [];
      const options = { ...config, streamMode: ["updates", "custom", "tools"], subgraphs: true };
      for await (const chunk of await graph.stream(input, options as never)) chunks.push(chunk as never);
      return chunks;
    },
    answer: async () => (await graph.getState(config)).values.messages.at(-1).content as string,
  };
}

test("asks for approval, reads every source in a subgraph with a tool, and quotes what has to do with it", async () => {
  const { streamed, answer } = onThread();
  const asked = await streamed({ messages: question, sources, tokensPerSecond: 0 });
  expect(asked[0]).toEqual([
    [],
    "custom",
    { kind: "progress", step: "plan", terms: ["bee", "dance"], of: 3 },
  ]);
  const last = asked.at(-1)![2] as { [INTERRUPT]: { value: unknown }[] };
  expect(isInterrupted(last)).toBe(true);
  expect(last[INTERRUPT][0]!.value).toMatchObject({
    kind: "approval",
    question,
    sources: ["bees", "cats", "both"],
  });

  const read = await streamed(new Command({ resume: true }));
  const tools = read.filter(([, mode]) => mode === "tools").map(([, , { event }]) => event);
  expect(tools.toSorted()).toEqual([...Array(3).fill("on_tool_end"), ...Array(3).fill("on_tool_start")]);
  // All three have begun before one has ended: they are parallel.
  expect(tools.slice(0, 3)).toEqual(Array(3).fill("on_tool_start"));
  const progress = read
    .filter(([ns, mode]) => mode === "custom" && ns.length === 1)
    .map(([, , data]) => data);
  expect(progress).toHaveLength(3);
  expect(progress).toContainEqual({ kind: "progress", step: "read", title: "cats", found: 0 });
  expect(await answer()).toBe(
    `On “${question}”:\n\n- Bees dance to tell other bees where flowers are. (bees, Paragraph 1)\n- When a cat comes near the hive, the bees do not dance any longer than they have to. (both, Paragraph 1)\n`,
  );
});

test("the answer may name sources, may be no, and is asked for again when it is neither", async () => {
  const some = onThread();
  await some.streamed({ messages: question, sources, tokensPerSecond: 0 });
  for (const [wrong, problem] of [
    ["perhaps", "the answer is "],
    [{ sources: ["dogs"] }, "there is no source dogs"],
  ]) {
    const again = (await some.streamed(new Command({ resume: wrong as string }))).at(-1)![2] as {
      [INTERRUPT]: { value: { problem: string } }[];
    };
    expect(again[INTERRUPT][0]!.value.problem).toContain(problem);
  }
  await some.streamed(new Command({ resume: { sources: ["both"] } }));
  expect(await some.answer()).not.toContain("(bees,");
  expect(await some.answer()).toContain("(both,");

  const none = onThread();
  await none.streamed({ messages: question, sources });
  const declined = await none.streamed(new Command({ resume: "no" }));
  expect(declined.some(([, mode]) => mode === "tools")).toBe(false);
  expect(await none.answer()).toBe("The plan was declined; nothing was read.");
});

test("another question on the same thread begins anew", async () => {
  const { streamed, answer } = onThread();
  await streamed({ messages: question, sources, tokensPerSecond: 0 });
  await streamed(new Command({ resume: true }));
  await streamed({ messages: "When do cats hunt?" });
  await streamed(new Command({ resume: true }));
  expect(await answer()).toContain("hunts at night");
  expect(await answer()).not.toContain("flowers");
});

test("without sources it reads this repository's documentation", async () => {
  const { streamed, answer } = onThread();
  await streamed({ messages: "What happens to a run when its worker dies?", tokensPerSecond: 0 });
  const read = await streamed(new Command({ resume: true }));
  const titles = read
    .filter(([ns, mode]) => mode === "custom" && ns.length === 1)
    .map(([, , data]) => data.title);
  expect(titles.toSorted()).toEqual(await documentation());
  expect(await answer()).toMatch(/^- .*worker.* \((README|docs\/\w+)\.md, .*\)$/m);
});

test("where there is no documentation, it asks for sources", async () => {
  await expect(documentation("/nowhere/")).rejects.toMatchObject({ code: "invalid_argument" });
});

test("a question without a word to search for is refused", async () => {
  await expect(onThread().streamed({ messages: "Why?", sources })).rejects.toMatchObject({
    code: "invalid_argument",
  });
});
