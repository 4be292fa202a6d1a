/**
 * What heavy reads cost others: an owner of 20,000 runs lists those of a status that none has, 32 times at once; and one
 * socket asks for the histories and states of a large thread, 256 at once. How long others wait meanwhile (a ping of Redis,
 * a run.get, and a thread.get of another socket), and how long Redis is held by one command at the most.
 *
 *     node test/dist/bench/reads.js [--runs 20000]
 */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { RedisCheckpointSaver } from "@throughline/checkpoint";
import { Dispatcher } from "@throughline/dispatch";
import { startPrivateRedis } from "@throughline/local";
import { Redis } from "ioredis";
import { WebSocket } from "ws";
import { start } from "./processes.ts";

const { values: options } = parseArgs({ options: { runs: { type: "string", default: "20000" } } });
const runs = Number(options.runs);

const redis = await startPrivateRedis({});
const connection = new Redis(redis.url);
const dispatcher = new Dispatcher(connection);
const request = { queue: "nobody", input: null };
const { runId, threadId } = await dispatcher.start({ agent: "a", owner: "local", request });
const [index] = await connection.keys("tl:{owner-*}:runs");
for (let i = 0; i < runs; i += 500) {
  await Promise.all(
    Array.from({ length: Math.min(500, runs - i) }, async (_, j) => {
      const run = { runId: `run_${i + j}`, threadId: `t${i + j}`, agent: "a", owner: "local", epoch: "e" };
      await dispatcher.runs.open({ ...run, request: JSON.stringify(request), queue: "nobody" });
      await connection.zadd(index!, i + j, run.runId);
    }),
  );
}
const gateway = await start("apps/gateway/dist/main.js", {
  REDIS_URL: redis.url,
  PORT: "0",
  COMMANDS_PER_SECOND: "1000",
});

class Asker {
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (answer: { type: string; result: Record<string, unknown> }) => void>();
  #id = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer) => {
      // What is large is not looked into: this process is to hear of the others in time.
      const large =
        data.length > 100_000 ? /^\{"type":"success","id":(\d+)/.exec(data.toString("latin1", 0, 60)) : null;
      const answer =
        large === null ? JSON.parse(String(data)) : { type: "success", id: Number(large[1]), result: {} };
      this.#waiting.get(answer.id)?.(answer);
    });
  }

  static async open(): Promise<Asker> {
    const socket = new WebSocket(gateway.detail);
    await once(socket, "message");
    return new Asker(socket);
  }

  async ask(method: string, params: object): Promise<Record<string, unknown>> {
    const id = ++this.#id;
    const answered = new Promise<{ type: string; result: Record<string, unknown> }>((resolve) =>
      this.#waiting.set(id, resolve),
    );
    this.#socket.send(JSON.stringify({ id, method, params }));
    const answer = await answered;
    if (answer.type !== "success") throw new Error(`${method}: ${JSON.stringify(answer)}`);
    return answer.result;
  }

  close(): void {
    this.#socket.terminate();
  }
}

/** A thread of ten checkpoints of about 1 MB. */
const saver = new RedisCheckpointSaver(connection);
let config: Parameters<typeof saver.put>[0] = { configurable: { thread_id: threadId, checkpoint_ns: "" } };
for (let i = 0; i < 10; i++) {
  const checkpoint = {
    v: 4,
    id: `1f0${i}0000-0000-6000-8000-000000000000`,
    ts: new Date().toISOString(),
    channel_values: { text: `${i}`.repeat(1_000_000) },
    channel_versions: { text: i + 1 },
    versions_seen: {},
  };
  const metadata = { source: "loop", step: i, parents: {} };
  config = await saver.put(config, checkpoint as never, metadata as never, { text: i + 1 } as never);
}

const greedy = await Asker.open();
const other = await Asker.open();
const show = (times: readonly number[]) => {
  const sorted = times.toSorted((a, b) => a - b);
  return `${sorted[sorted.length >> 1]!.toFixed(1)} ms (at most ${sorted.at(-1)!.toFixed(0)})`;
};

async function timed(times: number[], work: () => Promise<unknown>): Promise<void> {
  const began = performance.now();
  await work();
  times.push(performance.now() - began);
}

async function measure(name: string, work: () => Promise<unknown>): Promise<void> {
  const done = new AbortController();
  const [pings, gets, states]: [number[], number[], number[]] = [[], [], []];
  const again = async (each: () => Promise<void>) => {
    while (!done.signal.aborted) {
      await each();
      await sleep(5);
    }
  };
  await connection.config("RESETSTAT");
  await connection.config("SET", "slowlog-log-slower-than", "200", "slowlog-max-len", "100000");
  await connection.slowlog("RESET");
  const looking = Promise.all([
    again(() => timed(pings, () => connection.ping())),
    again(() => timed(gets, () => other.ask("run.get", { runId }))),
    again(() => timed(states, () => other.ask("thread.get", { threadId }))),
  ]);
  const began = performance.now();
  await work();
  const seconds = (performance.now() - began) / 1000;
  done.abort();
  await looking;
  const stats = await connection.info("commandstats");
  const slow = (await connection.slowlog("GET", 100_000)) as [number, number, number, string[]][];
  const [longest] = slow
    .filter(([, , , [command]]) => !/slowlog|config|info/i.test(command!))
    .toSorted((a, b) => b[2] - a[2]);
  const spent = [...stats.matchAll(/^cmdstat_(?!slowlog|config|info)\S+:calls=\d+,usec=(\d+)/gm)]
    // A script's time is that of its commands, too.
    .reduce((sum, [line, usec]) => (line.startsWith("cmdstat_evalsha") ? sum : sum + Number(usec)), 0);
  console.log(
    `${name}: ${seconds.toFixed(1)} s, of which Redis ${(spent / 1e6).toFixed(2)} s; its longest command ` +
      `${longest === undefined ? "under 0.2 ms" : `${(longest[2] / 1000).toFixed(1)} ms (${longest[3][0]})`}; others meanwhile: a ping of Redis ${show(pings)}, ` +
      `run.get ${show(gets)}, thread.get of 1 MB ${show(states)}`,
  );
}

await measure("nothing, for 3 s", () => sleep(3_000));
await measure(`one page of runs of a status that none of ${runs} has`, () =>
  greedy.ask("run.list", { status: "failed" }),
);
await measure("32 of them at once, each to the end of the list", () =>
  Promise.all(
    Array.from({ length: 32 }, async () => {
      let before: unknown;
      do {
        const page = await greedy.ask("run.list", {
          status: "failed",
          ...(before === undefined ? {} : { before }),
        });
        before = page.next;
      } while (before !== undefined);
    }),
  ),
);
const many = 128;
await measure(`${many} histories of 4 MB and ${many} states of 1 MB at once`, () =>
  Promise.all(
    Array.from({ length: 2 * many }, (_, i) =>
      greedy.ask(i % 2 === 0 ? "thread.history" : "thread.get", { threadId }),
    ),
  ),
);
greedy.close();
other.close();
await dispatcher.close();
connection.disconnect();
await gateway.stop();
await redis.stop();
