import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { type Connection, connect } from "../connection.ts";
import { type Peer, parts, ScriptedGateway } from "../testing/index.ts";
import { holdStore, RunStore, targetKey } from "./run-store.ts";

const { token, call, custom, started, rewound, completed } = parts;

let gateway: ScriptedGateway;
let connection: Connection;
let peer: Peer;
let frames: (() => void)[];

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  connection = connect(gateway.url, { WebSocket });
  peer = await gateway.accept();
  frames = [];
});

afterEach(async () => {
  connection.close();
  await gateway.close();
});

const schedule = (draw: () => void) => void frames.push(draw);

function frame(): void {
  for (const draw of frames.splice(0)) draw();
}

function until(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 60_000, interval: 2 });
}

async function allRead(): Promise<void> {
  const answered = connection.ping();
  peer.answer(await peer.command("server.ping"), {});
  await answered;
}

describe("RunStore", () => {
  it("draws once a frame, however much has come, and nothing that has not changed", async () => {
    const store = new RunStore(connection, { agent: "a" }, { schedule });
    let draws = 0;
    store.subscribe(() => {
      draws += 1;
    });
    expect(store.getSnapshot()).toMatchObject({ status: "starting", text: "" });
    await peer.started();
    await until(() => expect(frames).toHaveLength(1));
    frame();
    for (let i = 0; i < 50; i++) peer.parts("r1", i + 1, [token(`${i} `)]);
    await allRead();
    expect(frames).toHaveLength(1);
    const before = store.getSnapshot();
    expect(before).toMatchObject({ status: "queued", text: "", runId: "r1", threadId: "t1" });
    expect(store.getSnapshot()).toBe(before);
    frame();
    expect(draws).toBe(2);
    expect(store.getSnapshot().text).toMatch(/^0 1 .*49 $/);
    expect(store.getSnapshot().messages).toHaveLength(1);
  });

  it("shows the ending without waiting for a frame", async () => {
    const store = new RunStore(connection, "r1", { schedule });
    await peer.subscribed();
    peer.parts("r1", 1, [token("a"), completed()]);
    await until(() => expect(store.getSnapshot().status).toBe("completed"));
    expect(store.getSnapshot()).toMatchObject({
      text: "a",
      ending: { event: "completed" },
      error: undefined,
    });
  });

  it("shows a tool call while its arguments are streamed", async () => {
    const store = new RunStore(connection, "r1", { schedule });
    await peer.subscribed();
    const shown = (args: string) =>
      until(() => {
        frame();
        expect(store.getSnapshot().messages[0]?.calls).toMatchObject([{ name: "search", args }]);
      });
    peer.parts("r1", 1, [call({ index: 0, id: "t", name: "search", args: "{" })]);
    await shown("{");
    peer.parts("r1", 2, [call({ index: 0, args: "}" })]);
    await shown("{}");
  });

  it("shows why a run could not be started, or is lost", async () => {
    const one = new RunStore(connection, { agent: "nobody" }, { schedule });
    peer.refuse(await peer.command("run.start"), "no_such_agent");
    await until(() => expect(one.getSnapshot().status).toBe("lost"));
    expect(one.getSnapshot().error).toMatchObject({ code: "no_such_agent" });
    const two = new RunStore(connection, "r9", { schedule });
    peer.refuse(await peer.command("run.subscribe"), "no_such_run");
    await until(() => expect(two.getSnapshot().error).toMatchObject({ code: "no_such_run" }));
    expect(two.getSnapshot()).toMatchObject({ status: "lost", runId: "r9" });
  });

  it("keeps parts, if asked to, and takes back what was rewound or reset", async () => {
    const store = new RunStore(connection, "r1", { schedule, parts: true });
    const kept = () => store.getSnapshot().parts.map(({ offset }) => offset);
    await peer.subscribed();
    peer.parts("r1", 1, [started(), custom("a"), custom("b"), rewound(2), custom("c")]);
    await until(() => {
      frame();
      expect(kept()).toEqual([1, 2, 4, 5]);
    });
    peer.event("run.reset", { runId: "r1", epoch: "e2", reason: "lost" });
    peer.parts("r1", 1, [started(), completed()]);
    await until(() => {
      frame();
      expect(kept()).toEqual([1, 2]);
    });
    expect(store.getSnapshot().status).toBe("completed");
  });

  it("cancels a run whose start has not been answered yet", async () => {
    const store = new RunStore(connection, { agent: "a" }, { schedule });
    const cancelled = store.cancel({ keep: "branch" });
    await peer.started();
    const command = await peer.command("run.cancel");
    expect(command.params).toEqual({ runId: "r1", keep: "branch" });
    peer.answer(command, { runId: "r1", status: "cancelled", offset: 1, checkpoint: null });
    await cancelled;
  });

  it("closed, it draws no more and detaches, but not from a run that it was given", async () => {
    const store = new RunStore(connection, "r1", { schedule });
    await peer.subscribed();
    await allRead();
    store.close();
    await peer.command("run.unsubscribe");
    const run = connection.attach("r2");
    await peer.subscribed();
    const other = new RunStore(connection, run, { schedule });
    await allRead();
    other.close();
    await allRead();
    expect(peer.received.filter((each) => each.method === "run.unsubscribe")).toHaveLength(1);
    expect(other.getSnapshot().status).toBe("starting");
  });

  it("closed before the answer, it detaches when that comes", async () => {
    const store = new RunStore(connection, { agent: "a" }, { schedule });
    store.close();
    await peer.started();
    await peer.command("run.unsubscribe");
  });
});

describe("holdStore", () => {
  it("shares a run among those who show it, and survives being let go and taken again at once", async () => {
    const params = { agent: "a", input: { topic: "sea" } };
    const first = holdStore(connection, params, { schedule });
    const second = holdStore(connection, { ...params }, { schedule });
    expect(second.store).toBe(first.store);
    await peer.started();
    first.release();
    first.release();
    second.release();
    const third = holdStore(connection, params, { schedule });
    await allRead();
    expect(third.store).toBe(first.store);
    third.release();
    await peer.command("run.unsubscribe");
    const fourth = holdStore(connection, params, { schedule });
    expect(fourth.store).not.toBe(first.store);
    await peer.started();
    expect(peer.received.filter((each) => each.method === "run.start")).toHaveLength(2);
  });

  it("tells an id from params, and what is kept from what is not", () => {
    const keys = [
      targetKey("r1"),
      targetKey("r2"),
      targetKey({ agent: "r1" }),
      targetKey("r1", { parts: true }),
    ];
    expect(new Set(keys).size).toBe(4);
  });
});
