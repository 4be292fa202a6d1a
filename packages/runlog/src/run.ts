/** A run's record, and the transitions that no worker makes: open, cancel. */
import type { CheckpointRef, InterruptInfo, Keep, Part, RunRecord, RunStatus } from "@throughline/protocol";
import { lifecycle } from "@throughline/protocol";
import type { Cluster, Redis } from "ioredis";
import { nanoid } from "nanoid";
import { NoSuchRunError } from "./errors.ts";
import { defaultPrefix, runKeys } from "./keys.ts";
import { withScripts } from "./scripts.ts";

/** How long runs and logs are kept, in ms. */
export interface Retention {
  /** After the end, ms. @default 604_800_000, 7 days */
  endedMs: number;
  /** While nothing happens, ms. @default 604_800_000, 7 days */
  idleMs: number;
}

const day = 24 * 60 * 60 * 1000;
export const defaultRetention: Retention = { endedMs: 7 * day, idleMs: 7 * day };

/** What a run is opened with. What is JSON here stays opaque to the log. */
export interface NewRun {
  runId: string;
  threadId: string;
  agent: string;
  owner: string;
  epoch: string;
  /** JSON of what the worker is to know: input, modes, config, … */
  request: string;
  /** The queue that it waits on. @default none that is known without its request */
  queue?: string;
  /** JSON of `metadata`. */
  metadata?: string;
  /** A digest of the idempotency key that it was started with. */
  idempotency?: string | undefined;
  /** JSON of what its record tells of what it was asked. */
  brief?: string;
}

export type Opened =
  | { created: true }
  | { created: false; owner: string; threadId: string; status: RunStatus; epoch: string };

export type Cancelled =
  /** There is no such run of this owner. */
  | { outcome: "missing" }
  /** It has ended, now or before. `offset` is that of its last part. */
  | { outcome: "ended"; now: boolean; status: RunStatus; offset: number; checkpoint: CheckpointRef | null }
  /** Its worker was told. */
  | { outcome: "requested" };

/** The epoch before the current one: up to the offset `upTo` both have the same parts. */
export interface EarlierEpoch {
  epoch: string;
  upTo: number;
}

/** Whether the parts up to `offset` of the epoch `epoch` are the same in the log's current epoch. */
export function isCovered(epoch: string, offset: number, earlier: EarlierEpoch | undefined): boolean {
  return earlier !== undefined && earlier.epoch === epoch && offset <= earlier.upTo;
}

/** From the field of a run's hash, `<offset>:<epoch>`. */
export function earlierEpoch(field: string | undefined): EarlierEpoch | undefined {
  if (!field) return undefined;
  const colon = field.indexOf(":");
  return { epoch: field.slice(colon + 1), upTo: Number(field.slice(0, colon)) };
}

/** A run as Redis has it, with what only the server side may know. */
export interface StoredRun {
  record: RunRecord;
  owner: string;
  request: string;
  /** How many of its workers died with it, or lost it, since it last stood a trial. */
  crashes: number;
  /** The last of them crashed while the run was alone in its process. */
  blamed: boolean;
  /** How often it was tried alone. */
  trials: number;
  /** From its first claim to its last, by Redis' clock, ms. */
  elapsedMs: number;
  /** What its agent wants back of its last steps, and maybe of one that never came to be in the log. */
  steps: StoredStep[];
  /** The epoch that its log had before. */
  earlier: EarlierEpoch | undefined;
}

/** What an agent wants back of a step. */
export interface StoredStep {
  /** Of the step in the log. */
  offset: number;
  /** JSON. */
  state: string;
}

/** A run without what it was asked. */
export interface ListedRun {
  record: RunRecord;
  owner: string;
  /** undefined: of a run that was opened before runs had one beside their request. */
  queue: string | undefined;
  /** The epoch that its log had before. */
  earlier: EarlierEpoch | undefined;
}

/** What Redis holds of a run. */
export interface StoredSize {
  status: RunStatus;
  /** Of memory, about: its record, its log, its snapshot. 0: Redis does not say. */
  bytes: number;
  /** How long from now on it is kept if nothing happens, ms. */
  expiresInMs: number;
}

/** All that a record is made of. */
const listedFields = [
  "agent",
  "thread",
  "owner",
  "status",
  "queue",
  "attempt",
  "head",
  "first",
  "epoch",
  "created",
  "started",
  "ended",
  "metadata",
  "brief",
  "cancel",
  "cancelAt",
  "cancelReason",
  "error",
  "interrupts",
  "final",
  "earlier",
  "ordinal",
];

export class RunStore {
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  readonly #retention: Retention;

  constructor(redis: Redis | Cluster, options: { prefix?: string; retention?: Partial<Retention> } = {}) {
    this.#redis = withScripts(redis);
    this.#prefix = options.prefix ?? defaultPrefix;
    this.#retention = { ...defaultRetention, ...options.retention };
  }

