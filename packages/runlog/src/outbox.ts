/**
 * Where parts wait for their append: lines of JSON that become one array, one part per line.
 *
 * A few lines stay strings. Many are written into a Buffer as they come, so that a flat-out agent leaves no thousands
 * of strings behind for the garbage collector to carry around, and the batch goes to the socket as it is. Buffers are
 * taken from, and given back to, a pool that all runs of the process share.
 */

/** Characters that are kept as strings. */
const spillAt = 8 * 1024;
const bufferSize = 256 * 1024;
/** Bytes of buffers that are kept for the next batches. */
const maxFree = 16 * 1024 * 1024;
/** Larger ones were made for a huge part, which is seldom followed by another. */
const maxKept = 1024 * 1024;

const free: Buffer[] = [];
let freeBytes = 0;

/** A batch on its way: the JSON array, and how to give its memory back. */
export interface Outgoing {
  count: number;
  /** Characters of JSON, about. */
  size: number;
  body: string | Buffer;
  /** To be called when nobody will send it again. */
  release(): void;
}

export class Outbox {
  #lines: string[] = [];
  #buffer: Buffer | undefined;
  #at = 0;
  #count = 0;
  #size = 0;

  get count(): number {
    return this.#count;
  }

  push(line: string): void {
    this.#count++;
    this.#size += line.length + 2;
    if (this.#buffer !== undefined) {
      this.#write(this.#buffer, line);
      return;
    }
    this.#lines.push(line);
    if (this.#size > spillAt) this.#spill();
  }

  /** Takes everything that waits. */
  take(): Outgoing {
    const buffer = this.#buffer;
    let body: string | Buffer;
    if (buffer === undefined) {
      body = this.#count === 0 ? "" : `[${this.#lines.join(",\n")}]`;
    } else {
      buffer[this.#at] = 0x5d; // ]
      body = buffer.subarray(0, this.#at + 1);
    }
    const outgoing = {
      count: this.#count,
      size: this.#size,
      body,
      release: buffer === undefined ? nothing : () => giveBack(buffer),
    };
    this.#lines = [];
    this.#buffer = undefined;
    this.#at = this.#count = this.#size = 0;
    return outgoing;
  }

  #spill(): void {
    const buffer = takeFree() ?? Buffer.allocUnsafeSlow(bufferSize);
    buffer[0] = 0x5b; // [
    this.#at = 1;
    this.#buffer = buffer;
    let first = true;
    for (const line of this.#lines) {
      this.#write(this.#buffer, line, first);
      first = false;
    }
    this.#lines = [];
  }

  #write(into: Buffer, line: string, first = false): void {
    let buffer = into;
    // UTF-8 takes at most three bytes for a UTF-16 unit; comma, newline and the closing bracket are the other three.
    const needed = this.#at + line.length * 3 + 3;
    if (needed > buffer.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(needed, 2 * buffer.length));
      buffer.copy(larger, 0, 0, this.#at);
      giveBack(buffer);
      this.#buffer = buffer = larger;
    }
    if (!first) {
      buffer[this.#at++] = 0x2c; // ,
      buffer[this.#at++] = 0x0a;
    }
    this.#at += buffer.write(line, this.#at);
  }
}

function takeFree(): Buffer | undefined {
  const buffer = free.pop();
  if (buffer !== undefined) freeBytes -= buffer.length;
  return buffer;
}

function giveBack(buffer: Buffer): void {
  if (buffer.length > maxKept || freeBytes + buffer.length > maxFree) return;
  free.push(buffer);
  freeBytes += buffer.length;
}

function nothing(): void {}
