/** The CLI as a process of its own, against a gateway that does what it is told. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Peer, parts, ScriptedGateway } from "@throughline/client/testing";
import { lifecycle } from "@throughline/protocol";
import { build } from "esbuild";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";

const { token, custom, started, rewound, completed } = parts;

const directory = mkdtempSync(join(tmpdir(), "throughline-cli-"));
const program = join(directory, "main.mjs");
let gateway: ScriptedGateway;
let children: Cli[];

beforeAll(async () => {
  await build({
    entryPoints: [fileURLToPath(new URL("./main.ts", import.meta.url))],
    outfile: program,
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node20",
    conditions: ["throughline-source"],
    banner: {
      js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
    },
    logLevel: "silent",
  });
});

afterAll(() => rmSync(directory, { recursive: true }));

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  children = [];
});

afterEach(async () => {
  for (const { child } of children) child.kill("SIGKILL");
  await gateway.close();
});

class Cli {
  readonly child: ChildProcess;
  out = "";
  err = "";
  readonly exit: Promise<number | null>;

  constructor(args: string[], env: Record<string, string> = {}) {
    const { NO_COLOR: _, FORCE_COLOR: __, npm_lifecycle_event: ___, ...rest } = process.env;
    this.child = spawn(process.execPath, [program, ...args], {
      env: { ...rest, THROUGHLINE_URL: gateway.url, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.child.stdout?.on("data", (data) => {
      this.out += data;
    });
    this.child.stderr?.on("data", (data) => {
      this.err += data;
    });
    this.exit = once(this.child, "close").then(([code]) => code as number | null);
    children.push(this);
  }

  async shows(where: "out" | "err", text: string): Promise<void> {
    await vi.waitFor(() => expect(this[where]).toContain(text), { timeout: 60_000, interval: 5 });
  }
}

async function running(args: string[], env?: Record<string, string>): Promise<{ cli: Cli; peer: Peer }> {
  const cli = new Cli(args, env);
  return { cli, peer: await gateway.accept() };
}

const cancelledPart = lifecycle({
  event: "cancelled",
  keep: "thread",
  checkpoint: { threadId: "t1", checkpointId: "k1" },
});

const record = {
  runId: "r1",
  threadId: "t1",
  agent: "a",
  status: "completed",
  attempt: 1,
  first: 1,
  head: 5,
  epoch: "e1",
  createdAt: "2026-01-01T00:00:00Z",
} as const;

describe("run", () => {
  it("prints exactly the text on a stdout that is piped, and exits with 0", async () => {
    const { cli, peer } = await running(["run", "storyteller", '{"topic":"sea"}', "--modes", "messages"]);
    const { params } = await peer.started();
    expect(params).toMatchObject({ agent: "storyteller", input: { topic: "sea" }, modes: ["messages"] });
    peer.parts("r1", 1, [started(), token("Once "), custom("x")]);
    await cli.shows("out", "Once ");
    peer.parts("r1", 4, [token("upon é"), completed()]);
    expect(await cli.exit).toBe(0);
    expect(cli.out).toBe("Once upon é");
    expect(cli.err.split("\n")).toEqual([
      "started",
      'custom "x"',
      "completed; saved in checkpoint k1 of thread t1",
      "",
    ]);
  });

  it("--json prints each part with its offset", async () => {
    const { cli, peer } = await running(["run", "a", "hello", "--json"]);
    expect((await peer.started()).params.input).toBe("hello");
    peer.parts("r1", 1, [started(), token("a"), completed()]);
    expect(await cli.exit).toBe(0);
    const lines = cli.out.trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line).offset)).toEqual([1, 2, 3]);
  });

  it("exits with 1 when the run fails, or cannot be started", async () => {
    const one = await running(["run", "a"]);
    await one.peer.started();
    one.peer.parts("r1", 1, [
      lifecycle({ event: "failed", error: { name: "Error", message: "out of ideas" } }),
    ]);
    expect(await one.cli.exit).toBe(1);
    expect(one.cli.err).toBe("failed: Error: out of ideas\n");
    const two = await running(["run", "nobody"]);
    two.peer.refuse(await two.peer.command("run.start"), "no_such_agent");
    expect(await two.cli.exit).toBe(1);
    expect(two.cli.err).toContain("`throughline agents` lists those there are");
  });

  it("says when the connection is lost and back, and prints every token once", async () => {
    const { cli, peer } = await running(["run", "a"]);
    await peer.started();
    peer.parts("r1", 1, [started(), token("Once ")]);
    await cli.shows("out", "Once ");
    peer.drop();
    const next = await gateway.accept();
    expect((await next.subscribed({ head: 3 })).params.after).toBe(2);
    next.parts("r1", 2, [token("Once "), token("upon"), completed()]);
    expect(await cli.exit).toBe(0);
    expect(cli.out).toBe("Once upon");
    expect(cli.err).toMatch(/connection lost; reconnecting in \d[\d.]* m?s …\nback; went on at offset 3\n/);
  });

  it("says what was rewound, and prints what holds", async () => {
    const { cli, peer } = await running(["run", "a", "--quiet"]);
    await peer.started();
    peer.parts("r1", 1, [token("Once "), token("a dead"), rewound(1), token("upon"), completed()]);
    expect(await cli.exit).toBe(0);
    expect(cli.out).toBe("Once a dead\nOnce upon");
    expect(cli.err).toBe("a worker was lost; another goes on from offset 1; the text so far, as it holds:\n");
  });

  it.each([
    ["for a worker that knows it", [], "queued: no live worker offers a; it begins when one does"],
    ["for its turn", [{ name: "a", modes: [] }], "queued: it waits for its turn"],
  ])("says that a run waits %s", async (_, agents, line) => {
    const { cli, peer } = await running(["run", "a"]);
    await peer.started();
    peer.answer(await peer.command("run.get"), { ...record, status: "queued", attempt: 0, head: 0 });
    peer.answer(await peer.command("agent.list"), { agents });
    await cli.shows("err", line);
    peer.parts("r1", 1, [started(), completed()]);
    expect(await cli.exit).toBe(0);
    expect(cli.err.split("queued")).toHaveLength(2);
  });

  it("ends quietly when nobody reads any more", async () => {
    const { cli, peer } = await running(["run", "a"]);
    await peer.started();
    peer.parts("r1", 1, [token("Once ")]);
    await cli.shows("out", "Once ");
    cli.child.stdout?.destroy();
    peer.parts("r1", 2, [token("upon")]);
    peer.parts("r1", 3, [token(" a time")]);
    expect(await cli.exit).toBe(0);
    expect(cli.err).toBe("");
  });
});

describe("Ctrl-C", () => {
  it("stops the run, and says where it stands and how to go on", async () => {
    const { cli, peer } = await running(["run", "storyteller", "--keep", "branch"]);
    await peer.started();
    peer.parts("r1", 1, [started(), token("Once ")]);
    await cli.shows("out", "Once ");
    cli.child.kill("SIGINT");
    // npm passes on what the terminal has sent to the process itself already.
    cli.child.kill("SIGINT");
    const command = await peer.command("run.cancel");
    expect(command.params).toEqual({ runId: "r1", keep: "branch" });
    peer.parts("r1", 3, [cancelledPart]);
    const checkpoint = { threadId: "t1", checkpointId: "k1" };
    peer.answer(command, { runId: "r1", status: "cancelled", offset: 3, checkpoint });
    expect(await cli.exit).toBe(130);
    expect(cli.out).toBe("Once ");
    expect(cli.err).toContain("stopped at offset 3; saved in checkpoint k1 of thread t1\n");
    expect(cli.err).toContain(`to go on: throughline run storyteller '{"continue":true}' --thread t1\n`);
    expect(peer.received.filter((each) => each.method === "run.cancel")).toHaveLength(1);
  });

  it("whose answer comes after the ending, or not at all: says nothing of it", async () => {
    const { cli, peer } = await running(["run", "a"]);
    await peer.started();
    peer.parts("r1", 1, [started(), token("Once ")]);
    await cli.shows("out", "Once ");
    cli.child.kill("SIGINT");
    await peer.command("run.cancel");
    peer.parts("r1", 3, [cancelledPart]);
    expect(await cli.exit).toBe(130);
    expect(cli.err).toMatch(/^started\nstopping .*\nstopped at offset 3; .*\nto go on: .*\n$/);
  });

  it("twice: leaves at once, and says how to come back", async () => {
    const { cli, peer } = await running(["run", "storyteller"]);
    await peer.started();
    peer.parts("r1", 1, [started(), token("Once ")]);
    await cli.shows("out", "Once ");
    cli.child.kill("SIGINT");
    await peer.command("run.cancel");
    // A second press is one that comes later; how much later, only the child's clock can tell.
    const pressing = setInterval(() => cli.child.kill("SIGINT"), 20);
    expect(await cli.exit).toBe(130);
    clearInterval(pressing);
    expect(cli.err).toContain("left without waiting. To see the rest: throughline attach r1 --after 2\n");
  });

  it("before the run has started: stops it when it has", async () => {
    const { cli, peer } = await running(["run", "a"]);
    const command = await peer.command("run.start");
    cli.child.kill("SIGINT");
    await cli.shows("err", "as soon as it has started");
    peer.answer(command, { runId: "r1", threadId: "t1", status: "queued", epoch: "e1", created: true });
    await peer.command("run.cancel");
    peer.parts("r1", 1, [cancelledPart]);
    expect(await cli.exit).toBe(130);
  });

  it("of an attached run: leaves it alone", async () => {
    const { cli, peer } = await running(["attach", "r1", "--after", "4"], { npm_lifecycle_event: "cli" });
    expect((await peer.subscribed({ head: 5 })).params.after).toBe(4);
    peer.parts("r1", 5, [token("upon")]);
    await cli.shows("out", "upon");
    cli.child.kill("SIGINT");
    expect(await cli.exit).toBe(130);
    expect(cli.err).toBe("left; the run goes on. To see the rest: npm run cli -- attach r1 --after 5\n");
    expect(peer.received.some((each) => each.method === "run.cancel")).toBe(false);
  });
});

describe("attach", () => {
  it("to a run that has ended, after its ending: says how it ended", async () => {
    const { cli, peer } = await running(["attach", "r1", "--after", "5"]);
    await peer.subscribed({ head: 5, status: "completed" });
    peer.answer(await peer.command("run.get"), record);
    expect(await cli.exit).toBe(0);
    expect(cli.out).toBe("");
    expect(cli.err).toBe("completed\n");
  });

  it("through a gateway that the command line names: what is shown names it too", async () => {
    const cli = new Cli(["--url", gateway.url, "attach", "r1"], { THROUGHLINE_URL: "" });
    await (await gateway.accept()).subscribed({ head: 5 });
    cli.child.kill("SIGINT");
    expect(await cli.exit).toBe(130);
    expect(cli.err).toContain(`throughline --url ${gateway.url} attach r1 --after 0\n`);
  });
});

describe("the gateway", () => {
  it("that is not there: says what to do, and exits with 1", async () => {
    const away = await ScriptedGateway.listen();
    const url = away.url;
    await away.close();
    const cli = new Cli(["--url", url, "--wait", "1", "agents"]);
    expect(await cli.exit).toBe(1);
    expect(cli.err).toContain(`no gateway answers at ${url} (connect ECONNREFUSED`);
    expect(cli.err).toContain("npm start");
  });

  it("that comes late is waited for", async () => {
    const port = gateway.port;
    await gateway.close();
    const cli = new Cli(["agents"], { THROUGHLINE_URL: `127.0.0.1:${port}` });
    await cli.shows("err", "waiting for a gateway");
    gateway = await ScriptedGateway.listen(port);
    const peer = await gateway.accept();
    peer.answer(await peer.command("agent.list"), { agents: [{ name: "digest", modes: ["messages"] }] });
    expect(await cli.exit).toBe(0);
    expect(cli.out).toContain("digest");
  });

  it.each([
    ["T", "the token has expired", "pass another"],
    ["", "a token is needed, and none came", "pass one"],
  ])("that refuses the token %j: says why, and what to do", async (token, why, what) => {
    gateway.hello = null;
    const { cli, peer } = await running(["agents"], { THROUGHLINE_TOKEN: token });
    expect(peer.subprotocols.includes("throughline.bearer.T")).toBe(token === "T");
    peer.close(4401, why);
    expect(await cli.exit).toBe(1);
    const line = `the gateway refuses the connection: ${why}; ${what} with --token or THROUGHLINE_TOKEN\n`;
    expect(cli.err).toBe(line);
  });

  it("whose address is none: says so", async () => {
    const cli = new Cli(["agents"], { THROUGHLINE_URL: "ftp://host" });
    expect(await cli.exit).toBe(1);
    expect(cli.err).toBe("a gateway speaks ws: or wss:, not ftp:\n");
  });
});

describe("other commands", () => {
  it("cancel", async () => {
    const { cli, peer } = await running(["cancel", "r1", "--keep", "discard", "--reason", "enough"]);
    const command = await peer.command("run.cancel");
    expect(command.params).toEqual({ runId: "r1", keep: "discard", reason: "enough" });
    const checkpoint = { threadId: "t1", checkpointId: "k1" };
    peer.answer(command, { runId: "r1", status: "cancelled", offset: 57, checkpoint });
    expect(await cli.exit).toBe(0);
    expect(cli.out).toBe("cancelled at offset 57; checkpoint k1 of thread t1\n");
  });

  it("runs, of a thread; threads", async () => {
    const one = await running(["runs", "--thread", "t1"]);
    const list = await one.peer.command("run.list");
    expect(list.params).toEqual({ threadId: "t1", limit: 20 });
    one.peer.answer(list, { runs: [record] });
    expect(await one.cli.exit).toBe(0);
    expect(one.cli.out).toContain("r1   a      completed  5       2026-01-01  t1");
    const two = await running(["threads"]);
    two.peer.answer(await two.peer.command("run.list"), { runs: [record] });
    expect(await two.cli.exit).toBe(0);
    expect(two.cli.out).toContain("t1      1     a      completed    2026-01-01");
  });

  it("history", async () => {
    const { cli, peer } = await running(["history", "t1"]);
    const state = {
      threadId: "t1",
      checkpointId: "k1",
      parentId: null,
      values: { messages: [{ type: "ai", id: "m", content: "Once" }] },
      next: [],
      interrupts: [],
      metadata: { source: "loop" },
      createdAt: "2026-01-01T00:00:00Z",
    };
    peer.answer(await peer.command("thread.history"), { checkpoints: [state] });
    peer.answer(await peer.command("thread.get"), state);
    expect(await cli.exit).toBe(0);
    expect(cli.out).toBe("* k1  2026-01-01  loop  ai: Once  (head)\n");
  });

  it("refuses nonsense", async () => {
    const cli = new Cli(["run", "a", "--keep", "everything"]);
    expect(await cli.exit).toBe(1);
    expect(cli.err).toContain("It is one of thread, branch, discard.");
  });
});
