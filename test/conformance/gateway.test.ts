/** Our gateway and worker against the suite, with every hook given: nothing is skipped. */
import { createHmac, randomBytes } from "node:crypto";
import { connect } from "node:net";
import { DynamicStructuredTool } from "@langchain/core/tools";
import { FakeListChatModel } from "@langchain/core/utils/testing";
import { Annotation, interrupt, START, StateGraph } from "@langchain/langgraph";
import { Dispatcher } from "@throughline/dispatch";
import { agents } from "@throughline/examples";
import { type Gateway, gatewayConfig, startGateway } from "@throughline/gateway";
import { createLogger } from "@throughline/kit";
import { Fold, type FoldSnapshot, lifecycle, type Part } from "@throughline/protocol";
import { body, LogWriter, RunStore, type RunWriter, runKeys } from "@throughline/runlog";
import { type AgentContext, serve, step, type WorkerHandle } from "@throughline/worker";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startPrivateRedis, testPrefix, testRedisUrl } from "../support/redis.ts";
import { describeGateway, type GatewayTarget, gatewayTests, type Hooks } from "./gateway.ts";

const secret = "a secret of more than thirty-two bytes, for tests";
const logger = createLogger("conformance", { level: "silent" });
const owner = "alice";
const prefix = testPrefix();
const opened: { close(): Promise<unknown> }[] = [];
let redis: Redis;
let worker: WorkerHandle;
let target: GatewayTarget & Hooks;

