/** What both lines carry: parts of about 260 bytes of JSON, and when each is due. */
import { setTimeout as sleep } from "node:timers/promises";
import { microseconds } from "./processes.ts";

export interface Load {
  parts: number;
  /** Parts per second; 0: as fast as it goes. */
  rate: number;
  /** When to begin, on the clock that all processes share, µs. */
  startAt: number;
  /** Spreads paced runs over one period, so that they do not tick together: 0…1. */
  phase: number;
}

/** 260 bytes of JSON with the rest of the part. */
export const filler = "x".repeat(104);

/** The text of a part: when it was made, and filler. */
export function text(): string {
  return `${microseconds()} ${filler}`;
}

/** Calls `emit` for each part when it is due. Where `emit` answers a promise it is waited for. */
export async function drive(load: Load, emit: () => Promise<void> | undefined): Promise<void> {
  await until(load.startAt);
  if (load.rate === 0) {
    for (let i = 0; i < load.parts; i++) {
      const wait = emit();
      if (wait !== undefined) await wait;
    }
    return;
  }
  const period = 1e6 / load.rate;
  for (let i = 0; i < load.parts; i++) {
    await until(load.startAt + (i + load.phase) * period);
    const wait = emit();
    if (wait !== undefined) await wait;
  }
}

export async function until(at: number, signal?: AbortSignal): Promise<void> {
  const ms = (at - microseconds()) / 1000;
  if (ms <= 0) return;
  if (signal === undefined) await new Promise((resolve) => setTimeout(resolve, ms));
  else await sleep(ms, undefined, { signal });
}
