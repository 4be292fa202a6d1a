/** Processes whose wall clock is wrong. */
import { pathToFileURL } from "node:url";
import { repositoryFile } from "./program.ts";

/** The environment of a Node process whose clock is that far ahead, ms; negative: behind. */
export function shiftedClock(ms: number): Record<string, string> {
  const preload = pathToFileURL(repositoryFile("test/dist/support/shifted-clock.js"));
  return { NODE_OPTIONS: `--import=${preload}`, CLOCK_SHIFT_MS: String(ms) };
}
