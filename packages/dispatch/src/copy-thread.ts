/** Copies a thread: its checkpoints, and a record of its own. Until all of it is there nobody sees the copy. */
import { ProtocolError, type ThreadRecord } from "@throughline/protocol";
import { type Metadata, metadataJson } from "./thread-metadata.ts";
import { noSuchThread, type SettledStatus, type Threads } from "./threads.ts";

/** Of checkpoints, what a copy needs. */
export interface CopiesCheckpoints {
  copyThread(from: string, to: string, options?: { checkpointId?: string }): Promise<void>;
  /** What a thread's checkpoints take, bytes. */
  size(threadId: string): Promise<number>;
  /** How many messages a thread's head has, and whether it asks a person something. */
  head(threadId: string): Promise<{ messages: number; asks: boolean }>;
}

export interface CopyThread {
  /** The copy's head; only what leads to it is copied. @default the thread's head, and all that it has */
  checkpointId?: string | undefined;
  /** The copy's id. @default a new one */
  to?: string | undefined;
  /** @default those of the original */
  metadata?: Metadata | undefined;
}

/** Of the rest of the dispatcher, what a copy needs. */
export interface CopyParts {
  /** Counts bytes of a thread, and has them written. */
  keeping<T>(threadId: string, bytes: number, write: () => Promise<T>): Promise<T>;
  /** Counts bytes of a thread that are there already. Rejects with payload_too_large. */
  keep(threadId: string, bytes: number): Promise<void>;
  /** Removes what was begun of a copy. */
  remove(threadId: string): Promise<unknown>;
}

/**
 * @throws ProtocolError no_such_thread, no_such_checkpoint (the thread has none), invalid_argument (there is a thread `to`),
 * thread_busy (the copy is being deleted, or made), payload_too_large, unavailable (it took too long); what `checkpoints` throw
 */
export async function copyThread(
  parts: CopyParts,
  threads: Threads,
  from: string,
  to: string,
  { checkpointId, metadata }: CopyThread,
  checkpoints: CopiesCheckpoints,
): Promise<ThreadRecord> {
  const original = await threads.look(from);
  if (original === null || original.deletingForMs !== null) throw noSuchThread(from);
  const json = metadata === undefined ? original.metadata : metadataJson(metadata);
  const { record } = original;
  const make = async () => {
    const birth = await threads.reserve(to);
    try {
      const copies = await threads.hasCheckpoints(from);
      if (!copies && checkpointId !== undefined) {
        throw new ProtocolError("no_such_checkpoint", `thread ${from} has no checkpoints`);
      }
      if (copies) {
        await checkpoints.copyThread(from, to, checkpointId === undefined ? {} : { checkpointId });
        // Only now is it known how much of the original is in it. Where that is too much the copy goes.
        await parts.keep(to, await checkpoints.size(to));
      }
      const isWhole = checkpointId === undefined || checkpointId === record.checkpointId;
      const { messages, asks } = copies ? await checkpoints.head(to) : { messages: 0, asks: false };
      // How a thread stands without its runs: whether its head waits for a person, who need not have been asked anything.
      const waits = asks || (isWhole && record.status === "interrupted");
      const status: SettledStatus = waits ? "interrupted" : "idle";
      const copy = await threads.copied(to, birth, { metadata: json, status, messages });
      if (copy !== null) return copy;
    } catch (error) {
      await parts.remove(to).catch(() => {}); // Whoever lists it does, then.
      throw error;
    }
    // Checkpoints may have come after all else was removed. Where the id is another's by now they are not there.
    const isOurs = await threads.reserve(to).catch(() => null);
    if (isOurs !== null) await parts.remove(to);
    throw new ProtocolError("unavailable", `the copy ${to} took too long, and was given up: try again`);
  };
  return await parts.keeping(to, Buffer.byteLength(json), make);
}
