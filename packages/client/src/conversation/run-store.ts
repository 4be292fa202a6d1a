/** A run as something to draw. */
import { isEnding } from "@throughline/protocol";
import type { StartParams } from "../params.ts";
import { type CancelOptions, Run } from "../run.ts";
import type { EndingData, OffsetPart } from "../run-event.ts";
import type { StorePort } from "./port.ts";
import { hold, letGo, Store, type StoreOptions } from "./store.ts";

/** A run by its id, a run to be started, or one that the application follows itself. */
export type RunTarget = string | StartParams | Run;

export interface RunView {
  /** `idle`: no run was asked for; `starting`: the gateway has not answered yet; `lost`: see `error`. */
  readonly status: "idle" | "starting" | "lost" | Run["status"];
  readonly runId: string | undefined;
  readonly threadId: string | undefined;
  readonly offset: number;
  /** The text of the newest message. */
  readonly text: string;
  readonly messages: Run["messages"];
  /** What has not been taken back, where `parts` was asked for. It grows with the run. */
  readonly parts: readonly OffsetPart[];
  readonly ending: EndingData | undefined;
  /** Why the run could not be started or can be followed no more. A run that failed has an ending instead. */
  readonly error: Error | undefined;
}

export interface RunStoreOptions extends StoreOptions {
  /** Keeps the parts themselves, too. The store is then the run's reader. */
  parts?: boolean;
}

export const idleView: RunView = {
  status: "idle",
  runId: undefined,
  threadId: undefined,
  offset: 0,
  text: "",
  messages: [],
  parts: [],
  ending: undefined,
  error: undefined,
};

export class RunStore extends Store<RunView> {
  readonly #starting: Promise<Run>;
  #run: Run | undefined;
  #parts: OffsetPart[] = [];
  #ending: EndingData | undefined;
  #error: Error | undefined;
  #stop: (() => void) | undefined;
  readonly #keepsParts: boolean;
  /** A run that the application brought is the application's to detach. */
  readonly #owns: boolean;

  constructor(connection: StorePort, target: RunTarget, options: RunStoreOptions = {}) {
    super({ ...idleView, status: "starting" }, options);
    this.#keepsParts = options.parts === true;
    this.#owns = !(target instanceof Run);
    this.#starting = follow(connection, target);
    this.#starting.then(
      (run) => this.#follow(run),
      (error: Error) => this.#fail(error),
    );
  }

  /** Also for a run whose start has not been answered yet. */
  async cancel(options: CancelOptions = {}): Promise<void> {
    await (await this.#starting).cancel(options);
  }

  /** Follows the run no more; the run goes on. */
  close(): void {
    this.isClosed = true;
    this.#stop?.();
    if (this.#owns) this.#run?.detach();
  }

  #follow(run: Run): void {
    this.#run = run;
    if (this.isClosed) {
      this.close();
      return;
    }
    this.#stop = run.onChange(() => this.changed());
    run.ended.then(
      (ending) => {
        this.#ending = ending;
        this.draw();
      },
      (error: Error) => this.#fail(error),
    );
    if (this.#keepsParts) this.#collect(run).catch((error: Error) => this.#fail(error));
    this.changed();
  }

  async #collect(run: Run): Promise<void> {
    for await (const event of run.events) {
      if (event.kind === "reset") this.#parts = [];
      if (event.kind === "rewound") {
        this.#parts = this.#parts.filter(
          ({ offset, part }) => offset <= event.to || part.type === "lifecycle",
        );
      }
      if (event.kind !== "part" && event.kind !== "rewound") continue;
      this.#parts.push({ offset: event.offset, part: event.part });
      this.changed();
    }
  }

  #fail(error: Error): void {
    this.#error = error;
    this.draw();
  }

  protected look(): RunView {
    const run = this.#run;
    const error = this.#error;
    if (run === undefined) return { ...idleView, status: error === undefined ? "starting" : "lost", error };
    return {
      status: error !== undefined && !isEnding(run.status) ? "lost" : run.status,
      runId: run.runId,
      threadId: run.threadId,
      offset: run.offset,
      text: run.text,
      messages: run.messages,
      parts: [...this.#parts],
      ending: this.#ending,
      error,
    };
  }
}

async function follow(connection: StorePort, target: RunTarget): Promise<Run> {
  if (target instanceof Run) return target;
  return typeof target === "string" ? connection.attach(target) : connection.start(target);
}

/** The store of this run, the same for everyone who holds it: a connection follows a run once. */
export function holdStore(
  connection: StorePort,
  target: RunTarget,
  options: RunStoreOptions,
): { store: RunStore; release: () => void } {
  const store = hold(connection, targetKey(target, options), () => new RunStore(connection, target, options));
  let isHeld = true;
  const release = () => {
    if (isHeld) letGo(connection, store, () => store.close());
    isHeld = false;
  };
  return { store, release };
}

/** Equal params mean the same start, so that they may be written in place where a component is rendered. */
export function targetKey(target: RunTarget, { parts = false }: RunStoreOptions = {}): string | Run {
  if (target instanceof Run) return target;
  return `${typeof target === "string" ? "attach" : "start"}:${parts}:${JSON.stringify(target)}`;
}
