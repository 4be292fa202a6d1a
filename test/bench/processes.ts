/** Child processes of the benchmark, and what they cost. */
import { type ChildProcess, fork } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export interface Child {
  readonly pid: number;
  readonly process: ChildProcess;
  /** What it said when it was ready. */
  readonly detail: string;
  /** Sends a message and resolves with its answer. */
  ask<T>(message: unknown): Promise<T>;
  stop(): Promise<void>;
}

/** Starts a program of the repo and waits until it says that it is ready. */
export async function start(
  path: string,
  env: Record<string, string>,
  execArgv: string[] = [],
): Promise<Child> {
  const program = fileURLToPath(new URL(`../../../${path}`, import.meta.url));
  const child = fork(program, [], {
    env: { ...process.env, LOG_LEVEL: "warn", THROUGHLINE_PARENT_IPC: "1", ...env },
    execArgv,
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const ready = await new Promise<{ detail?: string }>((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`${path} ended with ${code} before it was ready`)));
    const onMessage = (message: { type?: string; detail?: string }) => {
      if (message.type !== "ready") return;
      child.off("message", onMessage);
      resolve(message);
    };
    child.on("message", onMessage);
  });
  return {
    pid: child.pid as number,
    process: child,
    detail: ready.detail ?? "",
    ask<T>(message: unknown): Promise<T> {
      return new Promise<T>((resolve) => {
        child.once("message", (answer) => resolve(answer as T));
        child.send(message as object);
      });
    },
    async stop() {
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.removeAllListeners("exit");
      child.once("exit", () => {});
      const exited =
        child.exitCode !== null ? Promise.resolve() : new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await Promise.race([exited, gone]);
    },
  };
}

/**
 * CPU seconds that all threads of a process have run so far, as the scheduler counts them, to the nanosecond. (The
 * ticks of /proc/<pid>/stat are samples: work that comes in bursts with the timer is counted several times over.)
 * Linux.
 */
export function cpuSeconds(pid: number): number {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]);
  }
  return nanoseconds / 1e9;
}

/** Microseconds of a clock that all processes of this machine share. */
export function microseconds(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((p / 100) * sorted.length))] ?? Number.NaN;
}
