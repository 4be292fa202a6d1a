/**
 * What it costs to list an owner's threads, of whom there are many: pages of 50 without a filter, by status, by agent, by
 * both, and by metadata that one thread in a hundred has; from the newest on, and from the middle.
 *
 *     node test/dist/bench/threads.js [--threads 10000 --rounds 500]
 */
import { parseArgs } from "node:util";
import { Dispatcher } from "@throughline/dispatch";
import { startPrivateRedis } from "@throughline/local";
import type { ThreadStatus } from "@throughline/protocol";
import { Redis } from "ioredis";

const { values: options } = parseArgs({
  options: { threads: { type: "string", default: "10000" }, rounds: { type: "string", default: "500" } },
});
const count = Number(options.threads);
const rounds = Number(options.rounds);
const owner = "local";
const limit = 50;

const redis = await startPrivateRedis({});
const connection = new Redis(redis.url);
const dispatcher = new Dispatcher(connection);
const used = async () => Number(/^used_memory:(\d+)/m.exec(await connection.info("memory"))![1]);
const before = await used();
const began = performance.now();
for (let i = 0; i < count; i += 100) {
  await Promise.all(Array.from({ length: Math.min(100, count - i) }, (_, j) => make(i + j)));
}
const took = (performance.now() - began) / count;
const bytes = ((await used()) - before) / count;
console.log(`${count} threads, each ${took.toFixed(2)} ms to make and ${bytes.toFixed(0)} bytes of Redis`);

/** One in ten is busy, one in ten waits for a person; of three agents. */
async function make(i: number): Promise<void> {
  const threadId = `t${i}`;
  await dispatcher.createThread(owner, { threadId, metadata: { title: `thread ${i}`, hundredth: i % 100 } });
  if (i % 10 === 0) {
    const request = { queue: "nobody" };
    await dispatcher.start({ agent: `agent ${i % 3}`, owner, threadId, request });
  }
  if (i % 10 === 1) await dispatcher.headMoved(owner, threadId, { status: "interrupted", messages: 1 });
}

type Query = { status?: ThreadStatus; agent?: string; metadata?: Record<string, unknown> };

async function measure(name: string, query: Query): Promise<void> {
  let middle: string | undefined;
  for (let seen = 0; seen < count / 20; seen += limit) {
    const page = await dispatcher.listThreads({ owner, limit, ...query, ...(middle && { before: middle }) });
    middle = page.next ?? middle;
  }
  for (const [from, at] of [
    ["newest", undefined],
    ["middle", middle],
  ] as const) {
    const times: number[] = [];
    let found = 0;
    for (let i = 0; i < rounds; i++) {
      const start = performance.now();
      const page = await dispatcher.listThreads({ owner, limit, ...query, ...(at && { before: at }) });
      times.push(performance.now() - start);
      found = page.threads.length;
    }
    times.sort((a, b) => a - b);
    const part = (share: number) => times[Math.floor(times.length * share)]!.toFixed(2);
    console.log(`${name}, from the ${from}: ${found} threads, p50 ${part(0.5)} ms, p99 ${part(0.99)} ms`);
  }
}

await measure("no filter", {});
await measure("status", { status: "interrupted" });
await measure("agent", { agent: "agent 1" });
await measure("status and agent", { status: "busy", agent: "agent 1" });
await measure("metadata", { metadata: { hundredth: 7 } });
await dispatcher.close();
connection.disconnect();
await redis.stop();
