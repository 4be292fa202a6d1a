/** A headless Chromium that opens one page. It is driven by nothing: what the page has to say it posts to a server. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram } from "./apt.ts";

export interface Browser {
  /** Resolves when the process has ended, with what it said last. */
  readonly ended: Promise<string>;
  close(): Promise<void>;
}

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** The path of a Chromium; it is installed where there is none. */
export function findChromium(): Promise<string> {
  return findProgram(names, "chromium");
}

export async function openPage(chromium: string, url: string): Promise<Browser> {
  const profile = mkdtempSync(join(tmpdir(), "throughline-browser-"));
  const child = spawn(
    chromium,
    [
      ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"],
      ...["--no-first-run", "--no-proxy-server", "--disable-background-networking"],
      ...["--disable-component-update", "--disable-sync", `--user-data-dir=${profile}`, url],
    ],
    // A process group of its own, for all its processes to end together.
    { detached: true, stdio: ["ignore", "ignore", "pipe"] },
  );
  let tail = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    tail = (tail + text).slice(-2_000);
  });
  child.on("error", (error) => {
    tail += error.message;
  });
  const ended = once(child, "close").then(
    () => tail,
    () => tail,
  );
  return {
    ended,
    async close() {
      killGroup(child);
      await ended;
      rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    },
  };
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
