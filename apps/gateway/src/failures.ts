/** What goes wrong in a command, as the wire says it. */
import { ProtocolError } from "@throughline/protocol";
import { isPassing, refusalOf } from "@throughline/runlog";
import type { Logger } from "pino";

/** What Redis answers to writes while it serves reads. */
const refusesWrites: ReadonlySet<string> = new Set(["OOM", "READONLY", "NOREPLICAS", "MISCONF"]);

/** Everything that goes wrong, as the wire says it. What nobody foresaw is logged, once, here. */
export function protocolError(
  error: Error & { code?: unknown },
  method: string,
  connectionId: string,
  logger: Logger,
): ProtocolError {
  if (error instanceof ProtocolError) return error;
  if (isNamed(error.code)) return new ProtocolError(error.code, error.message);
  if (isPassing(error)) {
    const refusal = refusalOf(error);
    const cause =
      refusal === undefined
        ? "Redis is out of reach"
        : `Redis refuses ${refusesWrites.has(refusal) ? "writes" : "commands"} for now`;
    return new ProtocolError("unavailable", `${cause}; what was asked for may be asked for again`);
  }
  logger.error({ err: error, method, connectionId }, "a command failed");
  return new ProtocolError("internal", "something went wrong here; it is in the gateway's log");
}

/** What the packages below throw under the names that the wire has for it. */
function isNamed(code: unknown): code is (typeof named)[number] {
  return named.includes(code as never);
}

const named = ["no_such_checkpoint", "no_such_run", "no_such_thread", "invalid_argument"] as const;
