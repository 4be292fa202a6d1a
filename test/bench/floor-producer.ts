/** The floor's producer: one PUBLISH per part, up to 64 of a run unanswered. With `log`, one XADD per part instead. */
import { reportReady } from "@throughline/kit";
import { Redis } from "ioredis";
import { drive, type Load, text } from "./load.ts";

const redis = new Redis(process.env.REDIS_URL as string);
const window = 64;

function part(run: string): string {
  return JSON.stringify({
    type: "messages",
    ns: [],
    data: [{ type: "AIMessageChunk", id: `${run}-answer`, content: text() }, { langgraph_node: "bench" }],
  });
}

async function produce(run: string, load: Load, log: boolean): Promise<void> {
  let open = 0;
  let wake: (() => void) | undefined;
  const answered = () => {
    open--;
    wake?.();
    wake = undefined;
  };
  await drive(load, () => {
    open++;
    const sent = log ? redis.xadd(`floor:${run}`, "*", "p", part(run)) : redis.publish(run, part(run));
    sent.then(answered, answered);
    if (open < window) return undefined;
    return new Promise<void>((resolve) => {
      wake = resolve;
    });
  });
}

process.on("message", ({ runs, load, log }: { runs: string[]; load: Load; log: boolean }) => {
  const all = runs.map((run, i) => produce(run, { ...load, phase: i / runs.length }, log));
  void Promise.all(all).then(() => process.send?.({ type: "done" }));
});
// Never outlive the benchmark.
process.once("disconnect", () => process.exit(0));
process.once("SIGTERM", () => process.exit(0));
reportReady();
