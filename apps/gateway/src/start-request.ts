/** What a client asks of a new run, as the dispatcher takes it. */
import { readState, refuseSerialised } from "@throughline/checkpoint";
import { ownerScope, type RunRequest, type StartRequest } from "@throughline/dispatch";
import { type Params, ProtocolError } from "@throughline/protocol";
import type { CommandDeps } from "./commands.ts";
import type { Taker } from "./fair-turns.ts";
import { noSuchCheckpoint, noSuchThread } from "./refused.ts";
import { short } from "./short.ts";

/** Checks what a new run names, before anything is written. */
export async function startRequest(
  { dispatcher, reads, disconnectGraceMs }: Pick<CommandDeps, "dispatcher" | "reads" | "disconnectGraceMs">,
  caller: Taker,
  params: Params<"run.start">,
): Promise<StartRequest> {
  const { agent, threadId, checkpointId, metadata, multitaskStrategy, idempotencyKey } = params;
  const owner = caller.principal.id;
  const queue = await dispatcher.agents.queueOf(agent);
  if (queue === null) {
    const names = (await dispatcher.agents.live()).map(({ name }) => name);
    const known = names.length === 0 ? "no live worker offers any" : `there are ${names.join(", ")}`;
    throw new ProtocolError("no_such_agent", `there is no agent ${short(agent)}; ${known}`);
  }
  if (typeof checkpointId === "string") {
    if (threadId === undefined) {
      throw new ProtocolError(
        "invalid_argument",
        "run.start: a checkpointId needs the threadId of its thread",
      );
    }
    if (!(await dispatcher.threadsOf(owner).has(threadId))) throw noSuchThread(threadId);
    const read = () => readState(reads.saver.scoped(ownerScope(owner)), { threadId, checkpointId });
    if ((await reads.turns.take(caller, read)) === null) throw noSuchCheckpoint(threadId, checkpointId);
  }
  if (params.command !== undefined && params.input !== undefined) {
    throw new ProtocolError("invalid_argument", "run.start: give input or command, not both");
  }
  const {
    input,
    modes,
    subgraphs,
    config,
    command,
    interruptBefore,
    interruptAfter,
    timeoutMs,
    onDisconnect,
  } = params;
  refuseSerialised([input, config, command]);
  const asked = {
    input,
    checkpointId: checkpointId ?? undefined,
    fromNothing: checkpointId === null ? true : undefined,
    modes,
    subgraphs,
    config,
    command,
    interruptBefore,
    interruptAfter,
    timeoutMs,
    onDisconnect,
    disconnectGraceMs: onDisconnect === "cancel" ? disconnectGraceMs : undefined,
  };
  const given = Object.entries(asked).filter(([, value]) => value !== undefined);
  const request = { queue, ...Object.fromEntries(given) } as RunRequest;
  return {
    agent,
    owner,
    request,
    ...(threadId === undefined ? {} : { threadId }),
    ...(metadata === undefined ? {} : { metadata }),
    ...(multitaskStrategy === undefined ? {} : { multitaskStrategy }),
    ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
  };
}
