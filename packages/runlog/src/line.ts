/**
 * Parts as lines of JSON, just as `JSON.stringify` has them.
 *
 * The tokens of one model's call come with one and the same metadata object, three quarters of the line: its JSON is
 * made once. Whoever hands an object in again must have left it as it was.
 */
import type { Part } from "@throughline/protocol";

export class Lines {
  #metadata: object | undefined;
  #json: string | undefined;

  of(part: Part): string {
    if (part.type !== "messages") return JSON.stringify(part);
    const [chunk, metadata] = part.data;
    if (metadata !== this.#metadata) {
      this.#metadata = metadata;
      this.#json = undefined;
      return JSON.stringify(part);
    }
    this.#json ??= JSON.stringify(metadata);
    const ns = part.ns.length === 0 ? "[]" : JSON.stringify(part.ns);
    return `{"type":"messages","ns":${ns},"data":[${JSON.stringify(chunk)},${this.#json}]}`;
  }
}
