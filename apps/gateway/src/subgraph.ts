import { findSubgraph, type Position, type RedisCheckpointSaver } from "@throughline/checkpoint";
import { ProtocolError } from "@throughline/protocol";
import { short } from "./short.ts";

/** The subgraph that a command names. Throws no_such_checkpoint where the thread has none by that name. */
export async function subgraphOf(saver: RedisCheckpointSaver, position: Position): Promise<string[]> {
  const path = await findSubgraph(saver, position);
  if (path !== undefined) return path;
  const { threadId, checkpointId, ns = [] } = position;
  throw new ProtocolError(
    "no_such_checkpoint",
    `thread ${short(threadId)} has no ${checkpointId === undefined ? "state" : `checkpoint ${short(checkpointId)}`} of a subgraph ${short(ns.join("|"))}`,
  );
}
