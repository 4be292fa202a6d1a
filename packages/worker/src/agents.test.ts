import { setTimeout as sleep } from "node:timers/promises";
import { type Part, part as partSchema } from "@throughline/protocol";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { type AgentContext, type AgentFunction, custom, token, update } from "./agent.ts";
import { PublicError } from "./public-error.ts";

/** What the agent of a test does; by its name, so that all tests share one worker. */
const behaviours = new Map<string, AgentFunction<never>>();
const shop = new Workshop();
let runs = 0;
/** A worker's tick: so short that many of them are soon over. */
const tickMs = 200;

beforeAll(async () => {
  const any = (context: AgentContext) =>
    behaviours.get((context.metadata as { does: string }).does)!(context as never);
  await shop.serve({ any }, {}, { tickMs });
});
afterAll(() => shop.stop());

/** Starts a run of this agent, and answers its id. */
async function start(run: (context: AgentContext<never>) => unknown, more: object = {}, input?: unknown) {
  const does = `does-${runs++}`;
  behaviours.set(does, run as never);
  return await shop.start("any", { input }, { metadata: { does }, ...more });
}

const endOf = async (run: (context: AgentContext<never>) => unknown) => await shop.ended(await start(run));
const asleep = (signal: AbortSignal) => sleep(60_000, undefined, { signal });

describe("what an agent may yield", () => {
  test("strings and parts, and what it leaves out is filled in", async () => {
    const { parts, record } = await endOf(async function* () {
      yield "a";
      yield token("b");
      yield token("c", { id: "other", node: "n", tags: ["t"] });
      yield { type: "custom", data: 1 };
      yield update({ k: 1 });
    });
    for (const part of parts) partSchema.parse(part);
    const answer = `${record.runId}-answer`;
    expect(parts.slice(1, -1)).toEqual([
      { type: "messages", ns: [], data: [chunk(answer, "a"), { langgraph_node: "any" }] },
      { type: "messages", ns: [], data: [chunk(answer, "b"), { langgraph_node: "any" }] },
      { type: "messages", ns: [], data: [chunk("other", "c"), { langgraph_node: "n", tags: ["t"] }] },
      { type: "custom", ns: [], data: 1 },
      { type: "updates", ns: [], data: { agent: { k: 1 } } },
    ]);
  });

  test("nothing at all: it has begun and is done", async () => {
    const { lifecycle } = await endOf(async function* () {});
    expect(lifecycle.map(({ event }) => event)).toEqual(["started", "completed"]);
  });

  test("with as many listeners on its signal as it likes: Node warns of none", async () => {
    const warnings: Error[] = [];
    const listen = (warning: Error) => warnings.push(warning);
    process.on("warning", listen);
    await endOf(async function* ({ signal }) {
      for (let i = 0; i < 50; i++) signal.addEventListener("abort", () => {});
      yield "a";
    });
    process.off("warning", listen);
    expect(warnings).toEqual([]);
  });

  test("the same part again and again, in many runs: each has its own ids", async () => {
    const dot = Object.freeze(token("."));
    const dots = async function* () {
      yield dot;
      yield dot;
    };
    for (let i = 0; i < 2; i++) {
      const { parts, record, text } = await endOf(dots);
      expect(text).toBe("..");
      expect(parts[1]).toMatchObject({ data: [{ id: `${record.runId}-answer` }, {}] });
    }
  });

  test("parts of a megabyte, one after the other", async () => {
    const { parts, record } = await endOf(async function* () {
      for (let i = 0; i < 12; i++) yield custom(`${i}`.repeat(1_000_000 / `${i}`.length));
    });
    expect(record.status).toBe("completed");
    expect(parts.slice(1, -1).map(({ data }) => String(data).length)).toEqual(
      Array.from({ length: 12 }, () => 1_000_000),
    );
  });

  test("ten thousand tokens without a pause, and another run goes on beside it", async () => {
    const hot = start(async function* () {
      for (let i = 0; i < 10_000; i++) yield `${i} `;
    });
    const beside = await endOf(async function* () {
      yield "here";
    });
    expect(beside.text).toBe("here");
    const { text } = await shop.ended(await hot);
    expect(text).toBe(Array.from({ length: 10_000 }, (_, i) => `${i} `).join(""));
  });
});

