/** A page of an owner's threads. The index says which; what is answered is each one's record, as it is. */
import { ProtocolError, type ThreadRecord, type ThreadStatus } from "@throughline/protocol";
import type { Place } from "./thread-index.ts";
import { hasMetadata, type Metadata } from "./thread-metadata.ts";
import type { LookedAt, Threads } from "./threads.ts";

export interface ThreadQuery {
  owner: string;
  status?: ThreadStatus | undefined;
  agent?: string | undefined;
  /** Keys that a thread's metadata have, with equal values. */
  metadata?: Metadata | undefined;
  limit: number;
  /** `next` of the page before. */
  before?: string | undefined;
  /** Characters of JSON. @default any size */
  maxSize?: number | undefined;
}

/** Threads that one list looks at. */
const maxScan = 1_000;
/** Records that are read at once: each may have 16 KiB of metadata. */
const readAtOnce = 50;

/**
 * @param onDeleting told of each thread that is being deleted: for how long, ms
 * @throws ProtocolError invalid_argument: `before` is no page's `next`
 */
export async function listThreads(
  threads: Threads,
  query: ThreadQuery,
  onDeleting: (threadId: string, forMs: number) => void,
): Promise<{ threads: ThreadRecord[]; next?: string }> {
  const { limit, maxSize = Number.POSITIVE_INFINITY } = query;
  let before = query.before ?? "";
  if (before !== "" && !/^\d{15}\.\d{12}$/.test(before)) {
    throw new ProtocolError("invalid_argument", "before is not what a page of threads ended with");
  }
  const found: ThreadRecord[] = [];
  let size = 0;
  for (let looked = 0; looked < maxScan; ) {
    // With metadata most may be others.
    const wanted = query.metadata === undefined ? limit - found.length : readAtOnce;
    const count = Math.min(readAtOnce, Math.max(wanted, 1), maxScan - looked);
    const places = await threads.index.page(query, before, count);
    const looks = await Promise.all(places.map(({ threadId }) => threads.look(threadId)));
    await Promise.all(places.map((place, i) => correct(threads, place, looks[i]!, query)));
    for (const [i, { place, threadId }] of places.entries()) {
      before = place;
      const look = looks[i]!;
      if (look === null) continue;
      if (look.deletingForMs !== null) {
        onDeleting(threadId, look.deletingForMs);
        continue;
      }
      if (!matches(look.record, query)) continue;
      found.push(look.record);
      size += look.size;
      if (found.length < limit && size < maxSize) continue;
      const isLast = i === places.length - 1 && places.length < count;
      return isLast ? { threads: found } : { threads: found, next: place };
    }
    if (places.length < count) return { threads: found };
    looked += places.length;
  }
  return { threads: found, next: before };
}

/** Puts right what the index has of a thread, where it is behind its record, or ahead of it: its slot lost writes. */
async function correct(
  threads: Threads,
  place: Place,
  look: LookedAt | null,
  query: ThreadQuery,
): Promise<void> {
  if (look === null) return await threads.index.forget(place);
  const known = Number(place.version);
  if (look.state.version > known) return await threads.index.show(place.threadId, look.state);
  const isAhead = look.state.version < known;
  if (isAhead && !matches(look.record, { ...query, metadata: undefined })) {
    await threads.index.show(place.threadId, look.state, place);
  }
}

function matches(record: ThreadRecord, { status, agent, metadata }: ThreadQuery): boolean {
  return (
    (status === undefined || record.status === status) &&
    (agent === undefined || record.agent === agent) &&
    (metadata === undefined || hasMetadata(record.metadata, metadata))
  );
}
