/**
 * Mutation testing: changes one small thing of the code at a time, and runs the tests that are to notice. What survives
 * is a change that no test sees. TypeScript is mutated by Stryker, Lua by lua-mutants.ts; both in a copy of the clone.
 *
 *     npm run mutate [-- --lua] [--typescript] [path …]
 *
 * Without a flag both. A path is a part of a file's name; without one all of targets.ts. Ends with 1 where less than
 * 85 % were noticed.
 */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { LuaTests, type Outcome } from "./lua.ts";
import { lua, type Target, typescript, unmutated } from "./targets.ts";
import { installStryker, makeCopy } from "./workspace.ts";

const least = 85;

const { values: flags, positionals } = parseArgs({
  options: {
    lua: { type: "boolean", default: false },
    typescript: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const both = flags.lua === flags.typescript;

const filesOf = ({ of }: Target, files: readonly string[]) =>
  files.filter(
    (path) =>
      (path === of || path.startsWith(`${of}/`)) &&
      !unmutated.test(path) &&
      (positionals.length === 0 || positionals.some((each) => path.includes(each))),
  );

let isEnough = true;
if (flags.typescript || both) isEnough = mutateTypeScript() && isEnough;
if (flags.lua || both) isEnough = (await mutateLua()) && isEnough;
process.exitCode = isEnough ? 0 : 1;

function mutateTypeScript(): boolean {
  const { copy, files } = makeCopy("typescript");
  const program = installStryker(copy);
  const ends = typescript.map((target) => {
    const mutate = filesOf(target, files);
    return mutate.length === 0 || stryker(program, copy, mutate, target.tests);
  });
  return ends.every((end) => end);
}

function stryker(program: string, copy: string, mutate: string[], tests: string[]): boolean {
  const config = join(copy, "stryker.config.json");
  writeFileSync(
    config,
    JSON.stringify({
      mutate,
      inPlace: true,
      testRunner: "vitest",
      plugins: ["@stryker-mutator/vitest-runner"],
      vitest: { configFile: "test/mutate/vitest.config.ts", related: false },
      coverageAnalysis: "perTest",
      concurrency: 2,
      timeoutMS: 20_000,
      reporters: ["clear-text", "progress-append-only"],
      clearTextReporter: { allowColor: false, logTests: false, reportTests: false },
      allowConsoleColors: false,
      thresholds: { high: 95, low: least, break: least },
      tempDirName: ".stryker",
    }),
  );
  const env = { ...process.env, MUTATE_TESTS: tests.join(","), MUTATING: "1" };
  const redis = new URL("./with-redis.js", import.meta.url).pathname;
  const { status } = spawnSync(process.execPath, [redis, program, "run", config], {
    cwd: copy,
    env,
    stdio: "inherit",
  });
  return status === 0;
}

async function mutateLua(): Promise<boolean> {
  const { copy, files } = makeCopy("lua");
  const all: Outcome[] = [];
  for (const target of lua) {
    const paths = filesOf(target, files);
    if (paths.length === 0) continue;
    const tests = new LuaTests(copy, target.tests);
    try {
      await tests.check();
      for (const path of paths) {
        const found: Outcome[] = [];
        await tests.mutate(path, (outcome) => {
          found.push(outcome);
          if (outcome.end === "survived") say(`${path}:${outcome.line}: survived: ${outcome.what}`);
        });
        all.push(...found);
        report(path, found);
      }
    } finally {
      await tests.stop();
    }
  }
  if (all.length > 0) report("all of them", all);
  return all.length === 0 || score(all) >= least;
}

function report(name: string, outcomes: readonly Outcome[]): void {
  const survivors = outcomes.filter(({ end }) => end === "survived").length;
  say(`${name}: ${score(outcomes).toFixed(1)} % of ${outcomes.length}, ${survivors} survived`);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function score(outcomes: readonly Outcome[]): number {
  return (100 * outcomes.filter(({ end }) => end !== "survived").length) / outcomes.length;
}
