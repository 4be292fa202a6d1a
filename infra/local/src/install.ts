import { spawn, spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** There is no Redis server on this machine and we could not install one. */
export class NoRedisError extends Error {
  readonly code = "no_redis";
  override readonly name = "NoRedisError";
}

export interface LineLogger {
  info(line: string): void;
}

const servers = ["redis-server", "valkey-server"];
const installTimeoutMs = 10 * 60_000;

/**
 * The path of a Redis or Valkey server on PATH. Where there is none, installs one with the system's package manager.
 * @throws {NoRedisError} with a line that says what to do by hand.
 */
export async function findRedisServer(logger: LineLogger): Promise<string> {
  const found = findOnPath(servers);
  if (found !== undefined) return found;
  const manager = packageManagers.find(({ command }) => findOnPath([command]) !== undefined);
  if (manager === undefined) {
    throw new NoRedisError(`${byHand}: no package manager that we know is here`);
  }
  const asRoot = manager.needsRoot ? rootPrefix() : [];
  if (asRoot === undefined) {
    throw new NoRedisError(
      `${byHand}: installing it with ${manager.command} needs root, or sudo without a password`,
    );
  }
  logger.info(
    `redis-server is not installed: installing it with ${manager.command} (once, may take a minute)`,
  );
  const failure = await runQuietly([...asRoot, "sh", "-c", manager.script]);
  const installed = findOnPath(servers);
  if (installed === undefined) {
    throw new NoRedisError(
      `${byHand}: ${manager.command} could not install it (${failure ?? "no server on PATH after it"})`,
    );
  }
  return installed;
}

const byHand = "Redis is needed: install redis-server (6.2 or newer) or valkey-server, or set REDIS_URL";

interface PackageManager {
  command: string;
  needsRoot: boolean;
  script: string;
}

/**
 * Debian's package starts a system service, now and at each boot, and nobody asked for one. RUNLEVEL=1 stops that only
 * without systemd, so a policy that forbids it stands in while we install, unless the machine has a policy of its own.
 */
export const aptPrelude = `
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\\nexit 101\\n' >"$policy" && chmod 755 "$policy"
fi
apt-get update -q
`;

const aptScript = `${aptPrelude}
add='apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120'
$add redis-server && service=redis-server || { $add valkey-server && service=valkey-server; } || exit 1
[ ! -d /run/systemd/system ] || systemctl disable -q "$service" || :
`;

const packageManagers: readonly PackageManager[] = [
  { command: "apt-get", needsRoot: true, script: aptScript },
  { command: "apk", needsRoot: true, script: "apk add --no-cache redis || apk add --no-cache valkey" },
  { command: "dnf", needsRoot: true, script: "dnf install -y valkey || dnf install -y redis" },
  { command: "brew", needsRoot: false, script: "brew install redis" },
];

/** What a command that needs root begins with; undefined where we cannot become root without a password. */
export function rootPrefix(): string[] | undefined {
  if (process.getuid?.() === 0) return [];
  const sudo = spawnSync("sudo", ["-n", "true"], { stdio: "ignore" });
  return sudo.status === 0 ? ["sudo", "-n"] : undefined;
}

/** Runs a command to its end. Answers undefined when it went well, else its last line of output. */
export function runQuietly(command: readonly string[]): Promise<string | undefined> {
  const [file = "", ...args] = command;
  return new Promise((resolve) => {
    const child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"], timeout: installTimeoutMs });
    let tail = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        tail = (tail + chunk.toString()).slice(-2_000);
      });
    }
    child.on("error", (error) => resolve(error.message));
    child.on("close", (code, signal) => {
      if (code === 0) resolve(undefined);
      else resolve(tail.trim().split("\n").at(-1) || `it ended with ${signal ?? code}`);
    });
  });
}

/** The path of the first of these programs that is on PATH. */
export function findOnPath(names: readonly string[]): string | undefined {
  const folders = (process.env.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  for (const name of names) {
    for (const folder of folders) {
      const path = join(folder, name);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        // Not in this folder.
      }
    }
  }
  return undefined;
}
