/**
 * The tree of a conversation: which messages are alternatives to each other, and which checkpoint a turn begins at. It is
 * read from the checkpoints' ids and messages' ids alone (`thread.history {values: false}`).
 *
 * Invariants:
 * - a checkpoint's messages are its parent's, without those that it dropped from their end, and with those that it added;
 * - messages with the same messages before them are alternatives, where none of their checkpoints comes from another's;
 * - what a lost or failed attempt left aside is no alternative.
 */
import type { Result, ThreadState } from "@throughline/protocol";

interface Node {
  id: string;
  parent: Node | undefined;
  depth: number;
  children: Map<string, Node>;
  /** The first checkpoint that had it, and the newest that ends with it. */
  first: Place;
  last: Place | undefined;
  isShown: boolean;
}

interface Place {
  checkpointId: string;
  parentId: string | null;
  /** Where it stands among all, by time. */
  order: number;
  node: Node;
  /** It holds a run's input, which the run has not taken yet. */
  isInput: boolean;
}

export type HistoryPage = (before: string | undefined) => Promise<Result<"thread.history">>;

function emptyRoot(): Node {
  return { id: "", depth: 0, children: new Map() } as Partial<Node> as Node;
}

export class Tree {
  readonly #places = new Map<string, Place>();
  /** Of all messages. */
  readonly #ids = new Set<string>();
  #root = emptyRoot();
  #loading: Promise<void> | undefined;
  /** Another number whenever there is something new. */
  version = 0;

  /** Reads what is new, newest first, down to what is known. */
  load(page: HistoryPage): Promise<void> {
    if (this.#loading !== undefined) return this.#loading;
    const loading = this.#load(page).finally(() => {
      if (this.#loading === loading) this.#loading = undefined;
    });
    this.#loading = loading;
    return loading;
  }

  async #load(page: HistoryPage): Promise<void> {
    const root = this.#root;
    const fresh: ThreadState[] = [];
    let before: string | undefined;
    let isKnown = false;
    do {
      const { checkpoints, next } = await page(before);
      const known = checkpoints.findIndex(({ checkpointId }) => this.#places.has(checkpointId));
      isKnown = known !== -1;
      fresh.push(...(known === -1 ? checkpoints : checkpoints.slice(0, known)));
      before = isKnown || checkpoints.length === 0 ? undefined : next;
    } while (before !== undefined);
    if (root !== this.#root) return;
    // Nothing of what was known is there any more: the thread was deleted, and begun anew.
    if (!isKnown) this.#forget();
    for (const state of fresh.reverse()) this.#add(state);
    if (fresh.length > 0) this.version += 1;
  }

  /** The thread is no more. */
  clear(): void {
    this.#forget();
    this.#loading = undefined;
    this.version += 1;
  }

  #forget(): void {
    this.#places.clear();
    this.#ids.clear();
    this.#root = emptyRoot();
  }

  /** Whether any checkpoint has a message. */
  has(id: string): boolean {
    return this.#ids.has(id);
  }

  /** How many messages a checkpoint has. */
  depth(checkpointId: string | null): number {
    return this.#places.get(checkpointId ?? "")?.node.depth ?? 0;
  }

  #add({ checkpointId, parentId, messages, metadata }: ThreadState): void {
    const { count, added } = messages ?? { count: 0, added: [] };
    const parent = parentId === null ? undefined : this.#places.get(parentId);
    let node = parent?.node ?? this.#root;
    while (node.depth > count - added.length) node = node.parent!;
    const isInput = metadata.source === "input" || metadata.source === "fork";
    const place: Place = { checkpointId, parentId, order: this.#places.size, node, isInput };
    for (const id of added) {
      this.#ids.add(id);
      let child = node.children.get(id);
      if (child === undefined) {
        const { depth } = node;
        child = {
          id,
          parent: node,
          depth: depth + 1,
          children: new Map(),
          first: place,
          last: undefined,
          isShown: false,
        };
        node.children.set(id, child);
      }
      node = child;
    }
    place.node = node;
    this.#places.set(checkpointId, place);
    if (metadata.partial === "taken-over" || metadata.partial === "failed") return;
    node.last = place;
    for (let at: Node | undefined = node; at !== undefined && !at.isShown; at = at.parent) at.isShown = true;
  }

  /**
   * The alternatives to each of these ids, oldest first; only those that have any. `live`: the ids of a line that is
   * being written, and is not among the checkpoints yet.
   */
  alternatives(ids: readonly string[], live: readonly string[] = []): Map<string, readonly string[]> {
    const found = new Map<string, readonly string[]>();
    let node: Node | undefined = this.#root;
    let isShared = true;
    for (const [i, id] of ids.entries()) {
      if (node === undefined) break;
      const own: Node | undefined = node.children.get(id);
      const all = [...node.children.values()]
        .filter((each) => each === own || (each.isShown && !this.#isOnLine(each, own)))
        .map(({ id }) => id);
      for (const each of isShared ? [id, live[i]] : [id]) {
        if (each !== undefined && !all.includes(each)) all.push(each);
      }
      if (all.length > 1) found.set(id, all);
      isShared &&= live[i] === id;
      node = own;
    }
    return found;
  }

  /** Whether one of the two comes from the other: a state whose messages were rewritten is no branch. */
  #isOnLine(a: Node, b: Node | undefined): boolean {
    return b !== undefined && (this.#comesFrom(a.first, b.first) || this.#comesFrom(b.first, a.first));
  }

  #comesFrom(place: Place, from: Place): boolean {
    let at: Place | undefined = place;
    while (at !== undefined && at.order > from.order) at = this.#places.get(at.parentId ?? "");
    return at === from;
  }

  /** The newest checkpoint behind these messages. */
  leaf(ids: readonly string[]): string | undefined {
    let node: Node | undefined = this.#root;
    for (const id of ids) node = node?.children.get(id);
    let newest: Place | undefined;
    const open = node === undefined ? [] : [node];
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      if (at.last !== undefined && at.last.order > (newest?.order ?? -1)) newest = at.last;
      open.push(...at.children.values());
    }
    return newest?.checkpointId;
  }

  /**
   * The newest checkpoint on the line to `leaf` that has at most the first `count` messages: what a turn begins at whose
   * question comes behind them. null: nothing.
   */
  before(leaf: string | null, count: number): string | null {
    const parentOf = (place: Place) => this.#places.get(place.parentId ?? "");
    let place = this.#places.get(leaf ?? "");
    while (place !== undefined && place.node.depth > count) place = parentOf(place);
    // An input that waits there is another turn's.
    while (place?.isInput) place = parentOf(place);
    return place?.checkpointId ?? null;
  }
}
