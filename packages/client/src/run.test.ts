import { Fold, type Part } from "@throughline/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { type Connection, type ConnectOptions, connect } from "./connection.ts";
import type { Run } from "./run.ts";
import type { OffsetPart, RunEvent } from "./run-event.ts";
import { ManualClock, type Peer, parts, ScriptedGateway } from "./testing/index.ts";

const { token, call, custom, started, rewound, completed } = parts;

let gateway: ScriptedGateway;
let clock: ManualClock;
let connection: Connection;

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  clock = new ManualClock();
});

afterEach(async () => {
  connection.close();
  await gateway.close();
});

async function open(options: ConnectOptions = {}): Promise<Peer> {
  connection = connect(gateway.url, { WebSocket, clock, random: () => 0, ...options });
  const peer = await gateway.accept();
  await until(() => expect(connection.state.status).toBe("open"));
  return peer;
}

async function start(peer: Peer): Promise<Run> {
  const starting = connection.start({ agent: "storyteller", input: "a topic" });
  await peer.started();
  return starting;
}

function until(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 60_000, interval: 2 });
}

/** Reads on its own; what has been read is in the answer. */
function collect<T>(from: AsyncIterable<T>): { got: T[]; done: Promise<void> } {
  const got: T[] = [];
  const done = (async () => {
    for await (const each of from) got.push(each);
  })();
  done.catch(() => {});
  return { got, done };
}

const offsets = (got: OffsetPart[]) => got.map((each) => each.offset);

/** All that the gateway sent before has been looked at. */
async function allRead(peer: Peer): Promise<void> {
  const answered = connection.ping();
  peer.answer(await peer.command("server.ping"), {});
  await answered;
}

/** Loses the socket, and answers the next one. */
async function reconnect(peer: Peer): Promise<Peer> {
  peer.drop();
  await until(() => expect(connection.state.status).toBe("waiting"));
  clock.advance(50);
  const next = await gateway.accept();
  await until(() => expect(connection.state.status).toBe("open"));
  return next;
}

