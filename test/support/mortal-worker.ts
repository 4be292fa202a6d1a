/** A worker process to be killed, frozen and cut off: see worker-process.ts. What its agents say tells who said it. */
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createLogger, runService } from "@throughline/kit";
import { type AgentContext, agent, serve, token } from "@throughline/worker";
import type { Told } from "./worker-process.ts";

export interface TalkInput {
  /** How many words. */
  n: number;
  /** Between words, ms. */
  ms: number;
  /** It says n words and goes on until this file exists. */
  until?: string;
}

export interface BlockInput {
  /** The event loop is blocked until this file exists. */
  until: string;
}

const tell = (told: Told) => process.send?.(told);

/** Tells of an abort, whoever waits for it. */
function watch({ runId, attempt, signal }: AgentContext<never>): void {
  tell({ event: "began", runId, attempt });
  signal.addEventListener("abort", () => {
    tell({ event: "aborted", runId, attempt, code: (signal.reason as { code: string }).code });
  });
}

const goesOn = ({ n, until }: TalkInput, i: number) => i < n || (until !== undefined && !existsSync(until));

/** `1:0 1:1 1:2 …`: attempt and number. */
async function* talk(context: AgentContext<TalkInput>) {
  watch(context as AgentContext<never>);
  for (let i = 0; goesOn(context.input, i); i++) {
    await sleep(context.input.ms, undefined, { signal: context.signal });
    yield `${context.attempt}:${i} `;
  }
}

/** The same, with its process in place of the attempt, and it has no ear for its signal. */
async function* deaf(context: AgentContext<TalkInput>) {
  watch(context as AgentContext<never>);
  for (let i = 0; goesOn(context.input, i); i++) {
    await sleep(context.input.ms);
    yield `${process.pid}:${i} `;
  }
}

/** Its first attempt blocks the event loop, and then goes on as if nothing had been. */
async function* block(context: AgentContext<BlockInput>) {
  watch(context as AgentContext<never>);
  yield `${context.attempt}:before `;
  // What was said is on its way before nothing goes any more.
  await sleep(200);
  const moment = new Int32Array(new SharedArrayBuffer(4));
  while (context.attempt === 1 && !existsSync(context.input.until)) Atomics.wait(moment, 0, 0, 20);
  yield `${context.attempt}:after `;
  await sleep(200);
  yield `${context.attempt}:end`;
}

/** Takes its worker down with it. */
async function* deadly({ attempt }: AgentContext) {
  yield token(`last words ${attempt} `);
  await sleep(200);
  if (attempt % 2 === 0) process.exit(1);
  process.kill(process.pid, "SIGKILL");
}

const all = { talk, going: agent(talk, { takeover: "resume" }), deaf, block, deadly };
const names = process.env.AGENTS?.split(",") ?? Object.keys(all);

await runService({
  name: "the mortal worker",
  logger: createLogger("mortal-worker"),
  start: async () => {
    const worker = await serve({
      agents: Object.fromEntries(Object.entries(all).filter(([name]) => names.includes(name))),
      redis: process.env.REDIS_URL as string,
      prefix: process.env.KEY_PREFIX as string,
      logger: createLogger("mortal-worker"),
      drainMs: 0,
      cancelGraceMs: 200,
    });
    return { close: () => worker.close() };
  },
});
