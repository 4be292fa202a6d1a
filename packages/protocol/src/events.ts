/** What a gateway sends: answers and events. */
import { z } from "zod";
import { type Method, type Result, threadEvent } from "./commands.ts";
import { type ErrorCode, errorCodes } from "./errors.ts";
import { flatMessage, part, unfinishedCall } from "./parts.ts";
import { protocolVersion } from "./version.ts";

const json = z.json();

export const events = {
  "server.hello": z.looseObject({
    protocol: z.literal(protocolVersion),
    connectionId: z.string(),
    heartbeatMs: z.int().positive(),
    maxFrameBytes: z.int().positive(),
  }),
  "server.draining": z.looseObject({ retryInMs: z.int().nonnegative() }),
  /** `offset` is that of `parts[0]`; null: left out by the filter; `skipped`: that many left out, in place of parts. */
  "run.parts": z.looseObject({
    runId: z.string(),
    offset: z.int().positive(),
    parts: z.array(part.nullable()),
    skipped: z.int().positive().optional(),
  }),
  "run.reset": z.looseObject({ runId: z.string(), epoch: z.string(), reason: z.string() }),
  /**
   * `complete`: the ids of the messages that are whole; `calls`: unfinished tool calls, by the message's id; `asked`: the
   * messages that the run's input brought.
   */
  "run.snapshot": z.looseObject({
    runId: z.string(),
    offset: z.int().nonnegative(),
    messages: z.array(flatMessage),
    values: z.record(z.string(), json).optional(),
    complete: z.array(z.string()).optional(),
    calls: z.record(z.string(), z.array(unfinishedCall)).optional(),
    asked: z.array(flatMessage).optional(),
  }),
  /** A piece of a snapshot's JSON, in order; 1 begins it anew. Sent only to who said that it takes `pages`. */
  "run.page": z.looseObject({
    runId: z.string(),
    offset: z.int().nonnegative(),
    page: z.int().positive(),
    pages: z.int().positive(),
    text: z.string(),
  }),
  "run.unsubscribed": z.looseObject({ runId: z.string(), reason: z.string() }),
  /** `offset` is that of `events[0]`; the others as in `run.parts`. Without a threadId: of all of the owner's threads. */
  "thread.events": z.looseObject({
    threadId: z.string().optional(),
    offset: z.int().positive(),
    events: z.array(threadEvent.nullable()),
    skipped: z.int().positive().optional(),
  }),
  /** What was told is void, or is no more to be had: what follows begins after `offset`. */
  "thread.reset": z.looseObject({
    threadId: z.string().optional(),
    epoch: z.string(),
    offset: z.int().nonnegative(),
    reason: z.string(),
  }),
  "thread.unwatched": z.looseObject({ threadId: z.string().optional(), reason: z.string() }),
} as const;

export type EventMethod = keyof typeof events;
export type EventParams<E extends EventMethod> = z.infer<(typeof events)[E]>;
export type EventFrame = {
  [E in EventMethod]: { type: "event"; method: E; params: EventParams<E> };
}[EventMethod];

export const successFrame = z.looseObject({
  type: z.literal("success"),
  id: z.int().nonnegative(),
  result: z.unknown(),
});
export type SuccessFrame<M extends Method = Method> = { type: "success"; id: number; result: Result<M> };

export const errorFrame = z.looseObject({
  type: z.literal("error"),
  /** null where none could be read. */
  id: z.int().nonnegative().nullable(),
  error: z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]),
  message: z.string(),
  retryable: z.boolean(),
  details: z.record(z.string(), z.unknown()).optional(),
});
export type ErrorFrame = z.infer<typeof errorFrame>;

export type ServerFrame = SuccessFrame | ErrorFrame | EventFrame;