  /** Creates a queued run, or says what is there under its id already. */
  async open(run: NewRun): Promise<Opened> {
    const keys = runKeys(this.#prefix, run.runId);
    const [created, owner, threadId, status, epoch] = await this.#redis.tlOpen(
      keys.run,
      this.#retention.idleMs,
      "agent",
      run.agent,
      "thread",
      run.threadId,
      "owner",
      run.owner,
      "status",
      "queued",
      "attempt",
      0,
      "head",
      0,
      "first",
      1,
      "fence",
      "",
      "epoch",
      run.epoch,
      "request",
      run.request,
      "queue",
      run.queue ?? "",
      "metadata",
      run.metadata ?? "",
      "idempotency",
      run.idempotency ?? "",
      "brief",
      run.brief ?? "",
    );
    if (created === 1) return { created: true };
    return {
      created: false,
      owner: owner as string,
      threadId: threadId as string,
      status: status as RunStatus,
      epoch: epoch as string,
    };
  }

  /** Deletes a run that was opened and never entered its thread's line. */
  async remove(runId: string): Promise<void> {
    const keys = runKeys(this.#prefix, runId);
    await this.#redis.del(keys.run, keys.log, keys.snapshot, keys.readers);
  }

  /** Notes a run's number in its thread: the first one that is noted. false: there is no such run any more. */
  async number(runId: string, ordinal: number): Promise<boolean> {
    return (await this.#redis.tlNote(runKeys(this.#prefix, runId).run, "ordinal", ordinal)) === 1;
  }

  /** Marks runs that are about to be removed: their jobs are not to be put back. */
  async markRemoved(runIds: readonly string[]): Promise<void> {
    await Promise.all(
      runIds.map((runId) => this.#redis.tlNote(runKeys(this.#prefix, runId).run, "removed", 1)),
    );
  }

  /** Whether a run is there, and not about to be removed. */
  async isKept(runId: string): Promise<boolean> {
    const [status, removed] = await this.#redis.hmget(runKeys(this.#prefix, runId).run, "status", "removed");
    return status !== null && removed === null;
  }

  /** The digests of the idempotency keys that these runs were started with; null: without one, or it has expired. */
  async idempotencyDigests(runIds: readonly string[]): Promise<(string | null)[]> {
    const digests = runIds.map((runId) => this.#redis.hget(runKeys(this.#prefix, runId).run, "idempotency"));
    return (await Promise.all(digests)).map((digest) => digest || null);
  }

  async get(runId: string): Promise<StoredRun | null> {
    const fields = await this.#redis.hgetall(runKeys(this.#prefix, runId).run);
    return fields.status === undefined ? null : storedRun(runId, fields);
  }

  /** The statuses of the runs with these ids, in one round trip; null: it has expired. */
  async statuses(runIds: readonly string[]): Promise<(RunStatus | null)[]> {
    const statuses = runIds.map((runId) => this.#redis.hget(runKeys(this.#prefix, runId).run, "status"));
    return (await Promise.all(statuses)) as (RunStatus | null)[];
  }

  /** When and for which thread runs were made, in one round trip; null: it has expired. */
  async origins(runIds: readonly string[]): Promise<({ threadId: string; createdAt: number } | null)[]> {
    const rows = runIds.map((runId) =>
      this.#redis.hmget(runKeys(this.#prefix, runId).run, "thread", "created"),
    );
    return (await Promise.all(rows)).map(([threadId, created]) =>
      threadId === null ? null : { threadId: threadId!, createdAt: Number(created) },
    );
  }

  /** What Redis holds of the runs with these ids, in one round trip; null: it has expired. */
  async sizes(runIds: readonly string[]): Promise<(StoredSize | null)[]> {
    const answers = runIds.map((runId) => {
      const { run, log, snapshot } = runKeys(this.#prefix, runId);
      return this.#redis.tlStored(run, log, snapshot);
    });
    return (await Promise.all(answers)).map(([status, bytes, expiresInMs]) =>
      status === undefined ? null : { status: status as RunStatus, bytes: bytes!, expiresInMs: expiresInMs! },
    );
  }

  /** What lists show of the runs with these ids, in one round trip, without what they were asked; null: it has expired. */
  async listed(runIds: readonly string[]): Promise<(ListedRun | null)[]> {
    const rows = await Promise.all(
      runIds.map((runId) => this.#redis.hmget(runKeys(this.#prefix, runId).run, ...listedFields)),
    );
    return rows.map((values, i) => {
      const fields: Record<string, string> = {};
      for (const [j, field] of listedFields.entries()) if (values[j]) fields[field] = values[j];
      if (fields.status === undefined) return null;
      const { record, owner, earlier } = storedRun(runIds[i]!, fields);
      return { record, owner, queue: fields.queue, earlier };
    });
  }

  /** A run without what it was asked, which may be large; null: it has expired, or never was. */
  async look(runId: string): Promise<ListedRun | null> {
    return (await this.listed([runId]))[0]!;
  }

  /**
   * Asks for a cancel, durably, and wakes the worker. `keep` says what becomes of the partial.
   *
   * @param owner the principal that asks; left out, nobody's permission is needed
   */
  async cancel(runId: string, ask: { owner?: string; keep: Keep; reason?: string }): Promise<Cancelled> {
    const keys = runKeys(this.#prefix, runId);
    const terminal = lifecycle({
      event: "cancelled",
      keep: ask.keep,
      ...(ask.reason === undefined ? {} : { reason: ask.reason }),
    });
    const [outcome, status, offset, checkpoint] = await this.#redis.tlCancel(
      keys.run,
      keys.log,
      ask.owner ?? "",
      ask.keep,
      ask.reason ?? "",
      body([terminal]),
      this.#retention.endedMs,
      keys.live,
      keys.control,
      newEpoch(),
    );
    if (outcome === "missing" || outcome === "requested") return { outcome };
    return {
      outcome: "ended",
      now: outcome === "cancelled",
      status: status as RunStatus,
      offset: offset as number,
      checkpoint: checkpoint === "" ? null : (JSON.parse(checkpoint as string) as CheckpointRef),
    };
  }

  /**
   * Says that somebody reads a run on this gateway, and that this holds for so many ms, whatever becomes of the gateway.
   * false: the run has ended.
   */
  async lease(runId: string, gatewayId: string, ms: number): Promise<boolean> {
    const { run, readers } = runKeys(this.#prefix, runId);
    return (await this.#redis.tlReaders(run, readers, gatewayId, ms)) === 1;
  }

  /** Whether somebody reads the run, as far as any gateway's word for it still holds. */
  async isRead(runId: string): Promise<boolean> {
    return (await this.#redis.exists(runKeys(this.#prefix, runId).readers)) === 1;
  }

  /** The record of a run. @throws NoSuchRunError */
  async must(runId: string): Promise<StoredRun> {
    const run = await this.get(runId);
    if (run === null) throw new NoSuchRunError(runId);
    return run;
  }
}

/** A new epoch: a unique name for a log's incarnation. */
export function newEpoch(): string {
  return nanoid(10);
}

/** The JSON array with one part per line that logs, messages and frames are made of. */
export function body(parts: readonly Part[]): string {
  return `[${parts.map((part) => JSON.stringify(part)).join(",\n")}]`;
}

/** A run from the fields of its hash. */
export function storedRun(runId: string, fields: Record<string, string>): StoredRun {
  const record: RunRecord = {
    runId,
    threadId: fields.thread as string,
    agent: fields.agent as string,
    status: fields.status as RunStatus,
    attempt: Number(fields.attempt),
    first: Number(fields.first),
    head: Number(fields.head),
    epoch: fields.epoch as string,
    createdAt: isoTime(fields.created),
    ...(fields.brief ? (JSON.parse(fields.brief) as Partial<RunRecord>) : {}),
  };
  if (fields.started) record.startedAt = isoTime(fields.started);
  if (fields.ended) record.endedAt = isoTime(fields.ended);
  if (fields.ordinal) record.ordinal = Number(fields.ordinal);
  if (fields.metadata) record.metadata = JSON.parse(fields.metadata);
  if (fields.cancel) {
    record.cancel = {
      keep: fields.cancel as Keep,
      requestedAt: isoTime(fields.cancelAt),
      ...(fields.cancelReason ? { reason: fields.cancelReason } : {}),
    };
  }
  if (fields.error) record.error = JSON.parse(fields.error);
  if (fields.interrupts) record.interrupts = JSON.parse(fields.interrupts) as InterruptInfo[];
  if (fields.final) record.checkpoint = JSON.parse(fields.final) as CheckpointRef;
  return {
    record,
    owner: fields.owner as string,
    request: fields.request as string,
    crashes: Number(fields.crashes ?? 0),
    blamed: fields.blamed === "1",
    trials: Number(fields.trials ?? 0),
    elapsedMs: Math.max(0, Number(fields.claimed ?? 0) - Number(fields.started ?? 0)),
    steps: [fields.step, fields.stepBefore].flatMap(storedStep),
    earlier: earlierEpoch(fields.earlier),
  };
}

/** From the field of a run's hash, `<offset>:<state>`. */
function storedStep(field: string | undefined): StoredStep[] {
  if (!field) return [];
  const colon = field.indexOf(":");
  return [{ offset: Number(field.slice(0, colon)), state: field.slice(colon + 1) }];
}

function isoTime(ms: string | undefined): string {
  return new Date(Number(ms)).toISOString();
}
