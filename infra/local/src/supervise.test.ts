import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { isAlive, waitForExit } from "./process.ts";
import { findFreePort, startPrivateRedis } from "./redis.ts";

// The programs under test are the compiled ones, as `npm start` runs them; set-up compiles before the tests run.

/** A supervisor in a process (and process group) of its own, and all that it has said. */
class Supervisor {
  readonly process: ChildProcess;
  readonly exit: Promise<number | null>;
  log = "";

  constructor(program: string, args: string[], env: Record<string, string> = {}) {
    this.process = spawn(process.execPath, [fileURLToPath(new URL(program, import.meta.url)), ...args], {
      detached: true,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.process.stdout!, this.process.stderr!]) {
      stream.on("data", (chunk: Buffer) => {
        this.log += chunk.toString();
      });
    }
    this.exit = new Promise((resolve) => this.process.once("close", resolve));
  }

  get pid(): number {
    return this.process.pid!;
  }

  async says(text: string | RegExp): Promise<void> {
    await vi.waitFor(() => expect(this.log).toMatch(text), { timeout: 60_000, interval: 20 });
  }

  /** The process ids that a service has logged, oldest first. */
  pids(name: string): number[] {
    return [...this.log.matchAll(new RegExp(`^${name} +\\|.*pid=(\\d+)`, "gm"))].map(([, pid]) =>
      Number(pid),
    );
  }

  get redisUrl(): string {
    return `redis://${/private Redis \w+(?: running)? at (\S+),/.exec(this.log)?.[1]}`;
  }

  lines(): string[] {
    return this.log.split("\n").filter((line) => line !== "");
  }
}

let dataDir: string;
let supervisors: Supervisor[];

function start(services: string[][], options: Record<string, unknown> = {}): Supervisor {
  const args = [JSON.stringify({ services, redis: { dataDir }, ...options })];
  const supervisor = new Supervisor("./fixtures/supervisor.mjs", args);
  supervisors.push(supervisor);
  return supervisor;
}

function startMain(env: Record<string, string>): Supervisor {
  const supervisor = new Supervisor("../dist/main.js", [], { REDIS_URL: "", DATA_DIR: dataDir, ...env });
  supervisors.push(supervisor);
  return supervisor;
}

async function withRedis<T>(url: string, use: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url, { replyMapping: "legacy" });
  // It reconnects: what matters is what it is asked.
  redis.on("error", () => {});
  try {
    return await use(redis);
  } finally {
    redis.disconnect();
  }
}

async function redisPid(url: string): Promise<number> {
  return withRedis(url, async (redis) => Number(/process_id:(\d+)/.exec(await redis.info("server"))?.[1]));
}

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "throughline-test-"));
  supervisors = [];
});

afterEach(async () => {
  for (const supervisor of supervisors) {
    if (supervisor.process.exitCode === null && supervisor.process.signalCode === null) {
      supervisor.process.kill("SIGTERM");
      await supervisor.exit;
    }
  }
  // What a test killed hard may have left its Redis: a new owner takes it over and ends it.
  await (await startPrivateRedis({ dataDir })).stop().catch(() => {});
  rmSync(dataDir, { recursive: true, force: true });
});

test("Ctrl-C ends everything, Redis last, and the state is there at the next start", async () => {
  const first = start([["one"], ["two"]]);
  await first.says("all are up");
  const redis = await redisPid(first.redisUrl);
  const pids = [...first.pids("one"), ...first.pids("two"), redis];
  expect(pids).toHaveLength(3);
  // A terminal signals the whole foreground process group.
  process.kill(-first.pid, "SIGINT");
  expect(await first.exit).toBe(0);
  expect(first.log).toContain("everything is stopped");
  expect(pids.filter(isAlive)).toEqual([]);

  const second = start([["one"], ["two"]]);
  await second.says("all are up");
  const state = await withRedis(second.redisUrl, (client) =>
    client.mget("one:starts", "one:closed", "two:closed"),
  );
  expect(state).toEqual(["2", "1", "1"]);
  second.process.kill("SIGTERM");
  expect(await second.exit).toBe(0);
});

