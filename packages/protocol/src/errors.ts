/**
 * Error codes, close codes and the retry policy: what a client is to do about each.
 * No zod here, so a client that needs only these pays for nothing else.
 */

/** Every error code of the wire, and whether the same command may succeed if it is sent again later. */
export const errorCodes = {
  invalid_argument: { retryable: false },
  unknown_command: { retryable: false },
  unauthenticated: { retryable: false },
  permission_denied: { retryable: false },
  no_such_run: { retryable: false },
  no_such_thread: { retryable: false },
  no_such_checkpoint: { retryable: false },
  no_such_agent: { retryable: false },
  thread_busy: { retryable: true },
  too_many_subscriptions: { retryable: false },
  rate_limited: { retryable: true },
  payload_too_large: { retryable: false },
  not_supported: { retryable: false },
  unavailable: { retryable: true },
  internal: { retryable: false },
} as const;

export type ErrorCode = keyof typeof errorCodes;

/** A command that was refused. Thrown by a gateway's handlers and by the client's calls alike. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
  readonly code: ErrorCode;
  readonly details: Record<string, unknown> | undefined;

  constructor(code: ErrorCode, message: string, details?: Record<string, unknown>) {
    super(message);
    this.code = code;
    this.details = details;
  }

  get retryable(): boolean {
    return errorCodes[this.code]?.retryable ?? false;
  }
}

/** The close codes of the wire. */
export const closeCodes = {
  normal: 1000,
  goingAway: 1001,
  frameTooLarge: 1009,
  restarting: 1012,
  overloaded: 1013,
  badFrame: 4400,
  badToken: 4401,
  forbidden: 4403,
  noProgress: 4408,
  rateLimited: 4429,
} as const;

/** What a client does after a close: come back, get a new token first, or stay away. */
export type CloseAction = "reconnect" | "refresh-token" | "stop";

/**
 * What a close code asks of a client that still wants its runs. A code that is not listed (1006, say: the network
 * went away) means reconnect.
 */
export function closeAction(code: number): CloseAction {
  switch (code) {
    case closeCodes.frameTooLarge:
    case closeCodes.badFrame:
    case closeCodes.forbidden:
      return "stop";
    case closeCodes.badToken:
      return "refresh-token";
    default:
      return "reconnect";
  }
}

/** Backoff of the protocol: full jitter, from `minMs` to `maxMs`. */
export const backoff = { minMs: 500, maxMs: 20_000 } as const;

/**
 * How long to wait before try number `attempt` (0, 1, 2, …), in ms: uniform in [0, min(maxMs, minMs·2^attempt)],
 * but never under a tenth of minMs, so that a refused connection is not retried in a hot loop.
 */
export function backoffDelay(attempt: number, random: () => number = Math.random): number {
  const ceiling = Math.min(backoff.maxMs, backoff.minMs * 2 ** Math.min(attempt, 16));
  return Math.max(backoff.minMs / 10, random() * ceiling);
}
