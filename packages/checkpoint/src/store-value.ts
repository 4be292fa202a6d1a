/** What may be stored as an item's value: plain JSON, so that what is read is what was put. */
import { InvalidArgumentError } from "./errors.ts";
import { refuseSerialised } from "./thread-state.ts";

/** Characters of keys and texts, and one for each thing in the value: no reader is held up for long by one item. */
const MAX_SIZE = 8 * 1024 * 1024;
const MAX_DEPTH = 128;

/** @throws InvalidArgumentError: reading the text would not give the same value again, or the value is too large. */
export function toJson(value: unknown): string {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new InvalidArgumentError("a value is a plain object, with keys");
  }
  new Check().run(value);
  refuseSerialised(value);
  return JSON.stringify(value);
}

/** One walk over a value. Keys that are undefined are left out, as in JSON; what else is no JSON is refused. */
class Check {
  #left = MAX_SIZE;
  /** Keys and indices from the root to what is looked at. */
  readonly #where: (string | number)[] = [];
  readonly #above = new Set<object>();

  run(value: unknown): void {
    this.#spend(1);
    if (value === null || typeof value === "boolean") return;
    if (typeof value === "string") this.#spend(value.length);
    else if (typeof value === "object") this.#runInside(value);
    else if (typeof value !== "number") this.#refuse(value === undefined ? "undefined" : `a ${typeof value}`);
    else if (!Number.isFinite(value)) this.#refuse(String(value));
  }

  #runInside(value: object): void {
    if (this.#above.has(value)) this.#refuse("inside of itself");
    if (this.#above.size === MAX_DEPTH) this.#refuse(`more than ${MAX_DEPTH} levels deep`);
    this.#above.add(value);
    if (Array.isArray(value)) {
      // Not forEach: that passes over holes, which would be read as null.
      for (let i = 0; i < value.length; i++) this.#runAt(i, value[i]);
    } else {
      this.#refuseInstance(value);
      for (const [key, each] of Object.entries(value)) {
        this.#spend(key.length);
        if (each !== undefined) this.#runAt(key, each);
      }
    }
    this.#above.delete(value);
  }

  #runAt(key: string | number, value: unknown): void {
    this.#where.push(key);
    this.run(value);
    this.#where.pop();
  }

  #refuseInstance(value: object): void {
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype !== Object.prototype && prototype !== null) {
      this.#refuse(`an instance of ${value.constructor?.name || "a class"}`);
    }
    if (Object.getOwnPropertySymbols(value).length > 0) this.#refuse("an object with a symbol for a key");
  }

  #refuse(what: string): never {
    const at = this.#where.map((each) => `[${JSON.stringify(each)}]`).join("");
    throw new InvalidArgumentError(`value${at.slice(0, 200)} is ${what}: only plain JSON can be stored`);
  }

  #spend(size: number): void {
    this.#left -= size;
    if (this.#left < 0) throw new InvalidArgumentError(`a value has ${MAX_SIZE} characters at most`);
  }
}
