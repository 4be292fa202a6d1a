import type { ThreadEvent, ThreadRun } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { type Connection, connect } from "./connection.ts";
import type { Run } from "./run.ts";
import {
  type Command,
  ManualClock,
  type Peer,
  parts,
  ScriptedGateway,
  ScriptedThread,
} from "./testing/index.ts";
import type { Watching } from "./watch.ts";

let gateway: ScriptedGateway;
let clock: ManualClock;
let connection: Connection;
let peer: Peer;
let watch: Watching;
let told: string[];
let runs: Run[];

const { record } = new ScriptedThread("t1");
const metadata: ThreadEvent = { event: "metadata", thread: record };
const runEvent = (runId: string, status: ThreadRun["status"], more: object = {}): ThreadEvent => ({
  event: "run",
  thread: record,
  run: { runId, agent: "a", status, ...more },
});

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  clock = new ManualClock();
  connection = connect(gateway.url, { WebSocket, clock, random: () => 0.999 });
  peer = await gateway.accept();
  told = [];
  runs = [];
});

afterEach(async () => {
  connection.close();
  await gateway.close();
});

function until(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 60_000, interval: 2 });
}

function begin(threadId: string | null = "t1"): void {
  watch = connection.watch(threadId ?? undefined, {
    watched: (_, active) => {
      runs.push(...active);
      told.push("watched");
    },
    event: (event, run) => {
      if (run !== undefined) runs.push(run);
      told.push(event.event);
    },
    reset: () => told.push("reset"),
    deleted: () => told.push("deleted"),
    failed: (error) => told.push(error.code),
  });
}

async function watched(more: object = {}): Promise<Command<"thread.watch">> {
  const command = await peer.command("thread.watch");
  peer.answer(command, { first: 1, head: 0, epoch: "w1", ...more });
  return command;
}

async function allRead(): Promise<void> {
  const answered = connection.ping();
  peer.answer(await peer.command("server.ping"), {});
  await answered;
}

