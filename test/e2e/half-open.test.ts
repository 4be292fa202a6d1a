/** The network goes, and nobody says goodbye: each side has to find out by itself. */
import type { Part } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { TestClient } from "../support/client.ts";
import { Follower } from "../support/follower.ts";
import { type Line, startLine } from "../support/line.ts";
import { startProxy } from "../support/proxy.ts";
import { ScriptedRun } from "../support/run.ts";
import { patienceMs, until } from "../support/until.ts";

const heartbeatMs = 300;
const pongMs = 200;
const own = (data: unknown): Part => ({ type: "custom", ns: [], data: data as never });

/** As in a browser: a dead socket can only be closed, which its peer never hears of. */
class NoTerminate extends WebSocket {
  override terminate = undefined as never;
}

let line: Line;
let proxy: Awaited<ReturnType<typeof startProxy>>;
let followers: Follower[];

beforeEach(async () => {
  line = await startLine({ workers: 0, env: { HEARTBEAT_MS: String(heartbeatMs) } });
  proxy = await startProxy(line.gateways[0]!.url);
  followers = [];
});
afterEach(async () => {
  for (const { connection } of followers) connection.close();
  proxy.close();
  await line.stop();
});

describe("a connection that is gone without a word", () => {
  test.each([
    ["Node", WebSocket],
    ["a browser", NoTerminate],
  ])(
    "P1, P7: the client in %s hears nothing, comes back, and misses nothing; the gateway lets the old socket go",
    async (_, socketClass) => {
      const run = await ScriptedRun.open(line.redis, line.prefix, "run");
      await run.append([own(1)]);
      const states: string[] = [];
      const follower = new Follower(proxy.url, run.runId, { WebSocket: socketClass as never, pongMs });
      followers.push(follower);
      follower.connection.onState((state) => {
        states.push(state.status === "waiting" ? state.reason : state.status);
      });
      await until(() => follower.offset === 1);
      expect(proxy.strand()).toBe(1);
      await run.append([own(2)]);
      await until(() => follower.offset === 2);
      // It is asked for a sign of life after a heartbeat's silence, and given up when there is none.
      expect(states).toContain("the gateway does not answer");
      await until(() => line.gateways[0]!.connections === 1, patienceMs, "the end of the old socket");
      await run.finish();
      expect(await follower.done).toMatchObject({ first: 1, last: 3 });
    },
  );

  test("P7: a gateway closes it after the heartbeat that was missed", async () => {
    await TestClient.open(proxy.url);
    const direct = await line.client();
    expect(line.gateways[0]!.connections).toBe(2);
    proxy.strand();
    let pings = 0;
    direct.ws.on("ping", () => pings++);
    await until(() => line.gateways[0]!.connections === 1, patienceMs, "the end of the stranded socket");
    // One heartbeat until it is pinged, one that it misses, one to hear that it is closed; the other may be a beat ahead.
    expect(pings).toBeLessThanOrEqual(4);
    expect(await direct.call("server.ping", {})).toEqual({});
  });
});