/** An HS256 JWT. */
function tokenFor(sub: string, seconds = 3600): string {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const signed = `${encode({ alg: "HS256" })}.${encode({ sub, exp })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

async function gateway(env: Record<string, string> = {}, redisUrl = testRedisUrl()): Promise<Gateway> {
  const config = gatewayConfig({
    REDIS_URL: redisUrl,
    KEY_PREFIX: prefix,
    PORT: "0",
    AUTH: "jwt",
    JWT_SECRET: secret,
    ALLOWED_ORIGINS: "https://console.example",
    ...env,
  });
  const started = await startGateway(config, logger);
  opened.push(started);
  return started;
}

/** What `make` answers, made once. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}

/** A run that this test writes by itself: claimed, and not ended. */
async function scriptedRun(runId: string): Promise<RunWriter> {
  const request = JSON.stringify({ queue: "none" });
  const run = { runId, threadId: `of-${runId}`, agent: "scripted", owner, epoch: "e1", request };
  await new RunStore(redis, { prefix }).open(run);
  const claimed = await new LogWriter(redis, { prefix }).claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(`the run is ${claimed.outcome}`);
  await claimed.writer.write(lifecycle({ event: "started", attempt: 1 }));
  return claimed.writer;
}

function chunk(content: string, node: string, ns: string[] = [], tags?: string[]): Part {
  const metadata = { langgraph_node: node, ...(tags === undefined ? {} : { tags }) };
  return { type: "messages", ns, data: [{ type: "AIMessageChunk", id: `of-${node}`, content }, metadata] };
}

async function variedRun(): Promise<{ runId: string; parts: Part[] }> {
  const writer = await scriptedRun("varied");
  const round = (i: number): Part[] => [
    chunk(`w${i}`, "writer", [], ["draft"]),
    chunk(`c${i}`, "critic", ["review:1"]),
    chunk(`d${i}`, "critic", ["review:1", "deep:2"], ["draft", "inner"]),
    { type: "custom", ns: ["other:1"], data: { i } },
    { type: "updates", ns: [], data: { planner: { round: i } } },
    { type: "custom", ns: [], data: { progress: i } },
  ];
  const parts = [round(1), round(2), round(3)].flat();
  for (const part of parts) await writer.write(part);
  await writer.finish({ event: "completed" });
  const started = lifecycle({ event: "started", attempt: 1 });
  return { runId: "varied", parts: [started, ...parts, lifecycle({ event: "completed" })] };
}

/** `padding`: what each of its tokens is made longer by. */
async function trimmedRun(runId: string, padding: string) {
  const writer = await scriptedRun(runId);
  const fold = new Fold();
  fold.add(lifecycle({ event: "started", attempt: 1 }), 1);
  let snapshot: FoldSnapshot | undefined;
  let text = "";
  for (let i = 0; i < 20; i++) {
    const token = `${i} 🧵 ${padding}`;
    const part = chunk(token, "writer");
    text += token;
    await writer.write(part);
    fold.add(part, writer.offset);
    await writer.flush();
    if (i === 9) snapshot = fold.snapshot();
  }
  await writer.trim(snapshot!.offset, JSON.stringify(snapshot));
  const head = await writer.finish({ event: "completed" });
  return { runId, first: snapshot!.offset + 1, head, text };
}

async function lossyRun() {
  const runId = `lossy-${Math.random()}`;
  const writer = await scriptedRun(runId);
  await writer.flush();
  const append = async () => {
    const { run, log } = runKeys(prefix, runId);
    // As `append` does it, but for the message.
    await redis
      .multi()
      .xadd(log, "3-0", "n", 2, "b", body([chunk("un", "writer"), chunk("heard", "writer")]))
      .hset(run, "head", 3)
      .exec();
    const claimed = await new LogWriter(redis, { prefix }).claim(runId);
    if (claimed.outcome !== "claimed") throw new Error(`the run is ${claimed.outcome}`);
    await claimed.writer.write(chunk("heard", "writer"));
    await claimed.writer.flush();
    await claimed.writer.finish({ event: "completed" });
  };
  return { runId, append };
}

async function interruptedRun() {
  const interrupts = [{ id: "i1", value: { question: "Really?" } }];
  const writer = await scriptedRun("interrupted");
  await writer.finish({ event: "interrupted", interrupts }, { interrupts });
  return { runId: "interrupted", interrupts };
}

/** A graph as the hook `graph` has it. */
function trail() {
  // What a subgraph answers is the list that it was given, and more.
  const append = (before: string[], more: string[]) =>
    before.every((each, i) => more[i] === each) ? more : [...before, ...more];
  const State = Annotation.Root({
    trail: Annotation<string[]>({ reducer: append, default: () => [] }),
    called: Annotation<string>(),
    ask: Annotation<string>(),
    aside: Annotation<string>(),
    messages: Annotation<unknown[]>({ reducer: (before, more) => [...before, ...more], default: () => [] }),
  });
  type State = typeof State.State;
  const adds = (name: string) => (state: State) => ({ trail: [state.called ?? name] });
  const inside = new StateGraph(State)
    .addNode("one", adds("one"))
    .addNode("two", (state: State) => {
      if (state.ask !== undefined) interrupt(state.ask);
      return adds("two")(state);
    })
    .addEdge(START, "one")
    .addEdge("one", "two")
    .compile();
  const consult = new DynamicStructuredTool({
    name: "consult",
    description: "Asks a model.",
    schema: { type: "object", properties: { said: { type: "string" } } },
    func: async ({ said }, _, config) => {
      await new FakeListChatModel({ responses: [said] }).invoke([]);
      const { signal } = config ?? {};
      await new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    },
  });
  return new StateGraph(State)
    .addNode("before", adds("before"))
    .addNode("inside", inside)
    .addNode("after", async (state: State) => {
      const call = { type: "tool_call" as const, id: "aside", name: "consult" };
      if (state.aside !== undefined) await consult.invoke({ ...call, args: { said: state.aside } });
      return adds("after")(state);
    })
    .addEdge(START, "before")
    .addEdge("before", "inside")
    .addEdge("inside", "after")
    .compile();
}

/** Its first worker dies in its second step, and is gone before the second one comes. */
async function steppedRun() {
  const queue = "steps";
  async function* stepper({ step: last }: AgentContext) {
    if (last === null) {
      yield "one ";
      yield step({ done: 1 });
    }
    yield "two";
  }
  const dispatcher = new Dispatcher(redis, { prefix });
  const { runId } = await dispatcher.start({ agent: "stepper", owner, request: { queue } });
  await dispatcher.close();
  const claimed = await new LogWriter(redis, { prefix }).claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(`the run is ${claimed.outcome}`);
  const { writer } = claimed;
  const say = (text: string) => writer.write(chunk(text, "stepper"));
  await writer.write(lifecycle({ event: "started", attempt: 1 }));
  await say("one ");
  await writer.keepStep(JSON.stringify({ done: 1 }), 0);
  await writer.write(lifecycle({ event: "stepped", attempt: 1 }));
  await say("lost");
  await writer.flush();
  opened.push(await serve({ agents: { stepper }, queue, redis: testRedisUrl(), prefix, logger }));
  return { runId };
}

async function cutOff() {
  const own = await startPrivateRedis();
  const { url } = await gateway({}, own.url);
  return { url, cut: () => own.stop() };
}

const offers: (keyof Hooks)[] = [
  "token",
  "freshToken",
  "otherToken",
  "forbiddenOrigin",
  "expiring",
  "tight",
  "bounded",
  "crowded",
  "draining",
  "cutOff",
  "trimmedRun",
  "largeTrimmedRun",
  "interruptedRun",
  "hungRun",
  "graph",
  "lossyRun",
  "steppedRun",
  "variedRun",
];

beforeAll(async () => {
  redis = new Redis(testRedisUrl());
  worker = await serve({ agents: { ...agents({}), trail: trail() }, redis: testRedisUrl(), prefix, logger });
  const { url } = await gateway();
  target = {
    url,
    token: tokenFor(owner),
    freshToken: tokenFor(owner, 7200),
    otherToken: tokenFor("bob"),
    forbiddenOrigin: "https://elsewhere.example",
    expiring: async () => ({ url: (await gateway({ HEARTBEAT_MS: "400" })).url, token: tokenFor(owner, 4) }),
    tight: once(async () => {
      const limits = {
        HEARTBEAT_MS: "300",
        MAX_SUBSCRIPTIONS: "3",
        COMMANDS_PER_SECOND: "10",
        BYTES_PER_SECOND: "200000",
        MAX_RUNS_IN_LINE: "3",
        SLOW_SOCKET_MS: "900",
      };
      return { url: (await gateway(limits)).url, maxSubscriptions: 3, slowSocketMs: 900, maxInLine: 3 };
    }),
    bounded: async () => {
      const [maxRuns, maxBytes] = [3, 1_000_000];
      const limits = {
        MAX_RUNS_PER_OWNER: String(maxRuns),
        MAX_STORED_BYTES_PER_OWNER: String(maxBytes),
      };
      const token = tokenFor(`bounded-${randomBytes(6).toString("hex")}`);
      return { url: (await gateway(limits)).url, token, maxRuns, maxBytes };
    },
    crowded: async () => ({
      url: (await gateway({ CONNECTIONS_PER_SECOND: "3" })).url,
      connectionsPerSecond: 3,
    }),
    draining: async () => {
      const going = await gateway({ DRAIN_MS: "500" });
      return { url: going.url, drain: () => going.close() };
    },
    cutOff,
    trimmedRun: once(() => trimmedRun("trimmed", "")),
    largeTrimmedRun: once(() => trimmedRun("large-trimmed", '🧵"é漢\\'.repeat(15_000))),
    interruptedRun: once(interruptedRun),
    hungRun: async () => ({ runId: (await scriptedRun("hung")).runId }),
    graph: "trail",
    lossyRun,
    steppedRun: once(steppedRun),
    variedRun: once(variedRun),
  };
});

afterAll(async () => {
  await Promise.all(opened.map((each) => each.close()));
  await worker.close();
  redis.disconnect();
});

describe("our gateway conforms to PROTOCOL.md", () => {
  describeGateway(() => target, offers, it);

  it("gives every hook, so that nothing is skipped", () => {
    expect(Object.keys(target).filter((key) => key !== "url")).toEqual(expect.arrayContaining(offers));
    expect(gatewayTests.flatMap(({ needs }) => needs).filter((need) => !offers.includes(need))).toEqual([]);
  });
});

describe("what is no rule of the wire's", () => {
  it.each(["//", "/\\[", "/v1/ws/", "http://[/v1/ws"])(
    "answers 404 where an upgrade asks for %s, and lives on",
    async (path) => {
      const { port } = await gateway();
      const socket = connect(port, "127.0.0.1");
      const headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
      socket.write(
        `GET ${path} HTTP/1.1\r\nHost: x\r\n${headers}Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n\r\n`,
      );
      let answer = "";
      for await (const chunk of socket) answer += chunk;
      expect(answer).toMatch(/^HTTP\/1.1 404 /);
    },
  );
});
