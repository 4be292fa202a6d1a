/**
 * The benchmark: the real line (agent → BullMQ worker → Redis → gateway → socket) beside a floor, a bare relay of
 * PUBLISH with neither log nor resume, in the same run. Rounds of the two alternate; what counts is the ratio of
 * their medians.
 *
 *     npm run bench [-- --rounds 5 --only flat,fan,paced,graph,catchup,storm,memory --json]
 */
import { parseArgs } from "node:util";
import { startPrivateRedis } from "@throughline/local";
import { connect, followFloor, type Seen, startRun, watch } from "./clients.ts";
import type { Load } from "./load.ts";
import { type Child, cpuSeconds, microseconds, percentile, start } from "./processes.ts";
import { type Figures, type Judged, print, type Result } from "./report.ts";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    only: { type: "string", default: "flat,fan,paced,graph,catchup,storm,memory" },
    json: { type: "boolean", default: false },
  },
});
const rounds = Number(options.rounds);
const only = new Set(options.only.split(","));

interface Side {
  /** Runs the scenario once. */
  run(): Promise<Figures>;
}

const redis = await startPrivateRedis({});
const env = { REDIS_URL: redis.url };
const bench = "test/dist/bench";
const probe = ["--expose-gc", "--import", new URL("./memory-probe.js", import.meta.url).href];
const gatewayEnv = { ...env, PORT: "0", CONNECTIONS_PER_SECOND: "100000" };

const floor = {
  producer: await start(`${bench}/floor-producer.js`, env),
  relay: await start(`${bench}/floor-relay.js`, env, probe),
  // As the worker has it: with LangChain's background queue a model that is this fast loses tokens.
  graph: await start(`${bench}/floor-graph.js`, { LANGCHAIN_CALLBACKS_BACKGROUND: "false" }),
};
const line = {
  worker: await start(`${bench}/worker.js`, env),
  gateway: await start("apps/gateway/dist/main.js", gatewayEnv, probe),
};
const floorPids = [floor.producer.pid, floor.relay.pid, redis.pid];
const linePids = [line.worker.pid, line.gateway.pid, redis.pid];

const costs = ["producer", "gateway", "redis"];

let serial = 0;
const soon = (ms: number) => microseconds() + ms * 1000;

async function measured(
  pids: number[],
  work: () => Promise<{ seen: Seen[]; startAt: number }>,
): Promise<Figures> {
  const before = pids.map(cpuSeconds);
  const { seen, startAt } = await work();
  const parts = seen.reduce((sum, each) => sum + each.parts, 0);
  const seconds = (Math.max(...seen.map((each) => each.doneAt)) - startAt) / 1e6;
  const cpus = pids.map((pid, i) => ((cpuSeconds(pid) - before[i]!) / parts) * 1e6);
  const latencies = seen.flatMap((each) => each.latencies).map((us) => us / 1000);
  const figures: Figures = {
    "parts/s": parts / seconds,
    "parts/s·core": 1e6 / cpus.reduce((sum, each) => sum + each, 0),
    "cpu s/M": cpus.reduce((sum, each) => sum + each, 0),
    ...Object.fromEntries(cpus.map((cpu, i) => [`· ${costs[i]}`, cpu])),
    "bytes/part": seen.reduce((sum, each) => sum + each.bytes, 0) / parts,
    "parts/frame": parts / seen.reduce((sum, each) => sum + each.frames, 0),
  };
  if (latencies.length > 0) {
    figures["p50 ms"] = percentile(latencies, 50);
    figures["p99 ms"] = percentile(latencies, 99);
  }
  return figures;
}

/** `runs` runs, each followed by `subscribers` sockets. */
function floorScenario(runs: number, subscribers: number, load: Omit<Load, "startAt" | "phase">): Side {
  return {
    async run() {
      const names = Array.from({ length: runs }, () => `r${serial++}-${"x".repeat(20)}`);
      const timed = load.rate > 0;
      const followers = names.flatMap((name) =>
        Array.from({ length: subscribers }, () => followFloor(floor.relay.detail, name, load.parts, timed)),
      );
      await Promise.all(followers.map((each) => each.ready));
      const figures = await measured(floorPids, async () => {
        const startAt = soon(300);
        floor.producer.process.send({ runs: names, load: { ...load, startAt, phase: 0 }, log: false });
        return { seen: await Promise.all(followers.map((each) => each.done)), startAt };
      });
      for (const each of followers) each.close();
      return figures;
    },
  };
}

