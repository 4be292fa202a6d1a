/** P1 under every interleaving: whatever a gateway and its sockets do, the application sees the log. */
import type { EventMethod, EventParams, Part, Result } from "@throughline/protocol";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { connect } from "./connection.ts";
import type { SocketEvent, SocketEventType, WebSocketLike } from "./platform.ts";
import type { RunEvent } from "./run-event.ts";
import { ManualClock, parts } from "./testing/index.ts";

/** What the world does next; `n` is how much of it. */
type Step =
  | { do: "append"; n: number }
  /** Parts as they are due, in one frame. */
  | { do: "send"; n: number }
  /** A frame is lost on the way. */
  | { do: "lose"; n: number }
  /** Parts that were sent before, and perhaps some that were not. */
  | { do: "repeat"; n: number }
  /** A frame of some earlier subscription, or of an offset that is far ahead. */
  | { do: "stray"; n: number }
  | { do: "answer" }
  | { do: "drop" }
  | { do: "unsubscribe" }
  | { do: "refuse" }
  /** The log's beginning is gone. */
  | { do: "trim"; n: number }
  /** The log itself is gone, and another begins. */
  | { do: "replace" }
  | { do: "read"; n: number }
  | { do: "wait"; n: number };

const count = fc.integer({ min: 1, max: 9 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("append" as const), n: count }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant("send" as const), n: count }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("lose" as const), n: count }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("repeat" as const), n: count }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("stray" as const), n: count }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("answer" as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("drop" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("unsubscribe" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("refuse" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("trim" as const), n: count }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("replace" as const) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant("read" as const), n: count }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("wait" as const), n: count }) },
);

interface Command {
  id: number;
  method: string;
  params: { after: number; epoch?: string };
}

/** The gateway, the log behind it, and the socket to it. */
class World {
  readonly clock = new ManualClock();
  epoch = 1;
  log: Part[] = [];
  first = 1;
  /** Gone with the socket. */
  socket: FakeSocket | undefined;
  /** Where the subscription on this socket stands; undefined: none was answered. */
  due: number | undefined;
  asked: Command[] = [];

  connected(socket: FakeSocket): void {
    this.socket = socket;
    this.due = undefined;
    this.asked = [];
    const hello = { protocol: 1 as const, connectionId: "c", heartbeatMs: 1e9, maxFrameBytes: 1e6 };
    this.event("server.hello", hello);
  }

  commanded(command: Command): void {
    if (command.method === "server.ping") return;
    this.asked.push(command);
  }

  append(n: number): void {
    for (let i = 0; i < n; i++) this.log.push(this.#part(this.log.length + 1));
  }

  end(): void {
    this.log.push(parts.completed());
  }

  /** What the filter leaves out: parts here and there, and rows of them. */
  isHidden(offset: number): boolean {
    return [0, 2, 3, 4, 5].includes(offset % 8) && this.log[offset - 1]?.type !== "lifecycle";
  }

  send(offset: number, n: number): void {
    const row = this.log.slice(offset - 1, offset - 1 + n);
    if (row.length === 0) return;
    const sent = row.map((part, i) => (this.isHidden(offset + i) ? null : part));
    if (sent.every((part) => part === null)) {
      this.event("run.parts", { runId: "r", offset, parts: [], skipped: sent.length });
    } else {
      this.event("run.parts", { runId: "r", offset, parts: sent });
    }
  }

  answer(refuse = false): void {
    const command = this.asked.shift();
    if (command === undefined) return;
    if (refuse) {
      const error = { type: "error", id: command.id, error: "unavailable", message: "", retryable: true };
      this.socket?.deliver(error);
      return;
    }
    if (command.method === "run.unsubscribe") {
      this.socket?.deliver({ type: "success", id: command.id, result: {} });
      this.due = undefined;
      return;
    }
    const epoch = `e${this.epoch}`;
    const head = this.log.length;
    const result: Result<"run.subscribe"> = { runId: "r", status: "running", first: this.first, head, epoch };
    this.socket?.deliver({ type: "success", id: command.id, result });
    let after = command.params.after;
    if (command.params.epoch !== undefined && command.params.epoch !== epoch) {
      this.event("run.reset", { runId: "r", epoch, reason: "replaced" });
      after = 0;
    }
    if (after < this.first - 1) {
      after = this.first - 1;
      this.event("run.snapshot", { runId: "r", offset: after, messages: [] });
    }
    this.due = after + 1;
  }

  /** Parts of another epoch never follow on an old subscription: the gateway tells it of the reset. */
  replace(): void {
    this.epoch += 1;
    this.log = [];
    this.first = 1;
    if (this.due === undefined) return;
    this.event("run.reset", { runId: "r", epoch: `e${this.epoch}`, reason: "replaced" });
    this.due = 1;
  }

  event<E extends EventMethod>(method: E, params: EventParams<E>): void {
    this.socket?.deliver({ type: "event", method, params });
  }

  #part(offset: number): Part {
    return { type: "custom", ns: [], data: `e${this.epoch}:${offset}` };
  }
}

class FakeSocket implements WebSocketLike {
  readonly #world: World;
  readonly #listeners = new Map<SocketEventType, (event: SocketEvent) => void>();
  isOpen = false;

