/** The chat page of examples/chat, as a bundler builds it, on a server of its own, in a Chromium that a test drives. */
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { findChromium } from "./browser.ts";

/** Of the repository: this file is run as it is, and compiled from below `dist`. */
const root = new URL(import.meta.url.includes("/dist/") ? "../../../" : "../../", import.meta.url);
const folder = new URL("examples/chat/", root);
const types: Record<string, string> = { html: "text/html", css: "text/css", js: "text/javascript" };

export class ChatPages {
  readonly #browser: Browser;
  readonly #server: Server;
  /** What pages said on their consoles, and what they threw: nobody expects any of it. */
  readonly complaints: string[] = [];

  private constructor(browser: Browser, server: Server) {
    this.#browser = browser;
    this.#server = server;
  }

  static async start(): Promise<ChatPages> {
    const [executablePath, script] = await Promise.all([findChromium(), bundle("examples/chat/chat.tsx")]);
    const server = await serve(script);
    const browser = await chromium.launch({
      executablePath,
      args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"],
    });
    return new ChatPages(browser, server);
  }

  /** A browser profile of its own: another user's, or another device. */
  async person(): Promise<BrowserContext> {
    const context = await this.#browser.newContext();
    context.setDefaultTimeout(60_000);
    return context;
  }

  /** A tab with the page. @param query what the page is told: the gateway, the agent */
  async tab(person: BrowserContext, query: Record<string, string>, threadId = ""): Promise<Page> {
    const page = await person.newPage();
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    page.on("console", (message) => {
      // A connection that is refused while a gateway is away is told of by the browser itself.
      const isNetwork = /WebSocket connection|ERR_CONNECTION|ERR_INTERNET/.test(message.text());
      if (message.type() === "error" && !isNetwork) this.complaints.push(message.text());
    });
    await page.goto(this.url(query, threadId));
    return page;
  }

  url(query: Record<string, string>, threadId = ""): string {
    const { port } = this.#server.address() as AddressInfo;
    return `http://127.0.0.1:${port}/?${new URLSearchParams(query)}#${threadId}`;
  }

  async close(): Promise<void> {
    await this.#browser.close();
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

/** A script for browsers. @param entry path from the root of the repository */
export async function bundle(entry: string): Promise<string> {
  const result = await build({
    entryPoints: [fileURLToPath(new URL(entry, root))],
    bundle: true,
    write: false,
    format: "esm",
    platform: "browser",
    target: "es2022",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"production"' },
    conditions: ["throughline-source"],
    logLevel: "silent",
  });
  return result.outputFiles[0]!.text;
}

async function serve(script: string): Promise<Server> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://page").pathname.slice(1) || "index.html";
    const read = path === "chat.js" ? Promise.resolve(script) : readFile(new URL(path, folder), "utf8");
    read.then(
      (text) => {
        const type = types[path.split(".").at(-1)!] ?? "text/plain";
        response.setHeader("content-type", `${type}; charset=utf-8`).end(text);
      },
      () => response.writeHead(404).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}
