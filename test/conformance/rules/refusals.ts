/** Errors and close codes. */
import assert from "node:assert/strict";
import { closeCodes, type ErrorCode, errorCodes } from "@throughline/protocol";
import { WebSocket } from "ws";
import { deadlineMs } from "../client.ts";
import { type ConformanceTest, ending, longInput, streamedText, test, text } from "../suite.ts";

export const errors: ConformanceTest[] = [
  test("R76", "says with every error whether to try again, as the table has it", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.startLong(socket);
    const start = { agent: t.agent, input: { text } };
    const refused: [ErrorCode, string, object][] = [
      ["invalid_argument", "run.get", {}],
      ["unknown_command", "run.fly", {}],
      ["no_such_run", "run.get", { runId: "none" }],
      ["no_such_thread", "thread.get", { threadId: "none" }],
      ["no_such_checkpoint", "thread.get", { threadId, checkpointId: "none" }],
      ["no_such_agent", "run.start", { agent: "none" }],
      ["thread_busy", "run.start", { ...start, threadId, multitaskStrategy: "reject" }],
    ];
    for (const [code, method, params] of refused) {
      const { error, retryable, message } = await socket.refused(method, params as Record<string, unknown>);
      assert.equal(error, code, `${method}: ${message}`);
      assert.equal(retryable, errorCodes[code].retryable, code);
    }
    await socket.call("run.cancel", { runId });
  }),

  test("R77", "refuses params that are not the command's with invalid_argument", [], async (t) => {
    const socket = await t.connect();
    const wrong: [string, Record<string, unknown>][] = [
      ["run.start", {}],
      ["run.start", { agent: t.agent, modes: ["everything"] }],
      ["run.start", { agent: t.agent, threadId: "with space" }],
      ["run.subscribe", { runId: "x", after: -1 }],
      ["run.cancel", { runId: "x", keep: "maybe" }],
      ["run.get", { runId: "a}b" }],
      ["run.list", { limit: 0 }],
      ["thread.get", {}],
      ["thread.update", { threadId: "x" }],
    ];
    for (const [method, params] of wrong) {
      const { error } = await socket.refused(method, params);
      assert.equal(error, "invalid_argument", `${method} ${JSON.stringify(params)}`);
    }
  }),

  test("R78", "refuses a command that it does not know with unknown_command", [], async (t) => {
    const socket = await t.connect();
    for (const method of ["run.fly", "", "constructor", "__proto__", "toString"]) {
      assert.equal((await socket.refused(method)).error, "unknown_command", method);
    }
  }),

  test("R79", "refuses a bad new token with unauthenticated, and keeps the socket", ["token"], async (t) => {
    const socket = await t.connect();
    assert.equal((await socket.refused("auth.refresh", { token: "bad" })).error, "unauthenticated");
    assert.deepEqual(await socket.call("server.ping"), {});
  }),

  test(
    "R80",
    "refuses somebody else's new token with permission_denied",
    ["token", "otherToken"],
    async (t) => {
      const socket = await t.connect();
      const { runId } = await t.run(socket);
      const { error } = await socket.refused("auth.refresh", { token: t.target.otherToken });
      assert.equal(error, "permission_denied");
      await socket.call("run.get", { runId }); // It is still the same principal's socket.
    },
  ),

  test("R81", "answers no_such_run for a run that is not there", [], async (t) => {
    const socket = await t.connect();
    for (const method of ["run.get", "run.subscribe", "run.cancel"]) {
      assert.equal((await socket.refused(method, { runId: "none" })).error, "no_such_run", method);
    }
  }),

  test("R82", "answers no_such_thread for a thread that is not there", [], async (t) => {
    const socket = await t.connect();
    const params = { threadId: "none", agent: t.agent, checkpointId: "none" };
    const methods = ["get", "history", "patch", "delete", "copy", "watch"].map((each) => `thread.${each}`);
    for (const method of [...methods, "run.list", "run.start"]) {
      const { error } = await socket.refused(method, {
        ...params,
        ...(method === "thread.patch" && { metadata: {} }),
      });
      assert.equal(error, "no_such_thread", method);
    }
    assert.equal((await socket.refused("thread.update", { ...params, values: {} })).error, "no_such_thread");
  }),

  test("R83", "answers no_such_checkpoint for a checkpoint that is not there", [], async (t) => {
    const socket = await t.connect();
    const { threadId } = await t.run(socket);
    const params = { threadId, checkpointId: "none", values: {}, agent: t.agent };
    for (const method of ["thread.get", "thread.update", "run.start"]) {
      assert.equal((await socket.refused(method, params)).error, "no_such_checkpoint", method);
    }
  }),

  test("R84", "answers no_such_agent for an agent that nobody offers", [], async (t) => {
    const socket = await t.connect();
    assert.equal((await socket.refused("run.start", { agent: "none" })).error, "no_such_agent");
  }),

  test("R101", "refuses thread.update with thread_busy while the thread has an active run", [], async (t) => {
    const socket = await t.connect();
    const { runId, threadId } = await t.startLong(socket);
    const update = { threadId, values: { note: "x" } };
    assert.equal((await socket.refused("thread.update", update)).error, "thread_busy");
    await socket.call("run.cancel", { runId });
    await socket.call("thread.update", update);
  }),

  test("R85", "refuses a subscription over the limit with too_many_subscriptions", ["tight"], async (t) => {
    const { url, maxSubscriptions } = await t.target.tight();
    const [socket, other] = [await t.connect({ url }), await t.connect()];
    const runIds: string[] = [];
    for (let i = 0; i <= maxSubscriptions; i++) {
      runIds.push((await t.startLong(other, { subscribe: false })).runId);
    }
    // At once, as a client does that resumes all it had.
    const answers = await Promise.allSettled(runIds.map((runId) => socket.call("run.subscribe", { runId })));
    const refused = answers.filter((each) => each.status === "rejected");
    assert.equal(refused.length, 1, "one subscription is over the limit");
    assert.match(String(refused[0]!.reason), /too_many_subscriptions/);
    const subscribed = runIds.filter((_, i) => answers[i]!.status === "fulfilled");
    await socket.call("run.subscribe", { runId: subscribed[0] }); // Again is not one more.
    const start = { agent: t.agent, input: { text } };
    assert.equal((await socket.refused("run.start", start)).error, "too_many_subscriptions");
    await socket.call("run.unsubscribe", { runId: subscribed[0] });
    const left = runIds.find((runId) => !subscribed.includes(runId));
    await socket.call("run.subscribe", { runId: left });
    for (const runId of runIds) other.ask("run.cancel", { runId, keep: "discard" });
  }),

  test("R86", "refuses commands over the rate with rate_limited, under their ids", ["tight"], async (t) => {
    const { url } = await t.target.tight();
    const socket = await t.connect({ url });
    const ids = Array.from({ length: 60 }, () => socket.ask("server.ping"));
    const all = () => socket.frames.filter((frame) => frame.type !== "event");
    await socket.until("all answers", () => all().length >= ids.length);
    assert.deepEqual(
      all()
        .map((frame) => frame.id)
        .toSorted((a, b) => a! - b!),
      ids,
      "each command is answered once, under its own id",
    );
    const refused = all().filter((frame) => frame.type === "error");
    assert.ok(refused.length > 0 && refused.length < ids.length, `${refused.length} of 60 were refused`);
    for (const frame of refused) {
      assert.ok(frame.type === "error" && frame.error === "rate_limited" && frame.retryable);
    }
  }),

  test(
    "R114",
    "refuses JSON that is too deep, too much or not finite with invalid_argument, and goes on",
    [],
    async (t) => {
      const socket = await t.connect();
      const ping = (id: number, pad: string) => `{"id":${id},"method":"server.ping","params":{"pad":${pad}}}`;
      const list = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
      const wrong = [list(99), `[${"0,".repeat(50_000)}0]`, "[1e999]", "[-1e999]"];
      const right = [list(98), `[${"0,".repeat(40_000)}0]`, "[1e300]", '"1e999 [[["'];
      // An id of the socket's own choice is never as high.
      const answers = async (pads: string[], from: number) => {
        for (const [i, pad] of pads.entries()) socket.send(ping(from + i, pad));
        const ours = () =>
          socket.frames.flatMap((frame) => (frame.type === "event" || (frame.id ?? 0) < from ? [] : [frame]));
        await socket.until("all answers", () => ours().length >= pads.length);
        return ours().toSorted((a, b) => (a.id ?? 0) - (b.id ?? 0));
      };
      for (const frame of await answers(wrong, 1_000)) {
        assert.ok(frame.type === "error" && frame.error === "invalid_argument" && !frame.retryable);
      }
      for (const frame of await answers(right, 2_000)) assert.equal(frame.type, "success");
    },
  ),

  test("R116", "refuses a run of a thread whose line is full with thread_busy", ["tight"], async (t) => {
    const { url, maxInLine } = await t.target.tight();
    const socket = await t.connect({ url });
    const first = await t.startLong(socket);
    const more = { agent: t.agent, threadId: first.threadId, input: { text: "x" }, subscribe: false };
    const waiting: string[] = [];
    for (let i = 1; i < maxInLine; i++) waiting.push((await socket.call("run.start", more)).runId);
    const refused = await socket.refused("run.start", more);
    assert.deepEqual([refused.error, refused.retryable], ["thread_busy", true]);
    assert.equal(refused.details?.activeRunId, first.runId);
    // Elsewhere there is room.
    const { runId } = await socket.call("run.start", { ...more, threadId: undefined });
    for (const each of [runId, ...waiting]) await socket.call("run.cancel", { runId: each, keep: "discard" });
  }),

  test(
    "R121",
    "refuses a run of an owner with as many that have not ended as it may have, with rate_limited",
    ["bounded"],
    async (t) => {
      const { maxRuns, ...where } = await t.target.bounded();
      const [socket, other] = [await t.connect(where), await t.connect(await t.target.bounded())];
      const idempotencyKey = `conformance-${Math.random()}`;
      const more = { agent: t.agent, input: { text: "x" }, idempotencyKey, subscribe: false };
      const { runId, threadId } = await t.startLong(socket);
      // Those that wait count as well.
      for (let i = 1; i < maxRuns; i++) await t.startLong(socket, { threadId, subscribe: false });
      const { error, retryable, message } = await socket.refused("run.start", more);
      assert.deepEqual([error, retryable], ["rate_limited", true]);
      assert.match(message, new RegExp(`\\b${maxRuns}\\b`));
      assert.equal((await socket.call("run.list", {})).runs.length, maxRuns, "the refused run is there");
      // Somebody else does not notice.
      await t.run(other);
      await socket.call("run.cancel", { runId });
      assert.equal((await socket.call("run.start", more)).created, true);
    },
  ),

  test(
    "R122",
    "refuses a run, and an update, of an owner of whom as much is stored as may be, with payload_too_large",
    ["bounded"],
    async (t) => {
      const { maxBytes, ...where } = await t.target.bounded();
      const [socket, other] = [await t.connect(where), await t.connect(await t.target.bounded())];
      const { threadId } = await t.run(socket);
      const pad = "x".repeat(Math.ceil(maxBytes / 3));
      const start = { agent: t.agent, input: { text: "x", tokensPerSecond: 0 }, metadata: { pad } };
      await socket.ended((await socket.call("run.start", start)).runId);
      await socket.call("thread.update", { threadId, values: { pad } });
      const idempotencyKey = `conformance-${Math.random()}`;
      for (const [method, params] of [
        ["run.start", { ...start, idempotencyKey }],
        ["thread.update", { threadId, values: { pad } }],
      ] as const) {
        const { error, retryable } = await socket.refused(method, params);
        assert.deepEqual([error, retryable], ["payload_too_large", false], method);
      }
      assert.equal((await socket.call("run.list", {})).runs.length, 2, "the refused run is there");
      const { values } = await socket.call("thread.get", { threadId });
      assert.equal(values.pad, pad);
      // What is small has room, under the same key; and so has somebody else.
      const small = { ...start, metadata: {}, idempotencyKey };
      assert.equal((await socket.call("run.start", small)).created, true);
      await other.call("run.start", start);
    },
  ),

  test(
    "R115",
    "refuses more bytes of commands than a socket may send with rate_limited",
    ["tight"],
    async (t) => {
      const { url } = await t.target.tight();
      const socket = await t.connect({ url });
      const ids = Array.from({ length: 4 }, () => socket.ask("server.ping", { pad: "x".repeat(400_000) }));
      const answers = () => socket.frames.filter((frame) => frame.type !== "event");
      await socket.until("all answers", () => answers().length >= ids.length);
      assert.deepEqual(
        answers().map((frame) => frame.id),
        ids,
      );
      const refused = answers().filter((frame) => frame.type === "error");
      assert.ok(refused.length > 0 && refused.length < ids.length, `${refused.length} of 4 were refused`);
      for (const frame of refused) {
        assert.ok(frame.type === "error" && frame.error === "rate_limited" && frame.retryable);
      }
    },
  ),

  test(
    "R87",
    "answers unavailable while Redis is out of reach, and keeps the socket",
    ["cutOff"],
    async (t) => {
      const { url, cut } = await t.target.cutOff();
      const socket = await t.connect({ url });
      await socket.call("run.list");
      await cut();
      const refused: [string, Record<string, unknown>][] = [
        ["run.list", {}],
        ["run.start", { agent: t.agent, input: { text } }],
        ["run.get", { runId: "x" }],
        ["run.cancel", { runId: "x" }],
        ["run.subscribe", { runId: "x" }],
      ];
      for (const [method, params] of refused) {
        const { error, retryable } = await socket.refused(method, params);
        assert.deepEqual([error, retryable], ["unavailable", true], method);
      }
      assert.deepEqual(await socket.call("server.ping"), {});
    },
  ),

  test("R88", "lets a bad command cost the socket none of its runs", [], async (t) => {
    const socket = await t.connect();
    const { runId } = await t.startLong(socket);
    socket.send("no JSON");
    await socket.refused("run.fly");
    await socket.refused("run.subscribe", { runId: "none" });
    await socket.refused("run.subscribe", { runId, after: -1 });
    await socket.refused("run.cancel", { runId, keep: "maybe" });
    const offset = socket.parts(runId).length;
    await socket.until("more parts", () => socket.parts(runId).length > offset + 3);
    await socket.call("run.cancel", { runId });
    const seen = await socket.ended(runId);
    assert.ok(longInput.text.startsWith(streamedText(seen.map(({ part }) => part))));
    ending(
      seen.map(({ part }) => part),
      "cancelled",
    );
  }),

  test("R89", "never lets two owners see each other", ["token", "otherToken"], async (t) => {
    const [mine, theirs] = [await t.connect(), await t.connect({ token: t.target.otherToken })];
    const idempotencyKey = `conformance-${Math.random()}`;
    const { runId, threadId } = await t.startLong(mine, { idempotencyKey });
    for (const method of ["run.get", "run.subscribe", "run.cancel"]) {
      assert.equal((await theirs.refused(method, { runId })).error, "no_such_run", method);
    }
    assert.deepEqual(await theirs.call("run.unsubscribe", { runId }), {});
    const methods = ["get", "history", "delete", "copy", "watch"].map((each) => `thread.${each}`);
    for (const method of [...methods, "run.list"]) {
      assert.equal((await theirs.refused(method, { threadId })).error, "no_such_thread", method);
    }
    const update = { threadId, values: {} };
    assert.equal((await theirs.refused("thread.update", update)).error, "no_such_thread");
    const patch = { threadId, metadata: {} };
    assert.equal((await theirs.refused("thread.patch", patch)).error, "no_such_thread");
    assert.ok((await theirs.call("thread.list")).threads.every((thread) => thread.threadId !== threadId));
    const { runs } = await theirs.call("run.list", {});
    assert.ok(!runs.some((run) => run.runId === runId));
    const same = await t.run(theirs, { idempotencyKey });
    assert.notEqual(same.runId, runId, "an idempotency key is its owner's");
    assert.equal((await mine.call("run.get", { runId })).status, "running");
    assert.ok(theirs.parts(runId).length === 0);
  }),

  test("R120", "keeps threads of one id apart that are two owners'", ["token", "otherToken"], async (t) => {
    const [mine, theirs] = [await t.connect(), await t.connect({ token: t.target.otherToken })];
    const threadId = `conformance-${Math.random()}`;
    const { runId } = await t.startLong(mine, { threadId });
    const same = await t.run(theirs, { threadId, multitaskStrategy: "reject" });
    assert.equal(same.threadId, threadId);
    assert.equal((await mine.call("run.get", { runId })).status, "running");
    for (const [socket, own] of [
      [mine, runId],
      [theirs, same.runId],
    ] as const) {
      const { runs } = await socket.call("run.list", { threadId });
      assert.deepEqual(
        runs.map((run) => run.runId),
        [own],
      );
    }
    await mine.call("run.cancel", { runId });
    const [ours, others] = [
      await mine.call("thread.get", { threadId }),
      await theirs.call("thread.get", { threadId }),
    ];
    assert.notEqual(ours.checkpointId, others.checkpointId);
    await theirs.call("thread.update", { threadId, values: { mark: "theirs" } });
    assert.equal((await mine.call("thread.get", { threadId })).checkpointId, ours.checkpointId);
  }),
];