test("its Redis has the same port at the next start, and says so where another has taken it", async () => {
  const first = start([["one"]]);
  await first.says("all are up: one");
  first.process.kill("SIGTERM");
  await first.exit;
  const second = start([["one"]]);
  await second.says("all are up: one");
  expect(second.redisUrl).toBe(first.redisUrl);
  second.process.kill("SIGTERM");
  await second.exit;

  const port = Number(new URL(first.redisUrl).port);
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(port, "127.0.0.1", resolve));
  const third = start([["one"]]);
  await third.says("all are up: one");
  expect(third.redisUrl).not.toBe(first.redisUrl);
  expect(third.log).toContain(`port ${port}, where it was the last time, is taken`);
  await new Promise((resolve) => other.close(resolve));
});

test("what takes long is said until it is over", async () => {
  const supervisor = start([["one"], ["two", "slow"]]);
  await supervisor.says(/\| starting two … \(\d+ s\)\n/);
  await withRedis(supervisor.redisUrl, (client) => client.set("two:go", "1"));
  await supervisor.says("all are up");
  const said = supervisor.log.split("all are up")[1];
  expect(said).not.toContain("starting");
});

test("a service that dies is started again, and it says so", async () => {
  const supervisor = start([["one"]]);
  await supervisor.says("all are up");
  process.kill(supervisor.pids("one")[0]!, "SIGKILL");
  await supervisor.says(/one .*ended \(SIGKILL\): starting it again in 0.05 s/);
  await vi.waitFor(() => expect(supervisor.pids("one")).toHaveLength(2), { timeout: 60_000 });
  expect(supervisor.process.exitCode).toBe(null);
});

test("a private Redis that dies is started again with its data", async () => {
  const supervisor = start([["one"]]);
  await supervisor.says("all are up");
  const url = supervisor.redisUrl;
  process.kill(await redisPid(url), "SIGTERM");
  await supervisor.says("the private Redis ended: starting it again");
  expect(await withRedis(url, (client) => client.get("one:starts"))).toBe("1");
});

test("a service that cannot start ends everything after three tries", async () => {
  const supervisor = start([["one"], ["two", "crashes"]]);
  expect(await supervisor.exit).toBe(1);
  expect(supervisor.log).toMatch(/throughline \| two cannot start: it ended 3 times \(exit code 1\)/);
  expect(supervisor.pids("two")).toHaveLength(3);
  expect([...supervisor.pids("one"), ...supervisor.pids("two")].filter(isAlive)).toEqual([]);
});

test("a service that only a human can help is not tried again", async () => {
  const supervisor = start([["two", "misconfigured"]]);
  expect(await supervisor.exit).toBe(1);
  expect(supervisor.pids("two")).toHaveLength(1);
  expect(supervisor.log.match(/COLOR: is not set; it should be a colour/g)).toHaveLength(1);
});

test("a service that does not stop is killed after the grace", async () => {
  const supervisor = start([["one", "stubborn"]], { graceMs: 300 });
  await supervisor.says("all are up");
  supervisor.process.kill("SIGTERM");
  expect(await supervisor.exit).toBe(0);
  expect(supervisor.log).toContain("did not stop within 0.3 s: killing it");
  expect(supervisor.pids("one").filter(isAlive)).toEqual([]);
});

test("a second Ctrl-C, later, kills what still runs", async () => {
  const supervisor = start([["one", "stubborn"]], { graceMs: 60_000 });
  await supervisor.says("all are up");
  const began = Date.now();
  supervisor.process.kill("SIGINT");
  // One that comes at once is the same Ctrl-C; keep pressing until it counts.
  const pressing = setInterval(() => supervisor.process.kill("SIGINT"), 100);
  expect(await supervisor.exit).toBe(0);
  clearInterval(pressing);
  expect(Date.now() - began).toBeGreaterThan(1_000);
  expect(supervisor.pids("one").filter(isAlive)).toEqual([]);
});

test("when the supervisor is killed its services end, and the next one takes its Redis over", async () => {
  const first = start([["one"]]);
  await first.says("all are up");
  const [service] = first.pids("one");
  const redis = await redisPid(first.redisUrl);
  process.kill(first.pid, "SIGKILL");
  expect(await waitForExit(service!, 10_000)).toBe(true);

  const second = start([["one"]]);
  await second.says("all are up");
  expect(second.log).toContain("private Redis found running");
  expect(await redisPid(second.redisUrl)).toBe(redis);
  // The orphan closed in order: its Redis was still there.
  expect(await withRedis(second.redisUrl, (client) => client.get("one:closed"))).toBe("1");
  second.process.kill("SIGTERM");
  expect(await second.exit).toBe(0);
  expect(isAlive(redis)).toBe(false);
});

