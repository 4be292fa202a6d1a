/**
 * A Redis server of our own on the loopback. Without a data folder it is gone without a trace when we are, however we end.
 * With one it may outlive a killed owner, and the next start with the same folder takes it over: two servers never share
 * a folder, and two living owners never share a server.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { findRedisServer, type LineLogger } from "./install.ts";
import { endProcess, isAlive } from "./process.ts";

export interface PrivateRedisOptions {
  /** Where the append-only file lives; created when missing. Without it nothing is kept. */
  dataDir?: string;
  /** Default: with a data folder the one of its last start, where that is free; else a free one. */
  port?: number;
  /** More arguments for the server, last, so that they win. */
  args?: readonly string[];
  /** Lets the server live on when we are killed, for the next start to take over. Needs `dataDir`. Default false. */
  outliveUs?: boolean;
  /** Hears the one line about an installation. Default: stderr. */
  logger?: LineLogger;
}

export interface PrivateRedis {
  url: string;
  port: number;
  pid: number;
  /** True when a server that a killed owner left behind was taken over. */
  reused: boolean;
  /** The port of the last start with this folder, where it was taken: the server has another now. */
  portBefore?: number;
  /** Resolves when the process is gone. Called twice is once. */
  stop(): Promise<void>;
}

/** The server did not come up. The message is one line. */
export class RedisStartError extends Error {
  readonly code = "redis_start";
  override readonly name = "RedisStartError";
}

const host = "127.0.0.1";
const readyDeadlineMs = 10_000;
const loadingDeadlineMs = 10 * 60_000;
const stopGraceMs = 10_000;
const portAttempts = 5;
const noteName = "throughline-redis.json";
const logName = "redis.log";
/** Outlives the server: who was told of its port finds it there after the next start. */
const portName = "throughline-redis.port";

/**
 * @throws {NoRedisError} when no server is installed and none can be.
 * @throws {RedisStartError} when the folder cannot be used, the port is taken, or the server does not answer.
 */
export async function startPrivateRedis(options: PrivateRedisOptions = {}): Promise<PrivateRedis> {
  const server = await findRedisServer(
    options.logger ?? { info: (line) => process.stderr.write(`${line}\n`) },
  );
  if (options.dataDir === undefined) return startAnew(server, makeTemporaryDir(), options);
  const dataDir = prepareDataDir(options.dataDir);
  const left = await findLeftBehind(dataDir);
  if (left === undefined) return startAnew(server, dataDir, options);
  if (left.ownerPid !== process.pid && isAlive(left.ownerPid)) {
    throw new RedisStartError(
      `${dataDir} is in use by process ${left.ownerPid}: stop that one first, or give Redis another folder`,
    );
  }
  if (options.port !== undefined && options.port !== left.port) {
    await endProcess(left.pid, stopGraceMs);
    return startAnew(server, dataDir, options);
  }
  writeNote(dataDir, { ...left, ownerPid: process.pid });
  await untilReady(left.port, () => isAlive(left.pid), dataDir);
  return handle(left, dataDir, options, true);
}

async function startAnew(server: string, dir: string, options: PrivateRedisOptions): Promise<PrivateRedis> {
  const before = options.dataDir === undefined ? undefined : readPort(dir);
  for (let attempt = 1; ; attempt += 1) {
    const kept = attempt === 1 && before !== undefined && (await isFree(before)) ? before : undefined;
    const port = options.port ?? kept ?? (await findFreePort());
    const child = spawnServer(server, dir, port, options);
    try {
      const pid = await pidOf(child);
      await untilReady(port, () => child.exitCode === null && child.signalCode === null, dir);
      await assertOurs(port, pid);
      const note: Note = { pid, port, ownerPid: process.pid };
      if (options.dataDir !== undefined) {
        writeNote(dir, note);
        writeFileSync(join(dir, portName), `${port}\n`);
      }
      child.unref();
      const moved = before === undefined || before === port ? {} : { portBefore: before };
      return { ...handle(note, dir, options, false), ...moved };
    } catch (error) {
      if (child.pid !== undefined) await endProcess(child.pid, stopGraceMs);
      const lostRace = options.port === undefined && /in use/i.test(readLog(dir));
      if (lostRace && attempt < portAttempts) continue;
      if (options.dataDir === undefined) rmSync(dir, { recursive: true, force: true });
      throw error;
    }
  }
}

