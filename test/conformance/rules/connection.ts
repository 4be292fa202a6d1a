/** Connection, frames, parts. */
import assert from "node:assert/strict";
import { bearerSubprotocolPrefix, closeCodes, type Method, subprotocol } from "@throughline/protocol";
import { answers, type ConformanceTest, ending, streamedText, test, text } from "../suite.ts";

const bad = "not-a-token";

export const connection: ConformanceTest[] = [
  test("R1", "selects the subprotocol throughline.v1", [], async (t) => {
    const socket = await t.connect({ options: { protocols: ["another.v9", subprotocol] } });
    assert.equal(socket.ws.protocol, subprotocol);
  }),

  test("R2", "serves version 1 to a client that offers no subprotocol", [], async (t) => {
    const socket = await t.connect({ options: { protocols: [] } });
    assert.equal(socket.ws.protocol, "");
    assert.deepEqual(await socket.call("server.ping"), {});
  }),

  test("R3", "sends text frames, each one JSON object", [], async (t) => {
    const socket = await t.connect();
    let frames = 0;
    socket.ws.on("message", (data: Buffer, isBinary: boolean) => {
      frames++;
      assert.equal(isBinary, false);
      const frame: unknown = JSON.parse(data.toString());
      assert.ok(typeof frame === "object" && frame !== null && !Array.isArray(frame));
    });
    await t.run(socket);
    assert.ok(frames > 2);
  }),

  test("R4", "takes a token as Authorization: Bearer", ["token"], async (t) => {
    const dial = (token: string) => t.dial(t.target.url, { headers: { authorization: `Bearer ${token}` } });
    await dial(t.target.token).event("server.hello");
    assert.equal((await dial(bad).untilClosed()).code, closeCodes.badToken);
  }),

  test(
    "R5",
    "takes a token as a subprotocol, and does not select it beside throughline.v1",
    ["token"],
    async (t) => {
      const dial = (token: string) =>
        t.dial(t.target.url, { protocols: [subprotocol, `${bearerSubprotocolPrefix}${token}`] });
      const socket = dial(t.target.token);
      await socket.event("server.hello");
      assert.equal(socket.ws.protocol, subprotocol);
      assert.equal((await dial(bad).untilClosed()).code, closeCodes.badToken);
    },
  ),

  test("R6", "takes a token as ?token=", ["token"], async (t) => {
    const dial = (token: string) => t.dial(`${t.target.url}?token=${encodeURIComponent(token)}`);
    await dial(t.target.token).event("server.hello");
    assert.equal((await dial(bad).untilClosed()).code, closeCodes.badToken);
  }),

  test("R7", "speaks first: server.hello", [], async (t) => {
    const [one, two] = [await t.connect(), await t.connect()];
    const [first] = one.frames;
    assert.ok(
      first?.type === "event" && first.method === "server.hello",
      "the first frame is no server.hello",
    );
    assert.equal(first.params.protocol, 1);
    const other = await two.event("server.hello");
    assert.notEqual(first.params.connectionId, other.connectionId);
  }),

  test("R8", "pings every heartbeatMs", ["tight"], async (t) => {
    const { url } = await t.target.tight();
    const socket = await t.connect({ url });
    const { heartbeatMs } = await socket.event("server.hello");
    await socket.until("a ping", () => socket.pings.length >= 1);
    // As often as a timer of ours has it, on the same machine.
    let ticks = 0;
    const ticking = setInterval(() => ticks++, heartbeatMs);
    await socket.until("four pings", () => socket.pings.length >= 4);
    clearInterval(ticking);
    assert.ok(ticks <= 6, `three more pings came in ${ticks} times heartbeatMs`);
    const mean = (socket.pings[3]! - socket.pings[0]!) / 3;
    assert.ok(mean > heartbeatMs * 0.5, `pings came ${mean} ms apart`);
    assert.deepEqual(await socket.call("server.ping"), {});
  }),

  test("R9", "closes a socket that misses a heartbeat", ["tight"], async (t) => {
    const { url } = await t.target.tight();
    const socket = await t.connect({ url, options: { autoPong: false } });
    await socket.event("server.hello");
    await socket.untilClosed();
    assert.equal(socket.pings.length, 1);
  }),

  test("R10", "answers server.ping with {}", [], async (t) => {
    assert.deepEqual(await (await t.connect()).call("server.ping"), {});
  }),
];

