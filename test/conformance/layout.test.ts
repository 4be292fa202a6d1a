/**
 * Imports go one way. What may import what stands here, once; package.json files and sources are held to it. A new
 * workspace has to be given its place before anything passes.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** By folder: the folders of ours that it may import. */
const mayImport: Record<string, string[]> = {
  "packages/protocol": [],
  "packages/kit": [],
  "packages/checkpoint": ["packages/protocol", "packages/kit"],
  "packages/runlog": ["packages/protocol", "packages/kit"],
  "packages/dispatch": ["packages/protocol", "packages/runlog", "packages/kit"],
  "packages/client": ["packages/protocol"],
  "packages/worker": [
    "packages/protocol",
    "packages/runlog",
    "packages/dispatch",
    "packages/checkpoint",
    "packages/kit",
  ],
  "apps/gateway": [
    "packages/protocol",
    "packages/runlog",
    "packages/dispatch",
    "packages/checkpoint",
    "packages/kit",
  ],
  examples: ["packages/worker", "packages/kit"],
  "examples/chat": ["packages/client"],
  "apps/worker": ["examples", "packages/worker", "packages/protocol", "packages/kit"],
  "apps/cli": ["packages/client", "packages/protocol"],
  "apps/console": ["packages/client", "packages/protocol"],
  "infra/local": ["packages/kit"],
};
/** Tests, which may import anything. */
const onlyTests = ["test", "infra/langgraph-latest"];
/** They run in browsers: nothing of Node's in them. */
const browserSafe = ["packages/protocol", "packages/client", "apps/console", "examples/chat"];

interface Manifest {
  name: string;
  workspaces?: string[];
  exports?: Record<string, unknown>;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
}

interface Workspace {
  folder: string;
  manifest: Manifest;
}

interface Import {
  /** Path from the root, with slashes. */
  file: string;
  specifier: string;
  /** It is no part of what runs: a test, or what only tests use. */
  isTest: boolean;
}

const readJson = (path: string): unknown => JSON.parse(readFileSync(join(root, path), "utf8"));
const rootManifest = readJson("package.json") as Manifest;

const workspaces: Workspace[] = rootManifest
  .workspaces!.flatMap((pattern) => {
    if (!pattern.endsWith("/*")) return [pattern];
    const parent = pattern.slice(0, -2);
    return readdirSync(join(root, parent)).map((each) => `${parent}/${each}`);
  })
  .filter((folder) => existsSync(join(root, folder, "package.json")))
  .map((folder) => ({ folder, manifest: readJson(`${folder}/package.json`) as Manifest }));
const byName = new Map(workspaces.map((each) => [each.manifest.name, each]));
const testTools = byName.get("@throughline/test")!.manifest;

const builtins = new Set(builtinModules);
const notSources = new Set(["node_modules", "dist", ".data"]);

function* sources(folder: string): Generator<string> {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) {
      const isWorkspace = existsSync(join(root, path, "package.json"));
      if (!notSources.has(entry.name) && !isWorkspace) yield* sources(path);
    } else if (/\.(ts|tsx|mts|mjs|js)$/.test(entry.name)) yield path;
  }
}

const importPatterns = [
  /^(?:import|export)\b[^"'`;]*?\bfrom\s+"([^"]+)"/gm,
  /^import\s+"([^"]+)"/gm,
  /\bimport\("([^"]+)"\)/g,
];

function importsOf(folder: string): Import[] {
  return [...sources(folder)].flatMap((file) => {
    const text = readFileSync(join(root, file), "utf8");
    const isTest = /\.test\.tsx?$|\/(testing|fixtures)\/|\/vite(st)?\.config\.|\/testing\.ts$/.test(file);
    const specifiers = importPatterns.flatMap((pattern) =>
      [...text.matchAll(pattern)].map(([, each]) => each!),
    );
    return specifiers.map((specifier) => ({ file, specifier, isTest }));
  });
}

const imports = new Map(workspaces.map(({ folder }) => [folder, importsOf(folder)]));

/** `@scope/name/sub` → `@scope/name`. */
function packageOf(specifier: string): string {
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}