describe("a watch", () => {
  it("follows runs as they come, and has their parts from the first on", async () => {
    begin();
    await watched();
    peer.event("thread.events", { threadId: "t1", offset: 1, events: [runEvent("r1", "queued")] });
    peer.parts("r1", 1, [parts.started(), parts.token("ab"), parts.completed()]);
    peer.event("thread.events", { threadId: "t1", offset: 2, events: [runEvent("r1", "completed")] });
    await until(() => expect(told).toEqual(["watched", "run", "run"]));
    expect(runs).toHaveLength(2);
    expect(runs[0]).toBe(runs[1]);
    expect(runs[0]).toMatchObject({ text: "ab", status: "completed", threadId: "t1" });
  });

  it("does not follow a run of which only the end is told", async () => {
    begin();
    await watched();
    peer.event("thread.events", { threadId: "t1", offset: 1, events: [runEvent("r1", "completed")] });
    await until(() => expect(told).toEqual(["watched", "run"]));
    expect(runs).toEqual([]);
    expect(() => connection.attach("r1")).not.toThrow();
  });

  it("shares a run that the application follows, and leaves it to the application", async () => {
    const own = connection.attach("r1");
    await peer.subscribed();
    begin();
    await watched({ runs: [{ runId: "r1", agent: "a", status: "running" }] });
    await until(() => expect(runs).toEqual([own]));
    watch.stop();
    await peer.command("thread.unwatch");
    await allRead();
    expect(own.error).toBeUndefined();
    expect(peer.received.map(({ method }) => method)).not.toContain("run.unsubscribe");
  });

  it("asks for the rest of a run that ended while there was no connection", async () => {
    begin();
    await watched({ runs: [{ runId: "r1", agent: "a", status: "running", epoch: "e1" }] });
    peer.parts("r1", 1, [parts.started(), parts.token("ab")]);
    await allRead();
    peer.drop();
    await until(() => expect(connection.state.status).toBe("waiting"));
    clock.advance(60_000);
    peer = await gateway.accept();
    const again = await watched({ runs: [] });
    expect(again.params.runs?.known).toEqual({ r1: { after: 2, epoch: "e1" } });
    expect((await peer.subscribed({ head: 3, epoch: "e1", status: "completed" })).params).toMatchObject({
      after: 2,
    });
    peer.parts("r1", 3, [parts.completed()]);
    await until(() => expect(runs[0]!.status).toBe("completed"));
  });

  it("tells of the end of the thread once, and of a refusal", async () => {
    begin();
    await watched();
    peer.event("thread.events", {
      threadId: "t1",
      offset: 1,
      events: [{ event: "deleted", threadId: "t1" }],
    });
    peer.event("thread.unwatched", { threadId: "t1", reason: "deleted" });
    await until(() => expect(told).toEqual(["watched", "deleted", "deleted"]));
    begin("t2");
    peer.refuse(await peer.command("thread.watch"), "no_such_thread");
    await until(() => expect(told.at(-1)).toBe("no_such_thread"));
    begin("t3");
    peer.refuse(await peer.command("thread.watch"), "unavailable");
    await until(() => {
      clock.advance(1000);
      expect(peer.received.filter(({ method }) => method === "thread.watch")).toHaveLength(4);
    });
    expect(told).toHaveLength(4);
  });

  it("begins anew where its events are gone", async () => {
    begin();
    await watched({ head: 7 });
    peer.event("thread.unwatched", { threadId: "t1", reason: "expired" });
    await until(() => {
      clock.advance(1000);
      expect(told).toEqual(["watched", "reset"]);
      expect(peer.received.filter(({ method }) => method === "thread.watch")).toHaveLength(2);
    });
    expect((await peer.command("thread.watch")).params).toEqual({
      threadId: "t1",
      after: "head",
      runs: { pages: true, known: {} },
    });
  });

  it("asks for the runs anew that came in a gap", async () => {
    begin();
    await watched();
    peer.event("thread.reset", { threadId: "t1", epoch: "w2", offset: 9, reason: "trimmed" });
    let asked: Command<"thread.watch"> | undefined;
    await until(() => {
      clock.advance(1000);
      asked = peer.received.filter(({ method }) => method === "thread.watch")[1] as typeof asked;
      expect(asked?.params).toEqual({
        threadId: "t1",
        after: 9,
        epoch: "w2",
        runs: { pages: true, known: {} },
      });
    });
    const missed: ThreadRun = { runId: "r1", agent: "a", status: "running" };
    peer.answer(asked!, { first: 1, head: 9, epoch: "w2", runs: [missed] });
    await until(() => expect(runs.map(({ runId }) => runId)).toEqual(["r1"]));
    expect(told).toEqual(["watched", "reset", "watched"]);
    peer.event("thread.events", { threadId: "t1", offset: 10, events: [metadata] });
    await until(() => expect(told.at(-1)).toBe("metadata"));
  });

  it("does not overtake the end of the one before it", async () => {
    begin();
    await watched();
    await allRead();
    watch.stop();
    const unwatch = await peer.command("thread.unwatch");
    begin();
    await allRead();
    peer.answer(unwatch, {});
    await watched();
    peer.event("thread.events", { threadId: "t1", offset: 1, events: [metadata] });
    await until(() => expect(told).toEqual(["watched", "watched", "metadata"]));
  });

  it("of all threads is another one for who asks after it was refused", async () => {
    begin(null);
    peer.refuse(await peer.command("thread.watch"), "invalid_argument");
    await until(() => expect(told).toEqual(["invalid_argument"]));
    begin(null);
    await watched();
    peer.event("thread.events", { offset: 1, events: [metadata] });
    await until(() => expect(told).toEqual(["invalid_argument", "watched", "metadata"]));
    watch.stop();
    await peer.command("thread.unwatch");
  });

  it("of all threads is one, however many are told", async () => {
    const seen: string[] = [];
    const sink = (name: string) => ({
      watched: () => {},
      event: () => void seen.push(name),
      reset: () => {},
      deleted: () => {},
      failed: () => {},
    });
    const a = connection.watch(undefined, sink("a"));
    const b = connection.watch(undefined, sink("b"));
    expect((await watched()).params).toEqual({ after: "head" });
    peer.event("thread.events", { offset: 1, events: [metadata] });
    await until(() => expect(seen).toEqual(["a", "b"]));
    a.stop();
    peer.event("thread.events", { offset: 2, events: [runEvent("r1", "queued")] });
    await until(() => expect(seen).toEqual(["a", "b", "b"]));
    b.stop();
    expect((await peer.command("thread.unwatch")).params).toEqual({});
    expect(() => connection.attach("r1")).not.toThrow();
  });
});
