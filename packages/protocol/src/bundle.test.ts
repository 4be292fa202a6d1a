/** What of this package ends up in a browser. */
import { builtinModules } from "node:module";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { expect, it } from "vitest";

const source = fileURLToPath(new URL(".", import.meta.url));

async function bundle(code: string): Promise<{ inputs: string[]; imports: string[]; text: string }> {
  const built = await build({
    stdin: { contents: code, resolveDir: source, loader: "ts" },
    bundle: true,
    write: false,
    metafile: true,
    minify: true,
    platform: "browser",
    format: "esm",
    logLevel: "silent",
  });
  const [output] = Object.values(built.metafile.outputs);
  const inputs = Object.entries(output!.inputs).filter(([, { bytesInOutput }]) => bytesInOutput > 0);
  return {
    inputs: inputs.map(([path]) => path),
    imports: output!.imports.map(({ path }) => path),
    text: built.outputFiles[0]!.text,
  };
}

it("is bundled for browsers without a builtin of Node's", async () => {
  const { imports, inputs, text } = await bundle('export * from "./index.ts";');
  expect(imports).toEqual([]);
  expect(inputs.some((path) => path.includes("node_modules/zod/"))).toBe(true);
  for (const name of builtinModules) expect(text).not.toContain(`"node:${name}"`);
});

it("brings no zod where only what clients need is used", async () => {
  const { imports, inputs, text } = await bundle(`
    import { backoffDelay, closeAction, Fold, isEnding, ProtocolError, protocolVersion, subprotocol } from "./index.ts";
    console.log(backoffDelay, closeAction, Fold, isEnding, ProtocolError, protocolVersion, subprotocol);
  `);
  expect(imports).toEqual([]);
  expect(inputs.filter((path) => path.includes("node_modules"))).toEqual([]);
  expect(inputs.map((path) => path.split("/").at(-1)).sort()).toEqual([
    "<stdin>",
    "errors.ts",
    "fold.ts",
    "is-record.ts",
    "status.ts",
    "version.ts",
  ]);
  expect(text.length).toBeLessThan(10_000);
});
