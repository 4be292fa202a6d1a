/** The conversation's store against real gateways and workers: what is on the screen is what the thread has. */
import { setTimeout as sleep } from "node:timers/promises";
import { AIMessage } from "@langchain/core/messages";
import { END, interrupt, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { type Connection, connect } from "@throughline/client";
import { type Conversation, conversation, type Message, threads } from "@throughline/client/conversation";
import type { FlatMessage } from "@throughline/protocol";
import { type AgentContext, custom, PublicError, token } from "@throughline/worker";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { ScriptedModel } from "../support/graphs.ts";
import { type Line, startLine } from "../support/line.ts";
import { startProxy, type Proxy as TcpProxy } from "../support/proxy.ts";
import { patienceMs, until as untilTrue } from "../support/until.ts";

let line: Line;
let proxy: TcpProxy;
const open: (() => void)[] = [];

/** Answers with what it was asked, a word at a time. */
async function* chat({ messages, signal, runId }: AgentContext) {
  const asked = String(messages.findLast(({ type }) => type === "human")?.content ?? "");
  yield custom({ thinking: asked });
  for (const word of `you said ${asked} and that is what I say`.split(/(?<= )/)) {
    yield token(word, { id: `${runId}-answer` });
    await sleep(2, undefined, { signal });
  }
}

/** A graph that does the same with a model, and has a step before it. */
function chatGraph() {
  const model = new ScriptedModel(async function* (messages, signal) {
    const asked = String(messages.findLast((message) => message.getType() === "human")?.content ?? "");
    for (const word of `you said ${asked} and that is what I say`.split(/(?<= )/)) {
      yield word;
      await sleep(2, undefined, { signal: signal! });
    }
  });
  return new StateGraph(MessagesAnnotation)
    .addNode("think", async () => ({}))
    .addNode("model", async ({ messages }) => ({ messages: [await model.invoke(messages)] }))
    .addEdge(START, "think")
    .addEdge("think", "model")
    .addEdge("model", END)
    .compile();
}

/** Asks before it goes on. */
function askingGraph() {
  return new StateGraph(MessagesAnnotation)
    .addNode("ask", async () => ({ messages: [new AIMessage(`you said ${interrupt("really?")}`)] }))
    .addEdge(START, "ask")
    .addEdge("ask", END)
    .compile();
}

let failures = 1;
/** Fails once, in the middle of its answer. */
async function* failsOnce() {
  yield token("Once ", { id: `try-${failures}` });
  if (failures-- > 0) throw new PublicError("no more ink", { code: "no_ink" });
  yield token("upon a time", { id: "try-0" });
}

/** `what` is asked when it did not hold. */
async function until(holds: () => boolean | Promise<boolean>, ms: number, what: string | (() => string)) {
  try {
    await untilTrue(holds, ms);
  } catch (error) {
    throw new Error(`${typeof what === "string" ? what : what()}: ${(error as Error).message}`);
  }
}

beforeAll(async () => {
  line = await startLine({
    agents: { chat, graph: chatGraph(), asks: askingGraph(), failsOnce },
    gateways: 2,
    workers: 2,
  });
  proxy = await startProxy(line.gateways[1]!.url);
});
afterEach(() => {
  for (const close of open.splice(0)) close();
});
afterAll(async () => {
  proxy.close();
  await line.stop();
});

function connected(url = line.gateways[0]!.url): Connection {
  const connection = connect(url, { WebSocket });
  open.push(() => connection.close());
  return connection;
}

function talk(connection: Connection, agent: string, threadId?: string): Conversation {
  const store = conversation(connection, {
    agent,
    pageSize: 10_000,
    ...(threadId !== undefined && { threadId }),
  });
  open.push(() => store.close());
  return store;
}

const shown = (store: Conversation) => store.getSnapshot().messages.map(line1);
const line1 = ({ id, type, content }: Message) => `${type} ${id} ${JSON.stringify(content)}`;

async function idle(store: Conversation): Promise<void> {
  await until(
    () => ["idle", "interrupted"].includes(store.getSnapshot().status.status),
    patienceMs,
    () => `an idle conversation; it is ${JSON.stringify(store.getSnapshot())}`.slice(0, 4000),
  );
}

async function said(connection: Connection, threadId: string): Promise<string[]> {
  const { values } = await connection.thread(threadId).get();
  const messages = (values.messages ?? []) as FlatMessage[];
  return messages.map(({ id, type, content }) => `${type} ${id} ${JSON.stringify(content)}`);
}

/** All of them show what the thread has. */
async function agree(threadId: string, connection: Connection, ...stores: Conversation[]): Promise<void> {
  await until(
    async () => {
      const { thread } = await connection.thread(threadId).get();
      if (thread!.active.length > 0) return false;
      const now = await said(connection, threadId);
      return stores.every((store) => JSON.stringify(shown(store)) === JSON.stringify(now));
    },
    patienceMs,
    () =>
      `stores that agree: ${stores.map((store) => JSON.stringify([shown(store), store.getSnapshot().status, store.getSnapshot().error])).join("\n")}`,
  );
}

describe.each(["chat", "graph"])("a conversation with a %s agent", (agent) => {
  test("begins, goes on, and is the same in another browser and after a reload", async () => {
    const [one, two] = [connected(), connected(line.gateways[1]!.url)];
    const first = talk(one, agent);
    expect(await first.send("hello")).toBe(true);
    const threadId = first.threadId!;
    const second = talk(two, agent, threadId);
    await idle(first);
    await agree(threadId, one, first, second);
    expect(await second.send("again")).toBe(true);
    await until(() => shown(first).length > 2, patienceMs, "what the other one asked");
    await idle(second);
    await agree(threadId, one, first, second);
    const reloaded = talk(connected(), agent, threadId);
    await idle(reloaded);
    await agree(threadId, one, reloaded);
    expect(shown(reloaded)).toHaveLength(4);
  });

  test("edits, answers anew, and shows the branches; another browser, too", async () => {
    const one = connected();
    const first = talk(one, agent);
    for (const text of ["one", "two"]) {
      await first.send(text);
      await idle(first);
    }
    const threadId = first.threadId!;
    const second = talk(connected(line.gateways[1]!.url), agent, threadId);
    await agree(threadId, one, first, second);
    const before = shown(first);
    for (const [at, branch] of [
      [2, () => first.edit(first.getSnapshot().messages[2]!, "three")],
      [0, () => first.edit(first.getSnapshot().messages[0]!, "zero")],
    ] as const) {
      const kept = shown(first).slice(0, at);
      expect(await branch()).toBe(true);
      await until(
        () => first.getSnapshot().messages[at]?.branches?.count === 2,
        patienceMs,
        () =>
          `branches of ${at}: ${JSON.stringify(first.getSnapshot().messages.map(({ text, branches }) => [text, branches]))}`,
      );
      await idle(first);
      await agree(threadId, one, first, second);
      expect(shown(first).slice(0, at)).toEqual(kept);
      expect(shown(first)).toHaveLength(at + 2);
    }
    expect(await first.regenerate()).toBe(true);
    await until(() => first.getSnapshot().messages[1]?.branches?.count === 2, patienceMs, "two answers");
    await agree(threadId, one, first, second);
    // Back to the very first line.
    expect(await second.select(second.getSnapshot().messages[0]!, 0)).toBe(true);
    await until(() => second.getSnapshot().messages.length === 4, patienceMs, "the first branch");
    expect(await second.select(second.getSnapshot().messages[2]!, 0)).toBe(true);
    expect(shown(second)).toEqual(before);
    expect(await second.send("on from there")).toBe(true);
    await idle(second);
    await agree(threadId, one, first, second);
    expect(shown(first).slice(0, 4)).toEqual(before);
  });

  test("stops, with each keep", async () => {
    const one = connected();
    for (const keep of ["thread", "branch", "discard"] as const) {
      const store = talk(one, agent);
      await store.send("a long story");
      await until(
        () => (store.getSnapshot().messages[1]?.text.length ?? 0) > 10,
        patienceMs,
        "some of the answer",
      );
      expect(await store.stop({ keep })).toBe(true);
      await idle(store);
      await agree(store.threadId!, one, store);
      expect(store.getSnapshot().messages.map(({ status }) => status)).toEqual(
        keep === "thread" ? ["done", "cancelled"] : [],
      );
    }
  });
});

test("waits for a person, in every browser, and goes on with the answer", async () => {
  const one = connected();
  const first = talk(one, "asks");
  await first.send("buy");
  await until(
    () => first.getSnapshot().status.status === "interrupted",
    patienceMs,
    () => `a question; ${JSON.stringify(first.getSnapshot())}`,
  );
  const second = talk(connected(line.gateways[1]!.url), "asks", first.threadId!);
  await until(() => second.getSnapshot().interrupts.length === 1, patienceMs, "the question");
  expect(second.getSnapshot()).toMatchObject({
    status: { status: "interrupted" },
    interrupts: [{ value: "really?" }],
  });
  expect(await second.answer("yes")).toBe(true);
  await until(() => shown(first).length === 2, patienceMs, "the answer");
  await agree(first.threadId!, one, first, second);
  expect(first.getSnapshot()).toMatchObject({ status: { status: "idle" }, interrupts: [] });
  expect(first.getSnapshot().messages[1]!.text).toBe("you said yes");
});

test("shows a turn that failed, in every browser, until it is tried again", async () => {
  const one = connected();
  const first = talk(one, "failsOnce");
  await first.send("tell");
  const error = { action: "run", code: "no_ink", message: "no more ink", retryable: true };
  await until(() => first.getSnapshot().status.status === "failed", patienceMs, "the failure");
  const second = talk(connected(line.gateways[1]!.url), "failsOnce", first.threadId!);
  await until(() => second.getSnapshot().status.status === "failed", patienceMs, "the failure, elsewhere");
  for (const store of [first, second]) {
    expect(store.getSnapshot().status).toEqual({ status: "failed", error });
    expect(store.getSnapshot().messages.map(({ text }) => text)).toEqual(["tell", "Once "]);
    expect(store.getSnapshot().messages[1]!.status).toBe("failed");
  }
  expect(await second.retry()).toBe(true);
  await until(
    () => first.getSnapshot().messages.at(-1)?.text === "Once upon a time",
    patienceMs,
    "the second try",
  );
  await idle(first);
  await agree(first.threadId!, one, first, second);
  expect(shown(first)).toHaveLength(2);
});

test("the list of threads is live, in every browser", async () => {
  const [one, two] = [connected(), connected(line.gateways[1]!.url)];
  const [first, second] = [threads(one), threads(two)];
  open.push(
    () => first.close(),
    () => second.close(),
  );
  const ids = () => second.getSnapshot().threads.map(({ threadId }) => threadId);
  const made = await first.create({ metadata: { title: "A" } });
  await until(() => ids()[0] === made!.threadId, patienceMs, "the new thread");
  await first.rename(made!.threadId, "B");
  await until(() => second.getSnapshot().threads[0]?.metadata.title === "B", patienceMs, "the new title");
  const store = talk(one, "chat");
  await store.send("hello");
  await until(() => ids()[0] === store.threadId, patienceMs, "the conversation that began");
  await idle(store);
  expect(await first.delete(store.threadId!)).toBe(true);
  await until(() => store.getSnapshot().status.status === "deleted", patienceMs, "the deleted thread");
  await until(() => !ids().includes(store.threadId!), patienceMs, "the list without it");
});

/** Any interleaving of what two people do ends with both showing what the thread has. */
describe("two clients", () => {
  const seeds = process.env.CONVERSATION_SEEDS?.split(",").map(Number) ?? [1, 2, 3, 4];
  test.each(
    seeds.flatMap(
      (seed) =>
        [
          [seed, "chat"],
          [seed, "graph"],
        ] as const,
    ),
  )("agree in the end (seed %i, %s)", async (seed, agent) => {
    const random = mulberry(seed);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
    const watcher = connected();
    const first = talk(connected(), agent);
    await first.send("begin");
    const threadId = first.threadId!;
    const second = talk(connected(proxy.url), agent, threadId);
    const stores = [first, second];
    const log: string[] = [];
    for (let i = 0; i < 25; i++) {
      const at = Math.floor(random() * 2);
      const store = stores[at]!;
      const { messages } = store.getSnapshot();
      const step = pick([
        "send",
        "send",
        "stop",
        "edit",
        "regenerate",
        "cut",
        "select",
        "wait",
        "look",
        "settle",
        "take over",
      ]);
      log.push(`${at}:${step}`);
      const humans = messages.filter(({ type, status }) => type === "human" && status === "done");
      if (step === "send") void store.send(`${i}`);
      if (step === "stop") void store.stop({ keep: pick(["thread", "branch", "discard"] as const) });
      if (step === "edit" && humans.length > 0) void store.edit(pick(humans), `edit ${i}`);
      if (step === "regenerate") void store.regenerate();
      if (step === "cut") proxy.cut();
      // The runs of the worker that goes are taken over: function agents begin again.
      if (step === "take over") {
        await line.addWorker();
        await line.workers.shift()!.close();
      }
      if (step === "wait") await sleep(random() * 30);
      if (step === "settle") await idleOrFailed(store);
      const branched = messages.filter(({ branches }) => branches !== undefined);
      if (step === "select" && branched.length > 0) void store.select(pick(branched), 0);
      if (step === "look") await store.select("none", 0);
    }
    for (const store of stores) await idleOrFailed(store);
    // Whoever looks at another branch comes back with the next run.
    if (log.some((each) => each.endsWith("select"))) await first.send("the end");
    try {
      await agree(threadId, watcher, ...stores);
    } catch (error) {
      throw new Error(
        `${log.join(" ")}\n${(error as Error).message}\nthe thread: ${JSON.stringify(await said(watcher, threadId))}`,
      );
    }
  });
});

async function idleOrFailed(store: Conversation): Promise<void> {
  await until(
    () =>
      !["sending", "queued", "running", "stopping", "loading"].includes(store.getSnapshot().status.status),
    patienceMs,
    () =>
      `an end; it is ${JSON.stringify(store.getSnapshot().status)} ${JSON.stringify(store.getSnapshot().queue)}`,
  );
}

function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

test("a tab on an id sees the thread begin under it, go, and begin anew", async () => {
  const [one, two] = [connected(), connected(line.gateways[1]!.url)];
  const threadId = `later-${Date.now()}`;
  const [first, second] = [talk(one, "chat", threadId), talk(two, "chat", threadId)];
  const status = (store: Conversation) => store.getSnapshot().status.status;
  const both = (expected: string) =>
    until(() => [first, second].every((store) => status(store) === expected), patienceMs, expected);
  await both("new");
  for (const question of ["hello", "once more"]) {
    expect(await first.send(question)).toBe(true);
    await until(() => shown(second).length === 2, patienceMs, "what the other one asked");
    await both("idle");
    await agree(threadId, one, first, second);
    await one.call("thread.delete", { threadId });
    await both("deleted");
    expect([...shown(first), ...shown(second)]).toEqual([]);
  }
});