describe("P1: one story", () => {
  it("yields every part up to the ending, without another word to the gateway", async () => {
    const peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    const sent = [started(), token("Once "), token("upon"), completed()];
    peer.parts("r1", 1, sent.slice(0, 3));
    peer.parts("r1", 4, sent.slice(3));
    peer.event("run.unsubscribed", { runId: "r1", reason: "ended" });
    await done;
    expect(got).toEqual(sent.map((part, i) => ({ offset: i + 1, part })));
    expect(run).toMatchObject({ text: "Once upon", status: "completed", offset: 4 });
    expect(await run.ended).toEqual({
      event: "completed",
      checkpoint: { threadId: "t1", checkpointId: "k1" },
    });
    await allRead(peer);
    expect(peer.received.map((each) => each.method)).toEqual(["run.start", "server.ping"]);
  });

  it("takes parts that come in the same packet as the answer to run.start", async () => {
    const peer = await open();
    const starting = connection.start({ agent: "a" });
    await peer.started();
    peer.parts("r1", 1, [token("a"), completed()]);
    expect((await (await starting).ended).event).toBe("completed");
  });

  it("shows a tool call while its arguments are streamed, until an update brings the message", async () => {
    const peer = await open();
    const run = await start(peer);
    const calls = () => run.messages.map((each) => each.calls);
    peer.parts("r1", 1, [started(), call({ index: 0, id: "t", name: "search", args: "" })]);
    await until(() => expect(calls()).toEqual([[{ index: 0, id: "t", name: "search", args: "" }]]));
    peer.parts("r1", 3, [call({ index: 0, args: '{"q":' })]);
    await until(() => expect(calls()).toMatchObject([[{ args: '{"q":' }]]));
    expect(run.messages[0]).toMatchObject({ message: { id: "m1", content: "" }, complete: false });
    expect(run.messages[0]?.message).not.toHaveProperty("tool_calls");
    const tool_calls = [{ id: "t", name: "search", args: { q: "cats" } }];
    const message = { type: "ai", id: "m1", content: "", tool_calls };
    peer.parts("r1", 4, [
      call({ index: 0, args: '"cats"}' }),
      { type: "updates", ns: [], data: { model: { messages: [message] } } },
    ]);
    await until(() => expect(run.messages).toMatchObject([{ message, complete: true }]));
    expect(calls()).toEqual([[]]);
  });

  it("resumes after a lost connection from the last offset that came", async () => {
    let peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    peer.parts("r1", 1, [token("a"), token("b")]);
    await until(() => expect(offsets(got)).toEqual([1, 2]));
    for (const after of [2, 3]) {
      peer = await reconnect(peer);
      expect((await peer.subscribed({ head: 9 })).params).toEqual({
        runId: "r1",
        after,
        epoch: "e1",
        pages: true,
      });
      peer.parts("r1", after + 1, [token("x")]);
      await until(() => expect(offsets(got)).toContain(after + 1));
    }
    peer.parts("r1", 5, [completed()]);
    await done;
    expect(offsets(got)).toEqual([1, 2, 3, 4, 5]);
  });

  it("drops what it has already, part by part", async () => {
    const peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    peer.parts("r1", 1, [token("a"), token("b")]);
    peer.parts("r1", 1, [token("a"), token("b")]);
    peer.parts("r1", 2, [token("b"), token("c")]);
    peer.parts("r1", 3, [token("c")]);
    peer.parts("r1", 1, [token("a"), token("b"), token("c"), completed()]);
    await done;
    expect(offsets(got)).toEqual([1, 2, 3, 4]);
    expect(run.text).toBe("abc");
  });

  it("asks again where something is missing, and ignores what comes until the answer", async () => {
    const peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    peer.parts("r1", 1, [token("a")]);
    peer.parts("r1", 3, [token("c")]);
    const command = await peer.command("run.subscribe");
    expect(command.params).toEqual({ runId: "r1", after: 1, epoch: "e1", pages: true });
    // The earlier subscription is still talking: even what would fit is not this one's.
    peer.parts("r1", 2, [token("stale")]);
    peer.answer(command, { runId: "r1", status: "running", first: 1, head: 4, epoch: "e1" });
    peer.parts("r1", 2, [token("b"), token("c"), completed()]);
    await done;
    expect(offsets(got)).toEqual([1, 2, 3, 4]);
    expect(run.text).toBe("abc");
  });

  it("spaces its asking out where it brings nothing", async () => {
    const peer = await open({ random: () => 0.999 });
    const run = await start(peer);
    peer.parts("r1", 2, [token("b")]);
    await peer.subscribed();
    peer.parts("r1", 2, [token("b")]);
    await allRead(peer);
    expect(peer.received.filter((each) => each.method === "run.subscribe")).toHaveLength(1);
    clock.advance(500);
    await peer.subscribed();
    peer.parts("r1", 2, [token("b")]);
    await allRead(peer);
    clock.advance(500);
    await allRead(peer);
    expect(peer.received.filter((each) => each.method === "run.subscribe")).toHaveLength(2);
    clock.advance(500);
    await peer.subscribed();
    peer.parts("r1", 1, [token("a"), completed()]);
    await run.ended;
  });

  it("does not take being unsubscribed for an end", async () => {
    const peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    peer.parts("r1", 1, [token("a")]);
    peer.event("run.unsubscribed", { runId: "r1", reason: "slow" });
    expect((await peer.subscribed()).params.after).toBe(1);
    peer.event("run.unsubscribed", { runId: "r1", reason: "ended" });
    await allRead(peer);
    clock.advance(50);
    expect((await peer.subscribed()).params.after).toBe(1);
    peer.parts("r1", 2, [completed()]);
    await done;
    expect(offsets(got)).toEqual([1, 2]);
  });

  it("delivers nothing after the ending", async () => {
    const peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    peer.parts("r1", 1, [completed(), token("late")]);
    peer.parts("r1", 2, [token("late")]);
    await done;
    await allRead(peer);
    expect(offsets(got)).toEqual([1]);
    expect(run.text).toBe("");
  });

  it("keeps runs on one socket apart", async () => {
    const peer = await open();
    const one = connection.attach("r1");
    const two = connection.attach("r2", { after: 5 });
    await peer.subscribed();
    await peer.subscribed({ head: 5 });
    const [a, b] = [collect(one), collect(two)];
    peer.parts("r2", 6, [token("b"), completed()]);
    peer.parts("r3", 1, [token("nobody's")]);
    peer.parts("r1", 1, [token("a"), completed()]);
    await Promise.all([a.done, b.done]);
    expect([one.text, two.text, offsets(a.got), offsets(b.got)]).toEqual(["a", "b", [1, 2], [6, 7]]);
  });
});

