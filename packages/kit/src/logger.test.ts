import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { createLineFormatter } from "./logger.ts";

function run(env: Record<string, string>): string {
  const program = `
    import { createLogger } from "@throughline/kit";
    const logger = createLogger("gateway");
    logger.debug("small");
    logger.info({ runId: "r1" }, "large");
    process.exit(0);`;
  const result = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    cwd: import.meta.dirname,
    encoding: "utf8",
    env: { ...process.env, LOG_LEVEL: "", LOG_FORMAT: "", ...env },
  });
  return result.stdout + result.stderr;
}

test("writes JSON where nobody watches, and honours LOG_LEVEL", () => {
  const lines = run({ LOG_LEVEL: "debug" }).trim().split("\n");
  expect(lines.map((line) => JSON.parse(line) as unknown)).toMatchObject([
    { level: 20, name: "gateway", msg: "small" },
    { level: 30, name: "gateway", msg: "large", runId: "r1" },
  ]);
});

test("writes readable one-liners with LOG_FORMAT=pretty, the last one too before an exit", () => {
  expect(run({ LOG_FORMAT: "pretty" })).toMatch(
    /^\[\d\d:\d\d:\d\d\.\d{3}\] INFO \(gateway\): large \{"runId":"r1"\}\n$/,
  );
});

test("a level that is none is said, and info is used", () => {
  const lines = run({ LOG_LEVEL: "loud" }).trim().split("\n");
  expect(lines).toHaveLength(2);
  expect(lines[0]).toContain("LOG_LEVEL is none of");
});

test("the line formatter makes JSON lines readable and leaves others alone", () => {
  const format = createLineFormatter();
  const line = JSON.stringify({
    level: 40,
    time: Date.now(),
    pid: 1,
    hostname: "h",
    name: "x",
    msg: "watch out",
  });
  expect(format(line)).toMatch(/^\[[\d:.]+\] WARN: watch out$/);
  expect(format("    at somewhere")).toBe("    at somewhere");
});
