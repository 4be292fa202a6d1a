/** A compiled program of this repository as a process of its own, and all that it says. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { until } from "./until.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const root = here.replace(/test[/\\](dist[/\\])?support[/\\]$/, "");

/** A file of this repository, from the sources as from what they are compiled to. */
export function repositoryFile(path: string): string {
  return join(root, path);
}

export class Program {
  readonly process: ChildProcess;
  out = "";
  err = "";
  /** Its exit code; null: a signal ended it. */
  readonly exit: Promise<number | null>;

  /** `path`: from the root of the repository. It leads a process group, as a command in a terminal does. */
  constructor(path: string, args: readonly string[] = [], env: Record<string, string> = {}) {
    const { NO_COLOR: _, FORCE_COLOR: __, npm_lifecycle_event: ___, ...rest } = process.env;
    const file = repositoryFile(path);
    this.process = spawn(process.execPath, [file, ...args], {
      detached: true,
      env: { ...rest, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process.stdout!.setEncoding("utf8").on("data", (text: string) => {
      this.out += text;
    });
    this.process.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.err += text;
    });
    this.exit = once(this.process, "close").then(([code]) => code as number | null);
  }

  get pid(): number {
    return this.process.pid!;
  }

  get isRunning(): boolean {
    return this.process.exitCode === null && this.process.signalCode === null;
  }

  /** Waits until it has said this, on stdout or stderr, since the character `from`. Answers the match. */
  async says(where: "out" | "err", what: RegExp, from = 0): Promise<RegExpExecArray> {
    try {
      return await until(() => what.exec(this[where].slice(from)));
    } catch {
      throw new Error(`${what} was not said; but on stdout:\n${this.out}\nand on stderr:\n${this.err}`);
    }
  }

  /** Waits until stdout is that long. */
  async hasWritten(length: number): Promise<void> {
    await this.says("out", new RegExp(`^[^]{${length}}`));
  }

  /** Ctrl-C in its terminal: the signal goes to the whole foreground process group. */
  pressCtrlC(): void {
    process.kill(-this.pid, "SIGINT");
  }

  /** The processes that it has started, by a part of their command line. */
  children(command: string): number[] {
    return processes()
      .filter((each) => each.parent === this.pid && each.command.includes(command))
      .map(({ pid }) => pid);
  }
}

interface ProcessInfo {
  pid: number;
  parent: number;
  command: string;
}

function processes(): ProcessInfo[] {
  // Small Linux images have no ps.
  if (process.platform === "linux") return readdirSync("/proc").flatMap(ofProc);
  const { stdout } = spawnSync("ps", ["-A", "-o", "pid=,ppid=,args="], { encoding: "utf8" });
  return stdout.split("\n").flatMap((line) => {
    const [, pid, parent, command] = /^ *(\d+) +(\d+) (.*)$/.exec(line) ?? [];
    return command === undefined ? [] : [{ pid: Number(pid), parent: Number(parent), command }];
  });
}

function ofProc(pid: string): ProcessInfo[] {
  if (!/^\d+$/.test(pid)) return [];
  try {
    const parent = /^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
    return [{ pid: Number(pid), parent: Number(parent), command }];
  } catch {
    return []; // It has ended in the meantime.
  }
}
