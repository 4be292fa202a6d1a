/**
 * What all feeds of a gateway keep of their logs, for readers that are behind together.
 *
 * Invariant: it comes to `maxBytes` at the most, however many runs are read: what was kept first goes first.
 */
interface Kept {
  readonly bytes: number;
  readonly onEvict: () => void;
}

export class PageCache<Page extends object> {
  readonly #maxBytes: number;
  /** In the order in which they came. */
  readonly #kept = new Map<Page, Kept>();
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** @param onEvict called when the page has to make room, which may be at once; not by `delete` */
  add(page: Page, bytes: number, onEvict: () => void): void {
    this.#kept.set(page, { bytes, onEvict });
    this.#bytes += bytes;
    for (const [oldest, kept] of this.#kept) {
      if (this.#bytes <= this.#maxBytes) return;
      this.delete(oldest);
      kept.onEvict();
    }
  }

  delete(page: Page): void {
    const kept = this.#kept.get(page);
    if (kept === undefined) return;
    this.#kept.delete(page);
    this.#bytes -= kept.bytes;
  }
}
