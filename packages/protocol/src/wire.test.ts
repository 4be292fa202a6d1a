/** The wire's schemas: that they do not change by accident, what they take, what they refuse, what they pass over. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { commandFrame, commands, type Method } from "./commands.ts";
import { closeCodes, errorCodes } from "./errors.ts";
import { type EventMethod, errorFrame, events, successFrame } from "./events.ts";
import { lifecycleData, type Part, part, streamModes } from "./parts.ts";
import { endings, runStatuses } from "./status.ts";
import { bearerSubprotocolPrefix, protocolVersion, subprotocol, wireFingerprint } from "./version.ts";

const text = readFileSync(new URL("../PROTOCOL.md", import.meta.url), "utf8");

/** JSON with sorted keys: the same for the same schemas, in whatever order they were written. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const entries = Object.entries(value).filter(([, each]) => each !== undefined);
  const sorted = entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${sorted.map(([key, each]) => `${JSON.stringify(key)}:${canonical(each)}`).join(",")}}`;
}

function fingerprint(): string {
  const schemas = {
    subprotocol,
    bearerSubprotocolPrefix,
    runStatuses,
    endings,
    streamModes,
    errorCodes,
    closeCodes,
    commands: Object.fromEntries(
      Object.entries(commands).map(([method, { params, result }]) => [
        method,
        { params: z.toJSONSchema(params, { io: "input" }), result: z.toJSONSchema(result) },
      ]),
    ),
    events: Object.fromEntries(
      Object.entries(events).map(([method, each]) => [method, z.toJSONSchema(each)]),
    ),
    frames: [commandFrame, successFrame, errorFrame].map((each) => z.toJSONSchema(each)),
    part: z.toJSONSchema(part),
  };
  return createHash("sha256").update(canonical(schemas)).digest("hex").slice(0, 32);
}

it("changes only on purpose", () => {
  const found = fingerprint();
  expect(
    found,
    `The wire has changed: its fingerprint is now ${found}. Can clients and gateways of version ${protocolVersion} still ` +
      "read each other? Then set wireFingerprint in version.ts to it. If not, raise protocolVersion as well. " +
      "Either way PROTOCOL.md has to say what is new.",
  ).toBe(wireFingerprint);
});

const checkpoint = { threadId: "t", checkpointId: "c" };
const record = {
  runId: "run_1",
  threadId: "t",
  agent: "a",
  status: "running",
  attempt: 1,
  first: 1,
  head: 3,
  epoch: "e",
  createdAt: "2026-01-01T00:00:00.000Z",
};
const state = {
  ...checkpoint,
  parentId: null,
  values: { messages: [{ type: "ai", content: "x" }] },
  next: [],
  interrupts: [{ id: "i", value: { question: "?" } }],
  metadata: {},
  createdAt: "2026-01-01T00:00:00.000Z",
};

const thread = {
  threadId: "t",
  status: "idle",
  createdAt: "2026-01-01T00:00:00.000Z",
  updatedAt: "2026-01-01T00:00:01.000Z",
  metadata: {},
  checkpointId: null,
  messages: 0,
  runs: 0,
  active: [],
};
const busyThread = {
  ...thread,
  status: "busy",
  agent: "a",
  metadata: { title: "Hello", tags: ["x"], nothing: null },
  checkpointId: "c",
  messages: 3,
  runs: 2,
  active: ["r"],
};
const threadRun = { runId: "r", agent: "a", status: "running" };
const endedRun = {
  ...threadRun,
  status: "failed",
  ordinal: 2,
  from: null,
  input: { messages: [] },
  inputCut: true,
  error: { name: "Error", message: "m" },
  interrupts: [{ id: "i", value: 1 }],
  checkpoint,
};

interface Examples {
  good: unknown[];
  bad: unknown[];
}

const params: Record<Method, Examples> = {
  "run.start": {
    good: [
      { agent: "a" },
      {
        agent: "a",
        input: { messages: [{ role: "user", content: "hi" }] },
        threadId: "thread-1",
        checkpointId: "c",
        modes: ["messages", "values"],
        subgraphs: true,
        config: { configurable: { model: "m" } },
        metadata: { user: 1 },
        multitaskStrategy: "interrupt",
        idempotencyKey: "k",
        subscribe: false,
      },
      { agent: "a", command: { resume: { approved: true }, update: { a: 1 }, goto: ["x", "y"] } },
      { agent: "a", input: null },
      { agent: "a", threadId: "Grüße/1:2" },
    ],
    bad: [
      {},
      { agent: "" },
      { agent: 1 },
      { agent: "a", modes: [] },
      { agent: "a", modes: ["lifecycle"] },
      { agent: "a", multitaskStrategy: "queue" },
      { agent: "a", threadId: "" },
      { agent: "a", threadId: "{t}" },
      { agent: "a", threadId: "a b" },
      { agent: "a", threadId: "a\u0000" },
      { agent: "a", threadId: "a\ud800" },
      { agent: "a", threadId: "t".repeat(201) },
      { agent: "a", metadata: [] },
      { agent: "a", command: "resume" },
      { agent: "a", subscribe: "yes" },
      { agent: "a", idempotencyKey: "" },
    ],
  },
  "run.subscribe": {
    good: [
      { runId: "r" },
      { runId: "r", after: 0 },
      { runId: "r", after: 17, epoch: "e" },
      { runId: "r", after: "head" },
      { runId: "r", filter: {} },
      { runId: "r", filter: { modes: ["messages"], ns: ["sub:1"], depth: 0, nodes: ["n"], tags: ["t"] } },
    ],
    bad: [
      {},
      { runId: "" },
      { runId: "r", after: -1 },
      { runId: "r", after: 1.5 },
      { runId: "r", after: "tail" },
      { runId: "r", filter: { modes: ["all"] } },
      { runId: "r", filter: { depth: -1 } },
      { runId: "r", filter: { ns: "sub" } },
    ],
  },
  "run.unsubscribe": { good: [{ runId: "r" }], bad: [{}, { runId: 1 }] },
  "run.cancel": {
    good: [{ runId: "r" }, { runId: "r", keep: "branch", reason: "enough" }],
    bad: [{}, { runId: "r", keep: "all" }, { runId: "r", reason: 1 }],
  },
  "run.get": { good: [{ runId: "r" }], bad: [{}, { runId: null }] },
  "run.list": {
    good: [{}, { threadId: "t", status: "running", limit: 1, before: "r" }],
    bad: [{ limit: 0 }, { limit: 201 }, { limit: 1.5 }, { status: "active" }, { threadId: "a b" }],
  },
  "thread.create": {
    good: [{}, { threadId: "t", metadata: { title: "Hello", at: { depth: [1] } } }],
    bad: [{ threadId: "" }, { threadId: "a b" }, { metadata: [] }, { metadata: "x" }],
  },
  "thread.list": {
    good: [{}, { status: "busy", agent: "a", metadata: { a: null }, limit: 1, before: "b" }],
    bad: [
      { status: "running" },
      { agent: "" },
      { metadata: [] },
      { limit: 0 },
      { limit: 201 },
      { before: "" },
      { before: "b".repeat(401) },
    ],
  },
  "thread.patch": {
    good: [
      { threadId: "t", metadata: {} },
      { threadId: "t", metadata: { gone: null } },
    ],
    bad: [{}, { threadId: "t" }, { threadId: "t", metadata: null }, { threadId: "{t}", metadata: {} }],
  },
  "thread.delete": { good: [{ threadId: "t" }], bad: [{}, { threadId: "" }, { threadId: 1 }] },
  "thread.copy": {
    good: [{ threadId: "t" }, { threadId: "t", checkpointId: "c", to: "u", metadata: { a: 1 } }],
    bad: [
      {},
      { threadId: "t", to: "" },
      { threadId: "t", to: "a b" },
      { threadId: "t", checkpointId: "" },
      { threadId: "t", metadata: [] },
    ],
  },
  "thread.watch": {
    good: [
      {},
      { threadId: "t" },
      { threadId: "t", after: 0 },
      { threadId: "t", after: "head", epoch: "e", events: ["created", "run", "head", "metadata", "deleted"] },
      { threadId: "t", runs: {} },
      {
        threadId: "t",
        runs: { filter: { depth: 0 }, pages: true, known: { r: { after: 7, epoch: "e" }, q: { after: 0 } } },
      },
    ],
    bad: [
      { threadId: "" },
      { after: -1 },
      { after: "tail" },
      { epoch: 1 },
      { events: [] },
      { events: ["ended"] },
      { threadId: "t", runs: true },
      { threadId: "t", runs: { known: { r: {} } } },
      { threadId: "t", runs: { known: { r: { after: "head" } } } },
      { threadId: "t", runs: { known: { "a b": { after: 0 } } } },
      {
        threadId: "t",
        runs: { known: Object.fromEntries(Array.from({ length: 101 }, (_, i) => [`r${i}`, { after: 0 }])) },
      },
      { threadId: "t", runs: { filter: { depth: -1 } } },
    ],
  },
  "thread.unwatch": { good: [{}, { threadId: "t" }], bad: [{ threadId: "" }, { threadId: null }] },
  "thread.get": {
    good: [{ threadId: "t" }, { threadId: "t", checkpointId: "c" }],
    bad: [{}, { threadId: "" }, { threadId: "t", checkpointId: 1 }],
  },
  "thread.history": {
    good: [{ threadId: "t" }, { threadId: "t", limit: 200, before: "c" }],
    bad: [{}, { threadId: "t", limit: 0 }],
  },
  "thread.update": {
    good: [
      { threadId: "t", values: {} },
      { threadId: "t", values: { a: [1] }, asNode: "n", checkpointId: "c" },
    ],
    bad: [{ threadId: "t" }, { values: {} }, { threadId: "t", values: [] }],
  },
  "agent.list": { good: [{}], bad: [null, []] },
  "auth.refresh": { good: [{ token: "T" }], bad: [{}, { token: "" }, { token: 1 }] },
  "server.ping": { good: [{}], bad: [null, "x"] },
};

const results: Record<Method, Examples> = {
  "run.start": {
    good: [{ runId: "r", threadId: "t", status: "queued", epoch: "e", created: true }],
    bad: [{ runId: "r", threadId: "t", status: "new", epoch: "e", created: true }, {}],
  },
  "run.subscribe": {
    good: [{ runId: "r", status: "running", first: 1, head: 0, epoch: "e" }],
    bad: [
      { runId: "r", status: "running", first: 0, head: 0, epoch: "e" },
      { runId: "r", status: "running" },
    ],
  },
  "run.unsubscribe": { good: [{}], bad: [null] },
  "run.cancel": {
    good: [
      { runId: "r", status: "cancelled", offset: 9, checkpoint },
      { runId: "r", status: "completed", offset: 9, checkpoint: null },
      { status: "cancelling" },
    ],
    bad: [{}, { status: "stopped" }, { status: "cancelled", offset: -1 }],
  },
  "run.get": {
    good: [
      record,
      {
        ...record,
        status: "failed",
        startedAt: record.createdAt,
        endedAt: record.createdAt,
        metadata: { a: 1 },
        cancel: { keep: "thread", reason: "r", requestedAt: record.createdAt },
        error: { name: "Error", message: "m" },
        interrupts: [{ id: "i", value: null }],
        checkpoint,
      },
    ],
    bad: [{}, { ...record, attempt: -1 }, { ...record, first: 0 }, { ...record, status: "done" }],
  },
  "run.list": { good: [{ runs: [] }, { runs: [record] }], bad: [{}, { runs: [{}] }] },
  "thread.create": {
    good: [
      { thread, created: true },
      { thread: busyThread, created: false },
    ],
    bad: [{}, { thread }, { thread: { ...thread, status: "running" }, created: true }],
  },
  "thread.list": {
    good: [{ threads: [] }, { threads: [thread, busyThread], next: "n" }],
    bad: [{}, { threads: [{}] }, { threads: [{ ...thread, messages: -1 }] }, { threads: [], next: 1 }],
  },
  "thread.patch": {
    good: [thread, busyThread],
    bad: [
      {},
      { ...thread, metadata: undefined },
      { ...thread, checkpointId: undefined },
      { ...thread, active: undefined },
      { ...thread, runs: -1 },
    ],
  },
  "thread.delete": { good: [{}], bad: [null] },
  "thread.copy": { good: [thread], bad: [{}, { ...thread, createdAt: 1 }] },
  "thread.watch": {
    good: [
      { first: 1, head: 0, epoch: "" },
      { threadId: "t", thread: busyThread, runs: [threadRun, endedRun], first: 3, head: 7, epoch: "e" },
    ],
    bad: [
      {},
      { first: 0, head: 0, epoch: "e" },
      { first: 1, head: 0 },
      { first: 1, head: 0, epoch: "e", runs: [{ runId: "r" }] },
      { first: 1, head: 0, epoch: "e", thread: {} },
    ],
  },
  "thread.unwatch": { good: [{}], bad: [null] },
  "thread.get": {
    good: [state, { ...state, thread: busyThread }, { ...state, checkpointId: null, values: {}, thread }],
    bad: [
      {},
      { ...state, parentId: undefined },
      { ...state, values: [] },
      { ...state, checkpointId: undefined },
      { ...state, thread: {} },
    ],
  },
  "thread.history": { good: [{ checkpoints: [state] }], bad: [{}, { checkpoints: [checkpoint] }] },
  "thread.update": { good: [checkpoint], bad: [{}, { threadId: "t" }] },
  "agent.list": {
    good: [{ agents: [] }, { agents: [{ name: "a", description: "d", modes: ["messages"] }] }],
    bad: [{}, { agents: [{ name: "a" }] }, { agents: [{ name: "a", modes: ["all"] }] }],
  },
  "auth.refresh": {
    good: [{ expiresAt: record.createdAt }, { expiresAt: null }],
    bad: [{}, { expiresAt: 1 }],
  },
  "server.ping": { good: [{}], bad: [null] },
};

const root = { ns: [] };
const token = {
  type: "messages",
  ns: [],
  data: [
    { type: "AIMessageChunk", id: "m", content: "tok" },
    { langgraph_node: "model", langgraph_step: 1, tags: ["t"] },
  ],
};

const lifecycles: Record<string, Examples> = {
  started: { good: [{ attempt: 1 }], bad: [{}, { attempt: 0 }] },
  resumed: { good: [{ attempt: 2 }], bad: [{}, { attempt: "2" }] },
  rewound: { good: [{ attempt: 2, to: 0 }], bad: [{ attempt: 2 }, { attempt: 2, to: -1 }] },
  completed: { good: [{}, { checkpoint }], bad: [{ checkpoint: "c" }] },
  interrupted: {
    good: [{ interrupts: [{ id: "i", value: { question: "?" } }] }, { interrupts: [], checkpoint }],
    bad: [{}, { interrupts: [{ value: 1 }] }],
  },
  cancelled: {
    good: [
      { keep: "discard" },
      { keep: "thread", checkpoint, reason: "r" },
      { keep: "branch", checkpoint: null },
    ],
    bad: [{}, { keep: "some" }, { keep: "thread", reason: 1 }],
  },
  failed: {
    good: [{ error: { name: "Error", message: "m" } }, { error: { name: "E", message: "m" }, checkpoint }],
    bad: [{}, { error: "m" }, { error: { message: "m" } }],
  },
};

const parts: Record<Part["type"], Examples> = {
  messages: {
    good: [
      token,
      { ...token, ns: ["sub:1", "inner:2"] },
      { ...token, data: [{ type: "tool", content: [{ type: "text", text: "x" }] }, {}] },
    ],
    bad: [
      { type: "messages", data: token.data },
      { ...token, ns: [1] },
      { ...token, data: [token.data[0]] },
      { ...token, data: token.data[0] },
      { ...token, data: [{ id: "m", content: "x" }, {}] },
      { ...token, data: [{ type: "ai", content: 1 }, {}] },
    ],
  },
  lifecycle: {
    good: Object.entries(lifecycles).flatMap(([event, { good }]) =>
      good.map((data) => ({ type: "lifecycle", ...root, data: { event, ...(data as object) } })),
    ),
    bad: [
      { type: "lifecycle", ...root, data: { event: "paused" } },
      { type: "lifecycle", ...root, data: {} },
    ],
  },
  ...(Object.fromEntries(
    ["values", "updates", "custom", "tasks", "debug", "tools", "checkpoints", "events"].map((type) => [
      type,
      {
        good: [
          { type, ns: [], data: { node: { a: 1 } } },
          { type, ns: ["sub:1"], data: null },
          { type, ns: [], data: "x" },
        ],
        bad: [
          { type, data: 1 },
          { type, ns: [] },
          { type, ns: "", data: 1 },
          { type: `${type}s`, ns: [], data: 1 },
        ],
      },
    ]),
  ) as Record<Exclude<Part["type"], "messages" | "lifecycle">, Examples>),
};

const eventParams: Record<EventMethod, Examples> = {
  "server.hello": {
    good: [{ protocol: 1, connectionId: "c", heartbeatMs: 25_000, maxFrameBytes: 1_048_576 }],
    bad: [{ protocol: 2, connectionId: "c", heartbeatMs: 25_000, maxFrameBytes: 1 }, { protocol: 1 }],
  },
  "server.draining": { good: [{ retryInMs: 0 }], bad: [{}, { retryInMs: -1 }] },
  "run.parts": {
    good: [
      { runId: "r", offset: 1, parts: [token, null, parts.lifecycle.good[0]] },
      { runId: "r", offset: 7, skipped: 3, parts: [] },
    ],
    bad: [
      { runId: "r", offset: 0, parts: [] },
      { runId: "r", parts: [] },
      { runId: "r", offset: 1 },
      { runId: "r", offset: 1, parts: [{}] },
      { runId: "r", offset: 1, parts: [], skipped: 0 },
    ],
  },
  "run.reset": { good: [{ runId: "r", epoch: "e", reason: "why" }], bad: [{ runId: "r" }] },
  "run.snapshot": {
    good: [
      { runId: "r", offset: 9, messages: [{ type: "ai", id: "m", content: "x" }] },
      { runId: "r", offset: 9, messages: [], values: { a: 1 } },
      { runId: "r", offset: 9, messages: [], complete: ["m"], calls: { n: [{ args: "" }] } },
      { runId: "r", offset: 9, messages: [], calls: { m: [{ index: 0, id: "c", name: "f", args: "{" }] } },
    ],
    bad: [
      { runId: "r", messages: [] },
      { runId: "r", offset: 9, messages: [], complete: [1] },
      { runId: "r", offset: 9, messages: [], calls: { m: [{ id: "c" }] } },
      { runId: "r", offset: 9, messages: [], calls: { m: [{ args: {} }] } },
      { runId: "r", offset: 9, messages: [{}] },
    ],
  },
  "run.page": {
    good: [
      { runId: "r", offset: 7, page: 1, pages: 2, text: '{"offset":7,' },
      { runId: "r", offset: 0, page: 2, pages: 2, text: "" },
    ],
    bad: [
      { runId: "r", offset: 7, page: 0, pages: 2, text: "" },
      { runId: "r", offset: 7, page: 1, pages: 0, text: "" },
      { runId: "r", offset: 7, page: 1, pages: 2 },
      { runId: "r", offset: 7, page: 1, pages: 2, text: {} },
      { runId: "r", page: 1, pages: 2, text: "" },
    ],
  },
  "run.unsubscribed": { good: [{ runId: "r", reason: "ended" }], bad: [{ runId: "r" }, {}] },
  "thread.events": {
    good: [
      {
        threadId: "t",
        offset: 1,
        events: [
          { event: "created", thread },
          null,
          { event: "run", thread: busyThread, run: threadRun },
          { event: "run", thread, run: endedRun },
          { event: "head", thread },
          { event: "metadata", thread },
          { event: "deleted", threadId: "t" },
        ],
      },
      { offset: 7, skipped: 3, events: [] },
    ],
    bad: [
      { threadId: "t", offset: 0, events: [] },
      { threadId: "t", events: [] },
      { threadId: "t", offset: 1 },
      { threadId: "t", offset: 1, events: [], skipped: 0 },
      { threadId: "t", offset: 1, events: [{ event: "ended", thread }] },
      { threadId: "t", offset: 1, events: [{ event: "created" }] },
      { threadId: "t", offset: 1, events: [{ event: "run", thread }] },
      { threadId: "t", offset: 1, events: [{ event: "run", thread, run: { runId: "r" } }] },
      { threadId: "t", offset: 1, events: [{ event: "deleted" }] },
    ],
  },
  "thread.reset": {
    good: [
      { threadId: "t", epoch: "e", offset: 7, reason: "why" },
      { epoch: "", offset: 0, reason: "why" },
    ],
    bad: [
      { threadId: "t", epoch: "e", reason: "why" },
      { offset: 0, reason: "why" },
      { epoch: "e", offset: -1, reason: "" },
    ],
  },
  "thread.unwatched": {
    good: [{ threadId: "t", reason: "deleted" }, { reason: "expired" }],
    bad: [{ threadId: "t" }, {}],
  },
};

function check(schema: z.ZodType, { good, bad }: Examples): void {
  for (const each of good)
    expect(schema.safeParse(each), JSON.stringify(each)).toMatchObject({ success: true });
  for (const each of bad)
    expect(schema.safeParse(each), JSON.stringify(each)).toMatchObject({ success: false });
}

describe("takes what PROTOCOL.md says, and refuses what it does not", () => {
  it.each(Object.keys(commands) as Method[])("%s", (method) => {
    check(commands[method].params, params[method]);
    check(commands[method].result, results[method]);
    expect(text).toContain(method);
  });

  it.each(Object.keys(events) as EventMethod[])("%s", (method) => {
    check(events[method], eventParams[method]);
    expect(text).toContain(method);
  });

  it.each(Object.keys(parts) as Part["type"][])("part %s", (type) => {
    check(part, parts[type]);
    expect(text).toContain(`\`${type}\``);
  });

  it.each(Object.keys(lifecycles))("lifecycle %s", (event) => {
    const { good, bad } = lifecycles[event]!;
    const named = (all: unknown[]) => all.map((data) => ({ event, ...(data as object) }));
    check(lifecycleData, { good: named(good), bad: named(bad) });
    expect(text).toContain(`\`${event}`);
  });

  it("frames", () => {
    check(commandFrame, {
      good: [
        { id: 1, method: "run.start", params: {} },
        { id: 0, method: "server.ping" },
        { id: Number.MAX_SAFE_INTEGER, method: "yet.unknown", params: { a: 1 } },
      ],
      bad: [
        null,
        [],
        "x",
        { method: "server.ping" },
        { id: -1, method: "server.ping" },
        { id: 1.5, method: "server.ping" },
        { id: "1", method: "server.ping" },
        { id: 2 ** 53, method: "server.ping" },
        { id: 1 },
        { id: 1, method: "server.ping", params: [] },
      ],
    });
    check(successFrame, {
      good: [{ type: "success", id: 1, result: {} }],
      bad: [
        { type: "success", result: {} },
        { type: "ok", id: 1, result: {} },
      ],
    });
    const refusal = { type: "error", id: 1, error: "no_such_run", message: "m", retryable: false };
    check(errorFrame, {
      good: [refusal, { ...refusal, id: null }, { ...refusal, details: { issues: [] } }],
      bad: [
        { ...refusal, error: "oops" },
        { ...refusal, id: undefined },
        { ...refusal, retryable: "no" },
      ],
    });
  });

  it("the frame that PROTOCOL.md spells out", () => {
    const [, json] = /```json\n([\s\S]*?)```/.exec(text)!;
    const frame = JSON.parse(json!);
    expect(frame).toMatchObject({ type: "event", method: "server.hello" });
    expect(events["server.hello"].parse(frame.params)).toEqual(frame.params);
  });

  it("the codes that PROTOCOL.md lists, and no others", () => {
    const [, errors] = /## Errors\n([\s\S]*?)\n## /.exec(text)!;
    for (const code of Object.keys(errorCodes)) expect(errors).toContain(`\`${code}\``);
    const [, closes] = /## Close codes\n([\s\S]*?)(\n## |$)/.exec(text)!;
    const listed = [...closes!.matchAll(/^\| *([\d, ]+?) *\|/gm)].flatMap(([, codes]) => codes!.split(", "));
    expect(listed.map(Number)).toEqual(Object.values(closeCodes));
  });
});

describe("passes over fields that it does not know", () => {
  const known = (schema: z.ZodType, examples: unknown[], keeps: boolean) => {
    const unknown = fc.dictionary(fc.stringMatching(/^x[A-Za-z]{1,8}$/), fc.jsonValue(), { maxKeys: 4 });
    fc.assert(
      fc.property(fc.constantFrom(...(examples as object[])), unknown, (example, more) => {
        const parsed = schema.parse({ ...more, ...example });
        expect(parsed).toEqual(keeps ? { ...more, ...example } : example);
      }),
      { numRuns: 30 },
    );
  };

  it.each(Object.keys(commands) as Method[])("%s", (method) => {
    // A gateway forgets what it does not know; a client may hand it on.
    known(commands[method].params, params[method].good, false);
    known(
      commands[method].result,
      results[method].good,
      Object.keys(results[method].good[0] as object).length > 0,
    );
  });

  it.each(Object.keys(events) as EventMethod[])("%s", (method) => {
    known(events[method], eventParams[method].good, true);
  });

  it.each(Object.keys(parts) as Part["type"][])("part %s", (type) => {
    known(part, parts[type].good, true);
  });

  it("frames", () => {
    known(commandFrame, [{ id: 1, method: "server.ping", params: { a: 1 } }], true);
    known(successFrame, [{ type: "success", id: 1, result: { a: 1 } }], true);
    known(errorFrame, [{ type: "error", id: null, error: "internal", message: "m", retryable: false }], true);
  });
});
