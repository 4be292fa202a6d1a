import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Agent, type GraphAgent, type GraphFactory, isGraph } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AgentsError } from "./errors.ts";
import { loadAgents } from "./load.ts";

const inClone = fileURLToPath(new URL("../../../../.data/", import.meta.url));
let folder: string;
const folders: string[] = [];

function newFolder(parent: string): string {
  mkdirSync(parent, { recursive: true });
  folder = mkdtempSync(join(parent, "agents-"));
  folders.push(folder);
  return folder;
}

beforeEach(() => newFolder(tmpdir()));
afterEach(() => {
  for (const each of folders.splice(0)) rmSync(each, { recursive: true });
});

/** Writes files into the folder, and answers the path of the first. */
function files(contents: Record<string, string>): string {
  for (const [name, text] of Object.entries(contents)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  return join(folder, Object.keys(contents)[0]!);
}

const load = async (contents: Record<string, string>, env: NodeJS.ProcessEnv = {}) =>
  await loadAgents(files(contents), ["storyteller"], env);

/** What is said of files that cannot be served, their folder left out. */
async function problems(contents: Record<string, string>): Promise<string[]> {
  const path = files(contents);
  try {
    await loadAgents(path, ["storyteller"], {});
  } catch (error) {
    expect(error).toBeInstanceOf(AgentsError);
    return (error as AgentsError).lines.map((line) => line.replaceAll(`${folder}/`, ""));
  }
  throw new Error("it was loaded");
}

async function said(agent: Agent | undefined, input?: unknown): Promise<unknown[]> {
  const all: unknown[] = [];
  // A function agent is driven directly, without a worker: of its run it gets what these tests' agents look at.
  const { run } = agent as unknown as { run(context: object): AsyncIterable<unknown> };
  for await (const each of run({ input })) all.push(each);
  return all;
}

const graph = `
import { END, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
import { AIMessage } from "@langchain/core/messages";
const builder = new StateGraph(MessagesAnnotation)
  .addNode("llm", () => ({ messages: [new AIMessage("fixed")] }))
  .addEdge(START, "llm")
  .addEdge("llm", END);
`;

describe.each([
  ["inside the clone", inClone],
  ["outside the clone", tmpdir()],
])("a module in a folder %s", (_, parent) => {
  test("may be TypeScript, import ours, LangGraph, and modules of its own", async () => {
    newFolder(parent);
    const { agents } = await load({
      "my-agents.ts": `${graph}
        import { type AgentContext, agent, custom } from "@throughline/worker";
        import { z } from "zod";
        import { greet } from "./words/greet.js";
        enum Tone { Loud = "LOUD" }
        export async function* hello({ input }: AgentContext<string>) { yield greet(z.string().parse(input)); }
        export const loud = agent(async function* () { yield custom(Tone.Loud); }, { description: "Shouts" });
        export const compiled = builder.compile();
        export const made = async (config: { configurable: object }) => (await 0, config.configurable && builder);
      `,
      "words/greet.ts": `export const greet = (name: string): string => "Hello, " + name;`,
    });
    expect(Object.keys(agents).sort()).toEqual(["compiled", "hello", "loud", "made"]);
    expect(await said(agents.hello, "you")).toEqual(["Hello, you"]);
    expect(await said(agents.loud)).toEqual([{ type: "custom", ns: [], data: "LOUD" }]);
    expect(agents.loud).toMatchObject({ description: "Shouts" });
    for (const name of ["compiled", "made"]) {
      expect(agents[name]).toMatchObject({ kind: "graph" });
      const { graph: given } = agents[name] as Extract<Agent, { kind: "graph" }>;
      const graph = isGraph(given) ? given : await given({ configurable: {} });
      expect((await graph.invoke({ messages: [] })).messages[0].content).toBe("fixed");
    }
  });
});

describe("a function that answers a graph", () => {
  const source = `${graph}
    export const made = ({ configurable }: { configurable: { user: { name: string } } }) => {
      globalThis.madeFor = [...(globalThis.madeFor ?? []), configurable.user.name];
      return builder;
    };
    export async function optional(config = { configurable: {} }) {
      if (config.configurable.user === undefined) throw new RangeError("whose?");
      return builder.compile();
    }`;

  test("may need a config: it is made for each run, with that run's", async () => {
    const { agents, notes } = await load({ "a.ts": source });
    expect(notes.map((note) => note.replace(`${folder}/`, ""))).toEqual([
      expect.stringMatching(
        /^a\.ts:\d+: TypeError: .* \(in made, which was called .* with an empty config\)$/,
      ),
      expect.stringMatching(/^a\.ts:\d+: RangeError: whose\? \(in optional, which was called /),
    ]);
    const { graph: make } = agents.made as GraphAgent<GraphFactory>;
    for (const name of ["ann", "bob"]) {
      const made = await make({ configurable: { user: { name } } });
      expect((await made.invoke({ messages: [] })).messages[0].content).toBe("fixed");
    }
    expect((globalThis as { madeFor?: string[] }).madeFor).toEqual(["ann", "bob"]);
  });

  test("is called once at the start: what answers none is no agent", async () => {
    expect(
      await problems({ "a.ts": `export const made = (config: object) => Object.keys(config);` }),
    ).toEqual([expect.stringMatching(/^a\.ts:1: made is a function that answers an array and no graph; /)]);
  });
});

describe("what a module may be", () => {
  const hello = `async function* () { yield "hi"; }`;
  test.each([
    ["ESM", { "a.mjs": `export const hello = ${hello};` }],
    ["CommonJS", { "a.cjs": `exports.hello = ${hello};` }],
    ["CommonJS with a record", { "a.cjs": `module.exports = { hello: ${hello} };` }],
    ["CommonJS that is its one export", { "hello.cjs": `module.exports = ${hello};` }],
    ["JavaScript of a package without a type", { "a.js": `export const hello = ${hello};` }],
    [
      "a record as default export, other exports beside it",
      { "a.ts": `export default { hello: ${hello} }; export const n = 1;` },
    ],
    ["a function as default export", { "a.ts": `export default async function* hello() { yield "hi"; }` }],
    ["an agent as default export, called as its file", { "hello.ts": `export default ${hello};` }],
    [
      "one that waits at its top",
      { "a.ts": `const hello = await Promise.resolve(${hello}); export { hello };` },
    ],
    [
      "one with paths of its tsconfig.json",
      {
        "a.ts": `export { hello } from "@/b";`,
        "lib/b.ts": `export const hello = ${hello};`,
        "tsconfig.json": `{ "compilerOptions": { "baseUrl": ".", "paths": { "@/*": ["./lib/*"] } } }`,
      },
    ],
  ])("%s", async (_, contents) => {
    const { agents } = await load(contents as Record<string, string>);
    expect(await said(agents.hello)).toEqual(["hi"]);
    expect(Object.keys(agents)).toEqual(["hello"]);
  });

  test("a package that its folder has is its own, not ours", async () => {
    const { agents } = await load({
      "a.ts": `import { z } from "zod"; export async function* hello() { yield z; }`,
      "node_modules/zod/package.json": `{ "name": "zod", "version": "0.0.1", "main": "index.js" }`,
      "node_modules/zod/index.js": `exports.z = "its own";`,
    });
    expect(await said(agents.hello)).toEqual(["its own"]);
  });

  test("modules are evaluated once, also where a package is lent to them", async () => {
    const { agents } = await load({
      "a.ts": `import { count } from "./count.ts"; import { b } from "./b.ts"; export async function* hello() { yield [count, b]; }`,
      "count.ts": `const all = globalThis as { counted?: number }; all.counted = (all.counted ?? 0) + 1; export const count = all.counted;`,
      "b.ts": `import { z } from "zod"; import { count } from "./count.ts"; export const b = z.number().parse(count);`,
    });
    expect(await said(agents.hello)).toEqual([[1, 1]]);
  });
});

describe("what is wrong is said with file and line", () => {
  const isOne =
    "an agent is an async generator function, agent(…) of one, a compiled LangGraph graph, or a function that answers a graph";
  test.each<[string, Record<string, string>, string[]]>([
    [
      "a syntax error",
      { "a.ts": "interface A {\n  n: number;\n}\nconst a: A = { n: ;\n" },
      ["a.ts:4: syntax error: Unexpected token"],
    ],
    [
      "a syntax error in a module that it imports",
      { "a.ts": `import "./b.mjs";`, "b.mjs": "\n\nconst b = ;" },
      ["b.mjs:3: syntax error: Unexpected token"],
    ],
    [
      "what it throws",
      { "a.ts": `type A = number;\n\nthrow new TypeError("no key");` },
      ["a.ts:3: TypeError: no key"],
    ],
    [
      "what a module of its own throws",
      { "a.ts": `import { b } from "./b.ts";\nb();`, "b.ts": `type B = 1;\nexport const b = undefinedName;` },
      ["b.ts:2: ReferenceError: undefinedName is not defined"],
    ],
    ["what it throws that is no error", { "a.ts": `throw "down";` }, ["a.ts: the module threw down"]],
    [
      "a module that is missing",
      { "a.ts": `// first\nimport { b } from "./b.ts";\nb();` },
      ["a.ts:2: there is no module ./b.ts"],
    ],
    [
      "a package that is missing",
      { "a.ts": `import type { X } from "y";\nimport { b } from "@no/such/sub";\nb();` },
      [
        "a.ts:2: package @no/such is not installed where this file is; if it is, it has no @no/such/sub. Install it: cd FOLDER && npm install @no/such",
      ],
    ],
    ["no export", { "a.ts": "const a = 1;" }, [`a.ts: exports no agent; ${isOne}`]],
    [
      "exports that are no agents, every one",
      {
        "a.ts": `export const n: number = 5;\nexport class K {}\nexport function f() { return 1; }\nexport async function* fine() {}`,
      },
      [
        `a.ts:1: n is a number, which is no agent; ${isOne}`,
        `a.ts:2: K is a class, which is no agent; ${isOne}`,
        `a.ts:3: f is a function that answers a number and no graph; ${isOne}`,
      ],
    ],
    [
      "a value in a default export",
      { "a.ts": `export default {\n  one: null,\n};` },
      [`a.ts:2: one is null, which is no agent; ${isOne}`],
    ],
    [
      "a function that throws instead of answering a graph",
      { "a.ts": `export function make() {\n  throw new Error("no key");\n}` },
      ["a.ts:2: Error: no key (in make, which was called for its graph)"],
    ],
    [
      "a graph that cannot be compiled",
      {
        "a.ts": `${graph}\nexport const broken = new StateGraph(MessagesAnnotation).addNode("a", () => ({}));`,
      },
      [expect.stringMatching(/^a\.ts: UnreachableNodeError: .* \(in broken, which was compiled\)$/)],
    ],
    [
      "the name of a built-in agent",
      { "a.ts": `\nexport async function* storyteller() {}` },
      ["a.ts:2: storyteller is the name of a built-in agent; give yours another"],
    ],
    [
      "Python",
      { "a.py": "graph = 1" },
      [
        "a.py: is no module: name a .ts, .js or .mjs file, or a langgraph.json; agents in Python cannot be run here",
      ],
    ],
  ])("%s", async (_, contents, lines) => {
    expect((await problems(contents)).sort()).toEqual(
      lines.map((line) => (typeof line === "string" ? line.replace("FOLDER", folder) : line)),
    );
  });

  test("a file that is not there, and a folder without a langgraph.json", async () => {
    await expect(loadAgents(join(folder, "none.ts"), [])).rejects.toMatchObject({
      code: "config",
      message: `${folder}/none.ts: there is no such file`,
    });
    await expect(loadAgents(folder, [])).rejects.toThrow(`${folder}: is a folder without a langgraph.json`);
  });
});

describe("langgraph.json", () => {
  const source = `${graph}
    export const graph = builder.compile();
    export const make = ({ configurable }) => configurable && builder;
    export default builder;
    export const key = process.env.KEY;
  `;

  test("its graphs are agents, with their descriptions and its env", async () => {
    const json = {
      $schema: "https://langgra.ph/schema.json",
      node_version: process.versions.node.split(".")[0],
      dependencies: ["."],
      graphs: {
        named: "./src/graph.ts:graph",
        made: "./src/graph.ts:make",
        plain: "./src/graph.ts",
        described: { path: "./src/graph.ts:graph", description: "Says what is fixed" },
      },
      env: ".env",
    };
    const env: NodeJS.ProcessEnv = { SET: "before" };
    const contents = {
      "langgraph.json": JSON.stringify(json),
      "src/graph.ts": source,
      ".env": "KEY='a b' # why\nSET=here\n",
    };
    const { agents, notes } = await load(contents, env);
    expect(Object.keys(agents)).toEqual(["named", "made", "plain", "described"]);
    expect(Object.values(agents).map(({ kind }) => kind)).toEqual(Array(4).fill("graph"));
    expect(agents.described?.description).toBe("Says what is fixed");
    expect(env).toEqual({ KEY: "a b", SET: "before" });
    expect(notes).toEqual([]);
    expect(Object.keys((await loadAgents(folder, [], {})).agents)).toEqual(Object.keys(agents));
  });

  test("says what of it is left out", async () => {
    const json = {
      graphs: { a: "./g.ts:graph" },
      env: { N: 1 },
      node_version: "99",
      auth: { path: "./auth.ts:auth" },
    };
    const env: NodeJS.ProcessEnv = {};
    const { notes } = await load({ "langgraph.json": JSON.stringify(json), "g.ts": source }, env);
    expect(env).toEqual({ N: "1" });
    expect(notes).toEqual([
      `${folder}/langgraph.json: asks for Node 99; this is Node ${process.versions.node}`,
      `${folder}/langgraph.json: auth left out: for LangGraph's own server only`,
    ]);
  });

  test.each<[string, string, string[]]>([
    [
      "no JSON",
      `{\n  "graphs": {\n    "a": "./g.ts:graph",,\n  }\n}`,
      [expect.stringMatching(/^langgraph\.json:3: is not JSON: /)],
    ],
    ["no graphs", `{}`, [expect.stringMatching(/^langgraph\.json: graphs: /)]],
    ["an empty list of graphs", `{ "graphs": {} }`, ["langgraph.json: graphs: there is no graph in it"]],
    [
      "Python",
      `{ "graphs": { "a": "./agent.py:graph" } }`,
      [
        "langgraph.json: graph a is in Python (./agent.py); this worker runs LangGraph.js graphs: .ts, .js or .mjs files",
      ],
    ],
    [
      "a file that is not there",
      `{ "graphs": { "a": "./none.ts:graph" } }`,
      ["langgraph.json: graph a: there is no file none.ts"],
    ],
    [
      "an export that is not there",
      `{ "graphs": { "a": "./g.ts:nope" } }`,
      ["langgraph.json: graph a: g.ts exports default, graph, key, make, but no nope"],
    ],
    [
      "an export that is no graph",
      `{ "graphs": { "a": "./g.ts:key" } }`,
      [expect.stringMatching(/^g\.ts:\d+: key is undefined, which is no agent; /)],
    ],
    [
      "an env file that is not there",
      `{ "graphs": { "a": "./g.ts:graph" }, "env": ".env" }`,
      ["langgraph.json: env: .env cannot be read (ENOENT)"],
    ],
    [
      "a built-in agent's name",
      `{ "graphs": {\n "storyteller": "./g.ts:graph" } }`,
      ["langgraph.json:2: storyteller is the name of a built-in agent; give yours another"],
    ],
  ])("tells of %s", async (_, json, lines) => {
    expect(await problems({ "langgraph.json": json, "g.ts": source })).toEqual(lines);
  });
});
