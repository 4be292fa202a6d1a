/** What a process needs before it runs graphs. It imports nothing: a worker of function agents does without LangGraph. */
import { EventEmitter } from "node:events";

/**
 * Sets two of the process's defaults. `serve` calls it when the first graph is served; nothing is written at import.
 * Idempotent, and in time also where LangChain was imported before: both are read when a handler or a signal is made.
 *
 * - `LANGCHAIN_CALLBACKS_BACKGROUND`, unless it is set: `false`. LangChain's own default calls all handlers of the process
 *   in the background, one after another. Tokens come by a handler: one slow handler would hold back every run's tokens,
 *   and those that come after their graph is done would be lost.
 * - `EventEmitter.defaultMaxListeners`: 10,000 at least, unless it is 0. LangGraph puts a listener on a step's signal for
 *   each of the step's tasks, which may be many. They are no leak for Node to warn of.
 */
export function prepareForGraphs(): void {
  process.env.LANGCHAIN_CALLBACKS_BACKGROUND ??= "false";
  if (EventEmitter.defaultMaxListeners > 0) {
    EventEmitter.defaultMaxListeners = Math.max(EventEmitter.defaultMaxListeners, 10_000);
  }
}
