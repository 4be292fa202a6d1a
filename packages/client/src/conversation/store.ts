/**
 * What all stores are: a snapshot that stays the same object until there is something new to see, and listeners that are
 * called once a frame at most, however many tokens came. React reads it with useSyncExternalStore.
 */
import { nextFrame, soon } from "../platform.ts";

export interface StoreOptions {
  /** Calls back when it is time to draw. @default the next animation frame, or a microtask where there are none */
  schedule?: (draw: () => void) => void;
}

export abstract class Store<View> {
  readonly #listeners = new Set<() => void>();
  readonly #schedule: (draw: () => void) => void;
  #view: View;
  #isScheduled = false;
  protected isClosed = false;

  constructor(view: View, { schedule = nextFrame }: StoreOptions = {}) {
    this.#view = view;
    this.#schedule = schedule;
  }

  /** Calls the listener with every new snapshot. Answers how to stop that. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly getSnapshot = (): View => this.#view;

  protected abstract look(before: View): View;

  protected changed(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    this.#schedule(() => {
      if (this.#isScheduled) this.draw();
    });
  }

  /** At once: what a person did is not to wait for a frame, nor are endings: a page in the background gets none. */
  protected draw(): void {
    this.#isScheduled = false;
    if (this.isClosed) return;
    this.#view = this.look(this.#view);
    for (const listener of this.#listeners) listener();
  }
}

interface Shared {
  store: { close(): void };
  keys: Set<unknown>;
  holders: number;
}

const shared = new WeakMap<object, Set<Shared>>();

/** What is held of `owner` under this key. */
export function heldStore<S>(owner: object, key: unknown): S | undefined {
  for (const held of shared.get(owner) ?? []) if (held.keys.has(key)) return held.store as S;
  return undefined;
}

/** The store is to be found under this key, too. */
export function alsoKnownAs(owner: object, store: object, key: unknown): void {
  for (const held of shared.get(owner) ?? []) if (held.store === store) held.keys.add(key);
}

/**
 * The store of this key, the same for everyone who holds it. It is closed when nobody has held it for a moment, so that a
 * component that is unmounted and mounted again at once starts nothing twice.
 */
export function hold<S extends { close(): void }>(
  owner: object,
  key: unknown,
  make: () => S,
): { store: S; release: () => void } {
  const all = shared.get(owner) ?? new Set<Shared>();
  shared.set(owner, all);
  let held = [...all].find(({ keys }) => keys.has(key));
  if (held === undefined) {
    held = { store: make(), keys: new Set([key]), holders: 0 };
    all.add(held);
  }
  const { store } = held;
  held.holders += 1;
  let released = false;
  const release = () => {
    if (released) return;
    released = true;
    held.holders -= 1;
    soon(() => {
      if (held.holders === 0 && all.delete(held)) store.close();
    });
  };
  return { store: store as S, release };
}
