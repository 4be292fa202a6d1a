import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { createLineFormatter, escapeControls } from "./logger.ts";

const twoLines = `
    logger.debug("small");
    logger.info({ runId: "r1" }, "large");`;

function run(env: Record<string, string>, body = twoLines): string {
  const program = `
    import { createLogger } from "@throughline/kit";
    const logger = createLogger("gateway");
    ${body}
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

test("says which command Redis refused, and not what was in it", () => {
  const refused = `
    const error = Object.assign(new Error("OOM command not allowed"), { command: { name: "hset", args: ["k", "secret"] } });
    logger.warn({ err: error, runId: "r1" }, "refused");`;
  for (const LOG_FORMAT of ["json", "pretty"]) {
    const text = run({ LOG_FORMAT }, refused);
    expect(text).toContain("OOM command not allowed");
    expect(text).toContain("hset");
    expect(text).not.toContain("secret");
  }
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

/** What a stranger may choose: ids, names, an error's text. */
const hostile = "a\n[00:00:00.000] INFO: forged\r\u001b[31mred\u001b]0;title\u0007\u009b1m\u007f\u2028b";

/** Anything but printable text and line feeds. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const obeyed = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/;

test("no text forges a line of a pretty log, or is obeyed by a terminal", () => {
  const text = run(
    { LOG_FORMAT: "pretty" },
    `
    const hostile = ${JSON.stringify(hostile)};
    logger.info(hostile);
    logger.info({ threadId: hostile, deep: { list: [hostile], [hostile]: 1 } }, "ids");
    logger.child({ runId: hostile }).info("child");
    const error = new Error(hostile, { cause: new Error(hostile) });
    error.name = hostile;
    error.code = hostile;
    logger.warn({ err: error }, "failed");
    logger.warn(error);`,
  );
  expect(text).not.toMatch(obeyed);
  const records = text.split("\n").filter((line) => line.startsWith("["));
  expect(records).toHaveLength(5);
  for (const line of text.split("\n")) expect(line).not.toMatch(/^\s*\[00:00:00/);
  expect(text).toContain(escapeControls(hostile));
  // A stack is still one.
  expect(text).toMatch(/\n\s+at .*\n/);
});

test("a relayed line is as safe", () => {
  const format = createLineFormatter();
  const line = format(JSON.stringify({ level: 30, time: 0, msg: hostile, sub: hostile }));
  expect(line).not.toMatch(obeyed);
  expect(line).not.toContain("\n");
});

test("escapes control characters only", () => {
  expect(escapeControls("Grüße \\n 👋\t\n\u001b[0m\u009b")).toBe("Grüße \\n 👋\\t\\n\\u001b[0m\\u009b");
});