describe("attach", () => {
  it("asks with after, epoch and filter, each time", async () => {
    let peer = await open();
    const run = connection.attach("r1", { after: 7, epoch: "e1", filter: { modes: ["custom"] } });
    const params = { runId: "r1", after: 7, epoch: "e1", filter: { modes: ["custom"] }, pages: true };
    expect((await peer.subscribed({ head: 9 })).params).toEqual(params);
    const { got, done } = collect(run);
    peer.event("run.parts", { runId: "r1", offset: 8, parts: [], skipped: 5 });
    peer.parts("r1", 13, [null, custom("x"), null]);
    await until(() => expect(run.offset).toBe(15));
    peer = await reconnect(peer);
    expect((await peer.subscribed({ head: 15 })).params).toEqual({ ...params, after: 15 });
    peer.parts("r1", 16, [completed()]);
    await done;
    expect(offsets(got)).toEqual([14, 16]);
  });

  it("from head: goes on from where the head was when it was asked", async () => {
    let peer = await open();
    const run = connection.attach("r1", { after: "head" });
    expect((await peer.command("run.subscribe")).params).toEqual({ runId: "r1", after: "head", pages: true });
    peer = await reconnect(peer);
    expect((await peer.subscribed({ head: 40, epoch: "e3" })).params.after).toBe("head");
    await until(() => expect(run.offset).toBe(40));
    peer = await reconnect(peer);
    expect((await peer.subscribed({ head: 42, epoch: "e3" })).params).toEqual({
      runId: "r1",
      after: 40,
      epoch: "e3",
      pages: true,
    });
    const { got, done } = collect(run);
    peer.parts("r1", 41, [token("a"), completed()]);
    await done;
    expect(offsets(got)).toEqual([41, 42]);
  });

  it("finds the ending in the record, where it lies before what was asked for", async () => {
    const peer = await open();
    const run = connection.attach("r1", { after: 9 });
    const { got, done } = collect(run);
    await peer.subscribed({ status: "cancelled", head: 9 });
    const command = await peer.command("run.get");
    peer.answer(command, {
      runId: "r1",
      threadId: "t1",
      agent: "a",
      status: "cancelled",
      attempt: 1,
      first: 1,
      head: 9,
      epoch: "e1",
      createdAt: "2026-01-01T00:00:00Z",
      cancel: { keep: "branch", requestedAt: "2026-01-01T00:00:00Z" },
      checkpoint: { threadId: "t1", checkpointId: "k1" },
    });
    await done;
    expect(got).toEqual([]);
    expect(await run.ended).toEqual({
      event: "cancelled",
      keep: "branch",
      checkpoint: { threadId: "t1", checkpointId: "k1" },
    });
    expect(run).toMatchObject({ status: "cancelled", threadId: "t1" });
  });

  it("fails reader and ending where there is no such run", async () => {
    const peer = await open();
    const run = connection.attach("r1");
    peer.refuse(await peer.command("run.subscribe"), "no_such_run");
    await expect(collect(run).done).rejects.toMatchObject({ code: "no_such_run" });
    await expect(run.ended).rejects.toMatchObject({ code: "no_such_run" });
    expect(run.error).toMatchObject({ code: "no_such_run" });
    connection.attach("r1");
  });

  it("gives the reader what had come, before the error", async () => {
    let peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    peer.parts("r1", 1, [token("a")]);
    await allRead(peer);
    peer = await reconnect(peer);
    peer.refuse(await peer.command("run.subscribe"), "no_such_run");
    await expect(done).rejects.toMatchObject({ code: "no_such_run" });
    expect(offsets(got)).toEqual([1]);
  });

  it("asks again where the refusal is for now only", async () => {
    const peer = await open();
    const run = connection.attach("r1");
    peer.refuse(await peer.command("run.subscribe"), "unavailable");
    peer.refuse(await peer.command("run.subscribe"), "unavailable");
    await allRead(peer);
    clock.advance(50);
    await peer.subscribed();
    peer.parts("r1", 1, [completed()]);
    await run.ended;
  });

  it("follows a run once", async () => {
    await open();
    const run = connection.attach("r1");
    expect(() => connection.attach("r1")).toThrow(expect.objectContaining({ code: "already_attached" }));
    run.detach();
    connection.attach("r1");
  });
});

