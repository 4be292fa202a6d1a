import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { errorCodes } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { type Connection, type ConnectOptions, connect } from "./connection.ts";
import type { ConnectionState } from "./link.ts";
import { ManualClock, parts, ScriptedGateway } from "./testing/index.ts";

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

/** Random is 0.999…: waits are as long as they can be. */
function open(options: ConnectOptions = {}): Connection {
  const connection = connect(gateway.url, { WebSocket, clock, random: () => 0.999, ...options });
  connections.push(connection);
  return connection;
}

function until(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 60_000, interval: 2 });
}

function inStatus(connection: Connection, status: ConnectionState["status"]): Promise<void> {
  return until(() => expect(connection.state.status).toBe(status));
}

describe("states and backoff", () => {
  it("is connecting, then open when the gateway has said hello", async () => {
    gateway.hello = null;
    const connection = open();
    expect(connection.state).toEqual({ status: "connecting", attempt: 1 });
    const states: ConnectionState[] = [];
    connection.onState((state) => states.push(state));
    const peer = await gateway.accept();
    expect(states).toEqual([]);
    peer.greet({ connectionId: "c7" });
    await until(() => expect(states).toEqual([{ status: "open", connectionId: "c7" }]));
  });

  it("says when and why it will try again, and waits longer after each failure", async () => {
    gateway.hello = null;
    const connection = open();
    const waits: number[] = [];
    for (let attempt = 1; attempt <= 7; attempt++) {
      (await gateway.accept()).drop();
      await inStatus(connection, "waiting");
      const { state } = connection;
      if (state.status !== "waiting") throw new Error("unreachable");
      expect(state.attempt).toBe(attempt + 1);
      expect(state.retryAt - clock.now()).toBeCloseTo(state.retryInMs, -1);
      expect(state).toMatchObject({ code: "lost", reason: "the connection broke" });
      waits.push(Math.round(state.retryInMs / 100) * 100);
      clock.advance(state.retryInMs - 2);
      expect(connection.state.status).toBe("waiting");
      clock.advance(3);
      expect(connection.state).toEqual({ status: "connecting", attempt: attempt + 1 });
    }
    expect(waits).toEqual([1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]);
  });

  it("starts over only after the connection has proved healthy", async () => {
    const connection = open({ healthyMs: 5000 });
    // Accepted and dropped at once, again and again: the waits must grow although hello arrived every time.
    for (const expected of [1000, 2000, 4000]) {
      const peer = await gateway.accept();
      await inStatus(connection, "open");
      peer.drop();
      await inStatus(connection, "waiting");
      expect(connection.state).toMatchObject({ retryInMs: Math.round(expected * 0.999) });
      clock.advance(expected);
    }
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    clock.advance(5000);
    peer.drop();
    await inStatus(connection, "waiting");
    expect(connection.state).toMatchObject({ attempt: 1, retryInMs: 500 });
  });

  it("does not start over where the gateway told it to back off, however long it was up", async () => {
    for (const code of [1013, 4429]) {
      const connection = open();
      const peer = await gateway.accept();
      await inStatus(connection, "open");
      clock.advance(10_000);
      peer.close(code);
      await inStatus(connection, "waiting");
      expect(connection.state).toMatchObject({ attempt: 2, retryInMs: 999 });
    }
  });

  it("reconnects now, when asked to", async () => {
    const connection = open();
    (await gateway.accept()).drop();
    await inStatus(connection, "waiting");
    connection.reconnectNow();
    await gateway.accept();
    await inStatus(connection, "open");
    connection.reconnectNow();
    expect(connection.state.status).toBe("open");
    expect(gateway.peers).toHaveLength(2);
  });

  it("gives up a socket that gets no hello", async () => {
    gateway.hello = null;
    const connection = open({ helloMs: 10_000 });
    await gateway.accept();
    clock.advance(9999);
    expect(connection.state.status).toBe("connecting");
    clock.advance(1);
    expect(connection.state).toMatchObject({
      status: "waiting",
      code: "no_answer",
      reason: "the gateway did not say hello",
    });
  });

  it("closes for good, leaving no timer and no socket", async () => {
    const connection = open();
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    connection.close();
    expect(connection.state).toEqual({
      status: "closed",
      code: "closed",
      reason: "closed by the application",
    });
    expect(await peer.closed).toBe(1000);
    expect(clock.pending).toBe(0);
    await expect(connection.ping()).rejects.toMatchObject({ code: "connection_closed" });
  });

  it("has no socket class where there is no global one", () => {
    vi.stubGlobal("WebSocket", undefined);
    try {
      expect(() => connect(gateway.url)).toThrow(expect.objectContaining({ code: "no_websocket" }));
    } finally {
      vi.unstubAllGlobals();
    }
  });

  it("does not come back where the address is no address", async () => {
    const connection = connect("ftp://nowhere", { WebSocket, clock });
    await inStatus(connection, "closed");
    expect(connection.state).toMatchObject({ code: "address" });
  });

  describe("where a server is there that is no gateway", () => {
    let server: Server;
    let status: number;
    let asked: number;
    beforeEach(async () => {
      status = 404;
      asked = 0;
      server = createServer((_, response) => response.writeHead(status).end());
      server.on("upgrade", (_, socket) => {
        asked += 1;
        socket.end(`HTTP/1.1 ${status} No\r\nConnection: close\r\n\r\n`);
      });
      await once(server.listen(0, "127.0.0.1"), "listening");
    });
    afterEach(() => {
      server.closeAllConnections();
      server.close();
    });

    /** Goes on to the next try. */
    async function next(connection: Connection, attempt: number): Promise<void> {
      await until(() => expect(connection.state).toMatchObject({ status: "waiting", attempt }));
      clock.advance(20_000);
    }

    it("gives a path that it does not know three tries, and says what to check", async () => {
      const { port } = server.address() as AddressInfo;
      const connection = connect(`ws://127.0.0.1:${port}/ws?x=1`, { WebSocket, clock });
      connections.push(connection);
      const answer = connection.agents();
      await next(connection, 2);
      await next(connection, 3);
      await expect(answer).rejects.toMatchObject({ code: "connection_closed" });
      expect(connection.state).toEqual({
        status: "closed",
        code: "address",
        reason: `the server at ws://127.0.0.1:${port}/ws answers 404: check the URL, a gateway's path is /v1/ws`,
      });
      expect(asked).toBe(3);
      expect(clock.pending).toBe(0);
    });

    it("goes on trying where it only cannot now", async () => {
      status = 503;
      const { port } = server.address() as AddressInfo;
      const connection = connect(`ws://127.0.0.1:${port}/v1/ws`, { WebSocket, clock });
      connections.push(connection);
      for (let attempt = 2; attempt <= 6; attempt++) await next(connection, attempt);
      const still = { status: "waiting", attempt: 7, code: "unreachable" };
      await until(() => expect(connection.state).toMatchObject(still));
      expect(asked).toBe(6);
    });
  });
});

