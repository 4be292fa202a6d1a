/**
 * One service as a child process that is kept running: started, restarted with a growing delay when it dies, stopped for
 * good. Invariant: at most one process at a time, and none after `stop()` has resolved.
 */
import { type ChildProcess, fork } from "node:child_process";
import { exitNeedsHuman, type ReadyMessage } from "@throughline/kit";
import type { Output } from "./output.ts";
import { signal } from "./process.ts";

export interface ServiceSpec {
  name: string;
  /** The program, a JavaScript file. It says `{type: "ready"}` over IPC when it is up. */
  main: string;
  args?: readonly string[];
  env?: Readonly<Record<string, string>>;
}

export interface KeepRunningOptions {
  spec: ServiceSpec;
  output: Output;
  /** `detail`: what it says of itself. */
  onReady: (detail: string | undefined) => void;
  /** It cannot run: the service's own log lines, or `reason`, say why. */
  onGivenUp: (reason: string | undefined) => void;
  /** Before restart `attempt` (1, 2, …) in a row. */
  restartDelayMs: (attempt: number) => number;
}

export interface KeptService {
  /** SIGTERM, then SIGKILL after `graceMs`. Resolves when the process is gone. */
  stop(graceMs: number): Promise<void>;
  /** SIGKILL at once, during a `stop()` that takes too long for somebody. */
  kill(): void;
}

const startAttempts = 3;
/** A service that ran this long was fine: its next death starts the delays anew. */
const steadyAfterMs = 60_000;

export function keepRunning(options: KeepRunningOptions): KeptService {
  const { spec, output } = options;
  let child: ChildProcess | undefined;
  let exited: Promise<void> = Promise.resolve();
  let timer: NodeJS.Timeout | undefined;
  let stopping = false;
  let deathsBeforeReady = 0;
  let restarts = 0;

  const start = () => {
    let ready = false;
    const startedAt = Date.now();
    const process_ = fork(spec.main, spec.args ?? [], {
      env: { ...process.env, ...spec.env, THROUGHLINE_PARENT_IPC: "1", LOG_FORMAT: "json" },
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    child = process_;
    output.relay(spec.name, process_.stdout!);
    output.relay(spec.name, process_.stderr!);
    process_.on("message", (message: unknown) => {
      if (ready || !isReady(message)) return;
      ready = true;
      deathsBeforeReady = 0;
      options.onReady(message.detail);
    });
    process_.on("error", (error) => output.line(spec.name, error.message));
    exited = new Promise((resolve) => {
      // "close" comes after the last line of the log, "exit" may come before.
      process_.once("close", (code, killedBy) => {
        child = undefined;
        resolve();
        if (stopping) return;
        if (Date.now() - startedAt > steadyAfterMs) restarts = 0;
        afterDeath(ready, code, killedBy);
      });
    });
  };

  const afterDeath = (wasReady: boolean, code: number | null, killedBy: NodeJS.Signals | null) => {
    const how = killedBy ?? `exit code ${code}`;
    if (!wasReady) {
      deathsBeforeReady += 1;
      if (code === exitNeedsHuman) return options.onGivenUp(undefined);
      if (deathsBeforeReady >= startAttempts) {
        return options.onGivenUp(
          `${spec.name} cannot start: it ended ${startAttempts} times (${how}); its lines above say why`,
        );
      }
    }
    restarts += 1;
    const delayMs = options.restartDelayMs(restarts);
    output.line(spec.name, `ended (${how}): starting it again in ${delayMs / 1000} s`);
    timer = setTimeout(start, delayMs);
  };

  start();
  return {
    async stop(graceMs) {
      stopping = true;
      clearTimeout(timer);
      const pid = child?.pid;
      if (pid === undefined) return exited;
      signal(pid, "SIGTERM");
      const late = setTimeout(() => {
        output.line(spec.name, `did not stop within ${graceMs / 1000} s: killing it`);
        signal(pid, "SIGKILL");
      }, graceMs);
      await exited;
      clearTimeout(late);
    },
    kill() {
      if (child?.pid !== undefined) signal(child.pid, "SIGKILL");
    },
  };
}

function isReady(message: unknown): message is ReadyMessage {
  return typeof message === "object" && message !== null && "type" in message && message.type === "ready";
}
