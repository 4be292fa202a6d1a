/** docs/langgraph.md, done as it says: its files are written, its commands run, its page is opened in a browser. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findFreePort } from "@throughline/local";
import { build } from "esbuild";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findChromium, openPage } from "../support/browser.ts";
import { Program } from "../support/program.ts";
import { startPrivateRedis } from "../support/redis.ts";
import { patienceMs, within } from "../support/until.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const guide = readFileSync(`${root}docs/langgraph.md`, "utf8");
const blocks = [...guide.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language, text]) => ({
  language,
  text: text!,
}));
/** The guide's files, by the names that their first lines give. */
const files = new Map(
  blocks.flatMap(({ text }) => {
    const name = /^(?:\/\/|<!--) ([\w.-]+)(?: -->)?\n/.exec(text)?.[1];
    return name === undefined ? [] : [[name, text] as const];
  }),
);
/** The guide's commands, without what is remarked on them. */
const commands = blocks
  .filter(({ language }) => language === "sh")
  .flatMap(({ text }) => text.split("\n"))
  .map((line) => line.replace(/\s+#.*$/, "").trim())
  .filter((line) => line !== "");

/** As a shell splits it; the guide quotes with ' alone. */
const words = (command: string) =>
  [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, word]) => quoted ?? word!);

let folder: string;
let redis: Awaited<ReturnType<typeof startPrivateRedis>>;
const programs: Program[] = [];

beforeAll(async () => {
  mkdirSync(`${root}.data`, { recursive: true });
  folder = mkdtempSync(`${root}.data/guide-`);
  for (const [name, text] of files) writeFileSync(join(folder, name), text);
  redis = await startPrivateRedis();
});
afterAll(async () => {
  await Promise.all(programs.map(end));
  await redis.stop();
  rmSync(folder, { recursive: true, force: true });
});

function run(path: string, args: string[], env: Record<string, string>): Program {
  const program = new Program(path, args, env);
  programs.push(program);
  return program;
}

async function end(program: Program): Promise<void> {
  if (program.isRunning) program.process.kill("SIGTERM");
  await program.exit;
}

interface Started {
  program: Program;
  port: number;
}

/** The guide's `npm start -- …`: what that runs, on a port of its own, and on the Redis of this test. */
async function npmStart(command: string): Promise<Started> {
  expect(commands).toContain(command);
  const port = await findFreePort();
  const env = { REDIS_URL: redis.url, PORT: `${port}`, HOST: "", AUTH: "", AGENTS: "", DRAIN_MS: "0" };
  const program = run("infra/local/dist/main.js", words(command).slice(3), {
    ...env,
    npm_lifecycle_event: "start",
    INIT_CWD: folder,
  });
  await program.says("out", /Ctrl-C stops everything/);
  return { program, port };
}

/** The guide's `npm run cli -- …`. */
async function cli({ port }: Started, command: string): Promise<Program> {
  expect(commands).toContain(command);
  const program = run("apps/cli/dist/main.js", words(command).slice(4), {
    THROUGHLINE_URL: `127.0.0.1:${port}`,
  });
  expect([await program.exit, program.err]).toEqual([0, expect.not.stringContaining("failed")]);
  return program;
}

const story =
  "Once upon a time there was a heron who counted the boats that crossed the river at dusk. ".repeat(4);

test("the first graph, and its page: it is reloaded in the middle of the story, and then stopped", async () => {
  const started = await npmStart("npm start -- --agents ./my-graph.ts");
  const told = cli(started, "npm run cli -- run story 'Tell me a story'");

  expect(commands).toContain("npx esbuild page.js --bundle --format=esm --outdir=built --servedir=.");
  const page = files.get("page.js")!.replace("127.0.0.1:8787", `127.0.0.1:${started.port}`);
  writeFileSync(join(folder, "page.js"), page + reader);
  const bundle = await build({
    entryPoints: [join(folder, "page.js")],
    bundle: true,
    format: "esm",
    write: false,
    conditions: ["throughline-source"],
    logLevel: "silent",
  });
  const { server, seen } = await servePage(bundle.outputFiles[0]!.text);
  const { port } = server.address() as AddressInfo;
  const browser = await openPage(await findChromium(), `http://127.0.0.1:${port}/page.html`);
  try {
    const { before, after, stopped, status } = await within(seen, patienceMs, "what the page saw");
    expect(before.length).toBeGreaterThan(10);
    expect(after.startsWith(before)).toBe(true);
    expect(stopped.startsWith(after)).toBe(true);
    expect(story.startsWith(stopped)).toBe(true);
    expect(stopped.length).toBeLessThan(story.length);
    expect(status).toBe("cancelled");
  } finally {
    await browser.close();
    server.close();
  }
  expect((await told).out).toBe(story);
  await end(started.program);
});