describe("in a browser", () => {
  let page: EventTarget & { visibilityState: string };
  let network: { onLine: boolean };
  const browser = () => new EventTarget();
  let window: EventTarget;

  beforeEach(() => {
    window = browser();
    page = Object.assign(browser(), { visibilityState: "visible" });
    network = { onLine: true };
    vi.stubGlobal("addEventListener", window.addEventListener.bind(window));
    vi.stubGlobal("removeEventListener", window.removeEventListener.bind(window));
    vi.stubGlobal("document", page);
    vi.stubGlobal("navigator", network);
  });
  afterEach(() => vi.unstubAllGlobals());

  const online = () => {
    network.onLine = true;
    window.dispatchEvent(new Event("online"));
  };
  const offline = () => {
    network.onLine = false;
    window.dispatchEvent(new Event("offline"));
  };
  const look = (visibilityState = "visible") => {
    page.visibilityState = visibilityState;
    page.dispatchEvent(new Event("visibilitychange"));
  };

  it.each([
    ["online", () => online()],
    ["offline", () => offline()],
    ["looked at", () => look()],
  ])(
    "%s: asks an open socket at once for a sign of life, and gives it up soon without one",
    async (_, happens) => {
      const connection = open();
      const peer = await gateway.accept();
      await inStatus(connection, "open");
      happens();
      const ping = await peer.command("server.ping");
      peer.answer(ping, {});
      const answered = connection.agents();
      peer.answer(await peer.command("agent.list"), { agents: [] });
      await answered;
      clock.advance(3000);
      expect(connection.state.status).toBe("open");
      happens();
      await peer.command("server.ping");
      clock.advance(2999);
      happens();
      expect(connection.state.status).toBe("open");
      clock.advance(1);
      expect(connection.state.status).toBe("waiting");
      expect(peer.received.filter(({ method }) => method === "server.ping")).toHaveLength(2);
    },
  );

  it("asks sooner where an answer is awaited already", async () => {
    gateway.hello = { heartbeatMs: 1000 };
    const connection = open({ pongMs: 60_000 });
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    clock.advance(1000);
    await peer.command("server.ping");
    look();
    clock.advance(3000);
    expect(connection.state).toMatchObject({ status: "waiting", code: "no_answer" });
    expect(peer.received).toHaveLength(1);
  });

  it("reconnects at once when it is online again, or looked at; not when it is hidden", async () => {
    const connection = open();
    (await gateway.accept()).drop();
    await inStatus(connection, "waiting");
    look("hidden");
    expect(connection.state.status).toBe("waiting");
    look();
    (await gateway.accept()).drop();
    await inStatus(connection, "waiting");
    online();
    await gateway.accept();
    await inStatus(connection, "open");
  });

  it.each([1012, 1013, 4429])("%i: does not hurry back to a gateway that asked for time", async (code) => {
    const connection = open();
    (await gateway.accept()).close(code);
    await inStatus(connection, "waiting");
    look();
    online();
    expect(connection.state.status).toBe("waiting");
  });

  it("without a network says so, and counts no tries until there is one", async () => {
    const connection = open();
    const peer = await gateway.accept();
    peer.drop();
    await inStatus(connection, "waiting");
    expect(connection.state).toMatchObject({ attempt: 2, code: "lost" });
    offline();
    const waits = { status: "waiting", attempt: 2, retryInMs: 20_000, code: "offline" };
    expect(connection.state).toMatchObject({ ...waits, reason: "this device is offline" });
    for (let i = 0; i < 3; i++) {
      clock.advance(20_000);
      (await gateway.accept()).drop();
      await until(() => expect(connection.state).toMatchObject(waits));
    }
    online();
    await gateway.accept();
    await inStatus(connection, "open");
  });

  it("begins anew what it had begun without a network", async () => {
    gateway.hello = null;
    const connection = open();
    const first = await gateway.accept();
    online();
    gateway.hello = {};
    await first.closed;
    await gateway.accept();
    await inStatus(connection, "open");
  });

  it("stops listening when it is closed", async () => {
    const connection = open();
    (await gateway.accept()).drop();
    await inStatus(connection, "waiting");
    connection.close();
    online();
    look();
    offline();
    expect(connection.state.status).toBe("closed");
    expect(clock.pending).toBe(0);
  });
});

