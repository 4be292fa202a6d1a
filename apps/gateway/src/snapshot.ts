/**
 * What a trimmed log added up to, as frames. It is JSON already, as large as all that the run has said, and is never
 * parsed here: what fits one frame goes out as `run.snapshot`, all else as `run.page`, a piece of its text each.
 */
import type { SnapshotSlice } from "@throughline/runlog";
import { joinFrame, textFrame } from "./frame.ts";

/** The largest frame of a snapshot, in bytes: libraries for WebSockets take as much by default. */
const maxFrameBytes = 1024 * 1024;
/** Bytes of a page's text, but for a character that lies across its end. Quoted it is twice as long at the most. */
const pageBytes = 128 * 1024;
/** What of a character in UTF-8 may lie beyond a page's end, in bytes. */
const overhang = 3;

export interface SnapshotPage {
  readonly frame: Buffer;
  /** Of how many it is one. */
  readonly pages: number;
  /** It is the snapshot, in one frame, and no page of it. */
  readonly whole: boolean;
}

/** Where in the snapshot a page is read: its first byte, and how many. The first reads what may be all of it. */
export function sliceOf(page: number): [from: number, count: number] {
  return page === 1 ? [0, maxFrameBytes] : [(page - 1) * pageBytes, pageBytes + overhang];
}

/** Whether a snapshot of so many bytes goes into one frame. */
export function fitsFrame(runId: string, length: number): boolean {
  return before(runId).length + length <= maxFrameBytes;
}

/** The frame of a page, of the slice that `sliceOf` has read for it. */
export function framePage(
  runId: string,
  page: number,
  { first, length, slice }: SnapshotSlice,
): SnapshotPage {
  if (fitsFrame(runId, length)) {
    const json = length > 0 ? slice : Buffer.from(`{"offset":${first - 1},"messages":[],"values":{}}`);
    // Its opening brace gives way to the one that stands before the run's id.
    return { frame: joinFrame(before(runId), json.subarray(1), "}"), pages: 1, whole: true };
  }
  const pages = Math.ceil(length / pageBytes);
  const from = page === 1 ? 0 : continuation(slice, 0);
  const to = pageBytes + continuation(slice, pageBytes);
  const params = { runId, offset: first - 1, page, pages, text: slice.toString("utf8", from, to) };
  const frame = textFrame(`{"type":"event","method":"run.page","params":${JSON.stringify(params)}}`);
  return { frame, pages, whole: false };
}

function before(runId: string): string {
  // A runId is ours: it needs no escaping.
  return `{"type":"event","method":"run.snapshot","params":{"runId":"${runId}",`;
}

/** How many bytes from `at` on belong to a character that begins before. */
function continuation(bytes: Buffer, at: number): number {
  let count = 0;
  while (at + count < bytes.length && (bytes[at + count]! & 0xc0) === 0x80) count++;
  return count;
}
