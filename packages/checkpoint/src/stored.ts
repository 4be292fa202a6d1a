/** What stands in Redis, and back: `<type> NUL <bytes>`, as the serializer gave them. */
import type { RunnableConfig } from "@langchain/core/runnables";
import {
  type Checkpoint,
  type CheckpointMetadata,
  type CheckpointPendingWrite,
  type CheckpointTuple,
  compareWritesSortKeys,
  type SerializerProtocol,
  writesSortKey,
} from "@langchain/langgraph-checkpoint";
import type { RawTuple } from "./scripts.ts";

export async function dump(serde: SerializerProtocol, value: unknown): Promise<Buffer> {
  const [type, bytes] = await serde.dumpsTyped(value);
  return Buffer.concat([Buffer.from(`${type}\0`), bytes]);
}

export function load(serde: SerializerProtocol, dumped: Buffer): Promise<unknown> {
  const end = dumped.indexOf(0);
  // Not a Buffer: one would go back in as {"type":"Buffer",…}.
  const bytes = new Uint8Array(dumped.buffer, dumped.byteOffset + end + 1, dumped.length - end - 1);
  return serde.loadsTyped(dumped.toString("latin1", 0, end), bytes);
}

/**
 * From task, channel, value, path, task, … in the order in which LangGraph applies a step's writes: by the task's path,
 * then as they were stored, by task and position.
 */
export async function loadWrites(
  serde: SerializerProtocol,
  raw: Buffer[],
): Promise<CheckpointPendingWrite[]> {
  const writes: { path: string; write: Promise<CheckpointPendingWrite> }[] = [];
  for (let i = 0; i < raw.length; i += 4) {
    const [task, channel] = [raw[i]!.toString(), raw[i + 1]!.toString()];
    const write = load(serde, raw[i + 2]!).then((value): CheckpointPendingWrite => [task, channel, value]);
    writes.push({ path: raw[i + 3]!.toString(), write });
  }
  writes.sort((a, b) => compareWritesSortKeys(writesSortKey(a.path), writesSortKey(b.path)));
  return await Promise.all(writes.map(({ write }) => write));
}

export async function loadTuple(
  serde: SerializerProtocol,
  threadId: string,
  [ns, id, parent, body, metadata, values, writes]: RawTuple,
): Promise<CheckpointTuple> {
  const config = (checkpointId: Buffer): RunnableConfig => ({
    configurable: {
      thread_id: threadId,
      checkpoint_ns: ns.toString(),
      checkpoint_id: checkpointId.toString(),
    },
  });
  const channels: Promise<[string, unknown]>[] = [];
  for (let i = 0; i < values.length; i += 2) {
    const channel = values[i]!.toString();
    channels.push(load(serde, values[i + 1]!).then((value) => [channel, value]));
  }
  const [checkpoint, meta, channelValues, pendingWrites] = await Promise.all([
    load(serde, body) as Promise<Omit<Checkpoint, "channel_values">>,
    load(serde, metadata) as Promise<CheckpointMetadata>,
    Promise.all(channels),
    loadWrites(serde, writes),
  ]);
  return {
    config: config(id),
    checkpoint: { ...checkpoint, channel_values: Object.fromEntries(channelValues) },
    metadata: meta,
    pendingWrites,
    ...(parent.length > 0 && { parentConfig: config(parent) }),
  };
}
