/** A headless Chromium that opens one page. It is driven by nothing: what the page has to say it posts to a server. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findOnPath, rootPrefix, runQuietly } from "@throughline/local";

/** There is no Chromium on this machine and we could not install one. */
export class NoBrowserError extends Error {
  override readonly name = "NoBrowserError";
  readonly code = "no_browser";
}

export interface Browser {
  /** Resolves when the process has ended, with what it said last. */
  readonly ended: Promise<string>;
  close(): Promise<void>;
}

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

const aptScript = `
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 chromium
`;

/**
 * The path of a Chromium on PATH. Where there is none, installs one with apt; that may take minutes.
 * @throws {NoBrowserError} with a line that says what to do by hand.
 */
export async function findChromium(): Promise<string> {
  const found = findOnPath(names);
  if (found !== undefined) return found;
  const byHand = "Chromium is needed to test the client in a browser: install it";
  if (findOnPath(["apt-get"]) === undefined) throw new NoBrowserError(`${byHand}; apt-get is not here`);
  const asRoot = rootPrefix();
  if (asRoot === undefined) {
    throw new NoBrowserError(`${byHand}; apt-get needs root, or sudo without a password`);
  }
  process.stderr.write("chromium is not installed: installing it with apt-get (once, may take minutes)\n");
  const failure = await runQuietly([...asRoot, "sh", "-c", aptScript]);
  const installed = findOnPath(names);
  if (installed === undefined)
    throw new NoBrowserError(`${byHand}; apt-get could not (${failure ?? "no Chromium on PATH after it"})`);
  return installed;
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
