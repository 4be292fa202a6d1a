/**
 * Watches a page of React's from its first line on: when a message is painted, how many messages render in each commit,
 * and how long the main thread is busy at a stretch. What it sees is `globalThis.probe`.
 */
import type { Probe } from "../support/probe.ts";

interface Fiber {
  tag: number;
  flags: number;
  alternate: Fiber | null;
  child: Fiber | null;
  sibling: Fiber | null;
}

/** Of React's: what a memoised component is, and the flag of one that rendered. */
const memoTags = [14, 15];
const performedWork = 1;

const probe: Probe = { startedAt: 0, paintedAt: 0, commits: [], tasks: [] };
const { lastMessage } = globalThis as unknown as { lastMessage: string };

/** Memoised components, which on this page are the messages, that React rendered in its last commit. */
function rendered(first: Fiber | null): number {
  let count = 0;
  for (let fiber = first; fiber !== null; fiber = fiber.sibling) {
    const isNew = fiber.alternate === null || (fiber.flags & performedWork) !== 0;
    if (memoTags.includes(fiber.tag) && isNew) count++;
    count += rendered(fiber.child);
  }
  return count;
}

/** The frame that is painted next has it. */
function noteNextPaint(): void {
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      probe.paintedAt = performance.now();
    };
    port2.postMessage(0);
  });
}

new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) probe.tasks.push(duration);
}).observe({ type: "longtask", buffered: true });

const looking = new MutationObserver(() => {
  if (document.querySelector("article:last-of-type span")?.textContent !== lastMessage) return;
  looking.disconnect();
  noteNextPaint();
});
looking.observe(document, { childList: true, subtree: true });

Object.assign(globalThis, {
  probe,
  __REACT_DEVTOOLS_GLOBAL_HOOK__: {
    supportsFiber: true,
    inject: () => 1,
    onCommitFiberUnmount: () => {},
    onCommitFiberRoot: (_: number, root: { current: Fiber }) => {
      probe.startedAt ||= performance.now();
      probe.commits.push(rendered(root.current));
    },
  },
});
