/** A worker as a process of its own: it can be killed and frozen as one. Its agents are mortal-worker.ts's. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { patienceMs, until } from "./until.ts";

/** What its agents tell besides what they stream. */
export type Told =
  | { event: "began"; runId: string; attempt: number }
  /** `code`: that of the signal's reason. */
  | { event: "aborted"; runId: string; attempt: number; code: string };

const program = fileURLToPath(new URL("../dist/support/mortal-worker.js", import.meta.url));

export class WorkerProcess {
  readonly told: Told[] = [];
  readonly #child: ChildProcess;
  #ready = false;

  private constructor(redisUrl: string, prefix: string, env: Record<string, string>) {
    this.#child = fork(program, {
      env: {
        ...process.env,
        REDIS_URL: redisUrl,
        KEY_PREFIX: prefix,
        LOG_LEVEL: process.env.LOG_LEVEL ?? "silent",
        THROUGHLINE_PARENT_IPC: "1",
        ...env,
      },
      execArgv: [],
    });
    this.#child.on("message", (message: Told | { type: "ready" }) => {
      if ("type" in message) this.#ready = true;
      else this.told.push(message);
    });
  }

  /** Resolves when it takes runs. `env`: more of its environment; `AGENTS` names those that it has, default all. */
  static async start(
    redisUrl: string,
    prefix: string,
    env: Record<string, string> = {},
  ): Promise<WorkerProcess> {
    const worker = new WorkerProcess(redisUrl, prefix, env);
    await until(() => worker.#ready || worker.gone, patienceMs, "a worker process");
    if (worker.gone) throw new Error("the worker process ended while starting: LOG_LEVEL=debug shows why");
    return worker;
  }

  get gone(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** SIGSTOP: it stays where it is, its connections open, until `thaw`. */
  freeze(): void {
    this.#child.kill("SIGSTOP");
  }

  thaw(): void {
    this.#child.kill("SIGCONT");
  }

  /** SIGTERM: it hands over what it has. Resolves when it is gone. */
  async terminate(): Promise<void> {
    this.#child.kill("SIGTERM");
    await until(() => this.gone, 10_000, "the end of a worker process");
  }

  /** SIGKILL. Resolves when it is gone. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await until(() => this.gone, patienceMs, "the end of a worker process");
  }
}