/**
 * The server leads a process group of its own: Ctrl-C in a terminal signals the whole foreground group, and Redis has to
 * outlast those who write their last state to it.
 */
function spawnServer(server: string, dir: string, port: number, options: PrivateRedisOptions): ChildProcess {
  const persistence =
    options.dataDir === undefined
      ? ["--appendonly", "no"]
      : ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"];
  const log = openSync(join(dir, logName), "w");
  try {
    return spawn(
      server,
      [
        ...["--port", String(port), "--bind", host, "--protected-mode", "yes", "--daemonize", "no"],
        ...["--dir", dir, "--save", "", ...persistence, ...(options.args ?? [])],
      ],
      { stdio: ["ignore", log, log], detached: true },
    );
  } finally {
    closeSync(log);
  }
}

function pidOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once("error", (error) =>
      reject(new RedisStartError(`redis-server cannot be run: ${error.message}`)),
    );
    child.once("spawn", () => resolve(child.pid!));
  });
}

function handle(note: Note, dir: string, options: PrivateRedisOptions, reused: boolean): PrivateRedis {
  const temporary = options.dataDir === undefined;
  const guard =
    options.outliveUs === true && !temporary ? undefined : startGuard(note.pid, temporary ? dir : undefined);
  let stopping: Promise<void> | undefined;
  const stop = async () => {
    await endProcess(note.pid, stopGraceMs);
    guard?.kill("SIGKILL");
    rmSync(temporary ? dir : join(dir, noteName), { recursive: true, force: true });
  };
  return {
    url: `redis://${host}:${note.port}`,
    port: note.port,
    pid: note.pid,
    reused,
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}

/** A shell that waits for our end of a pipe to close, which the kernel does even after a SIGKILL, and then ends the server. */
function startGuard(pid: number, temporaryDir: string | undefined): ChildProcess {
  const script = 'read -r _; kill "$1"; [ -z "$2" ] || { sleep 1; rm -rf -- "$2"; }';
  const guard = spawn("sh", ["-c", script, "sh", String(pid), temporaryDir ?? ""], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  guard.on("error", () => {
    // No shell: the server still ends with stop().
  });
  guard.unref();
  (guard.stdin as unknown as { unref(): void } | null)?.unref();
  return guard;
}

/** Waits for a PING to be answered. A server that loads its file says so, and gets as long as that takes. */
async function untilReady(port: number, runs: () => boolean, dir: string): Promise<void> {
  const started = Date.now();
  for (;;) {
    const answer = await ping(port);
    if (answer !== undefined && !answer.startsWith("-LOADING")) return;
    const waited = Date.now() - started;
    if (!runs()) throw new RedisStartError(`redis-server ended while starting: ${lastLogLine(dir)}`);
    if (waited > (answer === undefined ? readyDeadlineMs : loadingDeadlineMs)) {
      throw new RedisStartError(
        `redis-server did not answer within ${Math.round(waited / 1000)} s: ${lastLogLine(dir)}`,
      );
    }
    await sleep(20);
  }
}

/** The first line of the answer; any answer but LOADING, even a refusal, is a server that is up. */
function ping(port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port });
    let answer = "";
    socket.setTimeout(1_000, () => socket.destroy());
    socket.on("connect", () => socket.write("PING\r\n"));
    socket.on("data", (chunk) => {
      answer += chunk.toString("latin1");
      if (answer.includes("\r\n")) socket.destroy();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => resolve(answer.includes("\r\n") ? answer.split("\r\n")[0] : undefined));
  });
}

/** Somebody else may have taken the port between our look and the server's bind, and may speak Redis too. */
async function assertOurs(port: number, pid: number): Promise<void> {
  const identity = await identify(port);
  if (identity !== undefined && identity.pid !== pid) {
    throw new RedisStartError(`port ${port} is in use by another Redis: choose another`);
  }
}

interface Identity {
  pid: number;
  dir: string | undefined;
}