describe("reset, snapshot, rewound", () => {
  it("reset: drops everything, and goes on with offset 1 of the new epoch", async () => {
    let peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run.events);
    peer.parts("r1", 1, [token("old"), token("old")]);
    await until(() => expect(run.text).toBe("oldold"));
    peer = await reconnect(peer);
    await peer.subscribed({ epoch: "e2", head: 1 });
    peer.event("run.reset", { runId: "r1", epoch: "e2", reason: "the log was lost" });
    peer.parts("r1", 1, [token("new")]);
    await until(() => expect(run.text).toBe("new"));
    expect(run).toMatchObject({ offset: 1, epoch: "e2" });
    peer = await reconnect(peer);
    expect((await peer.subscribed({ epoch: "e2" })).params).toEqual({
      runId: "r1",
      after: 1,
      epoch: "e2",
      pages: true,
    });
    peer.parts("r1", 2, [completed()]);
    await done;
    expect(summary(got)).toEqual(["1", "2", "reset e2", "1", "2"]);
  });

  it("reset: is not fooled where the gateway forgets to send it", async () => {
    let peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run.events);
    peer.parts("r1", 1, [token("old"), token("old")]);
    await until(() => expect(run.offset).toBe(2));
    peer = await reconnect(peer);
    await peer.subscribed({ epoch: "e2", head: 3 });
    peer.parts("r1", 3, [token("of another story")]);
    expect((await peer.subscribed({ epoch: "e2", head: 3 })).params).toEqual({
      runId: "r1",
      after: 0,
      epoch: "e2",
      pages: true,
    });
    peer.parts("r1", 1, [token("new"), completed()]);
    await done;
    expect(summary(got)).toEqual(["1", "2", "reset e2", "1", "2"]);
    expect(run.text).toBe("new");
  });

  it("reset: unread parts of the old log are not read any more", async () => {
    const peer = await open();
    const run = await start(peer);
    const reader = run.events[Symbol.asyncIterator]();
    peer.parts("r1", 1, [token("a"), token("b"), token("c")]);
    expect(summary([(await reader.next()).value])).toEqual(["1"]);
    peer.event("run.reset", { runId: "r1", epoch: "e2", reason: "lost" });
    peer.parts("r1", 1, [token("n"), completed()]);
    await allRead(peer);
    expect(run.text).toBe("a");
    const rest = collect({ [Symbol.asyncIterator]: () => reader });
    await rest.done;
    expect(summary(rest.got)).toEqual(["reset e2", "1", "2"]);
    expect(run.text).toBe("n");
  });

  it("snapshot: stands for the offsets that were trimmed", async () => {
    const peer = await open();
    const run = connection.attach("r1");
    const { got, done } = collect(run.events);
    await peer.subscribed({ first: 11, head: 12 });
    peer.event("run.snapshot", {
      runId: "r1",
      offset: 10,
      messages: [{ type: "ai", id: "m1", content: "Once " }],
      values: { topic: "sea" },
    });
    peer.parts("r1", 11, [token("upon")]);
    await until(() => expect(run.text).toBe("Once upon"));
    expect(run.fold.values()).toEqual({ topic: "sea" });
    // One that is behind belongs to no one any more.
    peer.event("run.snapshot", { runId: "r1", offset: 4, messages: [] });
    peer.parts("r1", 12, [completed()]);
    await done;
    expect(summary(got)).toEqual(["snapshot 10", "11", "12"]);
    expect(run.text).toBe("Once upon");
  });

  describe("a snapshot in pages", () => {
    const text = JSON.stringify({
      offset: 10,
      messages: [{ type: "ai", id: "m1", content: "Once ".repeat(100) }],
    });
    const page = (page: number, pages = 3, offset = 10) => {
      const size = Math.ceil(text.length / pages);
      return { runId: "r1", offset, page, pages, text: text.slice((page - 1) * size, page * size) };
    };

    it("is one event, and the parts behind it follow", async () => {
      const peer = await open();
      const run = connection.attach("r1");
      const { got, done } = collect(run.events);
      await peer.subscribed({ first: 11, head: 12 });
      for (const i of [1, 2, 3]) {
        expect(run.offset).toBe(0);
        peer.event("run.page", page(i));
      }
      peer.parts("r1", 11, [token("upon"), completed()]);
      await done;
      expect(summary(got)).toEqual(["snapshot 10", "11", "12"]);
      expect(run.text).toBe(`${"Once ".repeat(100)}upon`);
    });

    it("is asked for again where a page is missing, or another snapshot's, or the whole is none", async () => {
      const peer = await open();
      const run = connection.attach("r1");
      const { got, done } = collect(run.events);
      const broken = [
        [page(2)],
        [page(1), page(3)],
        [page(1), page(2, 3, 11)],
        [page(1), { ...page(2), page: 3 }],
        [{ ...page(1, 1), offset: 11 }],
        [{ ...page(1, 1), text: "{" }],
        [{ ...page(1, 1), text: '{"offset":10}' }],
      ];
      for (const [i, pages] of broken.entries()) {
        const { params } = await peer.subscribed({ first: 11, head: 12 });
        expect(params.after).toBe(0);
        for (const each of pages) peer.event("run.page", each);
        // It asks at once where it has not just asked, else after a rest.
        await until(() => {
          clock.advance(50);
          expect(peer.received).toHaveLength(i + 2);
        });
      }
      await peer.subscribed({ first: 11, head: 12 });
      for (const i of [1, 2, 3]) peer.event("run.page", page(i));
      peer.parts("r1", 11, [completed()]);
      await done;
      expect(summary(got)).toEqual(["snapshot 10", "11"]);
    });

    it("that is too large fails the run, and leaves the connection alone", async () => {
      const peer = await open({ maxSnapshotSize: text.length - 1 });
      const run = connection.attach("r1");
      await peer.subscribed({ first: 11, head: 12 });
      for (const i of [1, 2, 3]) peer.event("run.page", page(i));
      await expect(run.ended).rejects.toMatchObject({ code: "payload_too_large" });
      expect((await peer.command("run.unsubscribe")).params).toEqual({ runId: "r1" });
      expect(connection.state.status).toBe("open");
    });
  });

  it("snapshot: tells whole messages from those that are being streamed, and brings their calls", async () => {
    const peer = await open();
    const run = connection.attach("r1");
    const { got, done } = collect(run.events);
    await peer.subscribed({ first: 11, head: 12 });
    peer.event("run.snapshot", {
      runId: "r1",
      offset: 10,
      messages: [
        { type: "human", id: "m0", content: "Cats?" },
        { type: "ai", id: "m1", content: "" },
      ],
      complete: ["m0"],
      calls: { m1: [{ index: 0, id: "t", name: "search", args: '{"q":' }] },
    });
    peer.parts("r1", 11, [call({ index: 0, args: '"cats' })]);
    await until(() => expect(run.offset).toBe(11));
    expect(run.messages).toMatchObject([
      { message: { id: "m0" }, complete: true, calls: [] },
      {
        message: { id: "m1" },
        complete: false,
        calls: [{ index: 0, id: "t", name: "search", args: '{"q":"cats' }],
      },
    ]);
    // Whoever folds by himself gets the same.
    const [snapshot, part] = got;
    if (snapshot?.kind !== "snapshot" || part?.kind !== "part") throw new Error("other events came");
    const fold = Fold.from(snapshot);
    fold.add(part.part, part.offset);
    expect(fold.messages().map(({ calls }) => calls)).toEqual(run.messages.map(({ calls }) => calls));
    peer.parts("r1", 12, [completed()]);
    await done;
  });

  it("rewound: takes back what came after", async () => {
    const peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run.events);
    peer.parts("r1", 1, [started(), token("Once "), token("upon a dead worker"), rewound(2), token("upon")]);
    peer.parts("r1", 6, [completed()]);
    await done;
    expect(summary(got)).toEqual(["1", "2", "3", "4 rewound to 2", "5", "6"]);
    expect(run.text).toBe("Once upon");
    expect(run.status).toBe("completed");
  });

  it("skipped: a row of parts that were left out is one event", async () => {
    const peer = await open();
    const run = connection.attach("r1", { filter: { modes: ["custom"] } });
    await peer.subscribed();
    const reader = run.events[Symbol.asyncIterator]();
    const first = reader.next();
    peer.parts("r1", 1, [custom("x")]);
    await first;
    peer.event("run.parts", { runId: "r1", offset: 2, parts: [], skipped: 3 });
    peer.parts("r1", 5, [null, null, custom("y")]);
    peer.event("run.parts", { runId: "r1", offset: 5, parts: [], skipped: 5 });
    peer.parts("r1", 10, [completed()]);
    await allRead(peer);
    const rest = collect({ [Symbol.asyncIterator]: () => reader });
    await rest.done;
    expect(summary(rest.got)).toEqual(["skipped 2-6", "7", "skipped 8-9", "10"]);
    expect(run.offset).toBe(10);
  });

  function summary(events: (RunEvent | undefined)[]): string[] {
    return events.map((event) => {
      switch (event?.kind) {
        case "part":
          return `${event.offset}`;
        case "rewound":
          return `${event.offset} rewound to ${event.to}`;
        case "skipped":
          return `skipped ${event.offset}-${event.to}`;
        case "snapshot":
          return `snapshot ${event.offset}`;
        case "reset":
          return `reset ${event.epoch}`;
        default:
          return "nothing";
      }
    });
  }
});