function chunk(id: string, content: string) {
  return { type: "AIMessageChunk", id, content };
}

describe("garbage that an agent yields ends the run with an error that says what would be right", () => {
  test.each<[string, unknown]>([
    ["a number", 5],
    ["null", null],
    ["undefined", undefined],
    ["an object that is no part", { hello: "world" }],
    ["a part of no type", { type: "nonsense", ns: [], data: 1 }],
    ["a lifecycle part", { type: "lifecycle", ns: [], data: { event: "completed" } }],
    ["a part without data", { type: "custom", ns: [] }],
    ["data that is a function", { type: "custom", ns: [], data: () => 1 }],
    ["messages without a chunk", { type: "messages", ns: [], data: [] }],
    ["messages that are no pair", { type: "messages", ns: [], data: "text" }],
    ["a chunk without content", { type: "messages", ns: [], data: [{ type: "AIMessageChunk" }, {}] }],
    ["a chunk without metadata", { type: "messages", ns: [], data: [chunk("i", "x")] }],
    ["a token that is no string", token(5 as never)],
    ["a namespace that is none", { type: "custom", ns: "root", data: 1 }],
    ["an array", ["a"]],
    ["a symbol", Symbol("s")],
  ])("%s", async (_, garbage) => {
    const { record, parts, text } = await endOf(async function* () {
      yield "before ";
      yield garbage;
      yield "never";
    });
    expect(record.status).toBe("failed");
    expect(record.error?.name).toBe("BadYieldError");
    expect(record.error?.message).toMatch(/^agent any yielded .+: yield a string, token/);
    expect(text).toBe("before ");
    for (const part of parts) partSchema.parse(part);
  });

  test.each<[string, unknown, RegExp]>([
    ["a part over the limit", custom("x".repeat(9 * 1024 * 1024)), /the limit/],
    ["an update whose messages are none", update({ messages: 5 }), /message/],
  ])("%s", async (_, garbage, message) => {
    const { record, text } = await endOf(async function* () {
      yield "before ";
      yield garbage;
    });
    expect(record.status).toBe("failed");
    expect(record.error?.message).toMatch(message);
    expect(text).toBe("before ");
  });

  test.each<[string, () => unknown, unknown]>([
    ["a BigInt", () => 12345678901234567890n, "12345678901234567890"],
    ["what contains itself", cycle, ["[Circular]"]],
    [
      "a Map and a Set",
      () => ({ map: new Map([["a", 1n]]), set: new Set([1, new Error("no")]) }),
      {
        map: { a: "1" },
        set: [1, { name: "Error", message: "no" }],
      },
    ],
    [
      "a Date, and functions",
      () => [new Date(0), () => 1, Symbol("s")],
      ["1970-01-01T00:00:00.000Z", null, null],
    ],
  ])("progress that is no JSON costs no run: %s", async (_, data, told) => {
    const { record, parts } = await endOf(async function* () {
      yield custom(data());
      yield token("after", { tags: [1n] as never });
    });
    expect(record.status).toBe("completed");
    expect(parts.find(({ type }) => type === "custom")?.data).toEqual(told);
    expect(parts.find(({ type }) => type === "messages")?.data).toMatchObject([
      { content: "after" },
      { tags: ["1"] },
    ]);
  });

  test("P5: an update that no checkpoint takes", async () => {
    const { record } = await endOf(async function* () {
      yield update({ __pregel_tasks: [] });
    });
    expect(record).toMatchObject({ status: "failed", attempt: 1 });
    expect(record.error?.message).toMatch(/LangGraph/);
  });

  test.each<[string, () => unknown]>([
    ["nothing", () => undefined],
    ["a promise", async () => "text"],
    ["a string", () => "text"],
    ["a generator that is not async", function* () {}],
  ])("an agent that returns %s instead of parts", async (_, run) => {
    const { record } = await endOf(run);
    expect(record.error).toMatchObject({ name: "BadYieldError" });
    expect(record.error?.message).toContain("async function*");
  });
});

