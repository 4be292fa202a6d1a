/**
 * A gateway or worker that is kept running whatever befalls it, as an orchestrator would.
 *
 * Invariant: whoever ends without having been told to, but for a planned crash, is a violation; so is a SIGTERM that
 * is not answered with an orderly exit, where Redis was there for it.
 */
import { type ChildProcess, fork } from "node:child_process";
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startProxy } from "../support/proxy.ts";
import { within } from "../support/until.ts";
import { crashExitCode } from "./cast.ts";

export interface ServiceSpec {
  kind: "gateway" | "worker";
  /** From the root of the repository. */
  program: string;
  env: Record<string, string>;
}

/** What a service tells of itself. */
export interface ServiceEvents {
  /** A process is gone, or going. `killed` and `crashed`: at once; `terminated`: it was told to go. */
  lost(instance: Instance, how: "killed" | "crashed" | "terminated"): void;
  violation(what: string): void;
  /** Whether Redis was not its usual self at some time since `since`, ms since 1970. */
  redisTroubled(since: number): boolean;
}

/** One process, from its start to its exit, with its own way to Redis. */
export interface Instance {
  readonly name: string;
  readonly pid: number;
  readonly process: ChildProcess;
  /** What it said when it was up: a gateway's URL. */
  readonly detail: string;
  readonly proxy: Awaited<ReturnType<typeof startProxy>>;
  readonly exited: Promise<void>;
  /** Bytes held when it was fresh. */
  readonly freshBytes: number;
  state: "up" | "frozen" | "leaving" | "gone";
}

const probe = new URL("../bench/memory-probe.js", import.meta.url).href;
/** The processes' own grace is 10 s. */
const exitGraceMs = 12_000;
const restartDelayMs = 500;

export class Service {
  readonly kind: ServiceSpec["kind"];
  readonly name: string;
  readonly #spec: ServiceSpec;
  readonly #redisUrl: string;
  readonly #logDir: string;
  readonly #events: ServiceEvents;
  readonly #leaving = new Set<Promise<void>>();
  /** All processes that run, those included that are coming up or going. */
  readonly #children = new Set<ChildProcess>();
  #current: Instance | undefined;
  #generation = 0;
  #closed = false;

  constructor(index: number, spec: ServiceSpec, redisUrl: string, logDir: string, events: ServiceEvents) {
    this.kind = spec.kind;
    this.name = `${spec.kind}${index}`;
    this.#spec = spec;
    this.#redisUrl = redisUrl;
    this.#logDir = logDir;
    this.#events = events;
  }

  /** The process that serves; undefined while there is none. */
  get current(): Instance | undefined {
    return this.#current;
  }

  /** How many processes it has had. */
  get generation(): number {
    return this.#generation;
  }

  /** Starts a process; tries again for as long as it cannot start, as it cannot while Redis is away. */
  async start(): Promise<void> {
    while (!this.#closed) {
      const instance = await this.#launch();
      if (instance !== undefined) {
        this.#current = instance;
        return;
      }
      await sleep(restartDelayMs);
    }
  }

  /** SIGKILL, and another process after a while. */
  async kill(downMs: number): Promise<void> {
    const instance = this.#current;
    if (instance === undefined) return;
    this.#current = undefined;
    instance.state = "leaving";
    this.#events.lost(instance, "killed");
    instance.process.kill("SIGKILL");
    await instance.exited;
    await sleep(downMs);
    await this.start();
  }

