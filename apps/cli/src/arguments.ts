/** What people write on the command line, and what it means. */
import { readFileSync } from "node:fs";
import { type Keep, keep, type StreamMode, streamModes } from "@throughline/protocol";
import { InvalidArgumentError } from "commander";

/** A gateway's address as people write it: a whole URL, or as little as `host:port`. */
export function gatewayUrl(text: string): string {
  const withScheme = /^[a-z]+:\/\//i.test(text) ? text : `ws://${text}`;
  let url: URL;
  try {
    url = new URL(withScheme);
  } catch {
    throw new InvalidArgumentError(`${text} is no address of a gateway, as ws://127.0.0.1:8787 is.`);
  }
  const schemes: Record<string, string> = { "ws:": "ws:", "wss:": "wss:", "http:": "ws:", "https:": "wss:" };
  const scheme = schemes[url.protocol];
  if (scheme === undefined)
    throw new InvalidArgumentError(`a gateway speaks ws: or wss:, not ${url.protocol}`);
  const path = url.pathname === "/" ? "/v1/ws" : url.pathname;
  return `${scheme}//${url.host}${path}${url.search}`;
}

/** JSON where it is JSON, else the text itself. */
export function runInput(text: string | undefined, file: string | undefined): unknown {
  const input = text === undefined ? undefined : parseLoosely(text);
  if (file === undefined) return input;
  const contents = { text: readFileSync(file, "utf8") };
  if (input === undefined) return contents;
  if (typeof input === "object" && input !== null && !Array.isArray(input)) return { ...contents, ...input };
  throw new InvalidArgumentError("with --file, the input has to be a JSON object.");
}

/** @throws InvalidArgumentError: what begins as an object or a list is meant to be one */
function parseLoosely(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!/^\s*(\{|\[\s*[[{"\]])/.test(text)) return text;
    throw new InvalidArgumentError(`It begins as JSON, and is none: ${(error as Error).message}.`);
  }
}

export function jsonObject(text: string): Record<string, unknown> {
  const parsed = parseLoosely(text);
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new InvalidArgumentError('It is a JSON object, as {"configurable":{"lang":"en"}}.');
  }
  return parsed as Record<string, unknown>;
}

export function modeList(text: string): StreamMode[] {
  return text.split(",").map((each) => {
    const mode = streamModes.find((known) => known === each.trim());
    if (mode === undefined) throw new InvalidArgumentError(`Modes are ${streamModes.join(", ")}.`);
    return mode;
  });
}

export function nodeList(text: string): "*" | string[] {
  return text === "*" ? text : text.split(",").map((each) => each.trim());
}

export function keepOption(text: string): Keep {
  const parsed = keep.safeParse(text);
  if (!parsed.success) throw new InvalidArgumentError(`It is one of ${keep.options.join(", ")}.`);
  return parsed.data;
}

export function afterOption(text: string): number | "head" {
  return text === "head" ? text : wholeNumber(text);
}

export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("It is a whole number.");
  return Number(text);
}

/** An argument for a POSIX shell. */
export function quoted(argument: string): string {
  return /^[\w./:@%+,=-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'\\''`)}'`;
}
