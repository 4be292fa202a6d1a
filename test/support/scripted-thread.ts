/** What is told of a thread, or of all of an owner's, written by the test itself, event by event. */
import type { ThreadEvent, ThreadRecord, ThreadRun } from "@throughline/protocol";
import type { LogKeys } from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";

/** How many events it keeps. */
const kept = 100;

export class ScriptedThread {
  readonly #redis: Redis | Cluster;
  readonly keys: LogKeys;
  readonly threadId: string;
  epoch = "e1";
  head = 0;

  constructor(redis: Redis | Cluster, keys: LogKeys, threadId = "t") {
    this.#redis = redis;
    this.keys = keys;
    this.threadId = threadId;
  }

  get record(): ThreadRecord {
    const at = new Date(0).toISOString();
    const counts = { messages: 0, runs: 0, active: [] };
    return {
      threadId: this.threadId,
      status: "idle",
      createdAt: at,
      updatedAt: at,
      metadata: {},
      checkpointId: null,
      ...counts,
    };
  }

  run(runId: string, status: ThreadRun["status"]): ThreadEvent {
    return { event: "run", thread: this.record, run: { runId, agent: "a", status } };
  }

  /** Tells each by itself. */
  async tell(...events: ("created" | "head" | "metadata" | "deleted" | ThreadEvent)[]): Promise<void> {
    for (const each of events) await this.#append(each, true);
  }

  /** The message of it is lost. */
  async tellUnheard(event: "created" | "head" | "metadata" | "deleted" | ThreadEvent): Promise<void> {
    await this.#append(event, false);
  }

  /** The log has another epoch, and has lost all that was told before. */
  async replace(epoch: string): Promise<void> {
    await this.#redis.del(this.keys.log, this.keys.run);
    this.epoch = epoch;
    this.head = 0;
    await this.tell("head");
  }

  async remove(): Promise<void> {
    await this.#redis.del(this.keys.log, this.keys.run);
  }

  async #append(
    told: "created" | "head" | "metadata" | "deleted" | ThreadEvent,
    heard: boolean,
  ): Promise<void> {
    const event: unknown =
      typeof told !== "string"
        ? told
        : told === "deleted"
          ? { event: told, threadId: this.threadId }
          : { event: told, thread: this.record };
    const { run, log, live } = this.keys;
    const isLast = told === "deleted";
    const offset = ++this.head;
    const first = Math.max(1, offset - kept + 1);
    const body = JSON.stringify([event]);
    const multi = this.#redis
      .multi()
      .xadd(log, `${offset}-0`, "n", 1, "b", body, "v", "")
      .xtrim(log, "MINID", `${first}-0`)
      .hset(run, { status: isLast ? "deleted" : "open", epoch: this.epoch, head: offset, first });
    if (heard) multi.publish(live, `${offset}:1:${this.epoch}${isLast ? ":e" : ""}\n${body}`);
    await multi.exec();
  }
}
