/** A socket's place that notes what it is sent, for tests of what sends to sockets. */
import type { Part, ThreadEvent } from "@throughline/protocol";

/** A socket's place: it notes what it is sent, and takes more or not as a test says. */
export class Notebook<Turns> {
  readonly turns: Turns;
  closed = false;
  removed = 0;
  /** In words: offset:text of each part or event, and the name of any other event with what tells it. */
  readonly seen: string[] = [];
  #writable = true;
  #drained: (() => void)[] = [];

  /** @param turns what bounds its subscriptions that read a page at once */
  constructor(turns: Turns) {
    this.turns = turns;
  }

  get writable(): boolean {
    return this.#writable;
  }

  set writable(writable: boolean) {
    this.#writable = writable;
    if (writable) for (const drained of this.#drained.splice(0)) drained();
  }

  drained(): Promise<void> {
    if (this.writable) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  get isWaitedFor(): boolean {
    return this.#drained.length > 0;
  }

  send(frame: Buffer): void {
    const { method, params } = JSON.parse(payload(frame));
    const told: string[] | undefined = params.parts?.map(wordOfPart) ?? params.events?.map(wordOfEvent);
    if (told === undefined) {
      this.seen.push(`${method.split(".")[1]} ${params.epoch ?? params.offset ?? params.reason}`);
      return;
    }
    for (const [i, word] of told.entries()) this.seen.push(`${params.offset + i}:${word}`);
    if (params.skipped !== undefined) this.seen.push(`${params.offset} skips ${params.skipped}`);
  }

  removeSubscription(): void {
    this.removed++;
  }
}

function wordOfPart(part: Part | null): string {
  if (part === null) return "-";
  return part.type === "lifecycle" ? part.data.event : String(part.data);
}

function wordOfEvent(event: ThreadEvent | null): string {
  if (event === null) return "-";
  return event.event === "run" ? `${event.run.runId} ${event.run.status}` : event.event;
}

/** What is in an unmasked text frame. */
function payload(frame: Buffer): string {
  const length = frame[1]!;
  return frame.toString("utf8", length < 126 ? 2 : length === 126 ? 4 : 10);
}