function lineScenario(
  runs: number,
  subscribers: number,
  load: Omit<Load, "startAt" | "phase">,
  agent: "bench" | "graph" = "bench",
): Side {
  return {
    async run() {
      const sockets = await Promise.all(
        Array.from({ length: runs * subscribers }, () => connect(line.gateway.detail)),
      );
      // The agents are up and wait for their moment: what is measured is the stream, not the start.
      const startAt = soon(1000 + runs * 5);
      const seen: Promise<Seen>[] = [];
      await Promise.all(
        Array.from({ length: runs }, async (_, run) => {
          const own = sockets.slice(run * subscribers, (run + 1) * subscribers);
          for (const socket of own) seen.push(watch(socket, load.rate > 0));
          const runId = await startRun(own[0]!, { ...load, startAt, phase: run / runs }, true, agent);
          await Promise.all(own.slice(1).map((socket) => socket.command("run.subscribe", { runId })));
        }),
      );
      if (microseconds() > startAt) throw new Error("the runs were not up in time");
      await new Promise((resolve) => setTimeout(resolve, (startAt - microseconds()) / 1000 - 100));
      const figures = await measured(linePids, async () => ({ seen: await Promise.all(seen), startAt }));
      for (const socket of sockets) socket.ws.terminate();
      return figures;
    },
  };
}

/** What LangGraph itself needs for the same tokens, streamed to nobody. */
function bareGraph(runs: number, load: Omit<Load, "startAt" | "phase">): Side {
  return {
    async run() {
      const names = Array.from({ length: runs }, () => `g${serial++}`);
      return await measured([floor.graph.pid], async () => {
        const startAt = soon(300);
        const { tokens, doneAt } = await floor.graph.ask<{ tokens: number; doneAt: number }>({
          runs: names,
          load: { ...load, startAt, phase: 0 },
        });
        return { seen: [{ parts: tokens, frames: tokens, bytes: 0, doneAt, latencies: [] }], startAt };
      });
    },
  };
}

const parts = 10_000;

/** A log of the floor: one stream entry a part. */
async function floorLog(runs: number, count: number): Promise<string[]> {
  const names = Array.from({ length: runs }, () => `log${serial++}`);
  const done = new Promise((resolve) => floor.producer.process.once("message", resolve));
  floor.producer.process.send({
    runs: names,
    load: { parts: count, rate: 0, startAt: 0, phase: 0 },
    log: true,
  });
  await done;
  return names;
}

