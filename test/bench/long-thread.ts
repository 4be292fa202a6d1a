/**
 * What a long conversation costs: a thread of many turns of 440 characters (220 of the user's, 220 of the agent's). Its
 * bytes in Redis, how long a turn takes to its first token, and how long a page of its history takes. Beside the last
 * turns stand the first ones: the ratio is what counts.
 *
 *     node test/dist/bench/long-thread.js [--turns 1000] [--agents function,graph]
 *
 * `steps` is a graph of two nodes: four checkpoints a turn. What its history costs, with values and without:
 *
 *     node test/dist/bench/long-thread.js --turns 250 --agents steps
 */
import { parseArgs } from "node:util";
import { startPrivateRedis } from "@throughline/local";
import { Redis } from "ioredis";
import { connect } from "./clients.ts";
import { median, start } from "./processes.ts";

const { values: options } = parseArgs({
  options: {
    turns: { type: "string", default: "1000" },
    agents: { type: "string", default: "function,graph" },
  },
});
const turns = Number(options.turns);
/** How many turns, or pages, one figure is the median of. */
const sample = 11;

const ms = (figure: number) => `${figure.toFixed(1)} ms`;
const mb = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;

for (const agent of options.agents.split(",")) {
  const redis = await startPrivateRedis({});
  const connection = new Redis(redis.url);
  const env = { REDIS_URL: redis.url };
  const worker = await start("test/dist/bench/long-thread-worker.js", env);
  const gateway = await start("apps/gateway/dist/main.js", {
    ...env,
    PORT: "0",
    COMMANDS_PER_SECOND: "100000",
    RUNS_PER_MINUTE: "1000000",
  });
  const line = await connect(gateway.detail);
  const used = async () => {
    const info = await connection.info("memory");
    return Number(/used_memory:(\d+)/.exec(info)![1]);
  };

  /** One turn, from its command to its end. Answers when its first token came, in ms. */
  async function turn(threadId: string, count: number): Promise<number> {
    const content = `question ${count} `.padEnd(220, "abc ");
    let first = 0;
    let asked = 0;
    const ended = new Promise<void>((resolve, reject) => {
      line.onParts = (data) => {
        if (first === 0 && data.includes('"messages"')) first = performance.now();
        if (data.includes('"failed"')) reject(new Error(data.toString()));
      };
      line.onEvent = ({ method }) => method === "run.unsubscribed" && resolve();
    });
    asked = performance.now();
    const input = { messages: [{ type: "human", content }] };
    await line.command("run.start", { agent, threadId, input, subscribe: true });
    await ended;
    return first - asked;
  }

  async function timed(work: () => Promise<unknown>): Promise<number> {
    const times: number[] = [];
    for (let i = 0; i < sample; i++) {
      const began = performance.now();
      await work();
      times.push(performance.now() - began);
    }
    return median(times);
  }

  interface Page {
    checkpoints: { checkpointId: string }[];
    next?: string;
  }

  /** A history in as many answers as it takes: how many checkpoints, answers, ms and bytes of JSON. */
  async function paged(params: { limit: number; values?: boolean; isAll?: boolean }): Promise<string> {
    const { limit, isAll = false, ...others } = params;
    const times: number[] = [];
    const answers: Page[] = [];
    let before: string | undefined;
    for (let left = limit; left > 0; ) {
      const began = performance.now();
      const position = { limit: left, ...others, ...(before === undefined ? {} : { before }) };
      const page = await line.command<Page>("thread.history", { threadId, ...position });
      times.push(performance.now() - began);
      answers.push(page);
      before = isAll ? page.checkpoints.at(-1)?.checkpointId : page.next;
      if (before === undefined) break;
      if (!isAll) left -= page.checkpoints.length;
    }
    const count = answers.reduce((sum, { checkpoints }) => sum + checkpoints.length, 0);
    const size = answers.reduce((sum, page) => sum + Buffer.byteLength(JSON.stringify(page)), 0);
    const total = times.reduce((sum, each) => sum + each, 0);
    return `${count} checkpoints, ${answers.length} answers, ${ms(total)}, ${mb(size)}`;
  }

  const threadId = "long";
  for (let i = 0; i < 30; i++) await turn("warm-up", i);
  await connection.flushall();
  await new Promise((resolve) => setTimeout(resolve, 6_000)); // Until the worker's agents are on offer again.
  const before = await used();
  const times: number[] = [];
  for (let i = 0; i < turns; i++) times.push(await turn(threadId, i));
  const after = await used();

  const bytes: Record<string, number> = {};
  for await (const keys of connection.scanStream({ count: 1000 }) as AsyncIterable<string[]>) {
    for (const key of keys) {
      const kind = key.slice(key.lastIndexOf(":") + 1);
      bytes[kind] = (bytes[kind] ?? 0) + ((await connection.memory("USAGE", key, "SAMPLES", 0)) ?? 0);
    }
  }
  // Afterwards, for both to be measured in processes that are as warm.
  const short: number[] = [];
  for (let i = 0; i < 4 + sample; i++) short.push(await turn("short", i));
  const early = median(short.slice(4));
  const late = median(times.slice(-sample));
  console.log(`${agent}, ${turns} turns`);
  console.log(`  Redis: ${mb(after - before)} (${((after - before) / turns).toFixed(0)} bytes a turn)`);
  for (const [kind, size] of Object.entries(bytes)
    .sort((a, b) => b[1] - a[1])
    .slice(0, 8)) {
    console.log(`    ${kind.padEnd(14)} ${mb(size)}`);
  }
  console.log(
    `  first token at turn 10: ${ms(early)}; at turn ${turns}: ${ms(late)} (× ${(late / early).toFixed(2)})`,
  );
  // The first reader finds nothing of the thread in the gateway's memory; what it read is there for the next.
  for (const reader of ["first", "next"]) {
    console.log(
      `  without values, ${reader} reader, limit 200: ${await paged({ limit: 200, values: false })}`,
    );
  }
  console.log(`  without values, all: ${await paged({ limit: 200, values: false, isAll: true })}`);
  for (const reader of ["first", "next"]) {
    console.log(`  with values, ${reader} reader, limit 200: ${await paged({ limit: 200 })}`);
  }
  const history = (limit: number) => timed(() => line.command("thread.history", { threadId, limit }));
  console.log(`  thread.history, 1 state: ${ms(await history(1))}; 10 states: ${ms(await history(10))}`);
  console.log(`  thread.get: ${ms(await timed(() => line.command("thread.get", { threadId })))}`);
  line.ws.terminate();
  connection.disconnect();
  await worker.stop();
  await gateway.stop();
  await redis.stop();
}
