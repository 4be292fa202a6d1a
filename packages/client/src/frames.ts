/**
 * The edge: what comes from a gateway is checked here, by hand, and trusted everywhere else. A gateway is not hostile, so
 * this looks no deeper than the client's own steps go; and a bundle for browsers has no room for the schemas.
 */

import type { EventParams, ServerFrame } from "@throughline/protocol";
import { isRecord } from "@throughline/protocol";

/** The frame in the text. Types and events yet to come pass, to be ignored. Undefined: no frame of this protocol. */
export function readFrame(text: string): ServerFrame | undefined {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    return undefined;
  }
  return isRecord(frame) && isFrame(frame) ? (frame as unknown as ServerFrame) : undefined;
}

function isFrame(frame: Record<string, unknown>): boolean {
  switch (frame.type) {
    case "success":
      return isCount(frame.id);
    case "error":
      return (frame.id === null || isCount(frame.id)) && typeof frame.error === "string";
    case "event":
      return (
        typeof frame.method === "string" && isRecord(frame.params) && isEvent(frame.method, frame.params)
      );
    default:
      return typeof frame.type === "string";
  }
}

function isEvent(method: string, params: Record<string, unknown>): boolean {
  switch (method) {
    case "server.hello":
      return (
        isCount(params.protocol) && isCount(params.heartbeatMs) && typeof params.connectionId === "string"
      );
    case "server.draining":
      return isCount(params.retryInMs);
    case "run.parts":
      return isCount(params.offset) && params.offset > 0 && isBatch(params.parts, params.skipped);
    case "run.snapshot":
      return isSnapshot(params);
    case "run.page":
      return (
        isCount(params.offset) &&
        isCount(params.page) &&
        isCount(params.pages) &&
        params.page > 0 &&
        params.page <= params.pages &&
        typeof params.text === "string"
      );
    case "run.reset":
      return typeof params.epoch === "string";
    case "thread.events":
      return isCount(params.offset) && params.offset > 0 && Array.isArray(params.events);
    case "thread.reset":
      return typeof params.epoch === "string" && isCount(params.offset);
    default:
      return true;
  }
}

/** The snapshot that came in pages, put together. Undefined: it is none. */
export function readSnapshot(runId: string, text: string): EventParams<"run.snapshot"> | undefined {
  let params: unknown;
  try {
    params = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(params) || !isSnapshot(params)) return undefined;
  return { ...params, runId } as unknown as EventParams<"run.snapshot">;
}

function isSnapshot({ offset, messages, complete = [], calls = {} }: Record<string, unknown>): boolean {
  return isCount(offset) && Array.isArray(messages) && Array.isArray(complete) && isRecord(calls);
}

/** Parts, or a number of parts that were left out in their place. */
function isBatch(parts: unknown, skipped: unknown): boolean {
  if (!Array.isArray(parts)) return false;
  if (skipped !== undefined) return isCount(skipped) && parts.length === 0;
  return parts.every((part) => part === null || (isRecord(part) && isPart(part)));
}

function isPart({ type, ns, data }: Record<string, unknown>): boolean {
  if (typeof type !== "string" || !Array.isArray(ns)) return false;
  if (type === "messages") return Array.isArray(data) && isRecord(data[0]) && isRecord(data[1]);
  if (type === "lifecycle") return isRecord(data) && typeof data.event === "string";
  return true;
}

/** A number of things, or a position. */
function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
