/** The chat page of examples/chat in Chromium, against a real gateway and real workers: what a person does with a chat. */
import { setTimeout as sleep } from "node:timers/promises";
import { END, interrupt, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { type AgentContext, agent, PublicError } from "@throughline/worker";
import type { BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { ChatPages } from "../support/chat-page.ts";
import { GatewayProcess } from "../support/gateway-process.ts";
import { type Line, startLine } from "../support/line.ts";
import { startProxy } from "../support/proxy.ts";
import { lastingPort } from "../support/redis.ts";
import { until } from "../support/until.ts";
import { WorkerProcess } from "../support/worker-process.ts";

let line: Line;
let pages: ChatPages;
let person: BrowserContext;

/** Counts for as long as the question says, or until it is stopped. */
async function* counter({ messages, signal }: AgentContext) {
  const question = String(messages.at(-1)?.content ?? "");
  const words = Number(/\d+/.exec(question)?.[0] ?? 5);
  for (let i = 1; i <= words; i++) {
    yield `${question.split(" ")[0]}-${i} `;
    await sleep(words > 100 ? 5 : 0, undefined, { signal });
  }
}

let attempts = 0;

/** Fails at first. */
async function* flaky() {
  attempts += 1;
  yield "Once ";
  if (attempts === 1) throw new PublicError("No more ink");
  yield "more";
}

/** Asks before it answers. */
const asker = new StateGraph(MessagesAnnotation)
  .addNode("ask", async () => {
    const answer = interrupt("May I?");
    return { messages: [{ role: "assistant", content: `You said ${answer}` }] };
  })
  .addEdge(START, "ask")
  .addEdge("ask", END)
  .compile();

beforeAll(async () => {
  const agents = { counter: agent(counter), flaky: agent(flaky), asker };
  line = await startLine({ agents });
  pages = await ChatPages.start();
}, 600_000);

afterEach(async () => {
  await person?.close();
  expect(pages.complaints.splice(0)).toEqual([]);
});

afterAll(async () => {
  await pages?.close();
  await line?.stop();
});

async function open(who = "counter", threadId = "", gateway = line.gateways[0]!.url): Promise<Page> {
  if (person === undefined || person.pages().length === 0) person = await pages.person();
  return await pages.tab(person, { gateway, agent: who }, threadId);
}

const texts = (page: Page) => page.locator("article span").allTextContents();
const statusOf = (page: Page) => page.getByRole("status").textContent();
const threadOf = (page: Page) => new URL(page.url()).hash.slice(1);

async function send(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

async function idle(page: Page): Promise<void> {
  await until(async () => (await statusOf(page)) === "idle", undefined, "an idle chat");
}

/** The answer that grows has at least so many words. */
async function grows(page: Page, words: number): Promise<void> {
  const count = async () => (await texts(page)).at(-1)!.trim().split(" ").length;
  await until(async () => (await count()) >= words, undefined, `${words} words`);
}

/** What the thread has, as texts. */
async function stored(threadId: string): Promise<string[]> {
  const client = await line.client();
  const { values } = await client.call("thread.get", { threadId });
  return (values.messages as { content: string }[]).map(({ content }) => content);
}

const answer = (word: string, count: number) =>
  Array.from({ length: count }, (_, i) => `${word}-${i + 1} `).join("");

test("a person sends, reads on, stops in mid-sentence, and goes on; what is on the screen is what the thread has", async () => {
  const page = await open();
  await send(page, "a 3");
  await idle(page);
  expect(await texts(page)).toEqual(["a 3", answer("a", 3)]);
  const [asked, said] = await Promise.all([0, 1].map((i) => page.locator("article").nth(i).boundingBox()));
  expect(said!.y).toBeGreaterThanOrEqual(asked!.y + asked!.height);
  await send(page, "b 5000");
  await grows(page, 20);
  await page.getByRole("button", { name: "Stop" }).click();
  await idle(page);
  const [, , question, partial] = await texts(page);
  expect(question).toBe("b 5000");
  expect(answer("b", 5000).startsWith(partial!)).toBe(true);
  expect(await page.locator("article").last().getAttribute("class")).toBe("ai cancelled");
  await send(page, "c 2");
  await idle(page);
  expect((await texts(page)).slice(3)).toEqual([partial, "c 2", answer("c", 2)]);
  expect(await texts(page)).toEqual(await stored(threadOf(page)));
});

test("a question is edited, an answer asked for again, and its branches are gone through", async () => {
  const page = await open();
  await send(page, "a 2");
  await idle(page);
  await send(page, "b 2");
  await idle(page);
  page.once("dialog", (dialog) => void dialog.accept("x 3"));
  await page.locator("article", { hasText: "b 2" }).getByRole("button", { name: "Edit" }).click();
  await until(async () => (await texts(page)).at(-1) === answer("x", 3));
  await idle(page);
  expect(await texts(page)).toEqual(["a 2", answer("a", 2), "x 3", answer("x", 3)]);
  await page.locator("article.human").last().getByRole("button", { name: "1", exact: true }).click();
  await until(async () => (await texts(page)).at(-1) === answer("b", 2));
  expect(await texts(page)).toEqual(["a 2", answer("a", 2), "b 2", answer("b", 2)]);
  // What is sent now goes on from here.
  await send(page, "d 1");
  await until(async () => (await texts(page)).at(-1) === answer("d", 1));
  await idle(page);
  expect(await texts(page)).toEqual(["a 2", answer("a", 2), "b 2", answer("b", 2), "d 1", answer("d", 1)]);
  expect(await stored(threadOf(page))).toEqual(await texts(page));
  await page.locator("article.ai").first().getByRole("button", { name: "Again" }).click();
  await until(async () => (await texts(page)).length === 2);
  await idle(page);
  expect(await texts(page)).toEqual(["a 2", answer("a", 2)]);
  await until(async () => (await page.locator("article.ai").first().getByRole("button").count()) === 3);
});

test("an empty message is not sent; a run that failed says why, and is tried again, and so is what was refused", async () => {
  const page = await open("flaky");
  await page.getByRole("button", { name: "Send" }).click();
  expect(await statusOf(page)).toBe("new");
  await send(page, "a");
  const again = page.getByRole("button", { name: "Try again" });
  await again.waitFor();
  expect(await statusOf(page)).toBe("No more ink");
  expect(await texts(page)).toEqual(["a", "Once "]);
  await again.click();
  await until(async () => (await texts(page)).at(-1) === "Once more");
  await idle(page);
  expect(await again.count()).toBe(0);
  const nobody = await open("nobody");
  await send(nobody, "b");
  await nobody.getByRole("button", { name: "Try again" }).click();
  await until(async () => (await statusOf(nobody))?.includes('there is no agent "nobody"'));
});

test("an agent's question is answered, in whichever tab", async () => {
  const page = await open("asker");
  await send(page, "hello");
  const yes = page.getByRole("button", { name: /Yes/ });
  await yes.waitFor();
  expect(await yes.inputValue()).toBe("Yes: May I?");
  const other = await open("asker", threadOf(page));
  await other.getByRole("button", { name: /Yes/ }).click();
  for (const each of [page, other]) {
    await idle(each);
    expect(await texts(each)).toEqual(["hello", "You said true"]);
    expect(await each.getByRole("button", { name: /Yes/ }).count()).toBe(0);
  }
});

test("a reload in mid-sentence, and a tab that comes to it, show the question and the same sentence, which goes on", async () => {
  const page = await open();
  await send(page, "a 2000");
  await grows(page, 10);
  await page.reload();
  await grows(page, 15);
  const [question, begun] = await texts(page);
  expect(question).toBe("a 2000");
  expect(answer("a", 2000).startsWith(begun!)).toBe(true);
  const other = await open("counter", threadOf(page));
  await grows(other, 20);
  expect((await texts(other))[0]).toBe("a 2000");
  // The other tab stops it; this one is told.
  await other.getByRole("button", { name: "Stop" }).click();
  await idle(page);
  await idle(other);
  const kept = await stored(threadOf(page));
  expect(await texts(page)).toEqual(kept);
  expect(await texts(other)).toEqual(kept);
  // A run that one of them starts is there in the other.
  await send(other, "b 2");
  await until(async () => (await texts(page)).at(-1) === answer("b", 2));
});

test("a gateway that is killed, a cable that is cut and a device that is offline cost a sentence nothing", async () => {
  const port = await lastingPort();
  const env = { REDIS_URL: line.redisUrl, KEY_PREFIX: line.prefix };
  let gateway = await GatewayProcess.start(env, port);
  const proxy = await startProxy(gateway.url);
  const page = await open("counter", "", proxy.url);
  await send(page, "a 1200");
  await grows(page, 10);
  gateway.process.kill("SIGKILL");
  await gateway.exit;
  gateway = await GatewayProcess.start(env, port);
  await grows(page, 100);
  proxy.cut();
  await grows(page, 200);
  await person.setOffline(true);
  proxy.strand();
  await sleep(300);
  await person.setOffline(false);
  proxy.cut();
  await until(async () => (await texts(page)).at(-1) === answer("a", 1200));
  await idle(page);
  expect(await stored(threadOf(page))).toEqual(["a 1200", answer("a", 1200)]);
  proxy.close();
  gateway.process.kill("SIGKILL");
});

test("a worker that is killed costs what it had said, and nothing is there twice", async () => {
  const worker = await WorkerProcess.start(line.redisUrl, line.prefix, { AGENTS: "talk" });
  const client = await line.client();
  const input = { n: 500, ms: 10 };
  const { threadId } = await client.call("run.start", { agent: "talk", input, subscribe: false });
  const page = await open("talk", threadId);
  // An attempt's number, and a word's.
  const attempt = async () => Number(/^(\d+):0 \d+:1 /.exec((await texts(page)).at(-1) ?? "")?.[1]);
  const first = await until(async () => (await attempt()) || false);
  await worker.kill();
  const next = await WorkerProcess.start(line.redisUrl, line.prefix, { AGENTS: "talk" });
  const second = await until(async () => (await attempt()) > first && (await attempt()));
  await idle(page);
  expect(await texts(page)).toEqual([Array.from({ length: 500 }, (_, i) => `${second}:${i} `).join("")]);
  await next.kill();
});

test("a thread that is deleted elsewhere is gone from the screen", async () => {
  const page = await open();
  await send(page, "a 2000");
  await grows(page, 5);
  const client = await line.client();
  await client.call("thread.delete", { threadId: threadOf(page) });
  await until(async () => (await statusOf(page)) === "deleted");
  expect(await texts(page)).toEqual([]);
});
