/** A client of the round that uses the client library, as users do: it talks in threads, cancels, and watches others. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Connection, connect, ProtocolError, type Run } from "@throughline/client";
import type { Door, Visitor } from "./door.ts";
import type { KnownRun, Ledger } from "./ledger.ts";
import {
  type PlannedCancel,
  type PlannedReading,
  type PlannedTurn,
  planConversation,
  planReading,
} from "./plan.ts";
import type { Random } from "./random.ts";
import { answerTo, isGraph } from "./text.ts";
import { View } from "./view.ts";

/** Between the tries of a command that was answered with `unavailable`, ms. */
const retryMs = 300;

export class Member implements Visitor {
  readonly name: string;
  readonly random: Random;
  readonly heedsDraining = true;
  readonly #plan: Random;
  readonly #ledger: Ledger;
  readonly #door: Door;
  readonly #graphShare: number;
  readonly #connection: Connection;
  /** What it follows now. */
  readonly views = new Set<View>();

  constructor(name: string, random: Random, ledger: Ledger, door: Door, graphShare: number) {
    this.name = name;
    this.random = random.fork("gateways");
    this.#plan = random;
    this.#ledger = ledger;
    this.#door = door;
    this.#graphShare = graphShare;
    const backoff = random.fork("backoff");
    this.#connection = connect("ws://gateway", {
      WebSocket: door.classFor(this),
      random: () => backoff.next(),
    });
  }

  get isBusy(): boolean {
    for (const view of this.views) if (view.isBusy) return true;
    return false;
  }

  disturbed(): void {
    for (const view of this.views) view.disturbed();
  }

  /** Talks and watches until it is told that it is over, and then to the end of what it has begun. */
  async live(isOver: () => boolean): Promise<void> {
    for (let n = 0; !isOver(); n++) {
      const random = this.#plan.fork(n);
      await sleep(random.int(0, 4_000));
      if (isOver()) return;
      if (random.chance(0.35)) await this.#watchSomebody(random);
      else {
        const name = `${this.name}-${n}`;
        await this.#converse(planConversation(random, name, this.#graphShare), name, isOver);
      }
    }
  }

  close(): void {
    this.#connection.close();
  }

  async #watchSomebody(random: Random): Promise<void> {
    const others = this.#ledger.active.filter(({ client }) => client !== this.name);
    const reading = planReading(random);
    const after = random.chance(0.3) ? "head" : 0;
    if (others.length === 0) return;
    const run = random.pick(others);
    await this.#follow(this.#attach(run, after, reading), run, reading, after);
  }

  #attach({ runId, epoch }: KnownRun, after: 0 | "head", { filter }: PlannedReading): Run {
    return this.#connection.attach(runId, { after, epoch, ...(filter === undefined ? {} : { filter }) });
  }

  async #converse(turns: readonly PlannedTurn[], threadId: string, isOver: () => boolean): Promise<void> {
    const going: Promise<void>[] = [];
    let last: KnownRun | undefined;
    for (const [i, turn] of turns.entries()) {
      if (isOver()) break;
      // Stopped before it could ask.
      if (turn.answers && last?.ending !== "interrupted") continue;
      const started = await this.#start(turn, threadId, `${threadId}-${i}`);
      last = started?.known;
      if (started === undefined) continue;
      going.push(this.#attend(started.run, started.known, `${threadId}-${i}`));
      if (turn.overlapMs === undefined) await Promise.all(going);
      else await sleep(turn.overlapMs);
    }
    await Promise.all(going);
  }

  async #start(
    turn: PlannedTurn,
    threadId: string,
    key: string,
  ): Promise<{ run: Run; known: KnownRun } | undefined> {
    const startedAt = Date.now();
    try {
      const { filter } = turn.reading;
      const run = await this.#persist(() =>
        this.#connection.start({
          ...startParams(turn, threadId, key),
          ...(filter === undefined ? {} : { filter }),
        }),
      );
      if (run.threadId !== threadId) {
        this.#ledger.violation(`${this.name}: ${run.runId} is on thread ${run.threadId}, not on ${threadId}`);
      }
      const epoch = run.epoch ?? "";
      return {
        run,
        known: this.#ledger.run(run.runId, { threadId, turn, epoch, client: this.name, startedAt }),
      };
    } catch (error) {
      if (turn.strategy === "reject" && error instanceof ProtocolError && error.code === "thread_busy") {
        this.#ledger.count("starts rejected: thread busy");
      } else this.#ledger.violation(`${this.name}: a start was refused: ${error}`);
      return undefined;
    }
  }

  async #attend(run: Run, known: KnownRun, key: string): Promise<void> {
    const { turn, threadId } = known;
    const tasks = [this.#follow(run, known, turn.reading, 0)];
    if (turn.cancel !== undefined) tasks.push(this.#cancel(known, turn.cancel));
    if (turn.repeated && turn.strategy !== "reject") tasks.push(this.#repeat(known, turn, threadId, key));
    await Promise.all(tasks);
    known.shown = await this.#showCheckpoint(run, known);
    known.ended = true;
  }

  /** What a gateway shows of the checkpoint that the run ended in. */
  async #showCheckpoint(run: Run, known: KnownRun): Promise<KnownRun["shown"]> {
    try {
      const { checkpoint, event } = await run.ended;
      known.ending = event;
      if (checkpoint === undefined || checkpoint === null) return undefined;
      const { checkpointId } = checkpoint;
      return (await this.#persist(() => this.#connection.thread(known.threadId).get({ checkpointId })))
        .values;
    } catch (error) {
      this.#ledger.violation(`${this.name}: the checkpoint of ${run.runId} could not be shown: ${error}`);
      return undefined;
    }
  }

  /** The same start again must answer the same run, and start nothing. */
  async #repeat(known: KnownRun, turn: PlannedTurn, threadId: string, key: string): Promise<void> {
    const params = { ...startParams(turn, threadId, key), subscribe: false };
    try {
      const again = await this.#persist(() => this.#connection.call("run.start", params as never));
      this.#ledger.count("starts repeated");
      if (again.runId !== known.runId || again.created) {
        this.#ledger.violation(`${this.name}: the start of ${known.runId}, repeated, made ${again.runId}`);
      }
    } catch (error) {
      this.#ledger.violation(`${this.name}: the start of ${known.runId}, repeated, was refused: ${error}`);
    }
  }

  async #cancel(known: KnownRun, { afterMs, keep, twice }: PlannedCancel): Promise<void> {
    await sleep(afterMs);
    const asks = [this.#askCancel(known, keep)];
    if (twice) asks.push(this.#askCancel(known, keep === "thread" ? "discard" : "thread"));
    await Promise.all(asks);
  }

  async #askCancel(known: KnownRun, keep: PlannedCancel["keep"]): Promise<void> {
    const asked: KnownRun["cancels"][number] = { client: this.name, keep, answer: undefined, tookMs: 0 };
    known.cancels.push(asked);
    try {
      const from = Date.now();
      const { status: socket } = this.#connection.state;
      let tries = 0;
      asked.answer = await this.#persist(() => {
        tries += 1;
        return this.#connection.cancel(known.runId, { keep });
      });
      asked.tookMs = Date.now() - from;
      this.#ledger.count("cancels");
      const { status, offset } = asked.answer;
      // Asked while its cable was cut, it waits for the next socket: another figure's time.
      if (status !== "cancelled" || socket !== "open" || tries > 1 || (offset ?? 0) <= 1) return;
      this.#ledger.measure(known.turn.agent === "stubborn" ? "cancelStubborn" : "cancel", from);
    } catch (error) {
      this.#ledger.violation(`${this.name}: a cancel of ${known.runId} was refused: ${error}`);
    }
  }

  async #follow(run: Run, known: KnownRun, reading: PlannedReading, after: 0 | "head"): Promise<void> {
    const { filter, drops, pause } = reading;
    const view = new View(this.#ledger, this.name, known, after === "head" ? undefined : after, filter);
    known.views.push(view);
    this.views.add(view);
    const cutting = drops.map((ms) => setTimeout(() => this.#door.drop(this), ms));
    try {
      await this.#read(run, view, pause);
      view.folded = new Map(run.messages.map(({ message }) => [message.id ?? "", String(message.content)]));
      view.complete = true;
    } catch (error) {
      this.#ledger.violation(`${this.name}: reading ${run.runId} failed: ${error}`);
    } finally {
      for (const timer of cutting) clearTimeout(timer);
      this.views.delete(view);
    }
  }

  async #read(run: Run, view: View, pause: PlannedReading["pause"]): Promise<void> {
    let pauseAt = pause === undefined ? Number.POSITIVE_INFINITY : Date.now() + pause.afterMs;
    for await (const event of run.events) {
      if (event.kind === "skipped") view.skipped(event.offset, event.to);
      else if (event.kind === "reset") view.reset(event.reason);
      else if (event.kind === "snapshot") view.snapshot(event);
      else view.part(event.offset, event.part);
      if (Date.now() < pauseAt) continue;
      pauseAt = Number.POSITIVE_INFINITY;
      view.disturbed();
      await sleep(pause!.forMs);
    }
  }

  /** Does it again for as long as the gateway says that it cannot at the moment. */
  async #persist<T>(call: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await call();
      } catch (error) {
        if (!(error instanceof ProtocolError) || error.code !== "unavailable") throw error;
        this.#ledger.count("commands answered with unavailable");
        await sleep(retryMs);
      }
    }
  }
}

export function startParams({ agent, input, answers, strategy }: PlannedTurn, threadId: string, key: string) {
  const brings = answers ? { command: { resume: answerTo(input) } } : { input };
  // What subgraphs say is told as well; and where `team` goes is said by its run's config.
  const asks = isGraph(agent)
    ? { subgraphs: true, config: { configurable: { route: { to: "outer" } } } }
    : {};
  return { agent, ...brings, ...asks, threadId, multitaskStrategy: strategy, idempotencyKey: key };
}
