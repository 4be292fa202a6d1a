import { type ChildProcess, fork, spawn } from "node:child_process";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { expect, test, vi } from "vitest";
import { exitNeedsHuman, explainError } from "./lifecycle.ts";

const program = fileURLToPath(new URL("./fixtures/service.mjs", import.meta.url));

interface Line {
  level: number;
  msg: string;
  err?: { stack: string };
}

/** The fixture as a child process, with what it logs. */
class Fixture {
  readonly process: ChildProcess;
  readonly exit: Promise<number | null>;
  readonly messages: unknown[] = [];
  log = "";

  constructor(args: string[], env: Record<string, string> = {}) {
    this.process = fork(program, args, {
      env: { ...process.env, LOG_FORMAT: "json", LOG_LEVEL: "info", ...env },
      // Not the test runner's: its conditions would load the sources.
      execArgv: [],
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    for (const stream of [this.process.stdout!, this.process.stderr!]) {
      stream.on("data", (chunk: Buffer) => {
        this.log += chunk.toString();
      });
    }
    this.process.on("message", (message) => this.messages.push(message));
    this.exit = new Promise((resolve) => this.process.once("close", resolve));
  }

  async says(text: string): Promise<void> {
    await vi.waitFor(() => expect(this.log).toContain(text), { timeout: 60_000, interval: 10 });
  }

  lines(): Line[] {
    return this.log
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as Line);
  }
}

test.each(["SIGTERM", "SIGINT"] as const)("%s closes the service and exits with 0", async (name) => {
  const service = new Fixture(["good"]);
  await service.says("started");
  service.process.kill(name);
  expect(await service.exit).toBe(0);
  expect(service.lines().map(({ msg }) => msg)).toEqual([
    "started",
    `${name}: shutting down`,
    "closing",
    "fixture is closed",
  ]);
});

test("tells its supervisor once when it is ready", async () => {
  const service = new Fixture(["good"]);
  await vi.waitFor(() => expect(service.messages).toEqual([{ type: "ready", detail: "here" }]), {
    timeout: 60_000,
  });
  service.process.kill("SIGTERM");
  expect(await service.exit).toBe(0);
});

test("signals close together are one, a later one exits at once", async () => {
  const service = new Fixture(["stuck", "60000"]);
  await service.says("started");
  const began = Date.now();
  service.process.kill("SIGINT");
  service.process.kill("SIGTERM");
  await service.says("closing");
  const pressing = setInterval(() => service.process.kill("SIGINT"), 100);
  expect(await service.exit).toBe(1);
  clearInterval(pressing);
  expect(Date.now() - began).toBeGreaterThan(800);
  expect(service.log).toContain("SIGINT again: exiting at once");
  expect(service.log.match(/"closing"/g)).toHaveLength(1);
});

test("a service that does not close within its grace exits with 1", async () => {
  const service = new Fixture(["stuck", "200"]);
  await service.says("started");
  service.process.kill("SIGTERM");
  expect(await service.exit).toBe(1);
  expect(service.log).toContain("fixture did not close within 0.2 s");
});

test("a service that cannot close cleanly exits with 1", async () => {
  const service = new Fixture(["unclean"]);
  await service.says("started");
  service.process.kill("SIGTERM");
  expect(await service.exit).toBe(1);
});

test("a signal during the start closes what has been started", async () => {
  const service = new Fixture(["slow"]);
  await service.says("starting");
  service.process.kill("SIGTERM");
  expect(await service.exit).toBe(0);
  expect(service.lines().map(({ msg }) => msg)).toEqual([
    "starting",
    "SIGTERM: shutting down",
    "started",
    "closing",
    "fixture is closed",
  ]);
  expect(service.messages).toEqual([]);
});

test("an unhandled rejection is logged and exits with 1", async () => {
  const service = new Fixture(["rejects"]);
  expect(await service.exit).toBe(1);
  expect(service.lines().at(-1)).toMatchObject({ level: 60, msg: "unhandledRejection" });
});

test("a bad configuration is a line per variable, without a stack", async () => {
  const service = new Fixture(["misconfigured"]);
  expect(await service.exit).toBe(exitNeedsHuman);
  expect(service.lines().map(({ msg }) => msg)).toEqual(["ONE: is wrong", "TWO: is not set"]);
  expect(service.log).not.toContain("stack");
});

test("a taken port is one line that says what to do", async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  const service = new Fixture(["listens", String(port)]);
  expect(await service.exit).toBe(exitNeedsHuman);
  expect(service.lines().map(({ msg }) => msg)).toEqual([
    `fixture could not start: port ${port} on 127.0.0.1 is taken: stop what listens there, or choose another with PORT`,
  ]);
  server.close();
});

test("an unforeseen failure to start comes with its stack", async () => {
  const service = new Fixture(["broken"]);
  expect(await service.exit).toBe(1);
  expect(service.lines()).toHaveLength(1);
  expect(service.lines()[0]?.err?.stack).toContain("nobody foresaw this");
});

test("it ends when its parent is gone, however that ended", async () => {
  const parentProgram = `
    const { fork } = require("node:child_process");
    fork(${JSON.stringify(program)}, ["good"], { stdio: ["ignore", "inherit", "inherit", "ipc"] });`;
  const parent = spawn(process.execPath, ["-e", parentProgram], {
    env: { ...process.env, LOG_FORMAT: "json", THROUGHLINE_PARENT_IPC: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let log = "";
  parent.stdout.on("data", (chunk: Buffer) => {
    log += chunk.toString();
  });
  // The grandchild holds the pipe: it ends when that process is gone too.
  const ended = new Promise((resolve) => parent.stdout.once("end", resolve));
  await vi.waitFor(() => expect(log).toContain("started"), { timeout: 60_000 });
  parent.kill("SIGKILL");
  await ended;
  expect(log).toContain("the parent process is gone: shutting down");
  expect(log).toContain("fixture is closed");
});

test("explains what a human can change, and leaves alone what it does not know", () => {
  const listen = Object.assign(new Error("listen EACCES"), {
    code: "EACCES",
    port: 80,
    address: "127.0.0.1",
  });
  expect(explainError(listen)).toBe(
    "port 80 needs a permission that this user lacks: choose one above 1023 with PORT",
  );
  const write = Object.assign(new Error("open"), { code: "EROFS", path: "/data/x" });
  expect(explainError(write)).toBe("/data/x cannot be written: give this user the permission");
  expect(explainError(new Error("boom"))).toBe(undefined);
});

test.each([
  [
    { LOG_LEVEL: "verbose" },
    "LOG_LEVEL: is no level; it should be one of trace, debug, info, warn, error, fatal, silent",
  ],
  [{ LOG_FORMAT: "xml" }, "LOG_FORMAT: is no format; it should be one of json, pretty"],
])("how to log is a setting like any other: %j", async (env, line) => {
  const service = new Fixture(["good"], env);
  expect(await service.exit).toBe(exitNeedsHuman);
  expect(service.lines().at(-1)).toMatchObject({ level: 60, msg: line });
});
