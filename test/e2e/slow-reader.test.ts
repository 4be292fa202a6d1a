import type { Socket } from "node:net";
import type { AgentContext } from "@throughline/worker";
import { afterAll, beforeAll, expect, test } from "vitest";
import { countToken, Gate } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import { patienceMs, until, within } from "../support/until.ts";

const highWater = 64 * 1024;
/** A page of the log and the batch that ends it: what may be sent in one go below the mark. */
const oneFrame = 512 * 1024;
const burst = { parts: 3_000, pad: 8_000 };
const tail = 50;

let line: Line;
let gate = new Gate();

async function* torrent(_: AgentContext) {
  for (let i = 0; i < burst.parts; i++) yield countToken(i, burst.pad);
  await gate.passed;
  for (let i = 0; i < tail; i++) {
    yield countToken(burst.parts + i, 10);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const largeChars = 300_000;

async function* large() {
  yield "x".repeat(largeChars);
}

beforeAll(async () => {
  line = await startLine({
    agents: { torrent, large },
    env: { HIGH_WATER_BYTES: String(highWater), LOW_WATER_BYTES: String(highWater / 4) },
    // Gateway, worker and clients have one event loop here, and plenty to do: nobody is to lose a run over that.
    times: { lockMs: 600_000 },
  });
});
afterAll(() => line.stop());

/** The gateway's end of a client's TCP connection. */
function serverSocket(client: TestClient): Socket {
  const { localPort, remotePort } = client.socket;
  const handles = (process as unknown as { _getActiveHandles(): unknown[] })._getActiveHandles();
  const found = handles.find((handle) => {
    const socket = handle as Partial<Socket>;
    return socket.localPort === remotePort && socket.remotePort === localPort;
  });
  return found as Socket;
}

test("P7, P8: a reader that stops reading costs a bounded buffer, delays nobody, and gets every part in the end", async () => {
  gate = new Gate();
  const slow = await line.client(0, { validate: false });
  const fast = await line.client(0, { validate: false });
  const held = serverSocket(slow);
  expect(held.writableLength).toBe(0);
  const { runId } = await fast.call("run.start", { agent: "torrent", subscribe: false });
  const behind = await slow.follow(runId);
  slow.socket.pause();
  let most = 0;
  const sampling = setInterval(() => {
    most = Math.max(most, held.writableLength);
  }, 1);
  try {
    const ahead = await fast.follow(runId);
    await until(() => ahead.last === burst.parts + 1, patienceMs, "the burst");
    // It is stuck, with more than its own buffer still to come.
    expect(behind.last).toBeLessThan(burst.parts / 2);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThan(highWater + oneFrame);
    expect(burst.parts * burst.pad).toBeGreaterThan(20 * (highWater + oneFrame));
    // Other commands of the same gateway are answered, and its own once it reads.
    await fast.call("server.ping", {});
    slow.socket.resume();
    await until(() => behind.last === burst.parts + 1, patienceMs, "the slow reader");
    gate.open();
    await Promise.all([ahead.ended(), behind.ended()]);
    expect(behind.offsets).toEqual(Array.from({ length: burst.parts + tail + 2 }, (_, i) => i + 1));
    expect(behind.text === ahead.text).toBe(true);
    expect(most).toBeLessThan(highWater + oneFrame);
  } finally {
    clearInterval(sampling);
  }
});

test("P8: a reader that stops and goes, again and again, sees each part once", async () => {
  gate = new Gate();
  gate.open();
  const client = await line.client(0, { validate: false });
  const run = await client.start({ agent: "torrent" });
  let stops = 0;
  while (run.ending === undefined) {
    client.socket.pause();
    await new Promise((resolve) => setTimeout(resolve, 5));
    client.socket.resume();
    stops++;
    const from = run.last;
    await until(() => run.last > from || run.ending !== undefined);
  }
  await run.ended();
  expect(stops).toBeGreaterThan(3);
  expect(run.offsets).toEqual(Array.from({ length: burst.parts + tail + 2 }, (_, i) => i + 1));
});

test("P8: a reader that takes nothing for too long is told to come back, and the rest of the gateway goes on", async () => {
  const slowSocketMs = 300;
  const heartbeatMs = 200;
  const gateway = await line.addGateway({
    SLOW_SOCKET_MS: String(slowSocketMs),
    HEARTBEAT_MS: String(heartbeatMs),
  });
  const index = line.gateways.indexOf(gateway);
  gate = new Gate();
  gate.open();
  const stuck = await line.client(index, { validate: false });
  const other = await line.client(index, { validate: false });
  const { runId } = await other.call("run.start", { agent: "torrent", subscribe: false });
  const behind = await stuck.follow(runId);
  stuck.socket.pause();
  const run = await other.follow(runId);
  await run.ended();
  // Long enough by the gateway's own heartbeats, each of which looks at every socket.
  let beats = 0;
  other.ws.on("ping", () => beats++);
  await until(() => beats * heartbeatMs > 3 * (slowSocketMs + heartbeatMs));
  stuck.socket.resume();
  expect((await within(stuck.closed)).code).toBe(4408);
  // What it got is a part of the story, with no hole; on another socket it goes on.
  behind.check();
  expect(behind.ending).toBeUndefined();
  await other.follow(runId, {}, behind);
  await behind.ended();
  expect(behind.offsets).toEqual(run.offsets);
  await until(
    () => gateway.connections === 1 && gateway.runs === 0,
    patienceMs,
    "the end of its subscription",
  );
});

test("P7: a client that asks and asks, and takes no answer, costs a bounded buffer; it gets every answer in the end", async () => {
  const gateway = await line.addGateway({ COMMANDS_PER_SECOND: "100000" });
  const client = await line.client(line.gateways.indexOf(gateway), { validate: false });
  const threadId = "large";
  const { runId } = await client.call("run.start", { agent: "large", threadId, subscribe: false });
  await until(async () => (await client.call("run.get", { runId })).status === "completed");
  const held = serverSocket(client);
  client.socket.pause();
  let most = 0;
  const sampling = setInterval(() => {
    most = Math.max(most, held.writableLength);
  }, 1);
  try {
    const asked = 240;
    let answered = 0;
    for (let i = 0; i < asked; i++) {
      void client.call("thread.get", { threadId }).then(
        () => answered++,
        () => {},
      );
      if (i % 2 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    // Far more than the kernel holds for the two sockets.
    expect(asked * largeChars).toBeGreaterThan(60 * 1024 * 1024);
    await until(() => most > 2 * highWater);
    await new Promise((resolve) => setTimeout(resolve, 300));
    // What was under way when the mark was passed is answered.
    expect(most).toBeLessThan((asked / 3) * largeChars);
    client.socket.resume();
    await until(() => answered === asked, patienceMs, "all answers");
  } finally {
    clearInterval(sampling);
  }
});

test("P8: a socket that asks for a hundred histories delays another's one by a few of them", async () => {
  const threadId = "asked-for";
  const [greedy, other] = [
    await line.client(0, { validate: false }),
    await line.client(0, { validate: false }),
  ];
  const { runId } = await greedy.call("run.start", { agent: "large", threadId, subscribe: false });
  await until(async () => (await greedy.call("run.get", { runId })).status === "completed");
  const asked = 100;
  let answered = 0;
  const all = Array.from({ length: asked }, async () => {
    await greedy.call("thread.history", { threadId });
    answered++;
  });
  // Behind them: they are all there by then.
  await greedy.call("server.ping", {});
  expect((await other.call("thread.history", { threadId })).checkpoints).toHaveLength(1);
  expect((await other.call("run.list", { threadId })).runs).toHaveLength(1);
  expect(answered).toBeLessThan(asked / 2);
  await Promise.all(all);
}, 60_000);

test("P7: a socket that follows many runs and reads none holds no more than one that follows one", async () => {
  const client = await line.client(0, { validate: false });
  const other = await line.client(0, { validate: false });
  const runIds = await Promise.all(
    Array.from(
      { length: 100 },
      async () => (await other.call("run.start", { agent: "large", subscribe: false })).runId,
    ),
  );
  for (const runId of runIds) {
    await until(async () => (await other.call("run.get", { runId })).status === "completed");
  }
  const held = serverSocket(client);
  let most = 0;
  const sampling = setInterval(() => {
    most = Math.max(most, held.writableLength);
  }, 1);
  try {
    const followed = Promise.all(runIds.map((runId) => client.follow(runId)));
    client.socket.pause();
    await until(() => most > highWater);
    await new Promise((resolve) => setTimeout(resolve, 500));
    client.socket.resume();
    for (const transcript of await followed) await transcript.ended();
    expect(most).toBeLessThan(highWater + 2 * oneFrame);
  } finally {
    clearInterval(sampling);
  }
});
