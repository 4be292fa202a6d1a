import { type SpawnSyncReturns, spawn, spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

// A clone in small: its one dependency is a folder of its own that stands in for the compiler, so nothing is downloaded.

let root: string;
let marker: string;

function write(path: string, content: string): void {
  mkdirSync(join(root, path, ".."), { recursive: true });
  writeFileSync(join(root, path), content);
}

function npm(...args: string[]): void {
  const { status, stderr } = spawnSync("npm", [...args, "--offline"], { cwd: root, encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
}

function setup(args: string[] = [], env: Record<string, string> = {}): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [join(root, "infra/setup.mjs"), ...args], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
}

function compilations(): number {
  const log = join(root, "compiled.log");
  return existsSync(log) ? readFileSync(log, "utf8").length : 0;
}

/** Leaves a folder in node_modules that an installation takes away. */
function mark(): void {
  mkdirSync(marker);
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "throughline-setup-"));
  marker = join(root, "node_modules", "marker");
  mkdirSync(join(root, "infra"));
  copyFileSync(new URL("../../setup.mjs", import.meta.url), join(root, "infra/setup.mjs"));
  write(
    "package.json",
    JSON.stringify({ name: "clone", devDependencies: { typescript: "file:./compiler" } }),
  );
  write("tsconfig.json", JSON.stringify({ references: [{ path: "apps/one" }] }));
  write("apps/one/tsconfig.tsbuildinfo", "notes");
  write("compiler/package.json", JSON.stringify({ name: "typescript", version: "1.0.0" }));
  write(
    "compiler/bin/tsc",
    `require("node:fs").appendFileSync(${JSON.stringify(join(root, "compiled.log"))}, "x");`,
  );
  npm("install", "--package-lock-only");
});

afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

test("a fresh clone is installed and compiled, and the next time only compiled", () => {
  expect(setup()).toMatchObject({ status: 0, stdout: "" });
  expect(compilations()).toBe(1);
  mark();
  expect(setup(["--quiet"])).toMatchObject({ status: 0, stdout: "", stderr: "" });
  expect(compilations()).toBe(2);
  expect(existsSync(marker)).toBe(true);
});

test("a changed lock file is installed anew", () => {
  setup();
  mark();
  write("extra/package.json", JSON.stringify({ name: "extra", version: "1.0.0" }));
  npm("install", "--package-lock-only", "./extra");
  expect(setup()).toMatchObject({ status: 0 });
  expect(existsSync(marker)).toBe(false);
  expect(existsSync(join(root, "node_modules/extra"))).toBe(true);
});

test("what npm has installed by hand is left as it is", () => {
  npm("ci");
  mark();
  expect(setup()).toMatchObject({ status: 0 });
  expect(existsSync(marker)).toBe(true);
});

test("the compiler's notes go when its outputs are gone", () => {
  setup();
  expect(existsSync(join(root, "apps/one/tsconfig.tsbuildinfo"))).toBe(false);
});

test("a failure shows what the tool printed, and what failed, with --quiet too", () => {
  write("compiler/bin/tsc", `console.log("one.ts(1,1): error"); process.exit(2);`);
  const { status, stderr } = setup(["--quiet"]);
  expect(status).toBe(1);
  expect(stderr).toMatch(/one\.ts\(1,1\): error\nCompiling failed: it ended with 2\n$/);
});

test("what takes long says what it is, until it is over", async () => {
  const go = join(root, "go");
  const until = `while (!require("node:fs").existsSync(${JSON.stringify(go)})) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);`;
  write("compiler/bin/tsc", until);
  const child = spawn(process.execPath, [join(root, "infra/setup.mjs")], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  for await (const text of child.stderr.setEncoding("utf8")) {
    said += text;
    // Twice, so that it is known to go on.
    if (/(Compiling … \(\d+ s\)\n[\s\S]*){2}/.test(said)) writeFileSync(go, "");
  }
  expect(said).toMatch(/Compiling …\nCompiling … \(\d+ s\)\nCompiling … \(\d+ s\)\n/);
});

test("several at once do their work one after the other", async () => {
  const runs = [1, 2, 3].map(
    () =>
      new Promise((resolve) => {
        spawn(process.execPath, [join(root, "infra/setup.mjs")], { stdio: "ignore" }).once("close", resolve);
      }),
  );
  expect(await Promise.all(runs)).toEqual([0, 0, 0]);
  expect(compilations()).toBe(3);
  expect(existsSync(join(root, ".data/setup.lock"))).toBe(false);
});

test("a lock that a killed set-up left behind does not hold up the next", () => {
  const { pid } = spawnSync(process.execPath, ["-e", ""]);
  write(".data/setup.lock/pid", String(pid));
  expect(setup()).toMatchObject({ status: 0 });
});

test("a Node that is too old is one line", () => {
  const disguise = `Object.defineProperty(process, "versions", { value: { node: "18.19.0" } })`;
  const { status, stderr } = setup([], {
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(disguise)}`,
  });
  expect(status).toBe(1);
  expect(stderr).toBe("Node 18.19.0 is too old: Node 20.12 or newer is needed\n");
});
