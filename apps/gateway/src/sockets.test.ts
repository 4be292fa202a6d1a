import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { Gate } from "../../../test/support/agents.ts";
import { TestClient } from "../../../test/support/client.ts";
import { testLogger } from "../../../test/support/logger.ts";
import { until, within } from "../../../test/support/until.ts";
import type { Authenticator } from "./auth.ts";
import type { ClientSocket, CommandHandler } from "./client-socket.ts";
import { gatewayConfig } from "./config.ts";
import { textFrame } from "./frame.ts";
import { Sockets } from "./sockets.ts";

let server: Server;
let sockets: Sockets;
let url: string;
/** What commands are answered by. */
let handle: CommandHandler;
/** Tokens are checked once it is open. */
let gate: Gate;

async function serve(
  authenticator: Authenticator,
  settings: Record<string, string> = {},
  { closeMs, drainMs = 400 }: { closeMs?: number; drainMs?: number } = {},
): Promise<void> {
  const env = { ...gatewayConfig(settings), DRAIN_MS: drainMs };
  sockets = new Sockets(env, testLogger, authenticator, (...asked) => handle(...asked), closeMs);
  server = createServer();
  server.on("upgrade", (request, socket, head) => void sockets.upgrade(request, socket, head));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/v1/ws`;
}

const gated: Authenticator = {
  authenticate: async () => {
    await gate.passed;
    return { id: "alice", expiresAt: undefined };
  },
};

beforeEach(async () => {
  gate = new Gate();
  handle = () => Promise.reject(new Error("no commands here"));
  await serve(gated);
});
afterEach(async () => {
  gate.open();
  await sockets.drain();
  server.close();
});

/** The HTTP status that an upgrade is answered with. */
function upgradeStatus(): Promise<number | undefined> {
  const ws = new WebSocket(url);
  ws.on("error", () => {});
  return within(
    new Promise((resolve) => {
      ws.on("unexpected-response", (_, response) => resolve(response.statusCode));
      ws.on("open", () => resolve(101));
    }),
  );
}

describe("draining", () => {
  test("P7: an upgrade is answered with 503, before it is one: a load balancer tries another gateway", async () => {
    gate.open();
    expect(await upgradeStatus()).toBe(101);
    const drained = sockets.drain();
    expect(await upgradeStatus()).toBe(503);
    await drained;
    expect(sockets.size).toBe(0);
  });

  test("P7: so is one whose token was being checked when it began", async () => {
    const status = upgradeStatus();
    let connections = 0;
    await until(async () => {
      server.getConnections((_, count) => {
        connections = count;
      });
      return connections === 1;
    });
    await sockets.drain();
    gate.open();
    expect(await status).toBe(503);
    expect(sockets.size).toBe(0);
  });

  test("P7: a socket stays open beyond the time it was told, for its client to have moved by then", async () => {
    gate.open();
    const client = await TestClient.open(url);
    const began = performance.now();
    const drained = sockets.drain();
    const told = await until(() => client.events.find(({ method }) => method === "server.draining"));
    const { retryInMs } = told.params as { retryInMs: number };
    expect((await within(client.closed)).code).toBe(1012);
    expect(performance.now() - began).toBeGreaterThanOrEqual(retryInMs + 395);
    await drained;
  });

  test("P7: a client that has left is not waited for", async () => {
    // Half an hour, on the average, for who stays.
    await sockets.drain();
    server.close();
    await serve(gated, {}, { drainMs: 3_600_000 });
    gate.open();
    const client = await TestClient.open(url);
    const drained = sockets.drain();
    await client.close();
    await drained;
  });
});

describe("a client that does not read", () => {
  const frames = 256;
  const frameBytes = 256 * 1024;
  const settings = { HEARTBEAT_MS: "200", SLOW_SOCKET_MS: "200" };
  const everybody: Authenticator = { authenticate: async () => ({ id: "alice", expiresAt: undefined }) };

  async function served(more: Record<string, string>, closeMs?: number): Promise<void> {
    await sockets.drain();
    server.close();
    await serve(everybody, { ...settings, ...more }, closeMs === undefined ? {} : { closeMs });
  }

  /** A client that has asked for far more than the kernel holds for it, and reads none of it. */
  async function stuck(): Promise<{ client: TestClient; connection: ClientSocket }> {
    let connection: ClientSocket | undefined;
    handle = async (asking) => {
      connection = asking;
      for (let i = 0; i < frames; i++) asking.send(textFrame(JSON.stringify("x".repeat(frameBytes))));
      return { result: {} };
    };
    const client = await TestClient.open(url);
    client.ws.removeAllListeners("message");
    client.socket.pause();
    client.raw('{"id":1,"method":"server.ping"}');
    return { client, connection: await until(() => connection) };
  }

  test("P8: reads again, and is told why it was closed: what it was spared is most of what waited", async () => {
    await served({});
    const { client, connection } = await stuck();
    expect(connection.buffered).toBeGreaterThan((frames / 2) * frameBytes);
    let came = 0;
    client.ws.on("message", (data: Buffer) => {
      came += data.length;
    });
    await until(() => connection.closed);
    // What it cannot be spared is in the kernel, or on its way there.
    expect(connection.buffered).toBeLessThan(4 * frameBytes);
    await new Promise((resolve) => setTimeout(resolve, 1_000)); // Beats go on meanwhile.
    client.socket.resume();
    expect(await within(client.closed)).toMatchObject({ code: 4408, reason: "no progress for 200 ms" });
    expect(came).toBeLessThan((frames / 2) * frameBytes);
    await until(() => sockets.size === 0);
  });

  test("P7: never reads again, and is let go all the same", async () => {
    await served({}, 300);
    const { client } = await stuck();
    await until(() => sockets.size === 0);
    client.socket.resume();
    expect((await within(client.closed)).code).toBe(1006);
  });

  test("P8: nor answers a ping, and is told why when it reads again", async () => {
    await served({});
    const client = await TestClient.open(url);
    client.socket.pause();
    await until(() => sockets.size === 0);
    client.socket.resume();
    expect(await within(client.closed)).toMatchObject({ code: 4408, reason: "no answer to a ping" });
  });

  test("P8: a client that is slow, and reads on, gets all of it", async () => {
    await served({});
    const { client, connection } = await stuck();
    let came = 0;
    client.ws.on("message", (data: Buffer) => {
      if (data.length > frameBytes) came++;
      client.socket.pause();
      setTimeout(() => client.socket.resume(), 5);
    });
    client.socket.resume();
    await until(() => came === frames, 30_000);
    expect(connection.closed).toBe(false);
    client.drop();
  }, 60_000);
});
