import pino from "pino";
import { type PrettyOptions, prettyFactory } from "pino-pretty";

export type Logger = pino.Logger;

export interface LoggerOptions {
  /** Default: LOG_LEVEL, or "info". */
  level?: string;
  /** Readable lines instead of JSON. Default: LOG_FORMAT ("pretty" or "json"), or whether stdout is a terminal. */
  pretty?: boolean;
}

const levels = new Set(["trace", "debug", "info", "warn", "error", "fatal", "silent"]);

/** A logger that writes to stdout synchronously, so that the last line before an exit is never lost. */
export function createLogger(name: string, options: LoggerOptions = {}): Logger {
  const asked = options.level ?? (process.env.LOG_LEVEL?.toLowerCase() || "info");
  const level = levels.has(asked) ? asked : "info";
  const pretty = options.pretty ?? wantsPretty();
  const stdout = pino.destination({ dest: 1, sync: true });
  const logger = pretty
    ? pino({ name, level }, { write: prettyWriter(stdout) })
    : pino({ name, level, timestamp: pino.stdTimeFunctions.isoTime }, stdout);
  if (level !== asked) logger.warn(`LOG_LEVEL is none of ${[...levels].join(", ")}: using info`);
  return logger;
}

/**
 * Turns a line of JSON log into a readable one (or more, for an error's stack), without the logger's name: who relays logs
 * says whose they are. Other lines come back as they are.
 */
export function createLineFormatter(options: { color?: boolean } = {}): (line: string) => string {
  const format = prettyFactory({ ...prettyOptions(options.color ?? false), ignore: "pid,hostname,name" });
  return (line) => format(line).replace(/\n$/, "");
}

function wantsPretty(): boolean {
  if (process.env.LOG_FORMAT === "pretty") return true;
  if (process.env.LOG_FORMAT === "json") return false;
  return process.stdout.isTTY === true;
}

function prettyWriter(stdout: { write(text: string): unknown }): (line: string) => void {
  const format = prettyFactory(prettyOptions(process.stdout.isTTY === true && !process.env.NO_COLOR));
  return (line) => {
    stdout.write(format(line));
  };
}

function prettyOptions(colorize: boolean): PrettyOptions {
  return { colorize, singleLine: true, translateTime: "SYS:HH:MM:ss.l", ignore: "pid,hostname" };
}
