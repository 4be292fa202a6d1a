/**
 * Makes a clone ready to run: dependencies as the lock file says, sources compiled. Everything that `npm start`, `npm test`
 * and their like need; a second run costs next to nothing. Plain JavaScript without dependencies, since it runs before
 * there are any. With --quiet it speaks only when it works for long, or fails.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const modules = join(root, "node_modules");
const stampPath = join(modules, ".throughline-installed");
const lockDir = join(root, ".data", "setup.lock");
const quiet = process.argv.includes("--quiet");
const speakAfterMs = 3_000;
const speakEveryMs = 5_000;
/** Longer than any set-up takes: a lock this old was left behind. */
const lockStaleMs = 15 * 60_000;

class SetupError extends Error {}

/** Set while a child process works, for the signals below. */
let working;

function say(line) {
  process.stderr.write(`${line}\n`);
}

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 12)) {
    throw new SetupError(`Node ${process.versions.node} is too old: Node 20.12 or newer is needed`);
  }
}

/** Two set-ups at once would delete each other's node_modules, so one waits for the other. */
async function withLock(work) {
  const release = await takeLock();
  process.on("exit", release);
  try {
    await work();
  } finally {
    release();
    process.off("exit", release);
  }
}

async function takeLock() {
  mkdirSync(join(root, ".data"), { recursive: true });
  const started = Date.now();
  let said = false;
  for (;;) {
    try {
      mkdirSync(lockDir);
      writeFileSync(join(lockDir, "pid"), String(process.pid));
      let held = true;
      return () => {
        if (held) rmSync(lockDir, { recursive: true, force: true });
        held = false;
      };
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    dropStaleLock();
    if (!said && Date.now() - started > speakAfterMs) {
      said = true;
      say("Waiting for another set-up of this clone to finish");
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function dropStaleLock() {
  const holder = lockHolder();
  if (holder === undefined) return;
  // Only one of several waiters wins the rename; what it took must be what it looked at.
  const aside = `${lockDir}.${process.pid}`;
  try {
    renameSync(lockDir, aside);
    if (readPid(aside) === holder.pid) rmSync(aside, { recursive: true, force: true });
    else renameSync(aside, lockDir);
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
}

/** Who left the lock behind; undefined while its holder lives, or when it is gone already. */
function lockHolder() {
  try {
    const age = Date.now() - statSync(lockDir).mtimeMs;
    const pid = readPid(lockDir);
    // Between taking the lock and signing it there is a moment without a name.
    if (pid === undefined) return age > 5_000 ? { pid } : undefined;
    return age > lockStaleMs || !isAlive(pid) ? { pid } : undefined;
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

function readPid(dir) {
  try {
    return Number(readFileSync(join(dir, "pid"), "utf8")) || undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

async function installDependencies() {
  const lock = readFileSync(join(root, "package-lock.json"), "utf8");
  const stamp = createHash("sha256").update(`${process.platform}-${process.arch}\n${lock}`).digest("hex");
  if (readText(stampPath) === stamp) return;
  if (!installedAsLocked(JSON.parse(lock))) {
    const npm = process.env.npm_execpath;
    const [file, ...args] = npm?.endsWith("npm-cli.js") ? [process.execPath, npm] : ["npm"];
    await run("Installing dependencies", file, [...args, "ci", "--include=dev", "--no-audit", "--no-fund"]);
  }
  writeFileSync(stampPath, stamp);
}

/**
 * Whether npm itself, run by hand, has installed just this. npm ends an installation with a lock file in node_modules, but
 * writes one too where it only updates the outer one, so each package is looked at.
 */
function installedAsLocked(lock) {
  if (!existsSync(join(modules, ".package-lock.json"))) return false;
  return Object.entries(lock.packages).every(([path, wanted]) => {
    const manifest = readText(join(root, path, "package.json"));
    // Optional ones are those of other platforms.
    if (manifest === undefined) return wanted.optional === true;
    return wanted.version === undefined || JSON.parse(manifest).version === wanted.version;
  });
}

async function compile() {
  // The compiler looks at its notes only: without the outputs that they speak of, they have to go too.
  for (const { path } of JSON.parse(readFileSync(join(root, "tsconfig.json"), "utf8")).references) {
    if (!existsSync(join(root, path, "dist")))
      rmSync(join(root, path, "tsconfig.tsbuildinfo"), { force: true });
  }
  const tsc = join(modules, "typescript", "bin", "tsc");
  await run("Compiling", process.execPath, [tsc, "-b"]);
}

/**
 * Runs a command silently, unless it takes long (then says what it does, and every few seconds that it goes on) or fails
 * (then shows what it printed).
 */
function run(what, file, args) {
  return new Promise((resolve, reject) => {
    const startedAt = Date.now();
    const goesOn = () => {
      say(`${what} … (${Math.round((Date.now() - startedAt) / 1000)} s)`);
      timer = setTimeout(goesOn, speakEveryMs);
    };
    let timer = setTimeout(
      () => {
        say(`${what} …`);
        timer = setTimeout(goesOn, speakEveryMs);
      },
      quiet ? speakAfterMs : 300,
    );
    const child = spawn(file, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    working = child;
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
      });
    }
    const finish = (failure) => {
      clearTimeout(timer);
      working = undefined;
      if (failure === undefined) resolve();
      else reject(new SetupError(`${output}${what} failed: ${failure}`));
    };
    child.on("error", (error) =>
      finish(error.code === "ENOENT" ? `${file} is not installed` : error.message),
    );
    child.on("close", (code, signal) => finish(code === 0 ? undefined : `it ended with ${signal ?? code}`));
  });
}

function readText(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    working?.kill(signal);
    process.exit(1);
  });
}

try {
  checkNode();
  await withLock(async () => {
    await installDependencies();
    await compile();
  });
} catch (error) {
  say(error instanceof SetupError ? error.message : `The set-up failed: ${error.message}`);
  process.exitCode = 1;
}
