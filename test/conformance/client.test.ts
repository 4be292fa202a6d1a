/** The rules that PROTOCOL.md has for clients, against ours: it talks to a gateway that does what the test says. */
import { type Connection, type ConnectionState, type ConnectOptions, connect } from "@throughline/client";
import {
  type Command,
  ManualClock,
  type Peer,
  parts,
  ScriptedGateway,
  ScriptedThread,
} from "@throughline/client/testing";
import { closeCodes } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";

let gateway: ScriptedGateway;
let clock: ManualClock;
let connections: Connection[];

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  clock = new ManualClock();
  connections = [];
});

afterEach(async () => {
  for (const connection of connections) connection.close();
  await gateway.close();
});

function open(options: ConnectOptions = {}): Connection {
  const connection = connect(gateway.url, { WebSocket, clock, random: () => 0.999, ...options });
  connections.push(connection);
  return connection;
}

async function until<S extends ConnectionState["status"]>(connection: Connection, status: S) {
  await vi.waitFor(() => expect(connection.state.status).toBe(status), { timeout: 60_000, interval: 2 });
  return connection.state as Extract<ConnectionState, { status: S }>;
}

describe("our client conforms to PROTOCOL.md", () => {
  it("R16 passes over fields and events that it does not know", async () => {
    const run = open().attach("r1");
    const peer = await gateway.accept();
    await peer.subscribed({ later: true } as object);
    peer.send({ type: "event", method: "run.later", params: { runId: "r1" }, later: 1 });
    const token = { ...parts.token("a"), later: 1 };
    peer.send({
      type: "event",
      method: "run.parts",
      params: { runId: "r1", offset: 1, parts: [token, parts.completed()], later: [] },
      later: {},
    });
    await run.ended;
    expect(run.text).toBe("a");
  });

  it("R21 drops the parts that a rewind takes back, and keeps lifecycle ones", async () => {
    const run = open().attach("r1");
    const peer = await gateway.accept();
    await peer.subscribed();
    const log = [parts.started(), parts.token("kept "), parts.token("dropped "), parts.token("dropped")];
    peer.parts("r1", 1, [...log, parts.rewound(2), parts.token("and told anew"), parts.completed()]);
    const events: string[] = [];
    for await (const event of run.events) events.push(event.kind);
    expect(run.text).toBe("kept and told anew");
    expect(events).toEqual(["part", "part", "part", "part", "rewound", "part", "part"]);
  });

  it("R73 drops all that it has of a run that is reset", async () => {
    const run = open().attach("r1");
    const peer = await gateway.accept();
    await peer.subscribed();
    peer.parts("r1", 1, [parts.started(), parts.token("of an epoch that is gone")]);
    peer.event("run.reset", { runId: "r1", epoch: "e2", reason: "Redis lost writes" });
    peer.parts("r1", 1, [parts.started(), parts.token("new"), parts.completed()]);
    await run.ended;
    expect([run.text, run.offset, run.epoch]).toEqual(["new", 3, "e2"]);
  });

  it("R98 does after each close code what the code asks for", async () => {
    const expected: Record<number, "waiting" | "closed" | "new token"> = {
      [closeCodes.normal]: "waiting",
      [closeCodes.goingAway]: "waiting",
      [closeCodes.frameTooLarge]: "closed",
      [closeCodes.restarting]: "waiting",
      [closeCodes.overloaded]: "waiting",
      [closeCodes.badFrame]: "closed",
      [closeCodes.badToken]: "new token",
      [closeCodes.forbidden]: "closed",
      [closeCodes.noProgress]: "waiting",
      [closeCodes.rateLimited]: "waiting",
    };
    expect(Object.keys(expected).map(Number)).toEqual(Object.values(closeCodes));
    for (const [code, action] of Object.entries(expected)) {
      let tokens = 0;
      const connection = open({ token: () => `token-${++tokens}` });
      const peer = await gateway.accept();
      await until(connection, "open");
      peer.close(Number(code));
      if (action === "closed") {
        expect(await until(connection, "closed"), code).toMatchObject({ closeCode: Number(code) });
        expect(clock.pending, code).toBe(0);
        continue;
      }
      clock.advance((await until(connection, "waiting")).retryInMs + 1);
      const next = await gateway.accept();
      expect(next.subprotocols, code).toContain(`throughline.bearer.token-${action === "new token" ? 2 : 1}`);
      await until(connection, "open");
      connection.close();
    }
    // 1012 says when.
    const connection = open();
    const peer = await gateway.accept();
    await until(connection, "open");
    peer.event("server.draining", { retryInMs: 7_000 });
    peer.close(closeCodes.restarting);
    const { retryInMs } = await until(connection, "waiting");
    expect(retryInMs).toBeGreaterThanOrEqual(7_000);
    expect(retryInMs).toBeLessThan(9_000);
  });

  it("R99 backs off with full jitter, from 0.5 s to 20 s", async () => {
    gateway.hello = null;
    for (const random of [0.999, 0.25]) {
      const connection = open({ random: () => random });
      const waits: number[] = [];
      for (let attempt = 1; attempt <= 8; attempt++) {
        (await gateway.accept()).drop();
        const { retryInMs } = await until(connection, "waiting");
        waits.push(retryInMs);
        clock.advance(retryInMs + 1);
      }
      for (const [i, wait] of waits.entries()) {
        // Which try the first wait counts as is the client's own business.
        expect(wait).toBeLessThanOrEqual(Math.min(20_000, 1_000 * 2 ** i));
        expect(wait).toBeGreaterThanOrEqual(Math.floor(random * Math.min(20_000, 500 * 2 ** i)));
      }
      expect(waits.at(-1)).toBe(Math.round(random * 20_000));
      connection.close();
      await Promise.all(gateway.peers.map((peer) => peer.closed));
    }
  });

  it("R100 resumes every live subscription with the last offset that it delivered", async () => {
    const connection = open();
    const runs = ["r1", "r2", "r3"].map((runId) => connection.attach(runId));
    const peer = await gateway.accept();
    for (let i = 0; i < 3; i++) await peer.subscribed();
    peer.parts("r1", 1, [parts.started(), parts.token("a"), parts.token("b")]);
    peer.parts("r2", 1, [parts.started()]);
    peer.parts("r3", 1, [parts.started(), parts.completed()]);
    peer.event("run.unsubscribed", { runId: "r3", reason: "ended" });
    await runs[2]!.ended;
    peer.drop();
    clock.advance((await until(connection, "waiting")).retryInMs + 1);
    const next = await gateway.accept();
    const resumed = [await next.subscribed(), await next.subscribed()];
    expect(resumed.map(({ params }) => params)).toEqual([
      expect.objectContaining({ runId: "r1", after: 3, epoch: "e1" }),
      expect.objectContaining({ runId: "r2", after: 1, epoch: "e1" }),
    ]);
    next.parts("r1", 4, [parts.token("c"), parts.completed()]);
    await runs[0]!.ended;
    expect(runs[0]!.text).toBe("abc");
    expect(next.received.filter(({ method }) => method === "run.subscribe")).toHaveLength(2);
  });

  it("R119 puts pages together, and has nothing of a snapshot that was cut short", async () => {
    const connection = open();
    const run = connection.attach("r1");
    const whole = JSON.stringify({
      offset: 7,
      messages: [{ type: "ai", id: "m1", content: "Once 🧵 " }],
      values: {},
    });
    const page = (page: number, pages: number, text: string) => ({
      runId: "r1",
      offset: 7,
      page,
      pages,
      text,
    });
    const peer = await gateway.accept();
    const { params } = await peer.subscribed({ first: 8, head: 9 });
    expect(params).toMatchObject({ after: 0, pages: true });
    peer.event("run.page", page(1, 2, whole.slice(0, 30)));
    // Begun anew, and cut short again.
    for (const i of [1, 2]) peer.event("run.page", page(i, 3, whole.slice(10 * i - 10, 10 * i)));
    peer.drop();
    clock.advance((await until(connection, "waiting")).retryInMs + 1);
    expect([run.offset, run.text]).toEqual([0, ""]);
    const next = await gateway.accept();
    expect((await next.subscribed({ first: 8, head: 9 })).params).toMatchObject({ after: 0, pages: true });
    for (const i of [1, 2]) next.event("run.page", page(i, 3, whole.slice(40 * i - 40, 40 * i)));
    next.event("run.page", page(3, 3, whole.slice(80)));
    next.parts("r1", 8, [parts.token("upon"), parts.completed()]);
    await run.ended;
    expect([run.offset, run.text]).toEqual([9, "Once 🧵 upon"]);
  });

  it("R146 resumes every watch with the last offset that it was told", async () => {
    const connection = open();
    const told: string[] = [];
    const sink = (name: string) => ({
      watched: () => {},
      event: (event: { event: string }) => told.push(`${name}:${event.event}`),
      reset: () => told.push(`${name}:reset`),
      deleted: () => told.push(`${name}:deleted`),
      failed: () => {},
    });
    const { record } = new ScriptedThread("t1");
    const metadata = { event: "metadata" as const, thread: record };
    const run = { runId: "r1", agent: "a", status: "running" as const };
    connection.watch("t1", sink("t1"));
    connection.watch("t2", sink("t2"));
    connection.watch(undefined, sink("all"));
    const peer = await gateway.accept();
    const answer = (command: Command<"thread.watch">, to: Peer, epoch = "w1", head = 4) =>
      to.answer(command, { ...(command.params.threadId === "t1" && { runs: [run] }), first: 1, head, epoch });
    for (let i = 0; i < 3; i++) {
      const command = await peer.command("thread.watch");
      expect(command.params.after).toBe("head");
      answer(command, peer);
    }
    peer.parts("r1", 1, [parts.started(), parts.token("a")]);
    peer.event("thread.events", { threadId: "t1", offset: 5, events: [metadata, null, metadata] });
    peer.event("thread.events", { threadId: "t1", offset: 6, events: [null, metadata] });
    peer.event("thread.events", { offset: 5, events: [], skipped: 3 });
    peer.event("thread.reset", { threadId: "t2", epoch: "w2", offset: 9, reason: "the log was replaced" });
    // It asks anew: the answer names the runs that came in the gap.
    await vi.waitFor(() => {
      clock.advance(1);
      expect(peer.received.filter(({ method }) => method === "thread.watch")).toHaveLength(4);
    });
    const anew = await peer.command("thread.watch");
    expect(anew.params).toMatchObject({ threadId: "t2", after: 9, epoch: "w2" });
    answer(anew, peer, "w2", 9);
    peer.event("thread.events", { threadId: "t2", offset: 10, events: [metadata] });
    await vi.waitFor(() => expect(told).toEqual(["t1:metadata", "t1:metadata", "t2:reset", "t2:metadata"]));
    peer.drop();
    clock.advance((await until(connection, "waiting")).retryInMs + 1);
    const next = await gateway.accept();
    const resumed = [];
    for (let i = 0; i < 3; i++) resumed.push(await next.command("thread.watch"));
    expect(resumed.map(({ params }) => params)).toEqual([
      { threadId: "t1", after: 7, epoch: "w1", runs: { pages: true, known: { r1: { after: 2 } } } },
      { threadId: "t2", after: 10, epoch: "w2", runs: { pages: true, known: {} } },
      { after: 7, epoch: "w1" },
    ]);
    // The runs go on with their thread's watch, without being asked for.
    for (const command of resumed) answer(command, next, command.params.epoch, 20);
    const followed = connection.attach.bind(connection, "r1");
    expect(followed).toThrow("already");
    next.event("thread.events", { threadId: "t1", offset: 8, events: [metadata] });
    await vi.waitFor(() => expect(told).toHaveLength(5));
    expect(next.received.map(({ method }) => method)).not.toContain("run.subscribe");
    // What comes with a hole before it is asked for once more.
    next.event("thread.events", { threadId: "t1", offset: 12, events: [metadata] });
    await vi.waitFor(() => {
      clock.advance(1);
      expect(next.received.filter(({ method }) => method === "thread.watch")).toHaveLength(4);
    });
    expect((await next.command("thread.watch")).params).toMatchObject({ threadId: "t1", after: 8 });
  });
});
