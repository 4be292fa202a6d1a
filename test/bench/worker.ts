/** The real line's worker: an agent that yields the benchmark's parts. */
import { reportReady } from "@throughline/kit";
import { type AgentContext, serve, token } from "@throughline/worker";
import { graph } from "./graph.ts";
import { type Load, text, until } from "./load.ts";

async function* bench({ input, signal }: AgentContext<Load>) {
  await until(input.startAt, signal);
  const period = input.rate === 0 ? 0 : 1e6 / input.rate;
  for (let i = 0; i < input.parts; i++) {
    if (period > 0) await until(input.startAt + (i + input.phase) * period);
    yield token(text());
  }
}

const worker = await serve({
  agents: { bench, graph: graph.compile() },
  redis: process.env.REDIS_URL as string,
  concurrency: 1000,
});
// Never outlive the benchmark.
process.once("disconnect", () => process.exit(0));
process.once("SIGTERM", () => void worker.close().then(() => process.exit(0)));
reportReady();
