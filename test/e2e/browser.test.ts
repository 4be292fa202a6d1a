/** The client library in a real browser, against a real gateway. */
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { findFreePort } from "@throughline/local";
import type { AgentContext } from "@throughline/worker";
import { build } from "esbuild";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Blow, Outcome } from "../browser/page.ts";
import { type Browser, findChromium, openPage } from "../support/browser.ts";
import { type Line, startLine } from "../support/line.ts";
import { startProxy, type Proxy as TcpProxy } from "../support/proxy.ts";
import { patienceMs, within } from "../support/until.ts";

let line: Line;
let proxy: TcpProxy;
let server: Server;
let browser: Browser;
let outcome: Promise<Outcome>;

/** Talks until it is stopped. */
async function* talker({ signal }: AgentContext) {
  for (let i = 0; !signal.aborted; i++) {
    yield word(i);
    if (i % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

function word(i: number): string {
  return i % 11 === 0 ? `${i}😀 ` : `${i} `;
}

async function strike(blow: Blow): Promise<void> {
  if (blow === "cut the cable") return proxy.cut();
  const [gateway] = line.gateways;
  await gateway!.close();
  await line.addGateway();
}

/** The page, its script, and what it posts. */
async function serveApplication(script: string, onOutcome: (outcome: Outcome) => void): Promise<Server> {
  const answer = async (request: IncomingMessage): Promise<{ type: string; body: string }> => {
    const posted = request.method === "POST" ? JSON.parse(await readAll(request)) : undefined;
    if (request.url === "/blow") await strike(posted);
    if (request.url === "/outcome") onOutcome(posted);
    if (request.url?.startsWith("/page.js") === true) return { type: "text/javascript", body: script };
    const src = `/page.js?gateway=${encodeURIComponent(proxy.url)}`;
    return { type: "text/html", body: `<!doctype html><script type="module" src="${src}"></script>` };
  };
  const listening = createServer((request, response) => {
    if (request.url === "/nowhere") return void response.writeHead(404).end();
    answer(request).then(
      ({ type, body }) => response.setHeader("content-type", `${type}; charset=utf-8`).end(body),
      (error: unknown) => {
        response.statusCode = 500;
        response.end();
        onOutcome({ failure: String(error) });
      },
    );
  });
  await new Promise<void>((resolve) => listening.listen(0, "127.0.0.1", resolve));
  return listening;
}

async function readAll(request: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) text += chunk;
  return text;
}

beforeAll(async () => {
  const chromium = await findChromium();
  const bundle = await build({
    entryPoints: [fileURLToPath(new URL("../browser/page.ts", import.meta.url))],
    bundle: true,
    write: false,
    format: "esm",
    platform: "browser",
    target: "es2022",
    conditions: ["throughline-source"],
    logLevel: "silent",
  });
  line = await startLine({ agents: { talker }, env: { PORT: `${await findFreePort()}` } });
  proxy = await startProxy(line.gateways[0]!.url);
  let resolve: (outcome: Outcome) => void = () => {};
  outcome = new Promise((found) => {
    resolve = found;
  });
  server = await serveApplication(bundle.outputFiles[0]!.text, resolve);
  browser = await openPage(chromium, `http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
}, 600_000);

afterAll(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
  proxy?.close();
  await line?.stop();
});

test("P1, P3: a page follows a run through a gateway's restart and a cut cable, and stops it", async () => {
  const gone = browser.ended.then((said): Outcome => ({ failure: `the browser ended: ${said}` }));
  const told = await within(Promise.race([outcome, gone]), patienceMs, "the page's outcome");
  if ("failure" in told) throw new Error(told.failure);
  const { runId, delivered, streamed, folded, connections, cancelled, ending, nowhere } = told.story;

  const head = delivered.length;
  expect(delivered.map(({ offset }) => offset)).toEqual(Array.from({ length: head }, (_, i) => i + 1));
  const words = Array.from({ length: head - 2 }, (_, i) => word(i)).join("");
  expect({ streamed, folded }).toEqual({ streamed: words, folded: words });
  expect(new Set(connections).size).toBe(3);

  // It tells a wrong path of its own server's from a server that is away.
  expect(nowhere).toMatchObject({
    status: "closed",
    code: "address",
    reason: expect.stringMatching(/\/nowhere answers 404/),
  });

  const checkpoint = expect.objectContaining({ checkpointId: expect.any(String) });
  expect(cancelled).toEqual({ runId, status: "cancelled", offset: head, checkpoint });
  expect(ending).toEqual({ event: "cancelled", keep: "thread", checkpoint });

  // The log, the checkpoint and the page tell one story.
  const client = await line.client(1);
  const log = await client.follow(runId, { after: 0 });
  await log.ended();
  expect(delivered).toEqual(log.delivered);
  const { threadId } = await client.call("run.get", { runId });
  const { values } = await client.call("thread.get", { threadId });
  expect((values.messages as { content: string }[]).at(-1)?.content).toBe(words);
});