function cycle(): unknown[] {
  const array: unknown[] = [];
  array.push(array);
  return array;
}

/** What readers are told of an error that is not marked as public. */
const hidden = "the agent failed; its worker's log says why";

describe("an agent that throws", () => {
  const hostile = {
    toString() {
      throw new Error("no");
    },
  };
  const unreadable = {
    get name() {
      throw new Error("no");
    },
  };
  test.each<[string, unknown, object]>([
    ["an Error", new TypeError("broken"), { name: "TypeError", message: hidden }],
    ["a string", "broken", { name: "Error", message: hidden }],
    ["undefined", undefined, { name: "Error", message: hidden }],
    ["null", null, { name: "Error", message: hidden }],
    ["a bare object", Object.create(null), { name: "Error", message: hidden }],
    ["an object that cannot be shown", hostile, { name: "Error", message: hidden }],
    ["an error whose name cannot be read", unreadable, { name: "Error", message: hidden }],
    [
      "an error with a code",
      Object.assign(new Error("db:secret@10.0.0.5"), { code: "ECONNREFUSED" }),
      { name: "Error", message: hidden, code: "ECONNREFUSED" },
    ],
    [
      "an error that talks in its name and its code",
      Object.assign(new Error("x"), { name: "the password is x", code: "the password is y" }),
      { name: "Error", message: hidden },
    ],
    [
      "a public error",
      new PublicError("the file is too large", { code: "file_too_large" }),
      { name: "PublicError", message: "the file is too large", code: "file_too_large" },
    ],
    [
      "an error that is marked as public",
      Object.assign(new RangeError("too far"), { public: true }),
      { name: "RangeError", message: "too far" },
    ],
  ])(
    "%s: the run fails once, with that in its ending, and keeps what it said on a branch",
    async (_, thrown, error) => {
      const threadId = shop.newThread();
      const runId = await start(
        async function* () {
          yield "partial";
          throw thrown;
        },
        { threadId },
        "hi",
      );
      const { record, lifecycle } = await shop.ended(runId);
      expect(record).toMatchObject({ status: "failed", attempt: 1 });
      expect(record.error).toEqual(error);
      expect(lifecycle.at(-1)).toMatchObject({ event: "failed" });
      expect((lifecycle.at(-1) as { error?: unknown }).error).toEqual(error);
      expect(await shop.messages(threadId)).toEqual([]);
      expect(await shop.messages(threadId, record.checkpoint?.checkpointId)).toEqual([
        "human:hi",
        "ai:partial",
      ]);
      // The thread goes on.
      const next = await start(async function* () {}, { threadId }, "again");
      await shop.ended(next);
      expect(await shop.messages(threadId)).toEqual(["human:again"]);
    },
  );

  test("before it has yielded anything, and without being a generator", async () => {
    for (const run of [
      () => {
        throw new Error("sync");
      },
      // biome-ignore lint/correctness/useYield: it throws first.
      async function* () {
        throw new Error("async");
      },
    ]) {
      const { record, lifecycle } = await endOf(run);
      expect(record.error).toEqual({ name: "Error", message: hidden });
      expect(lifecycle).toHaveLength(2);
    }
  });
});

