/**
 * What the largest commands that a gateway takes cost it: how long somebody else's ping waits that comes right behind,
 * and how long the command's own answer takes, Redis and all, which is the most that its event loop can have been held.
 * Beside them a text of the same size, which is the least that so many bytes can cost.
 *
 *     node test/dist/bench/frames.js
 */
import { once } from "node:events";
import { AgentRegistry } from "@throughline/dispatch";
import { startPrivateRedis } from "@throughline/local";
import { Redis } from "ioredis";
import { WebSocket } from "ws";
import { start } from "./processes.ts";

const frameBytes = 1_048_576 - 200;
/** One less than the gateway takes; the frame's own values are among them. */
const values = 49_980;
const rounds = 9;

const list = (item: string, count: number) => `[${Array<string>(count).fill(item).join(",")}]`;
const shapes: Record<string, string> = {
  "one text (the floor)": JSON.stringify("x".repeat(frameBytes)),
  "a text of escapes": JSON.stringify('"'.repeat(frameBytes / 2)),
  zeros: list("0", values),
  exponents: list("1e99", values),
  "long numbers": list(`0.${"1".repeat(290)}`, Math.floor(frameBytes / 293)),
  "one flat object": `{${Array.from({ length: values / 2 }, (_, i) => `"k${i}":0`).join(",")}}`,
  "small objects": list('{"a":0}', Math.floor(values / 4)),
  "lists, 96 deep": list(`${"[".repeat(96)}0${"]".repeat(96)}`, Math.floor(values / 98)),
};

const redis = await startPrivateRedis({});
const connection = new Redis(redis.url);
await new AgentRegistry(connection).offer("bench", {
  queue: "nobody",
  agents: [{ name: "a", modes: ["messages"] }],
});
const env = { REDIS_URL: redis.url, PORT: "0", BYTES_PER_SECOND: "1000000000", LOG_LEVEL: "error" };
const gateway = await start("apps/gateway/dist/main.js", env);

/** The median, and the most. */
function figures(times: readonly number[]): string {
  const [median] = times.toSorted((a, b) => a - b).slice(rounds >> 1);
  return `${median!.toFixed(1).padStart(5)} ms (at most ${Math.max(...times).toFixed(1)})`;
}

async function open(): Promise<WebSocket> {
  const socket = new WebSocket(gateway.detail);
  await once(socket, "message");
  return socket;
}

const [large, small] = [await open(), await open()];
let id = 0;
for (const [name, input] of Object.entries(shapes)) {
  const [pings, answers]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    const frame = `{"id":${++id},"method":"run.start","params":{"agent":"a","subscribe":false,"input":${input}}}`;
    const taken = once(large, "message");
    // All of it is there when the gateway reads it: what counts is what it makes of it.
    await new Promise<void>((resolve) => large.send(frame, () => resolve()));
    const asked = performance.now();
    const answered = once(small, "message");
    small.send(`{"id":${++id},"method":"server.ping"}`);
    await answered;
    pings.push(performance.now() - asked);
    const [answer] = (await taken) as [Buffer];
    answers.push(performance.now() - asked);
    if (JSON.parse(answer.toString()).type !== "success") throw new Error(`${name}: ${answer}`);
  }
  console.log(`${name.padEnd(22)} a ping behind it: ${figures(pings)}; its answer: ${figures(answers)}`);
}
large.terminate();
small.terminate();
connection.disconnect();
await gateway.stop();
await redis.stop();
