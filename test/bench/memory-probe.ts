/**
 * Loaded before a server (`--import`): says how much memory it holds, garbage collected, when the benchmark asks; and, since
 * it was last asked, how much it held at most and how long its event loop was held, ms.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";

const delays = monitorEventLoopDelay({ resolution: 1 });
let mostRss = 0;
if (process.env.PROBE_MS !== undefined) {
  delays.enable();
  const look = () => {
    mostRss = Math.max(mostRss, process.memoryUsage.rss());
  };
  setInterval(look, Number(process.env.PROBE_MS)).unref();
}

process.on("message", (message) => {
  if (message !== "memory") return;
  const collect = (globalThis as { gc?: () => void }).gc;
  const longestHoldMs = delays.max / 1e6;
  collect?.();
  setImmediate(() => {
    collect?.();
    const { rss, heapUsed, external } = process.memoryUsage();
    process.send?.({ rss, held: heapUsed + external, mostRss, longestHoldMs });
    mostRss = 0;
    // Not what collecting took.
    setTimeout(() => delays.reset(), 20);
  });
});
