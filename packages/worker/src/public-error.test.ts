import { DynamicStructuredTool } from "@langchain/core/tools";
import { Annotation, START, StateGraph } from "@langchain/langgraph";
import { readState } from "@throughline/checkpoint";
import pino, { type Logger } from "pino";
import { afterAll, expect, test } from "vitest";
import { until } from "../../../test/support/until.ts";
import { Workshop } from "../../../test/support/workers.ts";
import { PublicError } from "./public-error.ts";

const shop = new Workshop();
afterAll(() => shop.stop());

const secret = "the DB password is hunter2";
const hidden = "the agent failed; its worker's log says why";

interface Line {
  runId?: string;
  agent?: string;
  threadId?: string;
  msg?: string;
  err?: { message?: string; stack?: string };
}

function recordingLogger(): { logger: Logger; lines: Line[] } {
  const lines: Line[] = [];
  const logger = pino(
    { level: "warn" },
    { write: (line: string) => void lines.push(JSON.parse(line) as Line) },
  );
  return { logger, lines };
}

test("the worker's log has the error and its stack, with the run's id, and the run's readers have neither", async () => {
  const { logger, lines } = recordingLogger();
  const agent = async function* hidden() {
    yield "a";
    throw new Error(secret);
  };
  const worker = await shop.serve({ agent }, { logger });
  const runId = await shop.start("agent");
  const ended = await shop.ended(runId);
  expect(ended.record.error).toEqual({ name: "Error", message: hidden });
  expect(JSON.stringify(ended)).not.toContain(secret);
  await until(() => lines.some((line) => line.runId === runId), 10_000, "the log's line");
  const line = lines.find((each) => each.runId === runId);
  expect(line).toMatchObject({ agent: "agent", threadId: ended.record.threadId });
  expect(line?.err).toMatchObject({
    message: secret,
    stack: expect.stringContaining("public-error.test.ts"),
  });
  await worker.close();
});

/** Errors that throw where they are read. */
const unreadable: Record<string, () => unknown> = {
  "a getter that throws": () =>
    Object.defineProperty(new Error(), "message", {
      get() {
        throw new Error(secret);
      },
    }),
  "a public error's getter that throws": () =>
    Object.defineProperty(new PublicError("x"), "message", {
      get() {
        throw new Error(secret);
      },
    }),
  "a proxy": () => {
    const trap = () => {
      throw new Error(secret);
    };
    return new Proxy(new Error(secret), { get: trap, has: trap, getPrototypeOf: trap, ownKeys: trap });
  },
};

test.each(Object.entries(unreadable))("what cannot be read ends its run at once: %s", async (_, make) => {
  const { logger, lines } = recordingLogger();
  const agent = async function* () {
    yield "a";
    throw make();
  };
  const graph = new StateGraph(Annotation.Root({ ask: Annotation<string> }))
    .addNode("node", () => {
      throw make();
    })
    .addEdge(START, "node")
    .compile();
  const worker = await shop.serve({ agent, graph }, { logger });
  for (const name of ["agent", "graph"]) {
    const runId = await shop.start(name, { input: { ask: "a" } });
    const { record } = await shop.ended(runId);
    expect(record).toMatchObject({ status: "failed", attempt: 1, error: { message: hidden } });
    await until(
      () => lines.some((line) => line.runId === runId && line.agent === name),
      10_000,
      "the log's line",
    );
  }
  await worker.close();
});

