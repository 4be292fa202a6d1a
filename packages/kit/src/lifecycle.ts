/**
 * A process's life: start, ready, one orderly shutdown, exit code. Invariant: whatever asks for the end (a signal, a lost
 * parent, a crash), `close()` is called at most once and the process always exits.
 */
import { ConfigError } from "./config.ts";
import { checkLogSettings, type Logger } from "./logger.ts";

export interface RunningService {
  close(): Promise<void>;
  /** Said to the supervisor when the service is up, for example where it listens. */
  detail?: string;
}

export interface RunServiceOptions {
  name: string;
  logger: Logger;
  /** Resolves when the service is up. */
  start: () => Promise<RunningService>;
  /** How long `close()` may take before the process exits with 1. @default 10 s */
  graceMs?: number;
}

/** What a child process tells its supervisor once it is up. */
export interface ReadyMessage {
  type: "ready";
  detail?: string;
}

/**
 * The exit code of a service that could not start for a reason that trying again does not change, such as a setting or a
 * taken port (EX_CONFIG of sysexits.h). Its last log line says what to do.
 */
export const exitNeedsHuman = 78;

const finalCodes = new Set([
  "config",
  "bad_redis_url",
  "redis_database",
  "redis_is_cluster",
  "redis_too_old",
  "EADDRINUSE",
  "EADDRNOTAVAIL",
  "EACCES",
  "EPERM",
  "EROFS",
]);

function isFinal(error: unknown): boolean {
  return error instanceof Error && "code" in error && finalCodes.has(String(error.code));
}

/** A terminal's Ctrl-C reaches a child together with its supervisor's SIGTERM: signals this close together are one. */
const sameSignalMs = 1_000;

/**
 * Runs a service until SIGTERM, SIGINT or, with THROUGHLINE_PARENT_IPC=1, until the parent process is gone. Exits with 0
 * after an orderly shutdown, else with 1 or `exitNeedsHuman`. A second signal more than a second after the first exits at once.
 */
export async function runService(options: RunServiceOptions): Promise<void> {
  const { name, logger } = options;
  let shutdown: { at: number } | undefined;

  const stop = async (reason: string) => {
    if (shutdown !== undefined) {
      if (Date.now() - shutdown.at <= sameSignalMs) return;
      logger.warn(`${reason} again: exiting at once`);
      process.exit(1);
    }
    shutdown = { at: Date.now() };
    logger.info(`${reason}: shutting down`);
    const graceMs = options.graceMs ?? 10_000;
    setTimeout(() => {
      logger.error(`${name} did not close within ${graceMs / 1000} s`);
      process.exit(1);
    }, graceMs);
    try {
      const service = await started;
      await service?.close();
    } catch (error) {
      logger.error({ err: error }, `${name} did not close cleanly`);
      process.exit(1);
    }
    logger.info(`${name} is closed`);
    process.exit(0);
  };

  process.on("SIGTERM", () => void stop("SIGTERM"));
  process.on("SIGINT", () => void stop("SIGINT"));
  if (process.env.THROUGHLINE_PARENT_IPC === "1") {
    if (process.send !== undefined && !process.connected) void stop("the parent process is gone");
    process.once("disconnect", () => void stop("the parent process is gone"));
  }
  for (const event of ["unhandledRejection", "uncaughtException"] as const) {
    process.on(event, (error: unknown) => {
      logger.fatal({ err: error }, event);
      process.exit(1);
    });
  }

  const start = async () => {
    checkLogSettings();
    return await options.start();
  };
  const started: Promise<RunningService | undefined> = start().catch((error: unknown) => {
    // A start that our own shutdown broke off is no failure.
    if (shutdown !== undefined) return undefined;
    logStartFailure(name, logger, error);
    process.exit(isFinal(error) ? exitNeedsHuman : 1);
  });
  const service = await started;
  if (service !== undefined && shutdown === undefined) reportReady(service.detail);
}

/** Tells the supervisor that this process is up; `runService` does it. Without a supervisor it does nothing. */
export function reportReady(detail?: string): void {
  const message: ReadyMessage = detail === undefined ? { type: "ready" } : { type: "ready", detail };
  if (process.connected) process.send?.(message);
}

/** One clear line for an error of a known kind; the stack only for what nobody foresaw. */
function logStartFailure(name: string, logger: Logger, error: unknown): void {
  if (error instanceof ConfigError) {
    for (const line of error.lines) logger.fatal(line);
    return;
  }
  const known = explainError(error);
  if (known === undefined) logger.fatal({ err: error }, `${name} could not start`);
  else logger.fatal(`${name} could not start: ${known}`);
}

/** What was wrong and what would be right, for an error that has a `code`; undefined for any other. */
export function explainError(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return undefined;
  const { code, address, port, path } = error as NodeJS.ErrnoException & { address?: string; port?: number };
  if (port !== undefined && code === "EADDRINUSE") {
    return `port ${port} on ${address ?? "this machine"} is taken: stop what listens there, or choose another with PORT`;
  }
  if (port !== undefined && code === "EACCES") {
    return `port ${port} needs a permission that this user lacks: choose one above 1023 with PORT`;
  }
  if (port !== undefined && code === "EADDRNOTAVAIL") {
    return `${address ?? "that address"} is none of this machine's addresses: choose another with HOST`;
  }
  if (path !== undefined && (code === "EACCES" || code === "EPERM" || code === "EROFS")) {
    return `${path} cannot be written: give this user the permission`;
  }
  return error.message;
}
