/** Loaded before a server (`--import`): says how much memory it holds, garbage collected, when the benchmark asks. */
process.on("message", (message) => {
  if (message !== "memory") return;
  const collect = (globalThis as { gc?: () => void }).gc;
  collect?.();
  setImmediate(() => {
    collect?.();
    const { rss, heapUsed, external } = process.memoryUsage();
    process.send?.({ rss, held: heapUsed + external });
  });
});
