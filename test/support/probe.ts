/** What test/browser/probe.ts sees in a page, as `globalThis.probe`. */
export interface Probe {
  /** React's first commit, and the paint of the message that is waited for, by the page's clock, ms. 0: not yet. */
  startedAt: number;
  paintedAt: number;
  /** Of each commit of React's: how many messages rendered. */
  commits: number[];
  /** Tasks of the main thread over 50 ms, ms. */
  tasks: number[];
}
