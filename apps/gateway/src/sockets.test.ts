import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { Gate } from "../../../test/support/agents.ts";
import { TestClient } from "../../../test/support/client.ts";
import { testLogger } from "../../../test/support/logger.ts";
import { until, within } from "../../../test/support/until.ts";
import type { Authenticator } from "./auth.ts";
import { gatewayConfig } from "./config.ts";
import { Sockets } from "./sockets.ts";

let server: Server;
let sockets: Sockets;
let url: string;
/** Tokens are checked once it is open. */
let gate: Gate;

beforeEach(async () => {
  gate = new Gate();
  await listen(400);
});
afterEach(async () => {
  gate.open();
  await sockets.drain();
  server.close();
});

async function listen(drainMs: number): Promise<void> {
  const authenticator: Authenticator = {
    authenticate: async () => {
      await gate.passed;
      return { id: "alice", expiresAt: undefined };
    },
  };
  const env = { ...gatewayConfig({}), DRAIN_MS: drainMs };
  sockets = new Sockets(env, testLogger, authenticator, () => Promise.reject(new Error("no commands here")));
  server = createServer();
  server.on("upgrade", (request, socket, head) => void sockets.upgrade(request, socket, head));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/v1/ws`;
}

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
    await listen(3_600_000);
    gate.open();
    const client = await TestClient.open(url);
    const drained = sockets.drain();
    await client.close();
    await drained;
  });
});
