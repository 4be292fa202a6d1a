import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { gatewayUrl, jsonObject, modeList, nodeList, quoted, runInput } from "./arguments.ts";
import { answerTo, goOn, stoppedLine } from "./follow.ts";
import { startParams } from "./program.ts";
import { Presses, type Stream, Terminal } from "./terminal.ts";

it.each([
  ["ws://127.0.0.1:8787/v1/ws", "ws://127.0.0.1:8787/v1/ws"],
  ["http://host:8787", "ws://host:8787/v1/ws"],
  ["https://host/", "wss://host/v1/ws"],
  ["wss://host/behind/v1/ws?a=1", "wss://host/behind/v1/ws?a=1"],
  ["host:9000", "ws://host:9000/v1/ws"],
  ["localhost", "ws://localhost/v1/ws"],
])("the gateway at %s is %s", (given, url) => {
  expect(gatewayUrl(given)).toBe(url);
});

it.each(["ftp://host", "ws://", "http://a b"])("%s is no gateway", (given) => {
  expect(() => gatewayUrl(given)).toThrow();
});

describe("input", () => {
  const directory = mkdtempSync(join(tmpdir(), "throughline-cli-"));
  const file = join(directory, "text.md");
  writeFileSync(file, "# Title\n");
  afterAll(() => rmSync(directory, { recursive: true }));

  it.each([
    ['{"a":1}', { a: 1 }],
    ["[1]", [1]],
    ["42", 42],
    ["true", true],
    ["Tell me", "Tell me"],
    ["[sic] this", "[sic] this"],
    [undefined, undefined],
  ])("%j is %j", (given, input) => {
    expect(runInput(given, undefined)).toEqual(input);
  });

  it.each(['{"a":1', "{broken", ' { "a": }', '["a"', "[[1]"])(
    "%j is refused: it was meant to be JSON",
    (given) => {
      expect(() => runInput(given, undefined)).toThrow(/^It begins as JSON, and is none: /);
    },
  );

  it("takes a file's text, and JSON beside it", () => {
    expect(runInput(undefined, file)).toEqual({ text: "# Title\n" });
    expect(runInput('{"tokensPerSecond":5}', file)).toEqual({ text: "# Title\n", tokensPerSecond: 5 });
    expect(() => runInput("words", file)).toThrow("JSON object");
    expect(() => runInput(undefined, `${file}.not`)).toThrow("ENOENT");
  });

  it("becomes the params of a start", () => {
    expect(startParams("a", '{"b":1}', { keep: "thread" })).toEqual({ agent: "a", input: { b: 1 } });
    const options = {
      thread: "t",
      checkpoint: "c",
      modes: modeList("messages, custom"),
      subgraphs: true,
      interruptBefore: nodeList("plan, act"),
      interruptAfter: nodeList("*"),
      timeout: 90,
      config: jsonObject('{"configurable":{"lang":"en"}}'),
      keep: "thread",
    } as const;
    expect(startParams("a", undefined, options)).toEqual({
      agent: "a",
      threadId: "t",
      checkpointId: "c",
      modes: ["messages", "custom"],
      subgraphs: true,
      interruptBefore: ["plan", "act"],
      interruptAfter: "*",
      timeoutMs: 90_000,
      config: { configurable: { lang: "en" } },
    });
    expect(startParams("a", undefined, { resume: "yes", keep: "thread" })).toEqual({
      agent: "a",
      command: { resume: "yes" },
    });
    expect(() => modeList("messages,nonsense")).toThrow("Modes are messages");
    expect(() => jsonObject("lang=en")).toThrow("It is a JSON object");
  });
});

it.each([
  ["plain-1.2", "plain-1.2"],
  ["two words", "'two words'"],
  ["it's", "'it'\\''s'"],
  ['{"continue":true}', `'{"continue":true}'`],
  ["", "''"],
])("%s is %s to a shell", (given, expected) => {
  expect(quoted(given)).toBe(expected);
});

it("shows where the answer goes; of several, under its id", () => {
  expect(answerTo([{ id: "i" }])).toBe("ANSWER");
  expect(answerTo([{ id: "i" }, { id: "j" }])).toBe(`'{"i":"ANSWER","j":"ANSWER"}'`);
});

describe("what is said of a stop", () => {
  const checkpoint = { threadId: "t1", checkpointId: "k1" };
  it.each([
    ["thread", "stopped at offset 57; saved in checkpoint k1 of thread t1"],
    ["branch", "stopped at offset 57; saved in checkpoint k1 of thread t1, off its main line"],
    ["discard", "stopped at offset 57; the thread is as it was before the run"],
  ] as const)("%s", (keep, line) => {
    expect(stoppedLine(57, { event: "cancelled", keep, checkpoint })).toBe(line);
  });

  it("names the command that goes on", () => {
    const cancelled = { event: "cancelled", keep: "thread", checkpoint } as const;
    expect(goOn("storyteller", cancelled)).toBe(`run storyteller '{"continue":true}' --thread t1`);
    expect(goOn("chat", { ...cancelled, keep: "branch" })).toBe(
      "run chat 'go on' --thread t1 --checkpoint k1",
    );
  });
});

describe("Terminal", () => {
  function streams(outTTY: boolean, errTTY: boolean) {
    const log: string[] = [];
    const stream = (name: string, isTTY: boolean): Stream => ({
      isTTY,
      write: (text) => log.push(`${name}:${text}`),
    });
    return { log, out: stream("out", outTTY), err: stream("err", errTTY) };
  }

  it("begins a remark on a line of its own, where both are on one screen", () => {
    const { log, out, err } = streams(true, true);
    const terminal = new Terminal(out, err, { color: true });
    terminal.text("Once");
    terminal.note("lost");
    terminal.show({ kind: "aside", text: "aside" });
    terminal.text(" upon");
    terminal.end();
    terminal.end();
    expect(log).toEqual([
      "out:Once",
      "err:\nlost\n",
      "err:\u001b[2maside\u001b[22m\n",
      "out: upon",
      "out:\n",
    ]);
  });

  it("obeys nothing that an agent says, and passes it on as it is where no screen is", () => {
    const text = "a\u001b]0;title\u0007\u001b[2J\u009b31m\rb\tc\nd é\u{1f600}";
    const seen = [true, false].map((isTTY) => {
      const { log, out, err } = streams(isTTY, isTTY);
      const terminal = new Terminal(out, err, { color: false });
      terminal.text(text);
      terminal.note(text);
      return log;
    });
    const shown = "a]0;title[2J31mb\tc\nd é\u{1f600}";
    expect(seen).toEqual([
      [`out:${shown}`, `err:\n${shown}\n`],
      [`out:${text}`, `err:${text}\n`],
    ]);
  });

  it("leaves text that is piped exactly as it is", () => {
    const { log, out, err } = streams(false, true);
    const terminal = new Terminal(out, err, { color: false, quiet: true });
    terminal.text("Once");
    terminal.note("lost");
    terminal.show({ kind: "aside", text: "aside" });
    terminal.text(" upon");
    terminal.end();
    expect(log).toEqual(["out:Once", "err:lost\n", "out: upon"]);
  });
});

it("a signal that comes twice at once is one press", () => {
  let now = 0;
  const presses = new Presses(() => now);
  expect(presses.signal()).toBe(1);
  now = 199;
  expect(presses.signal()).toBeUndefined();
  now = 200;
  expect(presses.signal()).toBe(2);
});
