import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { type BuildOptions, build } from "esbuild";
import { expect, it } from "vitest";

/** As a browser's bundler would do it; a `node:` import fails the build. */
async function bundle(entry: BuildOptions): Promise<{ text: string; inputs: string[] }> {
  const result = await build({
    ...entry,
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    conditions: ["throughline-source"],
    external: ["react"],
    logLevel: "silent",
  });
  const inputs = Object.values(result.metafile.outputs).flatMap((output) => Object.keys(output.inputs));
  return { text: result.outputFiles?.[0]?.text ?? "", inputs };
}

const resolveDir = fileURLToPath(new URL(".", import.meta.url));
const file = (path: string): BuildOptions => ({ entryPoints: [`${resolveDir}${path}`] });
const page = (contents: string): BuildOptions => ({ stdin: { contents, resolveDir, loader: "ts" } });

it.each<[string, number, BuildOptions]>([
  ["the client", 12_800, file("index.ts")],
  ["the conversation beside it", 9_600, file("conversation/index.ts")],
  ["a page that follows runs", 14_000, page(`export { useConnection, useRun } from "./react.ts"`)],
  ["a chat", 21_500, page(`export { useConnection, useThread } from "./react.ts"`)],
  ["all that there is for React", 22_700, file("react.ts")],
])("%s is small (%i bytes gzipped), for browsers, and without the schemas", async (name, most, entry) => {
  const { text, inputs } = await bundle(entry);
  const bytes = gzipSync(text).length;
  console.log(`${name}: ${text.length} bytes, ${bytes} gzipped`);
  expect(bytes).toBeGreaterThan(2000);
  expect(bytes).toBeLessThan(most);
  expect(inputs.filter((input) => input.includes("zod") || input.includes("commands.ts"))).toEqual([]);
});
