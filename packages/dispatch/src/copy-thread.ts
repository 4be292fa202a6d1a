/** Copies a thread: its checkpoints, and a record of its own. Until all of it is there nobody sees the copy. */
import { ProtocolError, type ThreadRecord } from "@throughline/protocol";
import { type Metadata, metadataJson } from "./thread-metadata.ts";
import { noSuchThread, type SettledStatus, type Threads } from "./threads.ts";

/** Of checkpoints, what a copy needs. */
export interface CopiesCheckpoints {
  copyThread(from: string, to: string, options?: { checkpointId?: string }): Promise<void>;
  /** How many messages a thread's head has. */
  messages(threadId: string): Promise<number>;
}

export interface CopyThread {
  /** The copy's head; only what leads to it is copied. @default the thread's head, and all that it has */
  checkpointId?: string | undefined;
  /** The copy's id. @default a new one */
  to?: string | undefined;
  /** @default those of the original */
  metadata?: Metadata | undefined;
}

/**
 * @param remove removes what was begun of a copy
 * @throws ProtocolError no_such_thread, invalid_argument (there is a thread `to`), thread_busy (the copy is being deleted,
 * or made), payload_too_large; what `checkpoints` throw
 */
export async function copyThread(
  threads: Threads,
  from: string,
  to: string,
  { checkpointId, metadata }: CopyThread,
  checkpoints: CopiesCheckpoints,
  remove: (threadId: string) => Promise<void>,
): Promise<ThreadRecord> {
  const original = await threads.look(from);
  if (original === null || original.deletingForMs !== null) throw noSuchThread(from);
  const json = metadata === undefined ? original.metadata : metadataJson(metadata);
  const birth = await threads.reserve(to);
  const { record } = original;
  try {
    if (record.checkpointId !== null || checkpointId !== undefined) {
      await checkpoints.copyThread(from, to, checkpointId === undefined ? {} : { checkpointId });
    }
    const isWhole = checkpointId === undefined || checkpointId === record.checkpointId;
    // How a thread stands without its runs: whether its head waits for a person.
    const status: SettledStatus = isWhole && record.status === "interrupted" ? "interrupted" : "idle";
    const messages = await checkpoints.messages(to);
    const copy = await threads.copied(to, birth, { metadata: json, status, messages });
    if (copy !== null) return copy;
  } catch (error) {
    await remove(to).catch(() => {}); // Whoever lists it does, then.
    throw error;
  }
  throw new ProtocolError("unavailable", `the copy ${to} took too long, and was given up: try again`);
}
