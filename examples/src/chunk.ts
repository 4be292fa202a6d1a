/** A chunk of a message that says more than its text: where it begins, why it ends, what it cost. */
import { type TokenOptions, token, type Yielded } from "@throughline/worker";

export function chunk(text: string, fields: Record<string, unknown>, options?: TokenOptions): Yielded {
  const part = token(text, options);
  if (part.type === "messages") Object.assign(part.data[0], fields);
  return part;
}
