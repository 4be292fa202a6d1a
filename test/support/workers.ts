/** Workers without a gateway: runs are started by the dispatcher, and looked at in their logs. */
import { RedisCheckpointSaver, readHistory, readState } from "@throughline/checkpoint";
import { Dispatcher, defaultQueue, ownerScope, type StartRequest } from "@throughline/dispatch";
import { isEnding, type LifecycleData, type Part, type RunRecord } from "@throughline/protocol";
import { LogReader, LogWriter, type RunWriter } from "@throughline/runlog";
import { type ServeOptions, serve, type WorkerHandle, type WorkerTimes } from "@throughline/worker";
import { Redis } from "ioredis";
import { testLogger } from "./logger.ts";
import { testPrefix, testRedisUrl } from "./redis.ts";
import { Transcript } from "./transcript.ts";
import { patienceMs, until } from "./until.ts";

export interface Ended {
  record: RunRecord;
  parts: Part[];
  lifecycle: LifecycleData[];
  text: string;
}

export class Workshop {
  readonly prefix = testPrefix();
  readonly redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  readonly dispatcher = new Dispatcher(this.redis, { prefix: this.prefix });
  readonly saver = new RedisCheckpointSaver(this.redis, {
    prefix: this.prefix,
    scope: ownerScope("alice"),
  });
  readonly reader = new LogReader(this.redis, this.prefix);
  readonly workers: WorkerHandle[] = [];
  #threads = 0;

  async serve(
    agents: ServeOptions["agents"],
    options: Partial<ServeOptions> = {},
    times: Partial<WorkerTimes> = {},
  ): Promise<WorkerHandle> {
    const worker = await serve(
      {
        agents,
        redis: testRedisUrl(),
        prefix: this.prefix,
        logger: testLogger,
        drainMs: 0,
        cancelGraceMs: 100,
        ...options,
      },
      times,
    );
    this.workers.push(worker);
    return worker;
  }

  newThread(): string {
    return `thread-${this.#threads++}`;
  }

  /** Starts a run and answers its id. */
  async start(
    agent: string,
    request: Partial<StartRequest["request"]> = {},
    more: Partial<StartRequest> = {},
  ): Promise<string> {
    const { runId } = await this.dispatcher.start({
      agent,
      owner: "alice",
      threadId: this.newThread(),
      ...more,
      request: { queue: defaultQueue, ...request },
    });
    return runId;
  }

  /** Claims a run as a worker does that will never be heard of again. */
  async claimAndDie(runId: string, parts: readonly Part[] = []): Promise<RunWriter> {
    const claimed = await new LogWriter(this.redis, { prefix: this.prefix }).claim(runId);
    if (claimed.outcome !== "claimed") throw new Error(`${runId} is ${claimed.outcome}`);
    for (const part of parts) void claimed.writer.write(part);
    await claimed.writer.flush();
    return claimed.writer;
  }

  async record(runId: string): Promise<RunRecord> {
    return (await this.dispatcher.runs.must(runId)).record;
  }

  /** Waits until the log has that many parts. */
  async reached(runId: string, head: number): Promise<void> {
    await until(async () => (await this.record(runId)).head >= head, patienceMs, `head ${head} of ${runId}`);
  }

  /** Waits for the end of a run, and reads its whole log. Its offsets are 1, 2, 3, … up to the one ending (P1, P5). */
  async ended(runId: string): Promise<Ended> {
    const record = await until(
      async () => {
        const found = await this.record(runId);
        return isEnding(found.status) ? found : null;
      },
      patienceMs,
      `the end of ${runId}`,
    );
    const transcript = new Transcript(runId, 0);
    for await (const { offset, part } of this.reader.parts(runId)) {
      transcript.onEvent({ type: "event", method: "run.parts", params: { runId, offset, parts: [part] } });
    }
    transcript.check();
    if (transcript.ending?.event !== record.status || transcript.last !== record.head) {
      throw new Error(`${runId} is ${record.status} at ${record.head}; its log ends otherwise`);
    }
    return { record, parts: transcript.parts, lifecycle: transcript.lifecycle, text: transcript.text };
  }

  /** The thread's messages as `type:content`, at its head or at a checkpoint. */
  async messages(threadId: string, checkpointId?: string): Promise<string[]> {
    const state = await readState(this.saver, { threadId, checkpointId });
    const messages = (state?.values.messages ?? []) as { type: string; content: unknown }[];
    return messages.map(({ type, content }) => `${type}:${content}`);
  }

  async history(threadId: string) {
    return await readHistory(this.saver, { threadId });
  }

  async stop(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.close()));
    await this.dispatcher.close();
    this.redis.disconnect();
  }
}
