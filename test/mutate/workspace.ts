/** A copy of the clone to mutate: the clone itself is never touched, and can be worked in meanwhile. */
import { execFileSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../..", import.meta.url));
/** What is installed there stays from one time to the next. */
const installed = join(root, ".data", "stryker");

/**
 * Makes the copy anew, as the files are now, committed or not.
 *
 * @param name there may be several, to mutate side by side
 * @returns the copy's path, and the paths of the files in it, from there
 */
export function makeCopy(name: string): { copy: string; files: string[] } {
  const copy = join(root, ".data", "mutate", name);
  rmSync(copy, { recursive: true, force: true });
  const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
  });
  const files = listed.split("\0").filter((path) => path !== "" && existsSync(join(root, path)));
  for (const path of files) {
    mkdirSync(dirname(join(copy, path)), { recursive: true });
    cpSync(join(root, path), join(copy, path));
  }
  const workspaces = files.filter((path) => path.endsWith("package.json")).map((path) => dirname(path));
  for (const workspace of workspaces) linkModules(copy, join(workspace, "node_modules"));
  return { copy, files };
}

/** Packages of others are linked; our own are those of the copy. */
function linkModules(copy: string, path: string): void {
  if (!existsSync(join(root, path))) return;
  const own = join(path, "@throughline");
  mkdirSync(join(copy, path), { recursive: true });
  for (const name of readdirSync(join(root, path))) {
    if (name === "@throughline") continue;
    symlinkSync(join(root, path, name), join(copy, path, name));
  }
  if (!existsSync(join(root, own))) return;
  mkdirSync(join(copy, own));
  for (const name of readdirSync(join(root, own))) {
    const target = resolve(join(root, own), readlinkSync(join(root, own, name)));
    symlinkSync(join(copy, relative(root, target)), join(copy, own, name));
  }
}

/**
 * Installs Stryker where the copy finds it, in the versions that test/mutate/stryker.json names. It is no dependency of
 * the project: that would cost everyone a hundred packages.
 *
 * @returns the program's path
 */
export function installStryker(copy: string): string {
  const wanted = readFileSync(join(root, "test/mutate/stryker.json"), "utf8");
  const manifest = join(installed, "package.json");
  if (!existsSync(join(installed, "node_modules")) || readFileSync(manifest, "utf8") !== wanted) {
    process.stderr.write("Installing Stryker …\n");
    rmSync(installed, { recursive: true, force: true });
    mkdirSync(installed, { recursive: true });
    cpSync(join(root, "test/mutate/stryker.json"), manifest);
    // Its Vitest is to be ours: a peer of it would be another.
    const options = ["--legacy-peer-deps", "--no-audit", "--no-fund", "--no-package-lock", "--silent"];
    execFileSync("npm", ["install", ...options], { cwd: installed, stdio: "inherit" });
  }
  const into = join(copy, "stryker");
  // Copied, not linked: what it imports of ours is looked for from where it is.
  cpSync(join(installed, "node_modules"), join(into, "node_modules"), {
    recursive: true,
    verbatimSymlinks: true,
  });
  return join(into, "node_modules", "@stryker-mutator", "core", "bin", "stryker.js");
}