  /** SIGTERM; another process takes its place at once, as in a rolling restart. Resolves when both are where they should be. */
  async terminate(): Promise<void> {
    const instance = this.#current;
    if (instance === undefined) return;
    this.#current = undefined;
    await Promise.all([this.#leave(instance), this.start()]);
  }

  freeze(): void {
    if (this.#current?.state !== "up") return;
    this.#current.state = "frozen";
    this.#current.process.kill("SIGSTOP");
  }

  thaw(instance: Instance): void {
    instance.process.kill("SIGCONT");
    if (instance.state === "frozen") instance.state = "up";
  }

  /** SIGKILL for every process that it has, now: the program itself is about to exit. */
  abandon(): void {
    for (const child of this.#children) child.kill("SIGKILL");
  }

  /** Bytes that it holds beyond what it held when fresh, garbage collected. */
  async growth(): Promise<number> {
    const instance = this.#current;
    if (instance === undefined) return 0;
    return (await heldBytes(instance.process)) - instance.freshBytes;
  }

  /** Ends it for good, in order. */
  async close(): Promise<void> {
    this.#closed = true;
    const instance = this.#current;
    this.#current = undefined;
    if (instance !== undefined) await this.#leave(instance);
    await Promise.all(this.#leaving);
  }

  #leave(instance: Instance): Promise<void> {
    const leaving = this.#terminate(instance).finally(() => this.#leaving.delete(leaving));
    this.#leaving.add(leaving);
    return leaving;
  }

  async #terminate(instance: Instance): Promise<void> {
    const since = Date.now();
    instance.state = "leaving";
    this.#events.lost(instance, "terminated");
    // One that is frozen cannot hear.
    instance.process.kill("SIGCONT");
    instance.process.kill("SIGTERM");
    const inTime = await Promise.race([instance.exited.then(() => true), sleep(exitGraceMs, false)]);
    if (!inTime) {
      instance.process.kill("SIGKILL");
      await instance.exited;
    }
    const { exitCode, signalCode } = instance.process;
    if (exitCode === 0 || exitCode === crashExitCode || this.#events.redisTroubled(since)) return;
    this.#events.violation(`${instance.name} was told to stop and ended with ${signalCode ?? exitCode}`);
  }

  async #launch(): Promise<Instance | undefined> {
    this.#generation += 1;
    const name = `${this.name}.${this.#generation}`;
    const proxy = await startProxy(this.#redisUrl);
    const log = createWriteStream(join(this.#logDir, `${name}.log`));
    const program = fileURLToPath(new URL(`../../../${this.#spec.program}`, import.meta.url));
    const child = fork(program, [], {
      env: {
        ...process.env,
        ...{ LOG_LEVEL: "info", LOG_FORMAT: "json", THROUGHLINE_PARENT_IPC: "1", REDIS_URL: proxy.url },
        ...this.#spec.env,
      },
      execArgv: ["--expose-gc", "--import", probe],
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    this.#children.add(child);
    child.stdout!.pipe(log, { end: false });
    child.stderr!.pipe(log, { end: false });
    const exited = new Promise<void>((resolve) => {
      child.once("close", () => {
        this.#children.delete(child);
        log.end();
        proxy.close();
        resolve();
      });
    });
    const detail = await readiness(child);
    if (detail === undefined) {
      await exited;
      return undefined;
    }
    const instance: Instance = {
      ...{ name, pid: child.pid!, process: child, detail, proxy, exited, state: "up" },
      freshBytes: await heldBytes(child).catch(() => Number.POSITIVE_INFINITY),
    };
    void exited.then(() => this.#onExit(instance));
    return instance;
  }

  #onExit(instance: Instance): void {
    const { state } = instance;
    instance.state = "gone";
    if (state === "leaving") return;
    const { exitCode, signalCode } = instance.process;
    if (exitCode === crashExitCode) this.#events.lost(instance, "crashed");
    else this.#events.violation(`${instance.name} ended by itself with ${signalCode ?? exitCode}`);
    if (this.#current !== instance) return;
    this.#current = undefined;
    const restarting = sleep(restartDelayMs).then(() => this.start());
    this.#leaving.add(restarting);
    void restarting.finally(() => this.#leaving.delete(restarting));
  }
}

/** What the process says when it is up; undefined when it ends before. */
function readiness(child: ChildProcess): Promise<string | undefined> {
  return new Promise((resolve) => {
    child.once("close", () => resolve(undefined));
    const onMessage = (message: { type?: string; detail?: string }) => {
      if (message.type !== "ready") return;
      child.off("message", onMessage);
      resolve(message.detail ?? "");
    };
    child.on("message", onMessage);
  });
}

async function heldBytes(child: ChildProcess): Promise<number> {
  const answer = new Promise<{ held: number }>((resolve) => {
    child.once("message", (message) => resolve(message as { held: number }));
  });
  child.send("memory");
  return (await within(answer, 10_000, "the memory probe's answer")).held;
}