test("a worker's publicError decides, may leave it to the default, and does no harm where it throws", async () => {
  const { logger, lines } = recordingLogger();
  const agent = async function* ({ input }: { input: unknown }) {
    yield "a";
    if (input === "own") yield 5 as never;
    throw input === "public" ? new PublicError("for you") : new RangeError(`${input}`);
  };
  const worker = await shop.serve(
    { agent },
    {
      logger,
      publicError: (error) => {
        const { message } = error as Error;
        if (message === "broken") throw new Error("the hook is broken");
        if (message === "odd") return { message: 5 } as never;
        if (message === "told" || message === "for you") return { message: `told: ${message}`, code: "e1" };
        return undefined;
      },
    },
  );
  const errorOf = async (input: string) =>
    (await shop.ended(await shop.start("agent", { input }))).record.error;
  expect(await errorOf("told")).toEqual({ name: "RangeError", message: "told: told", code: "e1" });
  expect(await errorOf("public")).toEqual({ name: "PublicError", message: "told: for you", code: "e1" });
  expect(await errorOf("left")).toEqual({ name: "RangeError", message: hidden });
  expect(await errorOf("broken")).toEqual({ name: "RangeError", message: hidden });
  expect(await errorOf("odd")).toEqual({ name: "RangeError", message: hidden });
  expect(lines.filter(({ msg }) => msg?.startsWith("publicError failed"))).toHaveLength(2);
  // It is not asked about Throughline's own errors.
  expect(await errorOf("own")).toMatchObject({
    name: "BadYieldError",
    message: expect.stringContaining("yielded a number: yield a string"),
  });
  await worker.close();
});

test.each([
  [{ user: "ann", password: "hunter2", "4111 1111": 1 }, "an object with the keys user, password, …"],
  [{ type: "lifecycle", ns: [], data: "hunter2" }, "an object with the keys type, ns, data"],
  [["hunter2"], "an array"],
  [{}, "an object without keys"],
  [12.5, "a number"],
  [null, "null"],
])("what was wrongly yielded is told without its values: %j", async (yielded, told) => {
  const agent = async function* () {
    yield yielded as never;
  };
  const worker = await shop.serve({ agent });
  const ended = await shop.ended(await shop.start("agent"));
  expect(ended.record.error?.message).toContain(`agent agent yielded ${told}: yield a string`);
  expect(JSON.stringify(ended)).not.toMatch(/hunter2|ann|4111|12\.5/);
  await worker.close();
});

test("what a graph's task failed with is told without its message, in its thread and in the checkpoints of the next run", async () => {
  const graph = new StateGraph(Annotation.Root({ ask: Annotation<string> }))
    .addNode("node", () => {
      throw new TypeError(secret);
    })
    .addEdge(START, "node")
    .compile();
  const worker = await shop.serve({ graph });
  const threadId = shop.newThread();
  const modes = ["checkpoints", "debug", "tasks", "updates", "values"] as const;
  const run = async (request: object) =>
    await shop.ended(await shop.start("graph", { modes: [...modes], ...request }, { threadId }));
  const first = await run({ input: { ask: "a" } });
  expect(first.record.error).toEqual({ name: "TypeError", message: hidden });
  const state = await readState(shop.saver, { threadId });
  expect(state?.tasks).toMatchObject([{ name: "node", error: { name: "TypeError", message: hidden } }]);
  const second = await run({});
  expect(second.record.status).toBe("failed");
  expect(JSON.stringify([first, state, second])).not.toContain(secret);
  await worker.close();
});

test.each(["tools", "events"] as const)(
  "%s: a tool's error is told without its message and its stack",
  async (mode) => {
    const look = new DynamicStructuredTool({
      name: "look",
      description: "Looks",
      schema: { type: "object", properties: {} },
      func: () => Promise.reject(Object.assign(new RangeError(secret), { code: "E_LOOK" })),
    });
    const graph = new StateGraph(Annotation.Root({ ask: Annotation<string> }))
      .addNode("node", async (_, config) => {
        await look
          .invoke({ type: "tool_call", id: "call-1", name: "look", args: {} }, config)
          .catch(() => {});
        return { ask: "answered" };
      })
      .addEdge(START, "node")
      .compile();
    const worker = await shop.serve({ graph });
    const ended = await shop.ended(await shop.start("graph", { modes: [mode], input: { ask: "a" } }));
    expect(ended.record.status).toBe("completed");
    const told = JSON.stringify(ended.parts);
    expect(told).toContain("on_tool_error");
    expect(told).toContain(hidden);
    expect(told).not.toContain(secret);
    expect(told).not.toContain("public-error.test.ts");
    await worker.close();
  },
);
