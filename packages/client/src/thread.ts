/** The calls about one thread. */
import type { Method, Params, Result, RunRecord, ThreadHead, ThreadState } from "@throughline/protocol";

/** As gateways have it. */
const defaultLimit = 50;
const defaultHistoryLimit = 20;

type Call = <M extends Method>(method: M, params: Params<M>) => Promise<Result<M>>;

export class Thread {
  readonly threadId: string;
  readonly #call: Call;

  constructor(threadId: string, call: Call) {
    this.threadId = threadId;
    this.#call = call;
  }

  /**
   * The thread's state: its head, or that of `checkpointId`; with `ns` that of a subgraph, by its path (the name of a
   * node stands for the latest of its tasks). Throws `no_such_thread`, `no_such_checkpoint`.
   */
  get(options: { checkpointId?: string; ns?: string[] } = {}): Promise<ThreadHead> {
    return this.#call("thread.get", { threadId: this.threadId, ...options });
  }

  /** The checkpoints, newest first; `ns` as for `get`. `before`: the checkpointId that the last page ended with. */
  async history(options: { limit?: number; before?: string; ns?: string[] } = {}): Promise<ThreadState[]> {
    const { limit = defaultHistoryLimit, ...others } = options;
    const ask = (page: { limit: number; before?: string }) =>
      this.#call("thread.history", { threadId: this.threadId, ...others, ...page });
    let { checkpoints, next } = await ask({ limit, ...(others.before && { before: others.before }) });
    while (next !== undefined && checkpoints.length < limit) {
      const more = await ask({ limit: limit - checkpoints.length, before: next });
      checkpoints = [...checkpoints, ...more.checkpoints];
      next = more.next;
    }
    return checkpoints;
  }

  /**
   * Writes a new checkpoint with these values; `ns` as for `get`. Not sent twice: throws ConnectionLostError where it may have been done.
   */
  update(
    values: Record<string, unknown>,
    options: { asNode?: string; checkpointId?: string; ns?: string[] } = {},
  ): Promise<Result<"thread.update">> {
    const params = { threadId: this.threadId, values, ...options } as Params<"thread.update">;
    return this.#call("thread.update", params);
  }

  /** The thread's runs, newest first. */
  async runs(options: Omit<Params<"run.list">, "threadId"> = {}): Promise<RunRecord[]> {
    return await allRuns((page) => this.#call("run.list", page), { threadId: this.threadId, ...options });
  }
}

/** A gateway looks at so many runs at a time, whatever their status: goes on until there are as many as were asked for. */
export async function allRuns(
  list: (params: Params<"run.list">) => Promise<Result<"run.list">>,
  params: Params<"run.list">,
): Promise<RunRecord[]> {
  const { limit = defaultLimit } = params;
  let { runs, next } = await list(params);
  while (next !== undefined && runs.length < limit) {
    const more = await list({ ...params, limit: limit - runs.length, before: next });
    runs = [...runs, ...more.runs];
    next = more.next;
  }
  return runs;
}