describe("readers", () => {
  it("state follows the reader: offset, text and status belong together", async () => {
    const peer = await open();
    const run = await start(peer);
    const reader = run[Symbol.asyncIterator]();
    const first = reader.next();
    peer.parts("r1", 1, [token("a"), token("b"), completed()]);
    expect((await first).value).toMatchObject({ offset: 1 });
    await allRead(peer);
    expect(run).toMatchObject({ offset: 1, text: "a", status: "queued" });
    await reader.next();
    expect(run).toMatchObject({ offset: 2, text: "ab" });
    await reader.next();
    expect(run).toMatchObject({ offset: 3, status: "completed" });
    expect((await reader.next()).done).toBe(true);
  });

  it("without a reader, state follows what comes", async () => {
    const peer = await open();
    const run = await start(peer);
    let changes = 0;
    const stop = run.onChange(() => {
      changes += 1;
    });
    peer.parts("r1", 1, [token("a"), token("b")]);
    await until(() => expect(run).toMatchObject({ offset: 2, text: "ab" }));
    expect(changes).toBe(1);
    stop();
    peer.parts("r1", 3, [completed()]);
    await run.ended;
    expect(changes).toBe(1);
  });

  it("one that stops early is followed up by the next", async () => {
    const peer = await open();
    const run = await start(peer);
    peer.parts("r1", 1, [token("a"), token("b"), token("c"), completed()]);
    const got: number[] = [];
    for await (const { offset } of run) {
      got.push(offset);
      if (offset === 2) break;
    }
    expect(run.text).toBe("abc");
    for await (const { offset } of run) got.push(offset);
    for await (const { offset } of run) got.push(offset);
    expect(got).toEqual([1, 2, 3, 4]);
    expect(run.text).toBe("abc");
  });

  it("there is one at a time", async () => {
    const peer = await open();
    const run = await start(peer);
    const { done } = collect(run);
    await expect(collect(run).done).rejects.toMatchObject({ code: "already_reading" });
    peer.parts("r1", 1, [completed()]);
    await done;
  });

  it("pauses the run of a slow reader, and goes on from where it stopped", async () => {
    const peer = await open({ bufferSize: 2000 });
    const run = await start(peer);
    const reader = run[Symbol.asyncIterator]();
    const first = reader.next();
    const batch = (from: number): Part[] => Array.from({ length: 10 }, (_, i) => token(`${from + i} `));
    peer.parts("r1", 1, batch(1));
    await first;
    peer.parts("r1", 11, batch(11));
    peer.parts("r1", 21, batch(21));
    const unsubscribe = await peer.command("run.unsubscribe");
    peer.answer(unsubscribe, {});
    // What was on its way is not kept, however much it is.
    peer.parts("r1", 31, batch(31));
    await allRead(peer);
    const got = [1];
    while (got.length < 30) {
      const { value } = await reader.next();
      if (value) got.push(value.offset);
    }
    expect((await peer.subscribed({ head: 40 })).params.after).toBe(30);
    peer.parts("r1", 31, [...batch(31), completed()]);
    const rest = collect({ [Symbol.asyncIterator]: () => reader });
    await rest.done;
    expect([...got, ...offsets(rest.got)]).toEqual(Array.from({ length: 41 }, (_, i) => i + 1));
    expect(run.text).toBe(Array.from({ length: 40 }, (_, i) => `${i + 1} `).join(""));
  });

  it("a paused run stays paused on a new socket, until its reader has caught up", async () => {
    let peer = await open({ bufferSize: 100 });
    const run = await start(peer);
    const reader = run[Symbol.asyncIterator]();
    const first = reader.next();
    peer.parts("r1", 1, [token("a"), token("b"), token("c")]);
    await first;
    await peer.command("run.unsubscribe");
    peer = await reconnect(peer);
    await allRead(peer);
    expect(peer.received.map((each) => each.method)).toEqual(["server.ping"]);
    await reader.next();
    await reader.next();
    expect((await peer.subscribed()).params.after).toBe(3);
  });

  it("a subscribe does not overtake the unsubscribe before it", async () => {
    const peer = await open({ bufferSize: 100 });
    const run = await start(peer);
    const reader = run[Symbol.asyncIterator]();
    const first = reader.next();
    peer.parts("r1", 1, [token("a"), token("b")]);
    await first;
    const unsubscribe = await peer.command("run.unsubscribe");
    await reader.next();
    await allRead(peer);
    expect(peer.received.some((each) => each.method === "run.subscribe")).toBe(false);
    peer.answer(unsubscribe, {});
    expect((await peer.subscribed()).params.after).toBe(2);
  });

  it("without a reader nothing piles up; one that comes late reads it all from the log", async () => {
    const peer = await open({ bufferSize: 500 });
    const run = await start(peer);
    const all = [...Array.from({ length: 50 }, (_, i) => token(`${i} `)), completed()];
    for (let i = 0; i < all.length; i += 10) peer.parts("r1", i + 1, all.slice(i, i + 10));
    await run.ended;
    const text = run.text;
    expect(text).toMatch(/^0 1 2 .*49 $/);
    const { got, done } = collect(run);
    expect((await peer.subscribed({ status: "completed", head: 51 })).params.after).toBe(0);
    for (let i = 0; i < all.length; i += 2) {
      peer.parts("r1", i + 1, all.slice(i, i + 2));
      await until(() => expect(got.length).toBeGreaterThan(i));
    }
    await done;
    expect(got).toEqual(all.map((part, i) => ({ offset: i + 1, part })));
    expect(run.text).toBe(text);
    connection.attach("r1");
  });

  it("one that comes late goes on where the last one stopped, also from the log", async () => {
    const peer = await open({ bufferSize: 500 });
    const run = await start(peer);
    const all = [...Array.from({ length: 20 }, (_, i) => token(`${i} `)), completed()];
    peer.parts("r1", 1, all.slice(0, 2));
    const got: number[] = [];
    for await (const { offset } of run) {
      got.push(offset);
      if (offset === 2) break;
    }
    peer.parts("r1", 3, all.slice(2));
    await run.ended;
    const { got: rest, done } = collect(run);
    expect((await peer.subscribed({ status: "completed", head: 21 })).params.after).toBe(2);
    for (let i = 2; i < all.length; i += 1) {
      peer.parts("r1", i + 1, all.slice(i, i + 1));
      await until(() => expect(rest.length).toBe(i - 1));
    }
    await done;
    expect([...got, ...offsets(rest)]).toEqual(all.map((_, i) => i + 1));
  });

  it("one that comes late, after a reset, reads the new log, which nobody has to ask for", async () => {
    const peer = await open({ bufferSize: 500 });
    const run = await start(peer);
    const old = Array.from({ length: 50 }, (_, i) => token(`${i} `));
    peer.parts("r1", 1, old);
    peer.event("run.reset", { runId: "r1", epoch: "e2", reason: "lost" });
    peer.parts("r1", 1, [token("new")]);
    await allRead(peer);
    const { got, done } = collect(run.events);
    peer.parts("r1", 2, [completed()]);
    await done;
    expect(got.map((each) => [each.kind, "offset" in each ? each.offset : 0])).toEqual([
      ["reset", 0],
      ["part", 1],
      ["part", 2],
    ]);
    expect(run).toMatchObject({ text: "new", offset: 2 });
    expect(peer.received.map((each) => each.method)).toEqual(["run.start", "server.ping"]);
  });

  it("one that comes late has asked once more: the answer to what was asked before is none", async () => {
    let peer = await open({ bufferSize: 500 });
    const run = await start(peer);
    const all = [...Array.from({ length: 50 }, (_, i) => token(`${i} `)), completed()];
    peer.parts("r1", 1, all.slice(0, 40));
    await until(() => expect(run.offset).toBe(40));
    peer = await reconnect(peer);
    const first = await peer.command("run.subscribe");
    expect(first.params.after).toBe(40);
    const { got, done } = collect(run);
    const second = await peer.command("run.subscribe");
    expect(second.params.after).toBe(0);
    const answer = { runId: "r1", status: "running", first: 1, head: 51, epoch: "e1" } as const;
    peer.answer(first, answer);
    peer.parts("r1", 41, all.slice(40));
    await allRead(peer);
    peer.answer(second, answer);
    peer.parts("r1", 1, all);
    await done;
    expect(offsets(got)).toEqual(all.map((_, i) => i + 1));
    expect(peer.received.filter(({ method }) => method === "run.subscribe")).toHaveLength(2);
  });

  it("detach: ends the reader, tells the gateway, and leaves the run alone", async () => {
    const peer = await open();
    const run = await start(peer);
    const { got, done } = collect(run);
    peer.parts("r1", 1, [token("a")]);
    await until(() => expect(offsets(got)).toEqual([1]));
    run.detach();
    await done;
    await expect(run.ended).rejects.toMatchObject({ code: "detached" });
    await peer.command("run.unsubscribe");
    await reconnect(peer);
    expect(run.error).toBeUndefined();
  });

  it("cancel: answers with the final offset, and the ending comes as a part", async () => {
    const peer = await open();
    const run = await start(peer);
    const cancelled = run.cancel({ keep: "thread", reason: "enough" });
    const command = await peer.command("run.cancel");
    expect(command.params).toEqual({ runId: "r1", keep: "thread", reason: "enough" });
    const checkpoint = { threadId: "t1", checkpointId: "k1" };
    const ending: Part = {
      type: "lifecycle",
      ns: [],
      data: { event: "cancelled", keep: "thread", checkpoint },
    };
    peer.parts("r1", 1, [token("a"), ending]);
    peer.answer(command, { runId: "r1", status: "cancelled", offset: 2, checkpoint });
    expect(await cancelled).toMatchObject({ status: "cancelled", offset: 2 });
    expect(await run.ended).toMatchObject({ event: "cancelled" });
  });
});
