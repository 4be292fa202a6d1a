/**
 * Loaded before a server (`--import`): says how much memory it holds, garbage collected, when the benchmark asks; and, since
 * it was last asked, how much it held at most, how long its event loop was held, and how much CPU all its threads had taken
 * meanwhile, which is what is left of that where others compete for the machine, ms.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";

const delays = monitorEventLoopDelay({ resolution: 1 });
let mostRss = 0;
let longestCpuMs = 0;
if (process.env.PROBE_MS !== undefined) {
  delays.enable();
  const look = () => {
    mostRss = Math.max(mostRss, process.memoryUsage.rss());
  };
  setInterval(look, Number(process.env.PROBE_MS)).unref();
  let last = process.cpuUsage();
  setInterval(() => {
    const now = process.cpuUsage();
    longestCpuMs = Math.max(longestCpuMs, (now.user + now.system - last.user - last.system) / 1000);
    last = now;
  }, 1).unref();
}

process.on("message", (message) => {
  if (message !== "memory") return;
  const collect = (globalThis as { gc?: () => void }).gc;
  const longestHoldMs = delays.max / 1e6;
  const cpuMs = longestCpuMs;
  collect?.();
  setImmediate(() => {
    collect?.();
    const { rss, heapUsed, external } = process.memoryUsage();
    process.send?.({ rss, held: heapUsed + external, mostRss, longestHoldMs, longestCpuMs: cpuMs });
    mostRss = 0;
    // Not what collecting took.
    setTimeout(() => {
      delays.reset();
      longestCpuMs = 0;
    }, 20);
  });
});
