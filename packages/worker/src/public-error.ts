/**
 * What the readers of a run are told of an error. An agent's error may quote anything: a connection string, a query,
 * another user's text. So its message is for the worker's log, unless somebody says that it is for readers.
 */
import {
  hideError,
  InvalidArgumentError,
  NoSuchCheckpointError,
  NotSupportedError,
} from "@throughline/checkpoint";
import type { RunError } from "@throughline/protocol";
import { PartTooLargeError } from "@throughline/runlog";
import type { Logger } from "pino";
import { RunTimeoutError } from "./attempt.ts";
import { BadYieldError } from "./generator.ts";

/**
 * An error whose message is written for whoever reads the run: `throw new PublicError("the file is larger than 10 MB")`.
 * Any error with the property `public: true` is treated like it.
 */
export class PublicError extends Error {
  override readonly name: string = "PublicError";
  readonly public = true;
  /** For programs: `file_too_large`. */
  declare readonly code?: string;

  constructor(message: string, options: ErrorOptions & { code?: string } = {}) {
    const { code, ...rest } = options;
    super(message, rest);
    if (code !== undefined) this.code = code;
  }
}

/**
 * Decides what readers are told of what an agent threw: a message, with a code where there is one. undefined: the default,
 * which is the message of a public error, and a fixed sentence for any other.
 */
export type PublicErrorHook = (error: unknown) => { message: string; code?: string } | undefined;

/** Throughline's own errors: they say what was wrong with the run, in words that were written for readers. */
const own = [
  BadYieldError,
  InvalidArgumentError,
  NoSuchCheckpointError,
  NotSupportedError,
  PartTooLargeError,
  RunTimeoutError,
];

/** LangGraph's own, which say how its graph was used. It need not be installed, so they are known by name. */
const ofLangGraph: ReadonlySet<string> = new Set([
  "EmptyInputError",
  "GraphRecursionError",
  "InvalidUpdateError",
]);

/** What readers are told of `error`, which an agent threw. A hook that fails is logged, and changes nothing. */
export function tellError(error: unknown, hook: PublicErrorHook | undefined, logger: Logger): RunError {
  const hidden = hideError(error);
  try {
    if (isOwn(error)) return { ...hidden, message: error.message };
    const decided = decide(error, hook, logger);
    if (decided !== undefined) return { ...hidden, ...decided };
    return isPublic(error) ? { ...hidden, message: String(error.message) } : hidden;
  } catch {
    // It cannot be read: a getter or a proxy that throws.
    return hidden;
  }
}

/** Logs what an agent threw, whatever it is: also what cannot be read. */
export function logAgentError(
  error: unknown,
  about: { agent: string; threadId: string },
  logger: Logger,
): void {
  const message = "the agent failed";
  try {
    logger.warn({ err: error, ...about }, message);
  } catch {
    logger.warn(about, `${message} with an error that cannot be read: a getter of it, or a proxy, throws`);
  }
}

/** What readers are told of an error that no agent threw, but that its worker cannot get over. */
export function tellTrouble(error: unknown): RunError {
  const { message } = isOwn(error) ? error : { message: "the run cannot go on; its worker's log says why" };
  return { ...hideError(error), message };
}

function decide(
  error: unknown,
  hook: PublicErrorHook | undefined,
  logger: Logger,
): { message: string; code?: string } | undefined {
  try {
    const decided = hook?.(error);
    if (decided === undefined) return undefined;
    const { message, code } = decided;
    if (typeof message !== "string") throw new TypeError("its message is no string");
    return { message, ...(code === undefined ? {} : { code: String(code) }) };
  } catch (failure) {
    logger.error({ err: failure }, "publicError failed: readers are told what they are told without it");
    return undefined;
  }
}

function isOwn(error: unknown): error is Error {
  return error instanceof Error && (own.some((each) => error instanceof each) || ofLangGraph.has(error.name));
}

function isPublic(error: unknown): error is Error {
  return error instanceof Error && (error as { public?: unknown }).public === true;
}