/** The hands and eyes of whoever sits before the page: sends, reloads, presses Stop, and tells. */
const reader = `
const look = async (length) => {
  while (element("text").textContent.length < length) await new Promise((resolve) => setTimeout(resolve, 5));
  return element("text").textContent;
};
if (sessionStorage.before === undefined) {
  element("form").requestSubmit();
  sessionStorage.before = await look(20);
  location.reload();
} else {
  const after = await look(sessionStorage.before.length + 20);
  element("stop").click();
  while (element("status").textContent !== "cancelled") await new Promise((resolve) => setTimeout(resolve, 5));
  const seen = { before: sessionStorage.before, after, stopped: await look(0), status: element("status").textContent };
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
}
`;

async function servePage(script: string) {
  let tell: (seen: Record<"before" | "after" | "stopped" | "status", string>) => void;
  const seen = new Promise<Parameters<typeof tell>[0]>((resolve) => {
    tell = resolve;
  });
  const server: Server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    if (request.url === "/seen") tell(JSON.parse(body));
    const isScript = request.url === "/built/page.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : files.get("page.html"));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, seen };
}

test("the graph that asks, and the built-in one: asked, answered, done", async () => {
  const started = await npmStart("npm start -- --agents ./ask.ts");
  const question =
    "npm run cli -- run research 'What happens to a run when its worker dies?' --thread research-1";
  const questioned = cli(started, question);
  const asked = await cli(started, `npm run cli -- run orders '{"order":"tea"}' --thread order-1`);
  expect(asked.err).toContain('waits for an answer: {"question":"Send tea?"}');
  const answered = await cli(started, "npm run cli -- run orders --resume yes --thread order-1");
  expect(answered.err).toContain('update {"send":{"answer":"tea is on its way"}}');

  expect((await questioned).err).toContain('"kind": "approval"');
  const researched = await cli(
    started,
    "npm run cli -- run research --resume true --thread research-1 --subgraphs",
  );
  expect(researched.out).toMatch(/^On “What happens to a run when its worker dies\?”:\n\n- /);
  await end(started.program);
});

test("a graph for each run, and one that remembers", async () => {
  const plans = await npmStart("npm start -- --agents ./by-plan.ts");
  const command = `npm run cli -- run helper 'Which plan am I on?' --config '{"configurable":{"plan":"gold"}}'`;
  expect((await cli(plans, command)).out).toContain("You are on the plan gold.");
  await end(plans.program);

  const memory = await npmStart("npm start -- --agents ./memory.ts");
  await cli(memory, `npm run cli -- run memory '{"note":"likes tea"}'`);
  const second = await cli(memory, `npm run cli -- run memory '{"note":"allergic to nuts"}'`);
  expect(second.err).toContain('"all":["allergic to nuts","likes tea"]');

  const waits = await cli(
    memory,
    "npm run cli -- run chat-graph 'Tell me a story' --interrupt-before model --timeout 60",
  );
  expect(waits.err).toContain("waits");
  await end(memory.program);
});

test("every file of the guide is used, and every command known", () => {
  const used = ["my-graph.ts", "page.html", "page.js", "ask.ts", "by-plan.ts", "memory.ts"];
  expect([...files.keys()]).toEqual(used);
  // Tried above, all but the one that waits for somebody to press Ctrl-C.
  expect(commands).toHaveLength(15);
  expect(commands).toContain("npm run cli -- run chat-graph 'Tell me a story'");
});
