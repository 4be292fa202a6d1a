/**
 * What a program's values are as JSON, for readers. `JSON.stringify` makes `{}` of a Map, a Set and an Error, and throws
 * at a BigInt and at what contains itself: none of that may cost a run its progress.
 *
 * | value | is |
 * | --- | --- |
 * | BigInt | its digits, as a string |
 * | Map | an object, if all its keys are strings; else a list of pairs |
 * | Set | a list |
 * | Date | ISO 8601; null if it is no date |
 * | Error | `{name, message}`, and what it has besides |
 * | bytes | base64 |
 * | regular expression | its source, as a string |
 * | function, symbol, undefined | left out; null in a list |
 * | what contains itself | `"[Circular]"` where it comes again |
 * | what throws when it is read | `"[Unreadable: …]"`, with what it throws |
 * | an instance of a class | what its `toJSON` says, else its own fields |
 */
export type Special = (value: object) => { value: unknown } | undefined;

/** Deeper values are cut off: readers are to be able to read it. */
const maxDepth = 500;

/** @param special what is to be taken for an object in place of the table; undefined: nothing */
export function toJson(value: unknown, special: Special = () => undefined): unknown {
  return convert(value, special, []);
}

function convert(value: unknown, special: Special, above: object[]): unknown {
  if (typeof value === "bigint") return String(value);
  if (typeof value === "function" || typeof value === "symbol") return undefined;
  if (typeof value !== "object" || value === null) return value;
  const instead = special(value);
  if (instead !== undefined) return instead.value;
  if (above.includes(value)) return "[Circular]";
  if (above.length === maxDepth) return "[Too deep]";
  above.push(value);
  try {
    return convertObject(value, (inner) => convert(inner, special, above));
  } catch (error) {
    return `[Unreadable: ${(error as Error)?.message ?? error}]`;
  } finally {
    above.pop();
  }
}

function convertObject(value: object, inner: (value: unknown) => unknown): unknown {
  if (Array.isArray(value)) return value.map(inner);
  if (isPlain(value)) return fields(value, inner);
  if (value instanceof Map) {
    const pairs = [...value].map(([key, each]) => [inner(key), inner(each)] as const);
    return pairs.every(([key]) => typeof key === "string") ? Object.fromEntries(pairs) : pairs;
  }
  if (value instanceof Set) return [...value].map(inner);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (value instanceof Error) {
    const { name, message } = value;
    return { name, message, ...(fields(value, inner) as object) };
  }
  if (value instanceof RegExp) return String(value);
  if (ArrayBuffer.isView(value)) {
    return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64");
  }
  if (value instanceof ArrayBuffer) return Buffer.from(value).toString("base64");
  const said = attempt(() => (value as { toJSON?: () => unknown }).toJSON?.());
  return said === undefined || said === value ? fields(value, inner) : inner(said);
}

export function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** An object's own fields. One that throws when it is read is left out. */
export function fields(value: object, inner: (value: unknown) => unknown): object {
  return Object.fromEntries(
    Object.keys(value).map((key) => [key, inner(attempt(() => (value as Record<string, unknown>)[key]))]),
  );
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