describe("P3: an agent that is cancelled", () => {
  async function cancelAt(head: number, run: (context: AgentContext<never>) => unknown) {
    const runId = await start(run);
    await shop.reached(runId, head);
    expect(await shop.dispatcher.cancel(runId, { keep: "thread" })).toMatchObject({ outcome: "requested" });
    const ended = await shop.ended(runId);
    expect(ended.record.status).toBe("cancelled");
    return ended;
  }

  test("and obeys: it finds the reason in its signal, and its finally runs", async () => {
    let reason: unknown;
    let cleaned = false;
    await cancelAt(2, async function* ({ signal }) {
      try {
        yield "a";
        await asleep(signal);
      } finally {
        reason = signal.reason;
        cleaned = true;
      }
    });
    expect(reason).toMatchObject({ name: "AbortError", code: "run_cancelled" });
    expect(cleaned).toBe(true);
  });

  test("and yields on: nothing of it is taken", async () => {
    let yields = 0;
    const { text } = await cancelAt(2, async function* ({ signal }) {
      yield "before ";
      await asleep(signal).catch(() => {});
      for (; yields < 100; yields++) yield "after ";
    });
    expect(text).toBe("before ");
    expect(yields).toBe(0);
  });

  test("and never comes back: the run ends without it", async () => {
    const { text } = await cancelAt(2, async function* () {
      yield "before ";
      await new Promise(() => {});
    });
    expect(text).toBe("before ");
  });

  test("and whose finally hangs, or throws: the run ends as cancelled", async () => {
    for (const last of [() => new Promise(() => {}), () => Promise.reject(new Error("in finally"))]) {
      const { text } = await cancelAt(2, async function* ({ signal }) {
        try {
          yield "before ";
          await asleep(signal);
        } finally {
          await last();
        }
      });
      expect(text).toBe("before ");
    }
  });

  test("and talks without a pause: it stops, and its text has no hole", async () => {
    const { text } = await cancelAt(2_000, async function* () {
      for (let i = 0; ; i++) yield `${i} `;
    });
    const count = text.trimEnd().split(" ").length;
    expect(text).toBe(Array.from({ length: count }, (_, i) => `${i} `).join(""));
  });

  test("and is silent, while the message that should wake its worker is lost: the next tick finds it", async () => {
    const runId = await start(async function* ({ signal }) {
      yield "a";
      await asleep(signal);
    });
    await shop.reached(runId, 2);
    // The cancel is recorded; nobody is told.
    await shop.redis.hset(
      `${shop.prefix}:{${runId}}:run`,
      ...["cancel", "thread", "cancelReason", "", "cancelAt", String(Date.now()), "status", "cancelling"],
    );
    const { record } = await shop.ended(runId);
    expect(record.status).toBe("cancelled");
  });

  test("in the very moment in which it is done: one ending, and it holds", async () => {
    for (let i = 0; i < 20; i++) {
      const runId = await start(async function* () {
        yield "a";
        await sleep(i % 5);
      });
      await until(async () => (await shop.record(runId)).attempt > 0);
      await sleep(i % 7);
      await shop.dispatcher.cancel(runId, { keep: "thread" });
      const { lifecycle, record } = await shop.ended(runId);
      expect(lifecycle.filter(({ event }) => event === "completed" || event === "cancelled")).toHaveLength(1);
      expect(await shop.record(runId)).toEqual(record);
    }
  });
});

test("an agent that says nothing for long is left alone", async () => {
  const { record, text } = await endOf(async function* () {
    yield "before ";
    await sleep(5 * tickMs);
    yield "after";
  });
  expect(record).toMatchObject({ status: "completed", attempt: 1 });
  expect(text).toBe("before after");
});

test("modes: a part that was not asked for is in the state, not in the log", async () => {
  const threadId = shop.newThread();
  const does = "modes";
  behaviours.set(does, async function* (): AsyncGenerator<Part | string> {
    yield "token";
    yield custom(1);
    yield update({ k: 2 });
  });
  const runId = await shop.start("any", { modes: ["custom"] }, { threadId, metadata: { does } });
  const { parts } = await shop.ended(runId);
  expect(parts.map(({ type }) => type)).toEqual(["lifecycle", "custom", "lifecycle"]);
  expect(await shop.messages(threadId)).toEqual(["ai:token"]);
});
