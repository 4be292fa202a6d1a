/** What commands are refused with that name something which is not there. */
import { ProtocolError } from "@throughline/protocol";
import { short } from "./short.ts";

export function noSuchRun(runId: string): ProtocolError {
  return new ProtocolError("no_such_run", `there is no run ${short(runId)}`);
}

export function noSuchThread(threadId: string): ProtocolError {
  return new ProtocolError("no_such_thread", `there is no thread ${short(threadId)}`);
}

export function noSuchCheckpoint(threadId: string, checkpointId: string): ProtocolError {
  return new ProtocolError(
    "no_such_checkpoint",
    `thread ${short(threadId)} has no checkpoint ${short(checkpointId)}`,
  );
}
