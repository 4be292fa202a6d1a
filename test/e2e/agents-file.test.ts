/** `npm start -- --agents …`, on the programs that it runs: a user's own agents, and what is said of broken ones. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findFreePort } from "@throughline/local";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Program } from "../support/program.ts";
import { startPrivateRedis } from "../support/redis.ts";

let folder: string;
const programs: Program[] = [];

function run(path: string, args: string[], env: Record<string, string> = {}): Program {
  const program = new Program(path, args, env);
  programs.push(program);
  return program;
}

/** As npm does it: the command was typed in `folder`, and runs somewhere else. */
async function npmStart(args: string[], more: Record<string, string> = {}) {
  const port = await findFreePort();
  const env = {
    REDIS_URL: redisUrl,
    PORT: `${port}`,
    HOST: "",
    AUTH: "",
    AGENTS: "",
    DRAIN_MS: "0",
    ...more,
  };
  const typed = { npm_lifecycle_event: "start", INIT_CWD: folder };
  return { port, program: run("infra/local/dist/main.js", args, { ...env, ...typed }) };
}

let redis: Awaited<ReturnType<typeof startPrivateRedis>>;
let redisUrl: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "throughline-agents-"));
  redis = await startPrivateRedis();
  redisUrl = redis.url;
});
afterAll(async () => {
  for (const program of programs.filter((each) => each.isRunning)) {
    program.process.kill("SIGTERM");
    await program.exit;
  }
  await redis.stop();
  rmSync(folder, { recursive: true, force: true });
});

test("a file outside the clone is found from where the command was typed, and its agents run", async () => {
  writeFileSync(
    join(folder, "mine.ts"),
    `import { AIMessage } from "@langchain/core/messages";
    import { END, MessagesAnnotation, START, StateGraph } from "@langchain/langgraph";
    import type { AgentContext } from "@throughline/worker";
    export async function* hello({ input }: AgentContext<string>) { yield \`Hello, \${input}!\`; }
    export const echo = new StateGraph(MessagesAnnotation)
      .addNode("say", ({ messages }) => ({ messages: [new AIMessage("You said: " + messages.at(-1)?.content)] }))
      .addEdge(START, "say")
      .addEdge("say", END)
      .compile();`,
  );
  const { port, program } = await npmStart(["--agents", "./mine.ts"]);
  await program.says("out", /Ctrl-C stops everything/);
  const [hello, echo, agents] = ["run hello you", "run echo you", "agents"].map((line) =>
    run("apps/cli/dist/main.js", line.split(" "), { THROUGHLINE_URL: `127.0.0.1:${port}` }),
  ) as [Program, Program, Program];
  expect([await hello.exit, hello.out]).toEqual([0, "Hello, you!"]);
  expect([await echo.exit, echo.out]).toEqual([0, "You said: you"]);
  await agents.exit;
  expect(agents.out).toMatch(/^echo .*\n(.*\n)*hello .*\n(.*\n)*storyteller /m);
  program.pressCtrlC();
  expect(await program.exit).toBe(0);
});

test("a broken file ends it at once, with one line that names the place, also by AGENTS", async () => {
  writeFileSync(join(folder, "broken.ts"), "type A = number;\nexport const a: A = ;\n");
  const { program } = await npmStart([], { AGENTS: "broken.ts" });
  expect(await program.exit).toBe(1);
  const said = program.out.split("\n").filter((line) => line.includes("broken.ts"));
  expect(said).toEqual([expect.stringContaining(`${folder}/broken.ts:2: syntax error: Unexpected token`)]);
  expect(program.out).not.toContain("starting it again");
});

test("the worker by itself ends with the exit code of a setting that a human must mend", async () => {
  const env = { REDIS_URL: redisUrl, AGENTS: "" };
  const worker = run("apps/worker/dist/main.js", ["--agents", join(folder, "none.ts")], env);
  expect(await worker.exit).toBe(78);
  expect(worker.out).toContain(`${folder}/none.ts: there is no such file`);
  const misspelt = run("apps/worker/dist/main.js", ["--agnets", "a.ts"], env);
  expect(await misspelt.exit).toBe(78);
  expect(misspelt.out).toContain("the only option is --agents <file>");
});
