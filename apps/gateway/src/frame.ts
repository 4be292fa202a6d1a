/**
 * WebSocket frames, made once and written to as many sockets as want them (RFC 6455, section 5.2; a server does not
 * mask). `ws` reads what comes in and closes; what goes out in bulk is framed here, in one Buffer with its header.
 */
import type { EventMethod, EventParams } from "@throughline/protocol";

/** The largest header: opcode, 127, eight bytes of length. */
const maxHeader = 10;

/** An empty ping. */
export const pingFrame = Buffer.from([0x89, 0x00]);

/** A text frame with this payload. */
export function textFrame(payload: string): Buffer {
  const length = Buffer.byteLength(payload);
  const frame = Buffer.allocUnsafe(headerLength(length) + length);
  frame.write(payload, writeHeader(frame, length), "utf8");
  return frame;
}

/** The frame of an event. */
export function eventFrame<E extends EventMethod>(method: E, params: EventParams<E>): Buffer {
  return textFrame(`{"type":"event","method":"${method}","params":${JSON.stringify(params)}}`);
}

/** A text as JSON, in ASCII. */
export function asciiJson(text: string): string {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[^\x20-\x7e]/g, escaped);
}

/** A text frame of these bytes, as they are, between two texts in ASCII. */
export function joinFrame(before: string, body: Buffer, after: string): Buffer {
  const length = before.length + body.length + after.length;
  const frame = Buffer.allocUnsafe(headerLength(length) + length);
  let at = writeHeader(frame, length);
  at += frame.write(before, at, "latin1");
  at += body.copy(frame, at);
  frame.write(after, at, "latin1");
  return frame;
}

/** The body in a frame of a batch, as a view of it: two braces stand behind it. */
export function bodyOf(frame: Buffer, bodyLength: number): Buffer {
  const end = frame.length - 2;
  return frame.subarray(end - bodyLength, end);
}

function headerLength(payload: number): number {
  return payload < 126 ? 2 : payload < 65_536 ? 4 : maxHeader;
}

function writeHeader(frame: Buffer, payload: number): number {
  frame[0] = 0x81; // FIN, text
  if (payload < 126) {
    frame[1] = payload;
    return 2;
  }
  if (payload < 65_536) {
    frame[1] = 126;
    frame.writeUInt16BE(payload, 2);
    return 4;
  }
  frame[1] = 127;
  frame.writeUIntBE(0, 2, 2);
  frame.writeUIntBE(payload, 4, 6);
  return maxHeader;
}
