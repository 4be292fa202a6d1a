/**
 * What the chat page of examples/chat costs in a browser: a long thread's first paint, and what renders while an answer
 * streams into it.
 *
 *     node test/dist/bench/chat.js [--messages N] [--rounds N] [--seconds N]
 *
 * Gateway and worker are in this process, the page in a Chromium of its own, all on one machine.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { AgentContext } from "@throughline/worker";
import type { BrowserContext, Page } from "playwright-core";
import { bundle, ChatPages } from "../support/chat-page.ts";
import { type Line, startLine } from "../support/line.ts";
import type { Probe } from "../support/probe.ts";
import { startPrivateRedis } from "../support/redis.ts";
import { patienceMs, until } from "../support/until.ts";

export interface Painted {
  /** From the navigation to the script's first line, ms. */
  scriptMs: number;
  /** From the script's first line to the paint of the thread's last message, ms: connection, watch, state, render. */
  lastMs: number;
}

export interface Streamed {
  /** Commits of React's while the answer grew. */
  commits: number;
  /** Messages that rendered in them. */
  rendered: number;
  /** The most in one. */
  most: number;
  /** Tasks of the main thread over 50 ms, and the longest, ms. */
  longTasks: number;
  longest: number;
}

const probeOf = (page: Page) => page.evaluate(() => (globalThis as unknown as { probe: Probe }).probe);

/** A person whose pages are watched from their first line on. */
async function watched(pages: ChatPages, last: string): Promise<BrowserContext> {
  const person = await pages.person();
  await person.addInitScript({ content: `globalThis.lastMessage = ${JSON.stringify(last)};` });
  await person.addInitScript({ content: await bundle("test/browser/probe.ts") });
  return person;
}

/** As many words as the question says, 200 a second. */
export async function* writer({ messages, signal }: AgentContext) {
  const words = Number(messages.at(-1)?.content);
  const from = performance.now();
  for (let i = 0; i < words; i++) {
    const early = from + i * 5 - performance.now();
    if (early > 0) await sleep(early, undefined, { signal });
    yield `word${i} `;
  }
}

/** A thread with so many messages. Answers its id, and the text of the last. */
async function longThread(line: Line, messages: number): Promise<[threadId: string, last: string]> {
  const client = await line.client();
  const text = (i: number) => `message ${i} ${"lorem ipsum dolor sit amet ".repeat(4 + (i % 8))}`.trim();
  const { thread } = await client.call("thread.create", {});
  const all = Array.from({ length: messages }, (_, i) => ({
    type: i % 2 === 0 ? "human" : "ai",
    id: `m${i}`,
    content: text(i),
  }));
  await client.call("thread.update", { threadId: thread.threadId, values: { messages: all } });
  return [thread.threadId, text(messages - 1)];
}

/** Opens a long thread, again and again, each time in a tab of its own. */
export async function openLong(
  line: Line,
  pages: ChatPages,
  { messages, rounds }: { messages: number; rounds: number },
): Promise<Painted[]> {
  const [threadId, last] = await longThread(line, messages);
  const person = await watched(pages, last);
  const painted: Painted[] = [];
  for (let i = 0; i < rounds; i++) {
    const page = await pages.tab(person, { gateway: line.gateways[0]!.url, agent: "writer" }, threadId);
    const probe = await until(async () => {
      const found = await probeOf(page);
      return found.paintedAt > 0 ? found : false;
    });
    painted.push({ scriptMs: probe.startedAt, lastMs: probe.paintedAt - probe.startedAt });
    await page.close();
  }
  await person.close();
  return painted;
}

/** Streams an answer of so many words into a thread whose messages are all on the page. */
export async function streamInto(
  line: Line,
  pages: ChatPages,
  { messages, words }: { messages: number; words: number },
): Promise<Streamed> {
  const [threadId, last] = await longThread(line, messages);
  const person = await watched(pages, last);
  const page = await pages.tab(person, { gateway: line.gateways[0]!.url, agent: "writer" }, threadId);
  const articles = page.locator("article");
  await articles.first().waitFor();
  while ((await articles.count()) < messages) {
    await page.getByRole("button", { name: "Earlier messages" }).click();
  }
  await page.getByLabel("Message").fill(`${words}`);
  await page.getByRole("button", { name: "Send" }).click();
  await until(async () => (await articles.count()) === messages + 2);
  const answer = articles.last().locator("span");
  await until(async () => ((await answer.textContent()) ?? "").includes("word5 "));
  const before = await page.evaluate(() => {
    const { probe } = globalThis as unknown as { probe: Probe };
    probe.commits = [];
    probe.tasks = [];
    return true;
  });
  if (!before) throw new Error("the page is gone");
  // Up to shortly before its end, for then the whole state comes.
  const nearEnd = `word${words - 5} `;
  await until(async () => ((await answer.textContent()) ?? "").includes(nearEnd), patienceMs + words * 10);
  const { commits, tasks } = await probeOf(page);
  await person.close();
  return {
    commits: commits.length,
    rendered: commits.reduce((sum, each) => sum + each, 0),
    most: Math.max(0, ...commits),
    longTasks: tasks.length,
    longest: Math.max(0, ...tasks),
  };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      messages: { type: "string", default: "500" },
      rounds: { type: "string", default: "11" },
      seconds: { type: "string", default: "20" },
    },
  });
  const messages = Number(values.messages);
  const redis = await startPrivateRedis();
  const line = await startLine({ agents: { writer }, redisUrl: redis.url });
  const pages = await ChatPages.start();
  const painted = await openLong(line, pages, { messages, rounds: Number(values.rounds) });
  const script = median(painted.map(({ scriptMs }) => scriptMs));
  const paints = painted.map(({ lastMs }) => lastMs);
  const streamed = await streamInto(line, pages, { messages, words: Number(values.seconds) * 200 });
  const say = (text: string) => process.stdout.write(`${text}\n`);
  say(
    `a thread of ${messages} messages, ${painted.length} tabs: React's first commit ${script.toFixed(0)} ms after the`,
  );
  say(
    `navigation; its last messages are painted ${median(paints).toFixed(0)} ms after that (worst ${Math.max(...paints).toFixed(0)} ms)`,
  );
  say(`an answer of 200 words a second, all ${messages} messages on the page: ${streamed.commits} commits,`);
  say(
    `${(streamed.rendered / streamed.commits).toFixed(3)} messages rendered in each (most ${streamed.most}),`,
  );
  say(`${streamed.longTasks} tasks over 50 ms (longest ${streamed.longest.toFixed(0)} ms)`);
  await pages.close();
  await line.stop();
  await redis.stop();
}