describe("heartbeat", () => {
  it("asks a quiet gateway for a sign of life, and takes any frame for one", async () => {
    gateway.hello = { heartbeatMs: 1000 };
    const connection = open({ pongMs: 300 });
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    clock.advance(999);
    clock.advance(1);
    await peer.command("server.ping");
    peer.event("run.unsubscribed", { runId: "nobody's", reason: "anything" });
    await connectionHeard(connection, peer);
    clock.advance(300);
    expect(connection.state.status).toBe("open");
  });

  /** A command that was answered came after everything that was sent before it. */
  async function connectionHeard(
    connection: Connection,
    peer: Awaited<ReturnType<ScriptedGateway["accept"]>>,
  ): Promise<void> {
    const answered = connection.ping();
    peer.answer(await peer.command("server.ping"), {});
    await answered;
  }

  it("does not ask while frames come", async () => {
    gateway.hello = { heartbeatMs: 1000 };
    const connection = open();
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    for (let i = 0; i < 5; i++) {
      clock.advance(900);
      await connectionHeard(connection, peer);
    }
    expect(peer.received).toHaveLength(5);
  });

  it("takes a gateway that does not answer for dead, and reconnects", async () => {
    gateway.hello = { heartbeatMs: 1000 };
    const connection = open({ pongMs: 300 });
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    clock.advance(1000);
    await peer.command("server.ping");
    clock.advance(299);
    expect(connection.state.status).toBe("open");
    clock.advance(1);
    expect(connection.state).toMatchObject({ status: "waiting", reason: "the gateway does not answer" });
    clock.advance(1000);
    await gateway.accept();
    await inStatus(connection, "open");
  });
});