/** Finished runs of the line. `rate` 0 makes large batches; a paced run has one part a batch. */
async function lineLogs(runs: number, count: number, rate: number): Promise<string[]> {
  const socket = await connect(line.gateway.detail);
  const runIds: string[] = [];
  for (let i = 0; i < runs; i++) {
    const load = { parts: count, rate, startAt: 0, phase: 0 };
    runIds.push(await startRun(socket, load, false));
  }
  for (const runId of runIds) {
    for (;;) {
      const { status } = await socket.command<{ status: string }>("run.get", { runId });
      if (status === "completed") break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  socket.ws.terminate();
  return runIds;
}

async function floorCatchUp(names: string[], clients: number, count: number): Promise<Figures> {
  const startAt = microseconds();
  const followers = Array.from({ length: clients }, (_, i) =>
    followFloor(floor.relay.detail, names[i % names.length]!, count, false, 0),
  );
  const seen = await Promise.all(followers.map((each) => each.done));
  for (const each of followers) each.close();
  return { ms: (Math.max(...seen.map((each) => each.doneAt)) - startAt) / 1000 };
}

/** All connect and ask at once; the clock starts before they connect, as for the floor. */
async function lineCatchUp(runIds: string[], clients: number, count: number): Promise<Figures> {
  const startAt = microseconds();
  const seen = await Promise.all(
    Array.from({ length: clients }, async (_, i) => {
      const socket = await connect(line.gateway.detail);
      const done = watch(socket, false);
      await socket.command("run.subscribe", { runId: runIds[i % runIds.length] });
      const each = await done;
      if (each.parts !== count + 2) throw new Error(`${each.parts} parts came, not ${count + 2}`);
      socket.ws.terminate();
      return each;
    }),
  );
  return { ms: (Math.max(...seen.map((each) => each.doneAt)) - startAt) / 1000 };
}

/** A server of its own for each round: what an earlier one left behind would hide what a socket costs. */
async function idleMemory(server: Child, open: () => Promise<{ close(): void }[]>): Promise<Figures> {
  const before = await server.ask<{ rss: number; held: number }>("memory");
  const sockets = await open();
  const after = await server.ask<{ rss: number; held: number }>("memory");
  for (const socket of sockets) socket.close();
  const exited = new Promise((resolve) => server.process.once("exit", resolve));
  server.process.kill("SIGKILL");
  await exited;
  const per = (bytes: number) => bytes / 1024 / sockets.length;
  return { "rss KiB/socket": per(after.rss - before.rss), "heap KiB/socket": per(after.held - before.held) };
}

const idleSockets = 10_000;

async function inChunks<T>(count: number, make: (i: number) => Promise<T>): Promise<T[]> {
  const made: T[] = [];
  for (let i = 0; i < count; i += 200) {
    made.push(
      ...(await Promise.all(Array.from({ length: Math.min(200, count - i) }, (_, j) => make(i + j)))),
    );
  }
  return made;
}

interface Scenario extends Judged {
  key: string;
  rounds?: number;
  floor: () => Promise<Figures>;
  line: () => Promise<Figures>;
}

const flat = { parts: 5_000, rate: 0 };
const fan = { parts: 2_000, rate: 0 };
const paced = { parts: 200, rate: 25 };
const graphLoad = { parts: 1_000, rate: 0 };
const pacedFan = { parts: 400, rate: 100 };
const scenarios: Scenario[] = [];

if (only.has("flat")) {
  scenarios.push({
    key: "flat",
    name: "flat out, 100 runs × 1 subscriber",
    floor: () => floorScenario(100, 1, flat).run(),
    line: () => lineScenario(100, 1, flat).run(),
    targets: [
      { figure: "parts/s", at: 2, good: "above" },
      { figure: "cpu s/M", at: 0.5, good: "below" },
    ],
  });
}
if (only.has("fan")) {
  scenarios.push({
    key: "fan",
    name: "flat out, 1 run × 500 subscribers",
    floor: () => floorScenario(1, 500, fan).run(),
    line: () => lineScenario(1, 500, fan).run(),
    targets: [
      { figure: "parts/s", at: 5, good: "above" },
      { figure: "cpu s/M", at: 0.5, good: "below" },
    ],
  });
}
if (only.has("paced")) {
  scenarios.push(
    {
      key: "paced",
      name: "paced, 200 runs × 25 parts/s",
      floor: () => floorScenario(200, 1, paced).run(),
      line: () => lineScenario(200, 1, paced).run(),
      targets: [
        { figure: "p99 ms", at: 1.5, good: "below" },
        { figure: "cpu s/M", at: 1.15, good: "below" },
      ],
    },
    {
      key: "paced-fan",
      name: "paced, 1 run × 500 subscribers × 100 parts/s",
      floor: () => floorScenario(1, 500, pacedFan).run(),
      line: () => lineScenario(1, 500, pacedFan).run(),
      targets: [],
    },
  );
}
if (only.has("graph")) {
  scenarios.push({
    key: "graph",
    name: "a LangGraph graph, flat out, 20 runs × 1 subscriber, beside bare graph.stream",
    floor: () => bareGraph(20, graphLoad).run(),
    line: () => lineScenario(20, 1, graphLoad, "graph").run(),
    targets: [{ figure: "· producer", at: 1.15, good: "below" }],
  });
}
if (only.has("catchup")) {
  const floorNames = await floorLog(1, parts);
  const batched = await lineLogs(1, parts, 0);
  const single = await lineLogs(1, parts, 900);
  scenarios.push(
    {
      key: "catchup",
      name: "catch up 10,000 parts, written flat out",
      floor: () => floorCatchUp(floorNames, 1, parts),
      line: () => lineCatchUp(batched, 1, parts),
      targets: [{ figure: "ms", at: 30, good: "below", absolute: true }],
    },
    {
      key: "catchup-paced",
      name: "catch up 10,000 parts, written one a batch",
      floor: () => floorCatchUp(floorNames, 1, parts),
      line: () => lineCatchUp(single, 1, parts),
      targets: [],
    },
  );
}
if (only.has("storm")) {
  const floorNames = await floorLog(200, 500);
  const own = await lineLogs(200, 500, 0);
  scenarios.push(
    {
      key: "storm",
      name: "storm: 200 clients 500 parts behind, on 200 runs",
      floor: () => floorCatchUp(floorNames, 200, 500),
      line: () => lineCatchUp(own, 200, 500),
      targets: [{ figure: "ms", at: 250, good: "below", absolute: true }],
    },
    {
      key: "storm-one",
      name: "storm: 200 clients 500 parts behind, on one run",
      floor: () => floorCatchUp(floorNames.slice(0, 1), 200, 500),
      line: () => lineCatchUp(own.slice(0, 1), 200, 500),
      targets: [{ figure: "ms", at: 250, good: "below", absolute: true }],
    },
  );
}

const waiting: Load = { parts: 1, rate: 0, startAt: 0, phase: 0 };
if (only.has("memory")) {
  const memory = (runs: number): Scenario => ({
    key: `memory-${runs}`,
    name: `memory, 10,000 idle subscribed sockets on ${runs} run${runs === 1 ? "" : "s"}`,
    rounds: Math.min(3, rounds),
    floor: async () => {
      const relay = await start(`${bench}/floor-relay.js`, env, probe);
      return await idleMemory(relay, async () => {
        const names = Array.from({ length: runs }, () => `idle${serial++}`);
        return await inChunks(idleSockets, async (i) => {
          const follower = followFloor(relay.detail, names[i % runs]!, 1, false);
          await follower.ready;
          return follower;
        });
      });
    },
    line: async () => {
      const first = await connect(line.gateway.detail);
      const idle = { ...waiting, startAt: soon(600_000) };
      const runIds = await inChunks(runs, () => startRun(first, idle, false));
      const gateway = await start("apps/gateway/dist/main.js", gatewayEnv, probe);
      const figures = await idleMemory(gateway, () =>
        inChunks(idleSockets, async (i) => {
          const socket = await connect(gateway.detail);
          await socket.command("run.subscribe", { runId: runIds[i % runs] });
          return { close: () => socket.ws.terminate() };
        }),
      );
      await inChunks(runs, (i) => first.command("run.cancel", { runId: runIds[i], keep: "discard" }));
      first.ws.terminate();
      return figures;
    },
    targets: [{ figure: "rss KiB/socket", at: 1.15, good: "below" }],
  });
  scenarios.push(memory(1), memory(500));
}

const report: Record<string, Result> = {};
for (const scenario of scenarios) {
  const floors: Figures[] = [];
  const lines: Figures[] = [];
  const count = scenario.rounds ?? rounds;
  // The first round of each warms up and is not counted.
  for (let round = 0; round <= count; round++) {
    const [a, b] = round % 2 === 0 ? ["floor", "line"] : ["line", "floor"];
    for (const side of [a, b]) {
      const figures = side === "floor" ? await scenario.floor() : await scenario.line();
      if (round > 0) (side === "floor" ? floors : lines).push(figures);
    }
  }
  report[scenario.key] = print(scenario, floors, lines);
}
if (options.json) console.log(JSON.stringify(report, null, 2));

for (const child of [line.gateway, line.worker, ...Object.values(floor)]) child.process.kill("SIGTERM");
await redis.stop();
process.exit(0);
