/** The floor of a graph: `graph.stream` in a process of its own, with its tokens counted and nothing done with them. */
import { MemorySaver } from "@langchain/langgraph";
import { reportReady } from "@throughline/kit";
import { graph, graphInput } from "./graph.ts";
import type { Load } from "./load.ts";
import { microseconds } from "./processes.ts";

const compiled = graph.compile({ checkpointer: new MemorySaver() });

async function consume(run: string, load: Load): Promise<number> {
  const configurable = { thread_id: run };
  const chunks = await compiled.stream(graphInput(load), {
    configurable,
    streamMode: ["messages", "updates", "custom"],
    // As anyone calls it who wants to be able to stop it: LangChain races every token with the signal.
    signal: new AbortController().signal,
  });
  let tokens = 0;
  for await (const [mode] of chunks) if (mode === "messages") tokens++;
  return tokens;
}

process.on("message", ({ runs, load }: { runs: string[]; load: Load }) => {
  void Promise.all(runs.map((run) => consume(run, load))).then((tokens) =>
    process.send?.({ tokens: tokens.reduce((sum, each) => sum + each, 0), doneAt: microseconds() }),
  );
});
// Never outlive the benchmark.
process.once("disconnect", () => process.exit(0));
process.once("SIGTERM", () => process.exit(0));
reportReady();