  constructor(world: World) {
    this.#world = world;
    world.clock.setTimeout(() => {
      this.isOpen = true;
      world.connected(this);
    }, 1);
  }

  addEventListener(type: SocketEventType, listener: (event: SocketEvent) => void): void {
    this.#listeners.set(type, listener);
  }

  send(text: string): void {
    this.#world.commanded(JSON.parse(text));
  }

  close(): void {
    this.isOpen = false;
  }

  deliver(frame: unknown): void {
    if (this.isOpen) this.#listeners.get("message")?.({ type: "message", data: JSON.stringify(frame) });
  }

  drop(): void {
    this.isOpen = false;
    this.#listeners.get("close")?.({ type: "close", code: 1006 });
  }
}

/** What the application saw, checked as it sees it. */
class Witness {
  at = 0;
  /** Which log it reads: a reset says so, and before the first of them the first part does. */
  epoch: string | undefined;
  steps = 0;
  ended = false;

  see(event: RunEvent, world: World): void {
    this.steps += 1;
    switch (event.kind) {
      case "reset":
        this.epoch = event.epoch;
        this.at = 0;
        break;
      case "snapshot":
        expect(event.offset).toBeGreaterThan(this.at);
        this.at = event.offset;
        break;
      case "skipped":
        expect(event.offset).toBe(this.at + 1);
        expect(event.to).toBeGreaterThanOrEqual(event.offset);
        this.at = event.to;
        break;
      default:
        expect(event.offset).toBe(this.at + 1);
        this.at = event.offset;
        if (event.part.type === "lifecycle") this.ended = true;
        else {
          this.epoch ??= String(event.part.data).split(":")[0];
          expect(event.part.data).toBe(`${this.epoch}:${event.offset}`);
        }
    }
    if (event.kind === "part" && this.epoch === `e${world.epoch}`) {
      expect(world.isHidden(event.offset)).toBe(false);
    }
  }
}

/** Lets every promise that can be resolved be so. */
function quiet(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function play(steps: Step[], bufferSize: number): Promise<Witness> {
  const world = new World();
  const witness = new Witness();
  const WebSocket = class extends FakeSocket {
    constructor() {
      super(world);
    }
  };
  const connection = connect("ws://test", { WebSocket, clock: world.clock, random: () => 0.5, bufferSize });
  const run = connection.attach("r");
  let permits = 0;
  let permitted: (() => void) | undefined;
  const permit = (n: number) => {
    permits += n;
    permitted?.();
  };
  const read = async () => {
    for await (const event of run.events) {
      witness.see(event, world);
      permits -= 1;
      while (permits < 0) {
        await new Promise<void>((resolve) => {
          permitted = resolve;
        });
      }
    }
  };
  // The reader comes with the first step that reads, or, if there is none, when all is over.
  let reading: Promise<void> | undefined;
  await quiet();
  for (const each of steps) {
    const { due } = world;
    switch (each.do) {
      case "append":
        world.append(each.n);
        break;
      case "send":
        if (due !== undefined) {
          world.send(due, each.n);
          world.due = Math.min(due + each.n, world.log.length + 1);
        }
        break;
      case "lose":
        if (due !== undefined) world.due = Math.min(due + each.n, world.log.length + 1);
        break;
      case "repeat":
        if (due !== undefined) world.send(Math.max(1, due - each.n), each.n + 1);
        break;
      case "stray":
        world.send(each.n, 3);
        break;
      case "answer":
        world.answer();
        break;
      case "refuse":
        world.answer(true);
        break;
      case "drop":
        world.socket?.drop();
        break;
      case "unsubscribe":
        world.event("run.unsubscribed", { runId: "r", reason: "slow" });
        break;
      case "trim":
        world.first = Math.min(world.first + each.n, world.log.length + 1);
        break;
      case "replace":
        world.replace();
        break;
      case "read":
        reading ??= read();
        reading.catch(() => {});
        permit(each.n);
        break;
      case "wait":
        world.clock.advance(each.n * 300);
        break;
    }
    await quiet();
  }
  // From here on everyone behaves: the story must come to its end.
  world.end();
  permit(1e9);
  for (let i = 0; i < 400 && !witness.ended; i++) {
    if (i === 200) reading ??= read();
    world.clock.advance(1000);
    await quiet();
    world.answer();
    if (world.due !== undefined) world.send(world.due, world.log.length);
    await quiet();
  }
  expect(witness.ended).toBe(true);
  await reading;
  expect(witness.at).toBe(world.log.length);
  // Without a single part between, no reader can tell.
  expect(witness.epoch ?? run.epoch).toBe(`e${world.epoch}`);
  expect(run.epoch).toBe(`e${world.epoch}`);
  expect(run).toMatchObject({ status: "completed", offset: world.log.length });
  connection.close();
  expect(world.clock.pending).toBe(0);
  return witness;
}

describe("P1: one story", () => {
  it.each([
    ["with a small buffer", 400],
    ["with a large one", 1 << 20],
  ])("the application sees each offset once and in order, %s", async (_, bufferSize) => {
    let seen = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 80 }), async (steps) => {
        seen += (await play(steps, bufferSize)).steps;
      }),
      { numRuns: 300 },
    );
    // A property that holds because nothing happens holds nothing.
    expect(seen).toBeGreaterThan(1000);
  });
});
