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
import { InvalidArgumentError } from "./errors.ts";
import { fields, isPlain } from "./json.ts";
import type { RawTuple } from "./scripts.ts";

/** The serializer's "json", of a value in which BigInts were marked. */
const marked = "json+bigint";

/**
 * What no store can hold is left out: a function or a symbol is stored as undefined. A BigInt comes back as one.
 *
 * @param name what it is, for the error
 * @throws InvalidArgumentError: the serializer cannot say what the value is, or the value throws when it is read
 */
export async function dump(serde: SerializerProtocol, value: unknown, name: string): Promise<Buffer> {
  const stored = typeof value === "function" || typeof value === "symbol" ? undefined : value;
  try {
    let [type, bytes] = await serde.dumpsTyped(stored);
    if (isRefused(type, bytes)) {
      [type, bytes] = await serde.dumpsTyped(markBigInts(stored, []));
      if (isRefused(type, bytes)) throw new Error("it is no JSON, and throws when it is made one");
      type = marked;
    }
    return Buffer.concat([Buffer.from(`${type}\0`), bytes]);
  } catch (error) {
    throw new InvalidArgumentError(`${name} cannot be stored: ${(error as Error)?.message ?? error}`);
  }
}

export async function load(serde: SerializerProtocol, dumped: Buffer): Promise<unknown> {
  const end = dumped.indexOf(0);
  // Not a Buffer: one would go back in as {"type":"Buffer",…}.
  const bytes = new Uint8Array(dumped.buffer, dumped.byteOffset + end + 1, dumped.length - end - 1);
  const type = dumped.toString("latin1", 0, end);
  if (type === marked) return unmarkBigInts(await serde.loadsTyped("json", bytes));
  // LangGraph's serializer makes nothing at all of a function: what was stored so must not cost the thread.
  if (type === "json" && bytes.length === 0) return undefined;
  return await serde.loadsTyped(type, bytes);
}

/** What LangGraph's serializer stores in place of a value that `JSON.stringify` throws at. */
const refusal = Buffer.from('"[unable to serialize, circular reference is too complex to analyze]"');

function isRefused(type: string, bytes: Uint8Array): boolean {
  return type === "json" && bytes.length === refusal.length && refusal.equals(bytes);
}

/** A copy with a mark in place of every BigInt, and without what contains itself or throws when it is read. */
function markBigInts(value: unknown, above: object[]): unknown {
  if (typeof value === "bigint") return { lc: 2, type: "bigint", value: String(value) };
  if (typeof value !== "object" || value === null) return value;
  if (above.includes(value)) return "[Circular]";
  const inner = (each: unknown) => markBigInts(each, [...above, value]);
  if (Array.isArray(value)) return value.map(inner);
  if (value instanceof Map) return new Map([...value].map(([key, each]) => [inner(key), inner(each)]));
  if (value instanceof Set) return new Set([...value].map(inner));
  return isPlain(value) ? fields(value, inner) : value;
}

function unmarkBigInts(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(unmarkBigInts);
  if (value instanceof Map) {
    return new Map([...value].map(([key, each]) => [unmarkBigInts(key), unmarkBigInts(each)]));
  }
  if (value instanceof Set) return new Set([...value].map(unmarkBigInts));
  if (!isPlain(value)) return value;
  const { lc, type, value: digits } = value as Record<string, unknown>;
  if (lc === 2 && type === "bigint") return BigInt(String(digits));
  return fields(value, unmarkBigInts);
}

type LoadValue = (channel: string, value: Buffer) => Promise<unknown>;

/**
 * From task, channel, value, path, task, … in the order in which LangGraph applies a step's writes: by the task's path,
 * then as they were stored, by task and position.
 */
export async function loadWrites(raw: Buffer[], loadValue: LoadValue): Promise<CheckpointPendingWrite[]> {
  const writes: { path: string; write: Promise<CheckpointPendingWrite> }[] = [];
  for (let i = 0; i < raw.length; i += 4) {
    const [task, channel] = [raw[i]!.toString(), raw[i + 1]!.toString()];
    const write = loadValue(channel, raw[i + 2]!).then(
      (value): CheckpointPendingWrite => [task, channel, value],
    );
    writes.push({ path: raw[i + 3]!.toString(), write });
  }
  writes.sort((a, b) => compareWritesSortKeys(writesSortKey(a.path), writesSortKey(b.path)));
  return await Promise.all(writes.map(({ write }) => write));
}

export async function loadTuple(
  serde: SerializerProtocol,
  threadId: string,
  [ns, id, parent, body, metadata, values, writes]: RawTuple,
  { loadValue, loadWrite }: { loadValue: LoadValue; loadWrite: LoadValue },
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
    channels.push(loadValue(channel, values[i + 1]!).then((value) => [channel, value]));
  }
  const [checkpoint, meta, channelValues, pendingWrites] = await Promise.all([
    load(serde, body) as Promise<Omit<Checkpoint, "channel_values">>,
    load(serde, metadata) as Promise<CheckpointMetadata>,
    Promise.all(channels),
    loadWrites(writes, loadWrite),
  ]);
  return {
    config: config(id),
    checkpoint: { ...checkpoint, channel_values: Object.fromEntries(channelValues) },
    metadata: meta,
    pendingWrites,
    ...(parent.length > 0 && { parentConfig: config(parent) }),
  };
}
