import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { expect, it } from "vitest";

/** As a browser's bundler would do it; a `node:` import fails the build. */
async function bundle(entry: string): Promise<{ text: string; inputs: string[] }> {
  const result = await build({
    entryPoints: [fileURLToPath(new URL(entry, import.meta.url))],
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
  return { text: result.outputFiles[0]?.text ?? "", inputs };
}

it.each(["./index.ts", "./react.ts"])("%s is small, for browsers, and without the schemas", async (entry) => {
  const { text, inputs } = await bundle(entry);
  const bytes = gzipSync(text).length;
  console.log(`${entry}: ${text.length} bytes, ${bytes} gzipped`);
  expect(bytes).toBeGreaterThan(2000);
  expect(bytes).toBeLessThan(12_500);
  expect(inputs.filter((input) => input.includes("zod") || input.includes("commands.ts"))).toEqual([]);
});
