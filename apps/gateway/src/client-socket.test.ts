import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Duplex } from "node:stream";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { testLogger } from "../../../test/support/logger.ts";
import { until, within } from "../../../test/support/until.ts";
import { ClientSocket } from "./client-socket.ts";
import { gatewayConfig } from "./config.ts";
import { textFrame } from "./frame.ts";
import { Sockets } from "./sockets.ts";

let server: Server;
let sockets: Sockets;
let client: WebSocket;
/** The gateway's end of the client's socket. */
let connection: ClientSocket;

beforeEach(async () => {
  const env = gatewayConfig({ DRAIN_MS: "0", HIGH_WATER_BYTES: "20000", LOW_WATER_BYTES: "10000" });
  const authenticator = { authenticate: async () => ({ id: "alice", expiresAt: undefined }) };
  const heard = new Promise<ClientSocket>((resolve) => {
    sockets = new Sockets(env, testLogger, authenticator, async (socket) => {
      resolve(socket);
      return { result: {} };
    });
  });
  server = createServer();
  server.on("upgrade", (request, socket, head) => void sockets.upgrade(request, socket, head));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  client = new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}/v1/ws`);
  client.on("error", () => {}); // It is cut on purpose.
  client.on("open", () => client.send('{"id":1,"method":"server.ping","params":{}}'));
  connection = await within(heard);
});
afterEach(async () => {
  client.terminate();
  await sockets.drain();
  server.close();
});

describe("P8: a client that does not read", () => {
  /** Sends until the network takes no more, and answers what waits for it to do so. */
  const fill = async (): Promise<{ drained: Promise<void>; isDrained: () => boolean }> => {
    client.pause();
    const frame = textFrame("x".repeat(10_000));
    // Each turn's write is one; what the system takes of it is gone.
    for (let quiet = 0, before = 0; quiet < 20; before = connection.buffered) {
      connection.send(frame);
      await new Promise((resolve) => setImmediate(resolve));
      quiet = connection.buffered > before ? quiet + 1 : 0;
    }
    expect(connection.writable).toBe(false);
    let hasDrained = false;
    const drained = connection.drained().then(() => {
      hasDrained = true;
    });
    return { drained, isDrained: () => hasDrained };
  };

  test("is waited for until it has read", async () => {
    const { drained, isDrained } = await fill();
    expect(isDrained()).toBe(false);
    client.resume();
    await within(drained);
    expect(connection.buffered).toBeLessThanOrEqual(10_000);
  });

  test("is waited for no more when it has gone", async () => {
    const { drained } = await fill();
    client.terminate();
    await within(drained);
    await until(() => connection.closed);
    await within(connection.drained());
  });

  test("is waited for no more when it has gone, also where the system says nothing of what was written", async () => {
    const stuck = new Duplex({ read() {}, write() {} });
    const limits = {
      highWater: 20_000,
      lowWater: 10_000,
      commandsPerSecond: 1,
      bytesPerSecond: 1,
      slowSocketMs: 1_000,
    };
    const alone = new ClientSocket("c", { id: "alice", expiresAt: undefined }, client, stuck, limits, () =>
      Promise.reject(new Error("no commands here")),
    );
    alone.send(textFrame("x".repeat(30_000)));
    const drained = alone.drained();
    expect(alone.writable).toBe(false);
    alone.onClose();
    await within(drained);
  });
});