export const frames: ConformanceTest[] = [
  test("R11", "answers a success under the id that the client chose", [], async (t) => {
    const socket = await t.connect();
    for (const id of [0, 7, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
      socket.send({ id, method: "server.ping", params: {} });
      assert.deepEqual(await socket.answer(id, "server.ping"), {});
    }
  }),

  test("R12", "answers each command once", [], async (t) => {
    const socket = await t.connect();
    const methods = ["server.ping", "agent.list", "run.list", "no.such", "run.get"];
    const ids = Array.from({ length: 50 }, (_, i) => socket.ask(methods[i % 5] as Method));
    await socket.call("server.ping");
    const answered = () => socket.frames.flatMap((frame) => (frame.type === "event" ? [] : [frame.id]));
    await socket.until("51 answers", () => answered().length >= 51);
    await socket.call("server.ping");
    assert.deepEqual(
      answered()
        .filter((id) => ids.includes(id as number))
        .sort((a, b) => a! - b!),
      ids,
    );
  }),

  test("R13", "answers an error with its code, a message, and whether to try again", [], async (t) => {
    const socket = await t.connect();
    const frame = await socket.refused("run.get", { runId: "no-such-run" });
    assert.equal(frame.error, "no_such_run");
    assert.equal(frame.retryable, false);
    assert.ok(frame.message.length > 0);
  }),

  test(
    "R14",
    "answers with id null where no id could be read, and with the id where one could",
    [],
    async (t) => {
      const socket = await t.connect();
      const unreadable = ["no JSON", "[]", '"text"', '{"id":-1,"method":"server.ping"}', '{"id":"1"}'];
      for (const frame of unreadable) {
        const from = socket.frames.length;
        socket.send(frame);
        // A good one in between: two that are not frames of this protocol in a row cost the socket.
        await socket.call("server.ping");
        const errors = socket.frames.slice(from).filter((each) => each.type === "error");
        assert.deepEqual(
          errors.map((each) => [each.id, each.error]),
          [[null, "invalid_argument"]],
          frame,
        );
      }
      socket.send('{"id":77}');
      const error = await socket.until("the error", () =>
        socket.frames.find((each) => each.type === "error" && each.id === 77),
      );
      assert.ok(error.type === "error" && error.error === "invalid_argument");
    },
  ),

  test("R15", "passes over fields of a command that it does not know", [], async (t) => {
    const socket = await t.connect();
    socket.send({ id: 900, method: "server.ping", params: { later: [1] }, later: { version: 2 } });
    assert.deepEqual(await socket.answer(900, "server.ping"), {});
    const { runId } = await t.run(socket, { later: true });
    const from = socket.frames.length;
    const filter = { modes: ["messages"], later: "x" };
    await socket.call("run.subscribe", { runId, filter, later: 1 });
    assert.equal(streamedText((await socket.ended(runId, from)).map(({ part }) => part)), text);
  }),
];

export const parts: ConformanceTest[] = [
  test("R17", "sends parts {type, ns, data}, with ns [] at the root", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    assert.ok(run.parts.length > 3);
    for (const part of run.parts) {
      assert.deepEqual(Object.keys(part).sort(), ["data", "ns", "type"]);
      assert.deepEqual(part.ns, []);
    }
  }),

  test("R18", "sends a token as a flat chunk with its metadata", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    const chunks = run.parts.filter((part) => part.type === "messages");
    assert.ok(chunks.length > 3);
    for (const { data } of chunks) {
      const [chunk, metadata] = data;
      assert.equal(chunk.type, "AIMessageChunk");
      assert.equal(typeof chunk.id, "string");
      assert.equal(typeof chunk.content, "string");
      assert.equal(typeof metadata.langgraph_node, "string");
    }
    assert.equal(streamedText(run.parts), text);
  }),

  test("R19", "always produces lifecycle parts, and never filters them out", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket, { modes: ["custom"] });
    assert.deepEqual(
      run.parts.map((part) => part.type === "lifecycle" && part.data.event),
      ["started", "completed"],
    );
    for (const filter of [{ modes: ["debug"] }, { ns: ["none"] }, { nodes: ["none"] }, { tags: ["none"] }]) {
      const from = socket.frames.length;
      await socket.call("run.subscribe", { runId: run.runId, filter });
      const seen = await socket.ended(run.runId, from);
      assert.deepEqual(
        seen.map(({ part }) => part),
        run.parts,
        JSON.stringify(filter),
      );
    }
  }),

  test("R20", "begins every run with started {attempt}", [], async (t) => {
    const socket = await t.connect();
    const [first] = (await t.run(socket)).parts;
    assert.deepEqual(first, { type: "lifecycle", ns: [], data: { event: "started", attempt: 1 } });
  }),

  test("R22", "ends a run that is done with completed, as its last part", [], async (t) => {
    const socket = await t.connect();
    const run = await t.run(socket);
    ending(run.parts, "completed");
    const record = await socket.call("run.get", { runId: run.runId });
    assert.equal(record.status, "completed");
    assert.equal(record.head, run.seen);
  }),

  test(
    "R23",
    "ends a run that waits for a person with interrupted {interrupts}",
    ["interruptedRun"],
    async (t) => {
      const socket = await t.connect();
      const { runId, interrupts } = await t.target.interruptedRun();
      const { status } = await socket.call("run.subscribe", { runId });
      assert.equal(status, "interrupted");
      const seen = await socket.ended(runId);
      assert.deepEqual(
        ending(
          seen.map(({ part }) => part),
          "interrupted",
        ).interrupts,
        interrupts,
      );
      assert.deepEqual((await socket.call("run.get", { runId })).interrupts, interrupts);
    },
  ),

  test("R24", "ends a run that was cancelled with cancelled {keep, reason}", [], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.startLong(socket);
    await socket.call("run.cancel", { runId, keep: "branch", reason: "enough" });
    const last = ending(
      (await socket.ended(runId)).map(({ part }) => part),
      "cancelled",
    );
    assert.equal(last.keep, "branch");
    assert.equal(last.reason, "enough");
  }),

  test("R25", "ends a run whose agent failed with failed {error}", [], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.start(socket, { text: 5 });
    const last = ending(
      (await socket.ended(runId)).map(({ part }) => part),
      "failed",
    );
    const error = last.error as { name: string; message: string; code?: string };
    assert.ok(error.name.length > 0 && error.message.length > 0);
    const record = await socket.call("run.get", { runId });
    assert.equal(record.status, "failed");
    assert.deepEqual(record.error, error);
  }),

  test("R26", "names the checkpoint in the ending, where there is one", [], async (t) => {
    const socket = await t.connect();
    const { threadId, parts } = await t.run(socket);
    const checkpoint = ending(parts, "completed").checkpoint as { threadId: string; checkpointId: string };
    assert.equal(checkpoint.threadId, threadId);
    const state = await socket.call("thread.get", checkpoint);
    assert.deepEqual(answers(state.values), [text]);
  }),
];
