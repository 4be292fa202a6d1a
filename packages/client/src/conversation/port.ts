/** What stores need of a connection. */
import type { Method, Params, Result } from "@throughline/protocol";
import type { ConnectionState } from "../link.ts";
import type { StartParams } from "../params.ts";
import type { AttachOptions, CancelOptions, Run } from "../run.ts";
import type { Thread } from "../thread.ts";
import type { Watching, WatchSink } from "../watch.ts";

export interface StorePort {
  readonly state: ConnectionState;
  onState(listener: (state: ConnectionState) => void): () => void;
  call<M extends Method>(method: M, params: Params<M>): Promise<Result<M>>;
  start(params: StartParams): Promise<Run>;
  attach(runId: string, options?: AttachOptions): Run;
  cancel(runId: string, options?: CancelOptions): Promise<Result<"run.cancel">>;
  thread(threadId: string): Thread;
  watch(threadId: string | undefined, sink: WatchSink): Watching;
}
