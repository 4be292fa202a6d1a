/**
 * Reads logs: pages for those who catch up, whole runs for those who fold.
 *
 * Invariants:
 * - a page is a run of whole batches, its body bytes as the worker built them: never parsed here;
 * - pages of one log are immutable while its epoch is the same.
 */
import type { FoldSnapshot, Part, RunStatus } from "@throughline/protocol";
import type { Cluster, Redis } from "ioredis";
import { defaultPrefix, type LogKeys, runKeys } from "./keys.ts";
import { type EarlierEpoch, earlierEpoch } from "./run.ts";
import { withScripts } from "./scripts.ts";

export interface Page {
  readonly status: RunStatus;
  readonly epoch: string;
  /** The epoch before this one, and how far it is the same log; undefined: this is the first. */
  readonly earlier: EarlierEpoch | undefined;
  /** The last offset of the log when the page was read. */
  readonly head: number;
  /** The first offset that the log still holds; higher than 1 once it was trimmed. */
  readonly logFirst: number;
  /** Offsets of the page's first and last part; both 0 where there was nothing to read. */
  readonly first: number;
  readonly last: number;
  /** A JSON array with one part per line. */
  readonly body: Buffer;
}

/** A piece of what the trimmed part of a log added up to: of the JSON of a FoldSnapshot, as its worker wrote it. */
export interface SnapshotSlice {
  /** The log that it belongs to: with another epoch, or another first offset, it is of another snapshot. */
  readonly epoch: string;
  /** The first offset that the log still holds: the snapshot is of those below. */
  readonly first: number;
  /** Bytes of the whole snapshot; 0: there is none. */
  readonly length: number;
  readonly slice: Buffer;
}

const newline = 0x0a;

export class LogReader {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;

  constructor(redis: Redis | Cluster, prefix = defaultPrefix) {
    this.#redis = withScripts(redis);
    this.#prefix = prefix;
  }

  /**
   * The batches that hold the offsets after `after`, until they come to `maxBytes` (one batch is always read). null:
   * there is no such run.
   */
  async page(runId: string, after: number, maxBytes: number): Promise<Page | null> {
    return await this.pageOf(runKeys(this.#prefix, runId), after, maxBytes);
  }

  /** As `page`, of any log. null: there is no such log. */
  async pageOf(keys: LogKeys, after: number, maxBytes: number): Promise<Page | null> {
    const reply = await this.#redis.tlReadBuffer(keys.run, keys.log, after, maxBytes);
    if (reply.length === 0) return null;
    const [status, epoch, earlier, head, logFirst, first, last, ...bodies] = reply as [
      Buffer,
      Buffer,
      Buffer,
      number,
      number,
      number,
      number,
      ...Buffer[],
    ];
    return {
      status: status.toString() as RunStatus,
      epoch: epoch.toString(),
      earlier: earlierEpoch(earlier.toString()),
      head,
      logFirst,
      first,
      last,
      body: join(bodies),
    };
  }

  /** What the trimmed part of the log added up to; null where nothing was trimmed. */
  async snapshot(runId: string): Promise<FoldSnapshot | null> {
    const json = await this.#redis.get(runKeys(this.#prefix, runId).snapshot);
    return json === null ? null : (JSON.parse(json) as FoldSnapshot);
  }

  /**
   * Some bytes of the snapshot's JSON, however large it is. null: there is no such run.
   *
   * @param from the first byte, from 0
   * @param count bytes at the most; 0: only how many there are
   */
  async snapshotSlice(runId: string, from: number, count: number): Promise<SnapshotSlice | null> {
    const keys = runKeys(this.#prefix, runId);
    const [epoch, first, length, slice] = await this.#redis.tlSnapshotBuffer(
      keys.run,
      keys.snapshot,
      from,
      count,
    );
    if (epoch === undefined) return null;
    return { epoch: epoch.toString(), first: first!, length: length!, slice: slice! };
  }

  /** Every part after `after`, with its offset, page by page, up to where the log ends now. */
  async *parts(runId: string, after = 0, maxBytes = 1 << 20): AsyncGenerator<{ offset: number; part: Part }> {
    for (let from = after; ; ) {
      const page = await this.page(runId, from, maxBytes);
      if (page === null || page.first === 0) return;
      let offset = page.first;
      for (const part of JSON.parse(page.body.toString()) as Part[]) {
        if (offset > from) yield { offset, part };
        offset++;
      }
      from = page.last;
      if (from >= page.head) return;
    }
  }
}

/** Several JSON arrays with one part per line, as one. */
function join(bodies: readonly Buffer[]): Buffer {
  if (bodies.length === 1) return bodies[0]!;
  const joined = Buffer.allocUnsafe(bodies.reduce((sum, body) => sum + body.length, 0));
  let at = 0;
  for (const body of bodies) {
    // Each closing bracket and the next opening one make room for a comma and a newline.
    if (at > 0) {
      joined[at - 1] = 0x2c; // ,
      at += body.copy(joined, at);
      joined[at - body.length] = newline;
    } else at = body.copy(joined);
  }
  return joined;
}

/** A body without its first `count` parts: the rest of a JSON array with one part per line. */
export function dropLines(body: Buffer, count: number): Buffer {
  let at = 0;
  for (let i = 0; i < count; i++) at = body.indexOf(newline, at) + 1;
  if (at === 0) return body;
  const rest = Buffer.allocUnsafe(body.length - at + 1);
  rest[0] = 0x5b; // [
  body.copy(rest, 1, at);
  return rest;
}
