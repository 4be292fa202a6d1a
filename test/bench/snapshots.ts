/**
 * What it costs a gateway that many readers come to a run whose log was trimmed, with a snapshot of 47 MB: how much its
 * memory grows, how long its event loop is held, how long somebody else's ping waits, and how long the readers take. They
 * read as fast as they can; then one in four stops behind its first page, for as long as the others take.
 *
 *     node test/dist/bench/snapshots.js [--readers 24 --megabytes 47]
 */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { startPrivateRedis } from "@throughline/local";
import { Fold, type Part } from "@throughline/protocol";
import { LogWriter, RunStore } from "@throughline/runlog";
import { Redis } from "ioredis";
import { WebSocket } from "ws";
import { start } from "./processes.ts";

const { values: options } = parseArgs({
  options: { readers: { type: "string", default: "24" }, megabytes: { type: "string", default: "47" } },
});
const readers = Number(options.readers);
const mega = 1_000_000;
const size = Number(options.megabytes) * mega;
const runId = "trimmed";

const redis = await startPrivateRedis({});
const connection = new Redis(redis.url);
await new RunStore(connection).open({
  runId,
  threadId: "t",
  agent: "a",
  owner: "local",
  epoch: "e",
  request: JSON.stringify({ queue: "nobody" }),
});
const claimed = await new LogWriter(connection).claim(runId);
if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
const { writer } = claimed;
const fold = new Fold();
const messages = 40;
for (let i = 0; i < messages; i++) {
  const content = `He said: "${i}".\n`.repeat(Math.floor(size / messages / 18));
  const part: Part = {
    type: "messages",
    ns: [],
    data: [{ type: "AIMessageChunk", id: `m${i}`, content }, { langgraph_node: "model" }],
  };
  await writer.write(part);
  fold.add(part, writer.offset);
  await writer.flush();
}
const snapshot = JSON.stringify(fold.snapshot());
await writer.trim(fold.offset, snapshot);
await writer.finish({ event: "completed" });

const probe = ["--expose-gc", "--import", new URL("./memory-probe.js", import.meta.url).href];
const gateway = await start(
  "apps/gateway/dist/main.js",
  { REDIS_URL: redis.url, PORT: "0", PROBE_MS: "5" },
  probe,
);
interface Memory {
  rss: number;
  held: number;
  mostRss: number;
  longestHoldMs: number;
  longestCpuMs: number;
}
const memory = () => gateway.ask<Memory>("memory");

async function open(): Promise<WebSocket> {
  const socket = new WebSocket(gateway.detail, { maxPayload: 1024 * 1024 });
  await once(socket, "message");
  return socket;
}

/** Resolves with the bytes of the snapshot when the run has ended. */
async function read(stops: Promise<unknown> | undefined): Promise<number> {
  const socket = await open();
  let [bytes, pages] = [0, 0];
  const done = new Promise<number>((resolve, reject) => {
    socket.on("close", (code, reason) => reject(new Error(`closed: ${code} ${reason}`)));
    socket.on("message", (data: Buffer) => {
      const head = data.toString("latin1", 0, 60);
      if (head.includes('"error"')) reject(new Error(data.toString()));
      if (head.includes("run.page")) {
        bytes += Buffer.byteLength(JSON.parse(data.toString()).params.text);
        if (++pages === 1 && stops !== undefined) {
          socket.pause();
          void stops.then(() => socket.resume());
        }
      } else if (head.includes("run.snapshot")) bytes += data.length;
      else if (head.includes("run.unsubscribed")) resolve(bytes);
    });
  });
  socket.send(JSON.stringify({ id: 1, method: "run.subscribe", params: { runId, pages: true } }));
  const came = await done;
  socket.terminate();
  return came;
}

const stop = new AbortController();
const waits: number[] = [];
const other = await open();
const pinging = (async () => {
  for (let id = 1; !stop.signal.aborted; id++) {
    const asked = performance.now();
    const answered = once(other, "message");
    other.send(`{"id":${id},"method":"server.ping"}`);
    await answered;
    waits.push(performance.now() - asked);
    await sleep(5);
  }
})();

async function round(name: string, stopping: number): Promise<void> {
  const before = await memory();
  waits.length = 0;
  const began = performance.now();
  const fast = Array.from({ length: readers - stopping }, () => read(undefined));
  const all = Promise.all(fast);
  const slow = Array.from({ length: stopping }, () => read(all));
  for (const bytes of [...(await all), ...(await Promise.all(slow))]) {
    if (bytes < snapshot.length) throw new Error(`${bytes} of ${snapshot.length} bytes came`);
  }
  const seconds = (performance.now() - began) / 1000;
  const longestWait = Math.max(...waits);
  const after = await memory();
  const mb = (bytes: number) => (bytes / mega).toFixed(0).padStart(4);
  console.log(
    `${name}: ${readers} readers in ${seconds.toFixed(1)} s; rss ${mb(before.rss)} MB before, ` +
      `at most +${mb(after.mostRss - before.rss)} MB, after +${mb(after.rss - before.rss)} MB; ` +
      `loop held ${after.longestHoldMs.toFixed(0)} ms at most, ${after.longestCpuMs.toFixed(0)} ms of CPU; another's ping waited ${longestWait.toFixed(0)} ms at most`,
  );
}

console.log(`a snapshot of ${(snapshot.length / mega).toFixed(1)} MB`);
const idleMs = 5_000;
await memory();
await sleep(idleMs);
const idle = await memory();
console.log(
  `nobody reads, for ${idleMs / 1000} s: loop held ${idle.longestHoldMs.toFixed(0)} ms at most, ` +
    `${idle.longestCpuMs.toFixed(0)} ms of CPU; another's ping waited ${Math.max(...waits).toFixed(0)} ms at most`,
);
await round("warm-up          ", 0);
await round("all read on      ", 0);
await round("one in four stops", Math.floor(readers / 4));
stop.abort();
await pinging;
other.terminate();
connection.disconnect();
await gateway.stop();
await redis.stop();
