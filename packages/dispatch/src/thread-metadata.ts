/** What a client says of a thread: an object of JSON, bounded. */
import { isDeepStrictEqual } from "node:util";
import { ProtocolError } from "@throughline/protocol";

export type Metadata = Record<string, unknown>;

const maxBytes = 16 * 1024;

/** Metadata as they are stored. @throws ProtocolError payload_too_large */
export function metadataJson(metadata: Metadata): string {
  const json = JSON.stringify(metadata);
  const bytes = Buffer.byteLength(json);
  if (bytes > maxBytes) {
    const message = `a thread's metadata would be ${bytes} bytes of JSON; ${maxBytes} is the limit`;
    throw new ProtocolError("payload_too_large", message, { bytes, maxBytes });
  }
  return json;
}

/** Keys take the place of those that are there; null takes its key away, and no other. */
export function mergeMetadata(metadata: Metadata, patch: Metadata): Metadata {
  const merged = new Map([...Object.entries(metadata), ...Object.entries(patch)]);
  return Object.fromEntries([...merged].filter(([key]) => !Object.hasOwn(patch, key) || patch[key] !== null));
}

/** Whether metadata have all of these keys with equal values. */
export function hasMetadata(metadata: Metadata, wanted: Metadata): boolean {
  return Object.entries(wanted).every(
    ([key, value]) => Object.hasOwn(metadata, key) && isDeepStrictEqual(metadata[key], value),
  );
}
