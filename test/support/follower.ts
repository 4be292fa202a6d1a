/** A client of packages/client that follows one run to its end, and remembers what it was told. */
import { createHash } from "node:crypto";
import { type Connection, type ConnectOptions, connect, type Run } from "@throughline/client";
import type { LogReader } from "@throughline/runlog";
import { WebSocket } from "ws";

/** What one client was told of one run: enough to compare it with the run's log. */
export interface Told {
  readonly first: number;
  readonly last: number;
  /** Of every offset with its part, in the order in which they came. */
  readonly digest: string;
}

export class Digest {
  readonly #hash = createHash("sha256");
  #first = 0;
  #last = 0;

  add(offset: number, part: unknown): void {
    if (this.#first === 0) this.#first = offset;
    this.#last = offset;
    this.#hash.update(`${offset} ${JSON.stringify(part)}\n`);
  }

  told(): Told {
    return { first: this.#first, last: this.#last, digest: this.#hash.copy().digest("hex") };
  }
}

/** What the log of a run has to tell after `after`. */
export async function toldByLog(reader: LogReader, runId: string, after = 0): Promise<Told> {
  const digest = new Digest();
  for await (const { offset, part } of reader.parts(runId, after)) digest.add(offset, part);
  return digest.told();
}

export interface FollowerOptions extends ConnectOptions {
  after?: number;
}

export class Follower {
  readonly connection: Connection;
  readonly runId: string;
  /** Resolves when the ending has been read. Rejects where an offset is not the next one, or the client gives up. */
  readonly done: Promise<Told>;
  offset: number;
  text = "";
  readonly #run: Run;
  readonly #digest = new Digest();

  constructor(url: string, runId: string, { after = 0, ...options }: FollowerOptions = {}) {
    this.runId = runId;
    this.offset = after;
    this.connection = connect(url, { WebSocket: WebSocket as never, ...options });
    this.#run = this.connection.attach(runId, { after });
    this.done = this.#follow();
    this.done.catch(() => {}); // Whoever awaits it hears of it.
  }

  /** A part has come. */
  protected onPart(): void {}

  async #follow(): Promise<Told> {
    for await (const { offset, part } of this.#run) {
      if (offset !== this.offset + 1) throw new Error(`${this.runId}: ${offset} came after ${this.offset}`);
      this.offset = offset;
      this.#digest.add(offset, part);
      if (part.type === "messages" && typeof part.data[0].content === "string") {
        this.text += part.data[0].content;
      }
      this.onPart();
    }
    return this.#digest.told();
  }
}