/** Who answers on that port; undefined when nobody does, or when it will not say. */
async function identify(port: number): Promise<Identity | undefined> {
  const redis = new Redis({
    ...{
      host,
      port,
      lazyConnect: true,
      enableReadyCheck: false,
      connectTimeout: 2_000,
      commandTimeout: 5_000,
    },
    retryStrategy: () => null,
  });
  redis.on("error", () => {
    // The calls below reject with it.
  });
  try {
    await redis.connect();
    const pid = Number(/^process_id:(\d+)/m.exec(await redis.info("server"))?.[1]);
    const reply: unknown = await redis.config("GET", "dir");
    return { pid, dir: Array.isArray(reply) ? String(reply[1]) : undefined };
  } catch {
    return undefined;
  } finally {
    redis.disconnect();
  }
}

/** What an owner leaves in the data folder, for the next one to find the server by. */
interface Note {
  pid: number;
  port: number;
  ownerPid: number;
}

/** A server that runs on this folder though its owner wrote the note in another life. */
async function findLeftBehind(dataDir: string): Promise<Note | undefined> {
  const note = readNote(dataDir);
  if (note === undefined || !isAlive(note.pid)) return undefined;
  const deadline = Date.now() + readyDeadlineMs;
  for (;;) {
    const identity = await identify(note.port);
    if (identity !== undefined) {
      return identity.pid === note.pid && identity.dir === dataDir ? note : undefined;
    }
    // Nobody listens: the process id is somebody else's by now.
    if (!isAlive(note.pid) || !(await isOpen(note.port))) return undefined;
    if (Date.now() > deadline) {
      throw new RedisStartError(
        `the Redis in ${dataDir} (process ${note.pid}) does not answer: end that process`,
      );
    }
    await sleep(100);
  }
}

function readPort(dataDir: string): number | undefined {
  try {
    const port = Number(readFileSync(join(dataDir, portName), "utf8"));
    return Number.isInteger(port) && port > 0 && port < 65_536 ? port : undefined;
  } catch {
    return undefined;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, host, () => server.close(() => resolve(true)));
  });
}

function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port });
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

function readNote(dataDir: string): Note | undefined {
  try {
    const note: unknown = JSON.parse(readFileSync(join(dataDir, noteName), "utf8"));
    if (typeof note !== "object" || note === null) return undefined;
    const { pid, port, ownerPid } = note as Partial<Note>;
    if (![pid, port, ownerPid].every((value) => Number.isSafeInteger(value) && value! > 0)) return undefined;
    return { pid: pid!, port: port!, ownerPid: ownerPid! };
  } catch {
    return undefined;
  }
}

function writeNote(dataDir: string, note: Note): void {
  const path = join(dataDir, noteName);
  writeFileSync(`${path}.new`, JSON.stringify(note));
  renameSync(`${path}.new`, path);
}

function prepareDataDir(dataDir: string): string {
  try {
    makeDir(resolve(dataDir));
    const dir = realpathSync(dataDir);
    const probe = join(dir, `.probe-${process.pid}`);
    writeFileSync(probe, "");
    rmSync(probe);
    return dir;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown error";
    const wrong = code === "EEXIST" || code === "ENOTDIR" ? "is not a folder" : "cannot be written";
    throw new RedisStartError(
      `Redis' data folder ${dataDir} ${wrong} (${code}): make it a folder that this user may write to`,
    );
  }
}

/** One folder at a time: `recursive` never returns where a parent takes no folders, as in /proc. */
function makeDir(dir: string): void {
  if (existsSync(dir) && statSync(dir).isDirectory()) return;
  if (!existsSync(dirname(dir))) makeDir(dirname(dir));
  mkdirSync(dir);
}

function makeTemporaryDir(): string {
  return realpathSync(mkdtempSync(join(tmpdir(), "throughline-redis-")));
}

export function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, host, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

function readLog(dir: string): string {
  const path = join(dir, logName);
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

function lastLogLine(dir: string): string {
  const line = readLog(dir).trim().split("\n").at(-1) ?? "";
  return line.replace(/^\d+:[A-Z] .*? [*#.-] /, "") || "it logged nothing";
}
