/** The story that the README tells, on the programs that `npm start` and `npm run cli` run. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultStory, tokens } from "@throughline/examples";
import { findFreePort, isAlive, startPrivateRedis } from "@throughline/local";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Program } from "../support/program.ts";

const pieces = [...tokens(defaultStory)];
/** Slow enough that no machine gets to the story's end before the test has done what it does in its middle. */
const slowly = '{"tokensPerSecond":20}';

let dataDir: string;
let port: number;
const programs: Program[] = [];

function run(path: string, args: string[], env: Record<string, string> = {}): Program {
  const program = new Program(path, args, env);
  programs.push(program);
  return program;
}

async function npmStart(): Promise<Program> {
  const env = { DATA_DIR: dataDir, PORT: `${port}`, REDIS_URL: "", HOST: "", AUTH: "" };
  const main = run("infra/local/dist/main.js", [], env);
  await main.says("out", /Ctrl-C stops everything/);
  return main;
}

function cli(...args: string[]): Program {
  return run("apps/cli/dist/main.js", args, { THROUGHLINE_URL: `127.0.0.1:${port}` });
}

/** What a command prints on stdout before it ends well. */
async function printed(...args: string[]): Promise<string> {
  const program = cli(...args);
  expect([await program.exit, program.err]).toEqual([0, expect.not.stringContaining("failed")]);
  return program.out;
}

beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), "throughline-start-"));
  port = await findFreePort();
});

afterAll(async () => {
  for (const program of programs.filter((each) => each.isRunning)) {
    program.process.kill("SIGTERM");
    await program.exit;
  }
  // Where a test failed, its Redis may have been left: a new owner takes it over and ends it.
  await (await startPrivateRedis({ dataDir })).stop();
  rmSync(dataDir, { recursive: true, force: true });
});

test("a story survives its gateway, its worker, Ctrl-C and a restart of everything, token for token", async () => {
  const first = await npmStart();
  const reader = cli("run", "storyteller", slowly);
  await reader.hasWritten(60);

  process.kill(first.children("apps/gateway")[0]!, "SIGKILL");
  await reader.says("err", /connection lost; reconnecting in \S+ m?s …\n/);
  const [, wentOnAt] = await reader.says("err", /back; went on at offset (\d+)\n/);
  await reader.hasWritten(reader.out.length + 1);

  process.kill(first.children("apps/worker")[0]!, "SIGKILL");
  await reader.says("err", /another worker goes on \(attempt 2\)\n/);
  await reader.hasWritten(reader.out.length + 1);

  reader.pressCtrlC();
  expect(await reader.exit).toBe(130);
  const [, stoppedAt, checkpoint, thread] =
    /\nstopping … .*\nstopped at offset (\d+); saved in checkpoint (\S+) of thread (\S+)\nto go on: throughline run storyteller '\{"continue":true\}' --thread \3\n$/.exec(
      reader.err,
    ) ?? [];
  // Besides tokens there are: started, an update, resumed, the ending.
  expect(reader.out).toBe(pieces.slice(0, Number(stoppedAt) - 4).join(""));
  expect(Number(wentOnAt)).toBeLessThan(Number(stoppedAt));
  expect(reader.err.split("\n").filter((line) => /lost|back|cannot|warning/i.test(line))).toHaveLength(2);

  // Another one is told while all is stopped and started again; its reader stays.
  const other = cli("run", "storyteller", slowly);
  await other.hasWritten(60);
  const started = [...first.children("apps/"), ...first.children("redis-server")];
  expect(started).toHaveLength(3);
  first.pressCtrlC();
  expect(await first.exit).toBe(0);
  expect(started.filter(isAlive)).toEqual([]);
  expect([first.out.split("\n").at(-2), first.err]).toEqual(["throughline | everything is stopped", ""]);

  const second = await npmStart();
  await other.says("err", /back; went on at offset \d+\n/);
  // What the first worker had written, and nobody had seen yet, comes before this.
  await other.says("err", /another worker goes on \(attempt 2\)\n/);
  await other.hasWritten(other.out.length + 1);
  other.pressCtrlC();
  expect(await other.exit).toBe(130);
  expect(defaultStory.startsWith(other.out)).toBe(true);

  const history = (await printed("history", thread!)).split("\n");
  expect(history[0]).toMatch(
    new RegExp(`^\\* ${checkpoint} .* ai: The Ferryman's Thread .*\\(cancelled\\)  \\(head\\)$`),
  );
  expect(await printed("threads")).toMatch(new RegExp(`^${thread} +1 +storyteller +cancelled `, "m"));
  expect(await printed("runs", "--thread", thread!)).toMatch(
    new RegExp(`^run_\\S+ +storyteller +cancelled +${stoppedAt} .* ${thread}$`, "m"),
  );
  const toGoOn = '{"continue":true,"tokensPerSecond":0}';
  const rest = await printed("run", "storyteller", toGoOn, "--thread", thread!);
  expect(reader.out + rest).toBe(defaultStory);

  second.pressCtrlC();
  expect(await second.exit).toBe(0);
  const log = `${first.out}${second.out}`;
  expect(log.split("\n").filter((line) => /WARN|ERROR|FATAL|Warning|^\s+at /.test(line))).toEqual([]);
});
