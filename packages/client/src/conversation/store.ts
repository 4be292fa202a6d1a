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

  /** `before` itself, where there is nothing new. */
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
    const view = this.look(this.#view);
    if (view === this.#view) return;
    this.#view = view;
    for (const listener of this.#listeners) listener();
  }
}

interface Shared {
  store: object;
  keys: Set<unknown>;
  holders: number;
}

const shared = new WeakMap<object, Set<Shared>>();

function find(owner: object, is: (held: Shared) => boolean): Shared | undefined {
  return [...(shared.get(owner) ?? [])].find(is);
}

/** The store of this key, the same for everyone who holds it. */
export function hold<S extends object>(owner: object, key: unknown, make: () => S): S {
  let held = find(owner, ({ keys }) => keys.has(key));
  if (held === undefined) {
    const all = shared.get(owner) ?? new Set<Shared>();
    shared.set(owner, all);
    held = { store: make(), keys: new Set([key]), holders: 0 };
    all.add(held);
  }
  held.holders += 1;
  return held.store as S;
}

/** The store is to be found under this key, too. */
export function alsoKnownAs(owner: object, store: object, key: unknown): void {
  find(owner, (held) => held.store === store)?.keys.add(key);
}

/**
 * One of those who hold the store lets it go. It is over when nobody has held it for a moment, so that a component that is
 * unmounted and mounted again at once starts nothing twice.
 */
export function letGo(owner: object, store: object, over: () => void): void {
  const held = find(owner, (each) => each.store === store);
  if (held === undefined) {
    over();
    return;
  }
  held.holders -= 1;
  soon(() => {
    if (held.holders <= 0 && shared.get(owner)?.delete(held) === true) over();
  });
}