describe("close codes", () => {
  it.each([1009, 4400, 4403])("%i: closes for good, and everything waiting gets the error", async (code) => {
    const connection = open();
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    const run = connection.attach("r1");
    const reading = run[Symbol.asyncIterator]().next();
    const answer = connection.agents();
    await peer.command("run.subscribe");
    peer.close(code, "because");
    const error = { code: "connection_closed", closeCode: code };
    await expect(reading).rejects.toMatchObject(error);
    await expect(run.ended).rejects.toMatchObject(error);
    await expect(answer).rejects.toMatchObject(error);
    const reason = { code: code === 4403 ? "forbidden" : "protocol", reason: "because" };
    expect(connection.state).toEqual({ status: "closed", ...reason, closeCode: code });
    expect(clock.pending).toBe(0);
  });

  it.each([1000, 1001, 1006, 4408, 4999])("%i: reconnects", async (code) => {
    const connection = open();
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    if (code === 1006) peer.drop();
    else peer.close(code);
    await inStatus(connection, "waiting");
    clock.advance(1000);
    await gateway.accept();
    await inStatus(connection, "open");
  });

  it("4401: a fixed token is not tried twice", async () => {
    gateway.hello = null;
    const connection = open({ token: "T" });
    const peer = await gateway.accept();
    expect(peer.subprotocols).toEqual(["throughline.v1", "throughline.bearer.T"]);
    peer.close(4401, "expired");
    await inStatus(connection, "closed");
    expect(connection.state).toEqual({ status: "closed", code: "token", reason: "expired", closeCode: 4401 });
  });

  it("4401: a function is asked for a new token, and otherwise only once", async () => {
    let given = 0;
    const connection = open({ token: async () => `T${++given}` });
    (await gateway.accept()).drop();
    await inStatus(connection, "waiting");
    clock.advance(1000);
    const second = await gateway.accept();
    expect(second.subprotocols).toContain("throughline.bearer.T1");
    await inStatus(connection, "open");
    second.close(4401);
    await inStatus(connection, "waiting");
    clock.advance(2000);
    const third = await gateway.accept();
    expect(third.subprotocols).toContain("throughline.bearer.T2");
    expect(given).toBe(2);
  });

  it("4401: the same token again is not worth a try", async () => {
    gateway.hello = null;
    const connection = open({ token: () => "same" });
    (await gateway.accept()).close(4401);
    await inStatus(connection, "waiting");
    clock.advance(20_000);
    await inStatus(connection, "closed");
    expect(connection.state).toMatchObject({ code: "token", closeCode: 4401 });
    expect(gateway.peers).toHaveLength(1);
  });

  it("tries again when no token could be got", async () => {
    let calls = 0;
    const connection = open({
      token: () => {
        calls += 1;
        if (calls === 1) throw new Error("the login server is away");
        return "T";
      },
    });
    await inStatus(connection, "waiting");
    expect(connection.state).toMatchObject({ code: "token", reason: "no token: the login server is away" });
    clock.advance(1000);
    expect((await gateway.accept()).subprotocols).toContain("throughline.bearer.T");
  });

  it("sends a token that is no subprotocol in the query", async () => {
    open({ token: "a b/=" });
    const peer = await gateway.accept();
    expect(peer.subprotocols).toEqual(["throughline.v1"]);
    expect(peer.path).toBe("/v1/ws?token=a%20b%2F%3D");
  });

  it("does not come back to a gateway of another version", async () => {
    gateway.hello = { protocol: 2 as 1 };
    const connection = open();
    await inStatus(connection, "closed");
    expect(connection.state).toMatchObject({ reason: "the gateway speaks version 2 of the protocol" });
  });

  it.each([
    "{",
    "[]",
    '{"type":"event","method":"run.parts","params":{"runId":"r1","offset":0,"parts":[]}}',
    '{"type":"event","method":"run.page","params":{"runId":"r1","offset":1,"page":0,"pages":1,"text":""}}',
    '{"type":"event","method":"run.page","params":{"runId":"r1","offset":1,"page":2,"pages":1,"text":""}}',
    '{"type":"event","method":"run.page","params":{"runId":"r1","offset":1,"page":1,"pages":1}}',
    '{"type":"event","method":"run.snapshot","params":{"runId":"r1","offset":1,"messages":[],"complete":1}}',
    '{"type":"event","method":"run.snapshot","params":{"runId":"r1","offset":1,"messages":[],"calls":[]}}',
  ])("leaves a gateway that sends %s, backing off", async (text) => {
    const connection = open();
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    peer.send(text);
    await inStatus(connection, "waiting");
  });

  it("ignores frames and events yet to come", async () => {
    const connection = open();
    const peer = await gateway.accept();
    peer.send({ type: "weather", sunny: true });
    peer.send({ type: "event", method: "server.weather", params: { sunny: true } });
    peer.send({ type: "error", id: null, error: "invalid_argument", message: "?", retryable: false });
    const answered = connection.ping();
    peer.answer(await peer.command("server.ping"), {});
    await answered;
  });
});

