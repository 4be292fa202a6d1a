/** What docs/clients.md has of conversations: its programs run, its components compile. */
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { agents } from "@throughline/examples";
import { build } from "esbuild";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { type Line, startLine } from "../support/line.ts";
import { Program } from "../support/program.ts";
import { patienceMs, within } from "../support/until.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const guide = readFileSync(`${root}docs/clients.md`, "utf8");
/** The guide's files, by the names that their first lines give. */
const files = new Map(
  [...guide.matchAll(/^```\w+\n\/\/ ([\w-]+\.\w+)(.*?)^```$/gms)].map(([, name, text]) => [
    name!,
    `//${text}`,
  ]),
);
const folder = `${root}.data/clients-guide-${process.pid}`;
let line: Line;

beforeAll(async () => {
  mkdirSync(folder, { recursive: true });
  line = await startLine({ agents: agents() });
});
afterAll(async () => {
  await line.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function compile(name: string): Promise<string> {
  const outfile = `${folder}/${name}.mjs`;
  const contents = files.get(name)!.replaceAll("ws://127.0.0.1:8787/v1/ws", line.gateways[0]!.url);
  await build({
    stdin: { contents, resolveDir: `${root}packages/client`, loader: "jsx" },
    bundle: true,
    platform: "node",
    format: "esm",
    conditions: ["throughline-source"],
    external: ["react", "vue", "svelte", "ws"],
    outfile,
    logLevel: "silent",
  });
  return outfile;
}

test.each(["Chat.jsx", "Sidebar.jsx", "Story.jsx", "vue.js", "svelte.js"])("%s compiles", async (name) => {
  expect(readFileSync(await compile(name), "utf8").length).toBeGreaterThan(1000);
});

test("the chat fits on a page", () => {
  expect(files.get("Chat.jsx")!.trim().split("\n").length).toBeLessThanOrEqual(48);
});

test("talk.mjs shows a conversation from the first message to the end", async () => {
  const program = new Program((await compile("talk.mjs")).slice(root.length));
  onTestFinished(() => void program.process.kill());
  expect(await within(program.exit, patienceMs), program.err).toBe(0);
  const lines = program.out.trim().split("\n");
  expect(lines[0]).toMatch(/^sending/);
  expect(lines.at(-1)).toBe("idle one two three");
});