export const closes: ConformanceTest[] = [
  test("R75", "says server.draining, then closes with 1012", ["draining"], async (t) => {
    const { url, drain } = await t.target.draining();
    const socket = await t.connect({ url });
    const { runId } = await t.startLong(socket);
    const told = performance.now();
    const drained = drain();
    const { retryInMs } = await socket.event("server.draining");
    const offset = socket.parts(runId).length;
    const { code } = await socket.untilClosed();
    const took = performance.now() - told;
    assert.equal(code, closeCodes.restarting);
    assert.ok(took > retryInMs * 0.8, `closed after ${took} ms, told ${retryInMs}`);
    await drained;
    // Somewhere else the run goes on from the last offset.
    const elsewhere = await t.connect();
    const after = socket.parts(runId).length;
    assert.ok(after >= offset);
    await elsewhere.call("run.subscribe", { runId, after });
    await elsewhere.call("run.cancel", { runId });
    assert.equal((await elsewhere.ended(runId))[0]?.offset, after + 1);
  }),

  test("R90", "closes with 1009 over a frame that is larger than maxFrameBytes", [], async (t) => {
    const socket = await t.connect();
    const { maxFrameBytes } = await socket.event("server.hello");
    const frame = (bytes: number) => {
      const empty = JSON.stringify({ id: 1, method: "server.ping", params: { x: "" } });
      return empty.replace('""', `"${"x".repeat(bytes - empty.length)}"`);
    };
    socket.send(frame(maxFrameBytes));
    assert.deepEqual(await socket.answer(1, "server.ping"), {});
    socket.send(frame(maxFrameBytes + 1));
    assert.equal((await socket.untilClosed()).code, closeCodes.frameTooLarge);
  }),

  test("R91", "closes with 1013 where more come at once than it takes", ["crowded"], async (t) => {
    const { url, connectionsPerSecond } = await t.target.crowded();
    const headers = { authorization: `Bearer ${t.target.token ?? ""}` };
    const all = Array.from({ length: connectionsPerSecond * 4 }, () => t.dial(url, { headers }));
    const outcomes = await Promise.all(
      all.map((socket) =>
        socket.until(
          "hello or a close",
          () => socket.closed?.code ?? (socket.frames[0] && 0),
          deadlineMs,
          true,
        ),
      ),
    );
    assert.ok(outcomes.includes(0), "none was let in");
    const turnedAway = outcomes.filter((code) => code !== 0);
    assert.ok(turnedAway.length > 0, "all were let in");
    assert.ok(turnedAway.every((code) => code === closeCodes.overloaded));
  }),

  test("R92", "closes with 4400 over two frames in a row that are not of this protocol", [], async (t) => {
    for (const [one, two] of [
      ["no JSON", "{}"],
      [Buffer.from("binary"), '{"method":"server.ping"}'],
    ] as const) {
      const socket = await t.connect();
      socket.ws.send(one);
      await socket.call("server.ping");
      socket.ws.send(one);
      await socket.call("server.ping");
      assert.equal(socket.closed, undefined);
      socket.ws.send(one);
      socket.ws.send(two);
      assert.equal((await socket.untilClosed()).code, closeCodes.badFrame);
      const errors = socket.frames.filter((frame) => frame.type === "error");
      assert.deepEqual(
        errors.map((frame) => [frame.id, frame.error]),
        Array(4).fill([null, "invalid_argument"]),
      );
    }
  }),

  test("R93", "closes with 4401 where the token is missing or bad", ["token"], async (t) => {
    for (const headers of [{}, { authorization: "Bearer bad" }, { authorization: "Basic eDp5" }]) {
      const socket = t.dial(t.target.url, { headers: headers as Record<string, string> });
      assert.equal((await socket.untilClosed()).code, closeCodes.badToken, JSON.stringify(headers));
      assert.deepEqual(socket.frames, [], "it was greeted");
    }
  }),

  test(
    "R94",
    "closes with 4401 when the token has run out, unless it was refreshed",
    ["expiring", "freshToken"],
    async (t) => {
      const { url, token } = await t.target.expiring();
      const [left, refreshed] = [await t.connect({ url, token }), await t.connect({ url, token })];
      await refreshed.call("auth.refresh", { token: t.target.freshToken });
      assert.equal((await left.untilClosed()).code, closeCodes.badToken);
      assert.deepEqual(await refreshed.call("server.ping"), {});
      const late = t.dial(url, { headers: { authorization: `Bearer ${token}` } });
      assert.equal((await late.untilClosed()).code, closeCodes.badToken);
    },
  ),

  test("R95", "closes with 4403 where the origin is not allowed", ["forbiddenOrigin"], async (t) => {
    const token = t.target.token;
    const socket = t.dial(t.target.url, {
      headers: {
        origin: t.target.forbiddenOrigin,
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
    });
    assert.equal((await socket.untilClosed()).code, closeCodes.forbidden);
    assert.deepEqual(socket.frames, [], "it was greeted");
  }),

  test("R96", "closes with 4408 where a socket takes nothing for slowSocketMs", ["tight"], async (t) => {
    const { url, slowSocketMs } = await t.target.tight();
    const [stuck, other, witness] = [await t.connect({ url }), await t.connect(), await t.connect({ url })];
    const { heartbeatMs } = await stuck.event("server.hello");
    // More than the buffers between the two hold: every token is a part of some hundred bytes.
    const huge = { text: "a ".repeat(120_000), tokensPerSecond: 0 };
    const { runId } = await t.start(other, huge, { subscribe: false });
    await other.call("run.subscribe", { runId, filter: { modes: ["custom"] } });
    const head = (await other.ended(runId)).length;
    // While the buffers still have room it is pinged, and would be ended for not answering: what it says stands for that.
    const saying = setInterval(() => stuck.ask("server.ping"), heartbeatMs / 2);
    stuck.ask("run.subscribe", { runId });
    stuck.ws.pause();
    try {
      // What the rule is about is time: it is told by another socket's pings. The buffers have to be full by then.
      for (let silent = slowSocketMs + 4 * heartbeatMs; stuck.closed === undefined; silent *= 2) {
        const until = witness.pings.length + Math.ceil(silent / heartbeatMs);
        await witness.until("heartbeats", () => witness.pings.length >= until);
        assert.equal(stuck.ws.readyState, WebSocket.OPEN, "paused, it has not heard of it yet");
        stuck.ws.resume();
        const seen = () => stuck.parts(runId).length;
        await stuck.until(
          "a close, or all of it",
          () => stuck.closed !== undefined || seen() >= head,
          deadlineMs,
          true,
        );
        if (stuck.closed !== undefined) break;
        assert.ok(silent < 8 * slowSocketMs, `it took nothing for ${silent} ms, and was not closed`);
        stuck.frames.length = 0;
        stuck.ask("run.subscribe", { runId });
        stuck.ws.pause();
      }
    } finally {
      clearInterval(saying);
    }
    assert.equal((await stuck.untilClosed()).code, closeCodes.noProgress);
  }),

  test("R97", "closes with 4429 far over the rate", ["tight"], async (t) => {
    const { url } = await t.target.tight();
    const socket = await t.connect({ url });
    for (let i = 0; i < 5_000 && socket.closed === undefined; i++) socket.ask("server.ping");
    assert.equal((await socket.untilClosed()).code, closeCodes.rateLimited);
  }),
];
