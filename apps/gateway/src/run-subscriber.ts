/** Subscribes sockets to runs: because a client asked, because it started one, or because it watches the run's thread. */
import { type Params, ProtocolError } from "@throughline/protocol";
import type { ListedRun } from "@throughline/runlog";
import type { ClientSocket } from "./client-socket.ts";
import type { Feed } from "./feed.ts";
import { passingParts } from "./filter.ts";
import type { Hub } from "./hub.ts";
import { checkSubscriptions, takePlace } from "./places.ts";
import { fitsFrame } from "./snapshot.ts";
import { type Beginning, beginningOf, Subscription } from "./subscription.ts";

/** As `run.subscribe` has them. */
export type RunWants = Omit<Params<"run.subscribe">, "runId">;

export class RunSubscriber {
  readonly #hub: Hub;
  readonly #max: number;

  /** @param max subscriptions that a socket may have */
  constructor(hub: Hub, max: number) {
    this.#hub = hub;
    this.#max = max;
  }

  /** Throws too_many_subscriptions where the socket has no room for this log. */
  check(connection: ClientSocket, id: string): void {
    checkSubscriptions(connection, id, this.#max);
  }

  /**
   * Takes the run's place among the socket's subscriptions, for a client that asks: one that takes a snapshot in one frame
   * only is refused where it is larger than that, before anything is begun.
   *
   * @returns the epoch under which it goes on, and what is to be done once the client knows of it
   * @throws ProtocolError too_many_subscriptions, payload_too_large
   */
  async subscribe(
    connection: ClientSocket,
    run: ListedRun,
    wants: RunWants,
  ): Promise<{ epoch: string; begin: () => void }> {
    const { feed, beginning } = await this.#acquire(run, wants);
    try {
      if (wants.pages !== true && beginning.after < run.record.first - 1)
        await this.#refuseLarge(feed.log.id);
    } catch (error) {
      feed.release();
      throw error;
    }
    return { epoch: beginning.epoch, begin: this.#take(connection, feed, beginning, wants) };
  }

  /**
   * The same for a client that was not asked: for a run that it started, or whose thread it watches. A snapshot that it
   * does not take is told in an event.
   *
   * @param isWanted asked once more when all is there
   * @returns what is to be done once the client knows of the run
   * @throws ProtocolError too_many_subscriptions
   */
  async subscribeUnasked(
    connection: ClientSocket,
    run: ListedRun,
    wants: RunWants,
    isWanted: () => boolean = () => true,
  ): Promise<() => void> {
    const { feed, beginning } = await this.#acquire(run, wants);
    if (isWanted()) return this.#take(connection, feed, beginning, wants);
    feed.release();
    return () => {};
  }

  async #acquire(
    { record, earlier }: ListedRun,
    { after = 0, epoch }: RunWants,
  ): Promise<{ feed: Feed; beginning: Beginning }> {
    const feed = this.#hub.feed(record.runId);
    feed.learn(record);
    await feed.acquire();
    return { feed, beginning: beginningOf(feed.log, { after, epoch }, { ...record, earlier }) };
  }

  #take(connection: ClientSocket, feed: Feed, beginning: Beginning, { filter, pages }: RunWants): () => void {
    const wants = { passes: passingParts(filter), pages };
    return takePlace(connection, new Subscription(feed, beginning, wants, connection), this.#max);
  }

  async #refuseLarge(runId: string): Promise<void> {
    const bytes = (await this.#hub.reader.snapshotSlice(runId, 0, 0))?.length ?? 0;
    if (fitsFrame(runId, bytes)) return;
    const message = `run ${runId} has a snapshot of ${bytes} bytes, too large for one frame: a client that takes it in pages subscribes with pages: true`;
    throw new ProtocolError("payload_too_large", message);
  }
}