describe("draining", () => {
  it("1012: waits out what is left of retryInMs", async () => {
    const connection = open({ random: () => 0 });
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    peer.event("server.draining", { retryInMs: 3000 });
    peer.close(1012);
    await inStatus(connection, "waiting");
    expect(connection.state).toMatchObject({
      retryInMs: 3000,
      code: "restarting",
      reason: "the gateway restarts",
    });
    clock.advance(2999);
    expect(connection.state.status).toBe("waiting");
    clock.advance(1);
    await gateway.accept();
    await inStatus(connection, "open");
  });

  it("uses a draining socket until the next one is open, then only that", async () => {
    const connection = open({ random: () => 0 });
    const first = await gateway.accept();
    const run = connection.attach("r1");
    const reader = run[Symbol.asyncIterator]();
    await first.subscribed();
    first.event("server.draining", { retryInMs: 3000 });
    first.parts("r1", 1, [parts.token("a")]);
    expect((await reader.next()).value).toMatchObject({ offset: 1 });
    gateway.hello = null;
    clock.advance(3000);
    const second = await gateway.accept();
    expect(connection.state.status).toBe("open");
    first.parts("r1", 2, [parts.token("b")]);
    expect((await reader.next()).value).toMatchObject({ offset: 2 });
    second.greet({ connectionId: "c2" });
    const again = await second.subscribed({ head: 3 });
    expect(again.params).toEqual({ runId: "r1", after: 2, epoch: "e1", pages: true });
    expect(await first.closed).toBe(1000);
    second.parts("r1", 3, [parts.token("c")]);
    expect((await reader.next()).value).toMatchObject({ offset: 3 });
    expect(connection.state).toEqual({ status: "open", connectionId: "c2" });
  });

  it("is not held back by how short the sockets of gateways that are restarted in turn were up", async () => {
    const connection = open({ random: () => 0.999 });
    for (let restart = 1; restart <= 4; restart++) {
      const peer = await gateway.accept();
      await inStatus(connection, "open");
      peer.event("server.draining", { retryInMs: 1000 });
      await answeredOn(peer, connection);
      // What it was asked to wait, and at most 0.3 s.
      clock.advance(1300);
      await until(() => expect(gateway.peers).toHaveLength(restart + 1));
    }
  });

  it("stays on a draining socket while no other will have it", async () => {
    const connection = open({ random: () => 0 });
    const first = await gateway.accept();
    await inStatus(connection, "open");
    gateway.hello = null;
    first.event("server.draining", { retryInMs: 1000 });
    await answeredOn(first, connection);
    clock.advance(1000);
    (await gateway.accept()).drop();
    await answeredOn(first, connection);
    expect(connection.state.status).toBe("open");
    await until(() => {
      clock.advance(50);
      expect(gateway.peers.length).toBeGreaterThanOrEqual(3);
    });
  });

  it("lets a command that cannot be repeated be answered on the socket that was left", async () => {
    const connection = open({ random: () => 0 });
    const first = await gateway.accept();
    await inStatus(connection, "open");
    const updated = connection.thread("t1").update({ a: 1 });
    const command = await first.command("thread.update");
    first.event("server.draining", { retryInMs: 1000 });
    await answeredOn(first, connection);
    clock.advance(1000);
    const second = await gateway.accept();
    await answeredOn(second, connection);
    expect(first.isClosed).toBe(false);
    first.answer(command, { threadId: "t1", checkpointId: "k9" });
    expect(await updated).toEqual({ threadId: "t1", checkpointId: "k9" });
    expect(await first.closed).toBe(1000);
  });

  it("does not take an answer on the socket that was left for one on the next", async () => {
    const connection = open({ random: () => 0 });
    const first = await gateway.accept();
    await inStatus(connection, "open");
    // What keeps the first socket alive.
    const updated = connection.thread("t1").update({ a: 1 });
    const update = await first.command("thread.update");
    const starting = connection.start({ agent: "a" });
    const stale = await first.command("run.start");
    first.event("server.draining", { retryInMs: 1000 });
    await answeredOn(first, connection);
    clock.advance(1000);
    const second = await gateway.accept();
    const command = await second.command("run.start");
    const result = { runId: "r1", threadId: "t1", status: "queued", epoch: "e1", created: true } as const;
    // The subscription that came with this start is on a socket that nobody listens to any more.
    first.answer(stale, { ...result, runId: "stale" });
    first.answer(update, { threadId: "t1", checkpointId: "k9" });
    await updated;
    second.answer(command, { ...result, created: false });
    expect((await starting).runId).toBe("r1");
  });

  it("does not listen to events of the socket that was left", async () => {
    const connection = open({ random: () => 0 });
    const first = await gateway.accept();
    const run = connection.attach("r1");
    await first.subscribed();
    const updated = connection.thread("t1").update({ a: 1 });
    const update = await first.command("thread.update");
    first.event("server.draining", { retryInMs: 1000 });
    await answeredOn(first, connection);
    clock.advance(1000);
    const second = await gateway.accept();
    await second.subscribed();
    second.parts("r1", 1, [parts.token("a")]);
    await until(() => expect(run.offset).toBe(1));
    first.parts("r1", 2, [parts.token("of a subscription that is over")]);
    first.event("server.draining", { retryInMs: 1 });
    first.answer(update, { threadId: "t1", checkpointId: "k9" });
    await updated;
    expect(run.offset).toBe(1);
    clock.advance(1000);
    await answeredOn(second, connection);
    expect(gateway.peers).toHaveLength(2);
  });

  it("moves after retryInMs, however many tries the connection had taken", async () => {
    gateway.hello = null;
    const connection = open();
    for (const waited of [1000, 2000, 4000]) {
      (await gateway.accept()).drop();
      await inStatus(connection, "waiting");
      clock.advance(waited);
    }
    const peer = await gateway.accept();
    peer.greet();
    await inStatus(connection, "open");
    clock.advance(5000);
    peer.event("server.draining", { retryInMs: 1000 });
    await answeredOn(peer, connection);
    clock.advance(1200);
    await gateway.accept();
  });

  async function answeredOn(peer: Awaited<ReturnType<ScriptedGateway["accept"]>>, connection: Connection) {
    const answered = connection.ping();
    peer.answer(await peer.command("server.ping"), {});
    await answered;
  }
});

