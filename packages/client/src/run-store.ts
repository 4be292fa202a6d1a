/**
 * A run as something to draw: a snapshot that stays the same object until there is something new to see, and listeners
 * that are called once a frame at most, however many tokens came.
 */
import { isEnding } from "@throughline/protocol";
import type { Connection, StartParams } from "./connection.ts";
import { nextFrame, soon } from "./platform.ts";
import { type CancelOptions, Run } from "./run.ts";
import type { EndingData, OffsetPart } from "./run-event.ts";

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

export interface RunStoreOptions {
  /** Keeps the parts themselves, too. The store is then the run's reader. */
  parts?: boolean;
  /** Calls back when it is time to draw. @default the next animation frame, or a microtask where there are none */
  schedule?: (draw: () => void) => void;
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

export class RunStore {
  readonly #options: RunStoreOptions;
  readonly #listeners = new Set<() => void>();
  readonly #starting: Promise<Run>;
  #view: RunView = { ...idleView, status: "starting" };
  #run: Run | undefined;
  #parts: OffsetPart[] = [];
  #ending: EndingData | undefined;
  #error: Error | undefined;
  #scheduled = false;
  #closed = false;
  #stop: (() => void) | undefined;
  /** A run that the application brought is the application's to detach. */
  readonly #owns: boolean;

  constructor(connection: Connection, target: RunTarget, options: RunStoreOptions = {}) {
    this.#options = options;
    this.#owns = !(target instanceof Run);
    this.#starting = follow(connection, target);
    this.#starting.then(
      (run) => this.#follow(run),
      (error: Error) => this.#fail(error),
    );
  }

  /** For useSyncExternalStore, as is `getSnapshot`. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly getSnapshot = (): RunView => this.#view;

  /** Also for a run whose start has not been answered yet. */
  async cancel(options: CancelOptions = {}): Promise<void> {
    await (await this.#starting).cancel(options);
  }

  /** Follows the run no more; the run goes on. */
  close(): void {
    this.#closed = true;
    this.#stop?.();
    if (this.#owns) this.#run?.detach();
  }

  #follow(run: Run): void {
    this.#run = run;
    if (this.#closed) {
      this.close();
      return;
    }
    this.#stop = run.onChange(() => this.#changed());
    run.ended.then(
      (ending) => {
        this.#ending = ending;
        this.#draw();
      },
      (error: Error) => this.#fail(error),
    );
    if (this.#options.parts === true) this.#collect(run).catch((error: Error) => this.#fail(error));
    this.#changed();
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
      this.#changed();
    }
  }

  #fail(error: Error): void {
    this.#error = error;
    this.#draw();
  }

  #changed(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    (this.#options.schedule ?? nextFrame)(() => {
      if (this.#scheduled) this.#draw();
    });
  }

  /** Endings and errors do not wait for a frame: a page in the background gets none. */
  #draw(): void {
    this.#scheduled = false;
    if (this.#closed) return;
    this.#view = this.#look();
    for (const listener of this.#listeners) listener();
  }

  #look(): RunView {
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

async function follow(connection: Connection, target: RunTarget): Promise<Run> {
  if (target instanceof Run) return target;
  return typeof target === "string" ? connection.attach(target) : connection.start(target);
}

interface Shared {
  store: RunStore;
  holders: number;
}

const shared = new WeakMap<Connection, Map<string | Run, Shared>>();

/**
 * The store of this run, the same for everyone who holds it: a connection follows a run once. It is closed when nobody has
 * held it for a moment, so that a component that is unmounted and mounted again at once starts no second run.
 */
export function holdStore(
  connection: Connection,
  target: RunTarget,
  options: RunStoreOptions,
): { store: RunStore; release: () => void } {
  const stores = shared.get(connection) ?? new Map<string | Run, Shared>();
  shared.set(connection, stores);
  const key = targetKey(target, options);
  const held = stores.get(key) ?? { store: new RunStore(connection, target, options), holders: 0 };
  stores.set(key, held);
  held.holders += 1;
  let released = false;
  const release = () => {
    if (released) return;
    released = true;
    held.holders -= 1;
    soon(() => {
      if (held.holders > 0 || stores.get(key) !== held) return;
      stores.delete(key);
      held.store.close();
    });
  };
  return { store: held.store, release };
}

/** Equal params mean the same start, so that they may be written in place where a component is rendered. */
export function targetKey(target: RunTarget, { parts = false }: RunStoreOptions = {}): string | Run {
  if (target instanceof Run) return target;
  return `${typeof target === "string" ? "attach" : "start"}:${parts}:${JSON.stringify(target)}`;
}
