import { z } from "zod";
import { parseInput } from "../input.ts";

const defaultRate = 40;
const rate = z.number().min(0, "must be 0 or more").max(1_000_000, "must be 1,000,000 or less");
const rates = z.object({ tokensPerSecond: rate.default(defaultRate) });

/** Tokens a second, as the state has it: what came in with the input. Throws an InputError. */
export function rateOf(tokensPerSecond: unknown): number {
  return parseInput(rates, { tokensPerSecond }).tokensPerSecond;
}
