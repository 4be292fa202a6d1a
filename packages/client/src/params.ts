/** What an application gives to have a run started. */
import type { Filter, Params } from "@throughline/protocol";

/** The params of `run.start`. The run is always subscribed to: `detach()` from one that is not to be followed. */
export interface StartParams
  extends Omit<Params<"run.start">, "subscribe" | "pages" | "input" | "config" | "metadata" | "command"> {
  /** Anything that JSON can carry; so are the next three. */
  input?: unknown;
  config?: Record<string, unknown>;
  metadata?: Record<string, unknown>;
  command?: { resume?: unknown; update?: unknown; goto?: unknown };
  /** Which parts to follow. It is not sent with the start: the run produces what `modes` says. */
  filter?: Filter;
}
