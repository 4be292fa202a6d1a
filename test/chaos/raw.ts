/**
 * A client of the round without the library: a socket, commands, and a transcript that takes nothing on trust. It starts
 * runs under a key, again on the next socket where the answer did not come, and resumes after the last offset it has.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Filter, ProtocolError } from "@throughline/protocol";
import { TestClient } from "../support/client.ts";
import { Transcript } from "../support/transcript.ts";
import { until } from "../support/until.ts";
import type { Door, Visitor } from "./door.ts";
import type { KnownRun, Ledger } from "./ledger.ts";
import { startParams } from "./member.ts";
import { busyPaceMs, type PlannedReading, type PlannedTurn, planConversation, planReading } from "./plan.ts";
import type { Random } from "./random.ts";
import { View } from "./view.ts";

const partsPrefix = '{"type":"event","method":"run.parts"';
/** Before the next socket, ms, at the most. */
const reconnectMs = 300;

/** A socket of its own, since when, and whether its resume is being measured. */
interface Opened {
  at: number;
  measured: boolean;
}

export class RawMember implements Visitor {
  readonly name: string;
  readonly random: Random;
  readonly heedsDraining = false;
  readonly #plan: Random;
  readonly #ledger: Ledger;
  readonly #door: Door;
  /** Whether every frame is held to its schema. */
  readonly #validate: boolean;
  readonly #graphShare: number;
  #client: TestClient | undefined;
  /** A socket that was opened, until the first part that it had missed has come. */
  #opened: Opened | undefined;
  #following: KnownRun | undefined;

  constructor(
    name: string,
    random: Random,
    ledger: Ledger,
    door: Door,
    { validate, graphShare }: { validate: boolean; graphShare: number },
  ) {
    this.name = name;
    this.random = random.fork("gateways");
    this.#plan = random;
    this.#ledger = ledger;
    this.#door = door;
    this.#validate = validate;
    this.#graphShare = graphShare;
  }

  get isBusy(): boolean {
    return this.#following !== undefined && this.#following.turn.input.paceMs <= busyPaceMs;
  }

  disturbed(): void {
    this.#opened = undefined;
  }

  #plannedTurn(random: Random, name: string): PlannedTurn {
    return planConversation(random, name, this.#graphShare)[0]!;
  }

  async live(isOver: () => boolean): Promise<void> {
    for (let n = 0; !isOver(); n++) {
      const random = this.#plan.fork(n);
      await sleep(random.int(0, 4_000));
      if (isOver()) return;
      if (random.chance(0.6)) await this.#watchSomebody(random);
      else await this.#talk(this.#plannedTurn(random, `${this.name}-${n}`), `${this.name}-${n}`);
    }
  }

  close(): void {
    this.#client?.drop();
  }

  async #watchSomebody(random: Random): Promise<void> {
    const others = this.#ledger.active.filter(({ client }) => client !== this.name);
    const reading = planReading(random);
    if (others.length > 0) await this.#follow(random.pick(others), reading);
  }

  async #talk(turn: PlannedTurn, threadId: string): Promise<void> {
    const startedAt = Date.now();
    const started = await this.#persist((client) =>
      client.call("run.start", { ...startParams(turn, threadId, threadId), subscribe: false } as never),
    );
    const { runId, epoch } = started;
    const run = this.#ledger.run(runId, { threadId, turn, epoch, client: this.name, startedAt });
    await this.#follow(run, turn.reading);
    run.ended = true;
  }

  async #follow(run: KnownRun, { filter, drops, pause }: PlannedReading): Promise<void> {
    const view = new View(this.#ledger, this.name, run, 0, filter);
    const transcript = new Transcript(run.runId, 0);
    run.views.push(view);
    this.#following = run;
    const timers = drops.map((ms) => setTimeout(() => this.#door.drop(this), ms));
    if (pause !== undefined) timers.push(setTimeout(() => this.#pause(pause.forMs), pause.afterMs));
    while (transcript.ending === undefined && transcript.problems.length === 0) {
      await this.#persist(async (client) => {
        await this.#subscribe(client, run, filter, transcript);
        let closed = false;
        void client.closed.then(() => {
          closed = true;
        });
        await until(
          () => closed || transcript.ending !== undefined || transcript.problems.length > 0,
          Number.POSITIVE_INFINITY,
        );
      });
    }
    this.#following = undefined;
    for (const timer of timers) clearTimeout(timer);
    view.problems.push(...transcript.problems);
    for (const { reason } of transcript.resets) view.reset(reason);
    for (const snapshot of transcript.snapshots) view.snapshot(snapshot as never);
    for (const { offset, part } of transcript.delivered) {
      view.told.push({ offset, part: part === null ? null : JSON.stringify(part) });
    }
    view.complete = transcript.ending !== undefined;
  }

  async #subscribe(
    client: TestClient,
    run: KnownRun,
    filter: Filter | undefined,
    transcript: Transcript,
  ): Promise<void> {
    // A resume is measured once a socket.
    const opened = this.#opened;
    const had = transcript.last;
    if (had === 0) this.#opened = undefined;
    else if (opened?.measured === false) this.#measureResume(client, opened, had);
    const epoch = transcript.resets.at(-1)?.epoch ?? run.epoch;
    await client.follow(run.runId, { epoch, ...(filter === undefined ? {} : { filter }) }, transcript);
  }

  /** From the opening of the socket to the first part that came after the offset `had` meanwhile. */
  #measureResume(client: TestClient, opened: Opened, had: number): void {
    opened.measured = true;
    let missed = false;
    const listen = (data: Buffer) => {
      const text = data.toString();
      if (text.startsWith('{"type":"success"')) {
        const { result } = JSON.parse(text) as { result: { head?: number } };
        missed = (result.head ?? 0) > had;
      } else if (text.startsWith(partsPrefix)) {
        client.ws.off("message", listen);
        if (missed && opened === this.#opened) this.#ledger.measure("resume", opened.at);
        this.#opened = undefined;
      }
    };
    client.ws.on("message", listen);
  }

  #pause(ms: number): void {
    const client = this.#client;
    this.#opened = undefined;
    client?.ws.pause();
    setTimeout(() => client?.ws.resume(), ms);
  }

  /** Does it on the next socket where one is lost, and again for as long as the gateway says that it cannot. */
  async #persist<T>(call: (client: TestClient) => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await call(await this.#socket());
      } catch (error) {
        if (error instanceof ProtocolError && error.code !== "unavailable") {
          throw error;
        }
        await sleep(this.#plan.int(0, reconnectMs));
      }
    }
  }

  async #socket(): Promise<TestClient> {
    if (this.#client?.ws.readyState === this.#client?.ws.OPEN && this.#client !== undefined)
      return this.#client;
    const instance = this.#door.gateway(this.random);
    if (instance === undefined) throw new Error("there is no gateway");
    const opened = { at: Date.now(), measured: false };
    this.#client = await TestClient.open(instance.detail, { validate: this.#validate });
    this.#opened = opened;
    this.#door.register(this.#client.ws, this, instance);
    return this.#client;
  }
}
