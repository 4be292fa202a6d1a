/** A run without a worker: its log is written by the test itself, batch by batch. */
import { lifecycle, type Part } from "@throughline/protocol";
import { body, LogWriter, RunStore, type RunWriter, runKeys } from "@throughline/runlog";
import type { Cluster, Redis } from "ioredis";

export class ScriptedRun {
  readonly runId: string;
  readonly writer: RunWriter;
  readonly #redis: Redis | Cluster;
  readonly #prefix: string;
  readonly written: Part[] = [];
  #offset = 0;

  private constructor(redis: Redis | Cluster, prefix: string, runId: string, writer: RunWriter) {
    this.#redis = redis;
    this.#prefix = prefix;
    this.runId = runId;
    this.writer = writer;
  }

  /** Opens and claims a run of `owner`; `local` is whoever a gateway with AUTH=none has. */
  static async open(
    redis: Redis | Cluster,
    prefix: string,
    runId: string,
    owner = "local",
  ): Promise<ScriptedRun> {
    const runs = new RunStore(redis, { prefix });
    const queue = "none";
    await runs.open({
      runId,
      threadId: `of-${runId}`,
      agent: "scripted",
      owner,
      epoch: `e-${runId}`,
      request: JSON.stringify({ queue }),
      queue,
    });
    const claimed = await new LogWriter(redis, { prefix }).claim(runId);
    if (claimed.outcome !== "claimed") throw new Error(`the run is ${claimed.outcome}`);
    return new ScriptedRun(redis, prefix, runId, claimed.writer);
  }

  /** Appends a batch, and publishes it. */
  async append(parts: readonly Part[]): Promise<void> {
    await this.#append(parts, true);
  }

  /** Appends a batch whose message is lost. */
  async appendUnheard(parts: readonly Part[]): Promise<void> {
    await this.#append(parts, false);
  }

  /** Ends the run. Answers the offset of its ending. */
  async finish(): Promise<number> {
    return await this.#finish(true);
  }

  /** Ends the run, and the message of that is lost. */
  async finishUnheard(): Promise<number> {
    return await this.#finish(false);
  }

  async #finish(heard: boolean): Promise<number> {
    const { run, log, live } = runKeys(this.#prefix, this.runId);
    const ending = lifecycle({ event: "completed" });
    this.written.push(ending);
    const offset = ++this.#offset;
    const json = body([ending]);
    const multi = this.#redis
      .multi()
      .xadd(log, `${offset}-0`, "n", 1, "b", json)
      .hset(run, "head", offset, "status", "completed", "ended", Date.now(), "fence", "");
    if (heard) multi.publish(live, `${offset}:1:e-${this.runId}:e\n${json}`);
    await multi.exec();
    return offset;
  }

  async #append(parts: readonly Part[], heard: boolean): Promise<void> {
    const { run, log, live } = runKeys(this.#prefix, this.runId);
    this.written.push(...parts);
    const first = this.#offset + 1;
    this.#offset += parts.length;
    const json = body(parts);
    const multi = this.#redis
      .multi()
      .xadd(log, `${this.#offset}-0`, "n", parts.length, "b", json)
      .hset(run, "head", this.#offset);
    if (heard) multi.publish(live, `${first}:${parts.length}:e-${this.runId}\n${json}`);
    await multi.exec();
  }
}
