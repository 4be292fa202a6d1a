import pino from "pino";
import { type PrettyOptions, prettyFactory } from "pino-pretty";
import { ConfigError } from "./config.ts";

export type Logger = pino.Logger;

export interface LoggerOptions {
  /** @default LOG_LEVEL, or "info" */
  level?: string;
  /** Readable lines instead of JSON. @default LOG_FORMAT ("pretty" or "json"), or whether stdout is a terminal */
  pretty?: boolean;
}

const levels = new Set(["trace", "debug", "info", "warn", "error", "fatal", "silent"]);
const formats = new Set(["json", "pretty"]);

/** @throws {ConfigError} where LOG_LEVEL or LOG_FORMAT is set to what is none */
export function checkLogSettings(env: NodeJS.ProcessEnv = process.env): void {
  const wrong: string[] = [];
  if (env.LOG_LEVEL && !levels.has(env.LOG_LEVEL.toLowerCase())) {
    wrong.push(`LOG_LEVEL: is no level; it should be one of ${[...levels].join(", ")}`);
  }
  if (env.LOG_FORMAT && !formats.has(env.LOG_FORMAT)) {
    wrong.push(`LOG_FORMAT: is no format; it should be one of ${[...formats].join(", ")}`);
  }
  if (wrong.length > 0) throw new ConfigError(wrong);
}

/** A logger that writes to stdout synchronously, so that the last line before an exit is never lost. */
export function createLogger(name: string, options: LoggerOptions = {}): Logger {
  const asked = options.level ?? (process.env.LOG_LEVEL?.toLowerCase() || "info");
  const level = levels.has(asked) ? asked : "info";
  const pretty = options.pretty ?? wantsPretty();
  const stdout = pino.destination({ dest: 1, sync: true });
  const logger = pretty
    ? pino({ name, level, serializers }, { write: prettyWriter(stdout) })
    : pino({ name, level, serializers, timestamp: pino.stdTimeFunctions.isoTime }, stdout);
  if (level !== asked) logger.warn(`LOG_LEVEL is none of ${[...levels].join(", ")}: using info`);
  return logger;
}

/**
 * Turns a line of JSON log into a readable one (or more, for an error's stack), without the logger's name: who relays logs
 * says whose they are. Control characters in it are escaped: no text forges a line, or colours a terminal. Lines that are
 * not JSON come back as they are.
 */
export function createLineFormatter(options: { color?: boolean } = {}): (line: string) => string {
  const format = prettyFormat({ ...prettyOptions(options.color ?? false), ignore: "pid,hostname,name" });
  return (line) => format(line).replace(/\n$/, "");
}

/** An error of ioredis carries its command with all arguments: what users wrote. Its name says enough. */
const serializers = {
  err: (error: Error): object => {
    const told = pino.stdSerializers.err(error) as unknown as Record<string, unknown>;
    const { name } = (told.command ?? {}) as { name?: unknown };
    return name === undefined ? told : { ...told, command: { name } };
  },
};

function wantsPretty(): boolean {
  if (process.env.LOG_FORMAT === "pretty") return true;
  if (process.env.LOG_FORMAT === "json") return false;
  return process.stdout.isTTY === true;
}

function prettyWriter(stdout: { write(text: string): unknown }): (line: string) => void {
  const format = prettyFormat(prettyOptions(process.stdout.isTTY === true && !process.env.NO_COLOR));
  return (line) => {
    stdout.write(format(line));
  };
}

/** All pretty logs are made here: a line of JSON in, readable text out. */
function prettyFormat(options: PrettyOptions): (line: string) => string {
  const format = prettyFactory(options);
  return (line) => format(readRecord(line) ?? line);
}

/** A log line's record, with nothing in it that a terminal obeys. undefined: the line is none. */
function readRecord(line: string): object | undefined {
  try {
    const record: unknown = JSON.parse(line);
    return typeof record === "object" && record !== null ? (visible(record) as object) : undefined;
  } catch {
    return undefined;
  }
}

function visible(value: unknown, key?: string): unknown {
  if (typeof value === "string") return key === "stack" ? visibleStack(value) : escapeControls(value);
  if (Array.isArray(value)) return value.map((each) => visible(each));
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([name, each]) => [escapeControls(name), visible(each, name)]);
  return Object.fromEntries(entries);
}

/** A stack keeps its line breaks, but not those of the error's message. */
function visibleStack(stack: string): string {
  return stack
    .split(/\n(?=\s+at |caused by: )/)
    .map(escapeControls)
    .join("\n");
}

/** C0, DEL and C1, and the two line separators of Unicode. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const controls = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;
const shortEscapes: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** The text with its control characters as JSON writes them: `\n`, `\u001b`. */
export function escapeControls(text: string): string {
  return text.replace(
    controls,
    (char) => shortEscapes[char] ?? `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function prettyOptions(colorize: boolean): PrettyOptions {
  return { colorize, singleLine: true, translateTime: "SYS:HH:MM:ss.l", ignore: "pid,hostname" };
}