function isBare({ specifier }: Import): boolean {
  return !/^[./#]/.test(specifier) && !specifier.startsWith("node:");
}

const show = ({ file, specifier }: Import) => `${file} imports ${specifier}`;

const checked = workspaces.filter(({ folder }) => !onlyTests.includes(folder));

describe("the layout", () => {
  it("has a place for every workspace", () => {
    expect(workspaces.length).toBeGreaterThan(9);
    expect(checked.map(({ folder }) => folder).filter((folder) => mayImport[folder] === undefined)).toEqual(
      [],
    );
    const known = new Set(Object.keys(mayImport));
    expect(
      Object.values(mayImport)
        .flat()
        .filter((folder) => !known.has(folder)),
    ).toEqual([]);
  });

  it("finds the imports that it judges", () => {
    for (const { folder } of workspaces) expect(imports.get(folder)!.length, folder).toBeGreaterThan(0);
    const gateway = imports.get("apps/gateway")!;
    expect(gateway.some(({ specifier }) => specifier === "@throughline/runlog")).toBe(true);
    expect(gateway.some(({ specifier }) => specifier === "./feed.ts")).toBe(true);
  });

  it("allows no cycles", () => {
    const seen = new Map<string, "open" | "done">();
    const walk = (folder: string, path: string[]): void => {
      expect(seen.get(folder), [...path, folder].join(" → ")).not.toBe("open");
      if (seen.get(folder) === "done") return;
      seen.set(folder, "open");
      const next = new Set(mayImport[folder]);
      const { dependencies, devDependencies, peerDependencies } =
        checked.find((each) => each.folder === folder)?.manifest ?? ({} as Manifest);
      for (const name of Object.keys({ ...dependencies, ...devDependencies, ...peerDependencies })) {
        const ours = byName.get(name);
        if (ours !== undefined) next.add(ours.folder);
      }
      for (const each of next) walk(each, [...path, folder]);
      seen.set(folder, "done");
    };
    for (const folder of Object.keys(mayImport)) walk(folder, []);
  });

  it("keeps gateway and worker apart", () => {
    const reach = (folder: string): string[] => [folder, ...mayImport[folder]!.flatMap(reach)];
    expect(reach("apps/gateway")).not.toContain("packages/worker");
    expect(reach("packages/worker")).not.toContain("apps/gateway");
    expect(reach("apps/worker")).not.toContain("apps/gateway");
  });
});

describe.each(checked)("$folder", ({ folder, manifest }) => {
  const all = imports.get(folder)!;
  const allowed = mayImport[folder] ?? [];

  it("depends on no more of ours than it may", () => {
    const names = Object.keys({
      ...manifest.dependencies,
      ...manifest.peerDependencies,
      ...manifest.devDependencies,
    });
    const ours = names.flatMap((name) => byName.get(name)?.folder ?? []);
    expect(ours.filter((each) => !allowed.includes(each))).toEqual([]);
  });

  it("imports no more of ours than it may", () => {
    const wrong = all.filter((each) => {
      const ours = isBare(each) ? byName.get(packageOf(each.specifier)) : undefined;
      return ours !== undefined && ours.folder !== folder && !allowed.includes(ours.folder);
    });
    expect(wrong.map(show)).toEqual([]);
  });

  it("declares what it imports", () => {
    const own = { ...manifest.dependencies, ...manifest.peerDependencies };
    const forTests = {
      ...own,
      ...manifest.devDependencies,
      ...rootManifest.devDependencies,
      ...testTools.dependencies,
      ...testTools.devDependencies,
    };
    const wrong = all.filter(isBare).filter(({ specifier, isTest }) => {
      const name = packageOf(specifier);
      return name !== manifest.name && !Object.hasOwn(isTest ? forTests : own, name);
    });
    expect(wrong.map(show)).toEqual([]);
  });

  it("imports what it declares of ours", () => {
    const used = new Set(all.map(({ specifier }) => packageOf(specifier)));
    const declared = Object.keys(manifest.dependencies ?? {}).filter((name) => byName.has(name));
    expect(declared.filter((name) => !used.has(name))).toEqual([]);
  });

  it("comes in by the front door of others, and stays in its own folder", () => {
    const wrong = all.filter(({ file, specifier, isTest }) => {
      if (specifier.startsWith(".")) {
        const target = relative(root, resolve(root, dirname(file), specifier))
          .split(sep)
          .join("/");
        // A fixture that runs as a process of its own runs what was compiled.
        if (target.startsWith(`${folder}/`)) return !isTest && target.split("/").includes("dist");
        return !(isTest && target.startsWith("test/support/"));
      }
      const ours = byName.get(packageOf(specifier));
      if (ours === undefined) return false;
      const subpath = `.${specifier.slice(ours.manifest.name.length)}`;
      if (subpath === "./testing" && !isTest) return true;
      return !Object.hasOwn(ours.manifest.exports ?? {}, subpath);
    });
    expect(wrong.map(show)).toEqual([]);
  });

  it("names builtins with node:, and has none where browsers run it", () => {
    const bare = all.filter((each) => isBare(each) && builtins.has(each.specifier.split("/")[0]!));
    expect(bare.map(show)).toEqual([]);
    if (!browserSafe.includes(folder)) return;
    const node = all.filter(({ specifier, isTest }) => specifier.startsWith("node:") && !isTest);
    expect(node.map(show)).toEqual([]);
  });

  it("refers the compiler to what it depends on", () => {
    const path = `${folder}/tsconfig.json`;
    const { references = [] } = readJson(path) as { references?: { path: string }[] };
    const referred = references.map((each) =>
      relative(root, resolve(root, folder, each.path))
        .split(sep)
        .join("/"),
    );
    const ours = Object.keys(manifest.dependencies ?? {}).flatMap((name) => byName.get(name)?.folder ?? []);
    expect(referred.sort()).toEqual(ours.sort());
  });
});