test("when npm dies of a signal, all that it started ends", async () => {
  // As npm does: a shell between us and the supervisor that does not pass the signal on.
  const program = fileURLToPath(new URL("./fixtures/supervisor.mjs", import.meta.url));
  const options = JSON.stringify({ services: [["one"]], redis: { dataDir }, endWithParent: true });
  const shell = spawn("sh", ["-c", '"$0" "$1" "$2"; true', process.execPath, program, options], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let log = "";
  shell.stdout.on("data", (chunk: Buffer) => {
    log += chunk.toString();
  });
  const ended = new Promise((resolve) => shell.stdout.once("end", resolve));
  await vi.waitFor(() => expect(log).toContain("all are up"), { timeout: 60_000 });
  shell.kill("SIGKILL");
  await ended;
  expect(log).toContain("the parent process is gone: stopping");
  expect(log).toContain("everything is stopped");
});

test("two supervisors do not share a data folder", async () => {
  const first = start([["one"]]);
  await first.says("all are up");
  const second = start([["one"]]);
  expect(await second.exit).toBe(1);
  expect(second.lines()).toHaveLength(1);
  expect(second.log).toContain(`is in use by process ${first.pid}`);
});

test("a taken port is one line, before anything is started", async () => {
  const taken = await listen();
  const port = String((taken.address() as { port: number }).port);
  const supervisor = startMain({ PORT: port });
  expect(await supervisor.exit).toBe(1);
  expect(supervisor.lines()).toHaveLength(1);
  expect(supervisor.log).toMatch(`port ${port} on 127.0.0.1 is taken`);
  await new Promise((resolve) => taken.close(resolve));
});

test("the command to try next names a gateway that is elsewhere", async () => {
  const port = await findFreePort();
  const supervisor = startMain({ PORT: String(port) });
  await supervisor.says("Ctrl-C stops everything");
  expect(supervisor.log).toMatch(/\| the worker offers .*\bstoryteller\b/);
  expect(supervisor.log).toContain(`  npm run cli -- --url ws://127.0.0.1:${port}/v1/ws run storyteller\n`);
});

test("npm start becomes the supervisor: no shell is left to come between it and a signal", () => {
  const manifest = readFileSync(new URL("../../../package.json", import.meta.url), "utf8");
  expect(JSON.parse(manifest).scripts.start).toMatch(/ && exec node infra\/local\/dist\/main\.js$/);
});

test("a bad PORT is one line", async () => {
  const supervisor = startMain({ PORT: "seven" });
  expect(await supervisor.exit).toBe(1);
  expect(supervisor.lines()).toEqual([expect.stringContaining("PORT: is not a port")]);
});

test("a data folder that cannot be used is one line", async () => {
  const file = join(dataDir, "file");
  writeFileSync(file, "");
  for (const DATA_DIR of [file, join(file, "below"), "/proc/throughline"]) {
    const supervisor = startMain({ PORT: String(await findFreePort()), DATA_DIR });
    expect(await supervisor.exit).toBe(1);
    expect(supervisor.lines()).toHaveLength(1);
    expect(supervisor.log).toContain(`Redis' data folder`);
  }
});

test("a Redis that is down is one line", async () => {
  const REDIS_URL = `redis://127.0.0.1:${await findFreePort()}`;
  const supervisor = startMain({ PORT: String(await findFreePort()), REDIS_URL });
  expect(await supervisor.exit).toBe(1);
  expect(supervisor.lines()).toHaveLength(1);
  expect(supervisor.log).toMatch(/Redis at 127.0.0.1:\d+ is not available: nothing listens there/);
});

test("a Redis that refuses the login is one line without the password", async () => {
  const redis = await startPrivateRedis({ args: ["--requirepass", "right"] });
  try {
    const REDIS_URL = `redis://:wrong@127.0.0.1:${redis.port}`;
    const supervisor = startMain({ PORT: String(await findFreePort()), REDIS_URL });
    expect(await supervisor.exit).toBe(1);
    expect(supervisor.lines()).toHaveLength(1);
    expect(supervisor.log).toContain("it refused the login");
    expect(supervisor.log).not.toContain("wrong");
  } finally {
    await redis.stop();
  }
});

function listen(): Promise<Server> {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, "127.0.0.1", () => resolve(server));
  });
}