describe("commands", () => {
  it("answers each, in any order", async () => {
    const connection = open();
    const peer = await gateway.accept();
    const agents = connection.agents();
    const record = connection.getRun("r1");
    const first = await peer.command("agent.list");
    const second = await peer.command("run.get");
    peer.refuse(second, "no_such_run", { runId: "r1" });
    peer.answer(first, { agents: [{ name: "storyteller", modes: ["messages"] }] });
    await expect(record).rejects.toMatchObject({
      name: "ProtocolError",
      code: "no_such_run",
      retryable: errorCodes.no_such_run.retryable,
      details: { runId: "r1" },
    });
    expect(await agents).toEqual([{ name: "storyteller", modes: ["messages"] }]);
  });

  it("sends the params that the calls are given", async () => {
    const connection = open();
    const peer = await gateway.accept();
    const thread = connection.thread("t1");
    const calls = [
      thread.get({ checkpointId: "k1" }),
      thread.history({ limit: 3, before: "k2" }),
      thread.update({ a: 1 }, { asNode: "n" }),
      thread.runs({ status: "running" }),
      connection.runs({ limit: 2 }),
      connection.cancel("r1", { keep: "branch", reason: "enough" }),
      connection.refreshToken("T"),
    ];
    const settled = Promise.allSettled(calls);
    await until(() => expect(peer.received).toHaveLength(7));
    expect(peer.received.map(({ method, params }) => [method, params])).toEqual([
      ["thread.get", { threadId: "t1", checkpointId: "k1" }],
      ["thread.history", { threadId: "t1", limit: 3, before: "k2" }],
      ["thread.update", { threadId: "t1", values: { a: 1 }, asNode: "n" }],
      ["run.list", { threadId: "t1", status: "running" }],
      ["run.list", { limit: 2 }],
      ["run.cancel", { runId: "r1", keep: "branch", reason: "enough" }],
      ["auth.refresh", { token: "T" }],
    ]);
    connection.close();
    expect((await settled).every((each) => each.status === "rejected")).toBe(true);
  });

  it("goes on with lists that a gateway answers in pieces, as far as was asked for", async () => {
    const connection = open();
    const peer = await gateway.accept();
    const run = (runId: string) => ({
      ...{ runId, threadId: "t1", agent: "a", status: "failed", attempt: 1, first: 1, head: 1, epoch: "e" },
      createdAt: "2026-01-01T00:00:00Z",
    });
    const runs = connection.runs({ status: "failed", limit: 2 });
    const first = await peer.command("run.list");
    peer.answer(first, { runs: [run("r9")] as never, next: "r5" });
    const second = await peer.command("run.list");
    expect(second.params).toEqual({ status: "failed", limit: 1, before: "r5" });
    peer.answer(second, { runs: [run("r3")] as never, next: "r1" });
    expect((await runs).map(({ runId }) => runId)).toEqual(["r9", "r3"]);

    const history = connection.thread("t1").history({ limit: 3 });
    const state = (checkpointId: string) => ({
      ...{ threadId: "t1", checkpointId, parentId: null, values: {}, next: [], interrupts: [], metadata: {} },
      createdAt: "2026-01-01T00:00:00Z",
    });
    const page = await peer.command("thread.history");
    peer.answer(page, { checkpoints: [state("k3")], next: "k3" });
    const rest = await peer.command("thread.history");
    expect(rest.params).toEqual({ threadId: "t1", limit: 2, before: "k3" });
    peer.answer(rest, { checkpoints: [state("k2")] });
    expect((await history).map(({ checkpointId }) => checkpointId)).toEqual(["k3", "k2"]);
  });

  it("sends what was not answered again on the next socket, and waits for one", async () => {
    const connection = open();
    const first = await gateway.accept();
    const agents = connection.agents();
    await first.command("agent.list");
    first.drop();
    await inStatus(connection, "waiting");
    const cancelled = connection.cancel("r1");
    clock.advance(1000);
    const second = await gateway.accept();
    second.answer(await second.command("agent.list"), { agents: [] });
    const command = await second.command("run.cancel");
    second.answer(command, { runId: "r1", status: "cancelled", offset: 57, checkpoint: null });
    expect(await agents).toEqual([]);
    expect(await cancelled).toMatchObject({ status: "cancelled", offset: 57 });
  });

  it("starts a run once, though it sends the command twice", async () => {
    const connection = open();
    const first = await gateway.accept();
    const starting = connection.start({ agent: "storyteller", input: { topic: "sea" } });
    const sent = await first.command("run.start");
    expect(sent.params.idempotencyKey).toMatch(/^[0-9a-f-]{32,}$/);
    first.drop();
    await inStatus(connection, "waiting");
    clock.advance(1000);
    const second = await gateway.accept();
    const again = await second.started({ created: false });
    expect(again.params).toEqual(sent.params);
    const run = await starting;
    expect(run).toMatchObject({ runId: "r1", threadId: "t1", status: "queued", epoch: "e1" });
  });

  it("keeps the caller's idempotency key", async () => {
    const connection = open();
    const peer = await gateway.accept();
    const starting = connection.start({ agent: "a", idempotencyKey: "mine" });
    expect((await peer.started()).params).toEqual({
      agent: "a",
      subscribe: true,
      pages: true,
      idempotencyKey: "mine",
    });
    await starting;
  });

  it("does not send thread.update twice: what became of it is unknown", async () => {
    const connection = open();
    const first = await gateway.accept();
    const sent = connection.thread("t1").update({ a: 1 });
    await first.command("thread.update");
    first.drop();
    await expect(sent).rejects.toMatchObject({ name: "ConnectionLostError", code: "connection_lost" });
    // One that never left is another matter.
    const unsent = connection.thread("t1").update({ a: 2 });
    clock.advance(1000);
    const second = await gateway.accept();
    second.answer(await second.command("thread.update"), { threadId: "t1", checkpointId: "k2" });
    expect(await unsent).toMatchObject({ checkpointId: "k2" });
  });

  it("refuses what is too long for a frame by itself, and keeps the socket", async () => {
    gateway.hello = { maxFrameBytes: 200 };
    const connection = open();
    const peer = await gateway.accept();
    await inStatus(connection, "open");
    const long = connection.thread("t1").update({ text: "é".repeat(100) });
    await expect(long).rejects.toMatchObject({ code: "payload_too_large" });
    const fits = connection.thread("t1").update({ text: "e".repeat(100) });
    peer.answer(await peer.command("thread.update"), { threadId: "t1", checkpointId: "k2" });
    await fits;
  });
});
