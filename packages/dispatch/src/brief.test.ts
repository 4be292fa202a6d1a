import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { briefOf } from "./brief.ts";

const queue = "default";
const size = (value: unknown) => Buffer.byteLength(JSON.stringify(value));

test("what was asked is told as it was asked, and nothing else", () => {
  expect(briefOf({ queue })).toEqual({});
  expect(briefOf({ queue, input: null, config: { configurable: { secret: 1 } } })).toEqual({ input: null });
  const asked = { input: { a: [1] }, modes: ["values"], subgraphs: false, onDisconnect: "cancel" as const };
  expect(briefOf({ queue, ...asked, checkpointId: "c1" })).toEqual({ ...asked, from: "c1" });
  expect(briefOf({ queue, fromNothing: true })).toEqual({ from: null });
});

test("an input of 4 KiB is told whole, one of a byte more is not", () => {
  const input = { text: "é".repeat((4_096 - size({ text: "" })) / 2) };
  expect(size(input)).toBeLessThanOrEqual(4_096);
  expect(briefOf({ queue, input })).toEqual({ input });
  const more = { text: `${input.text}éé` };
  expect(briefOf({ queue, input: more })).toEqual({
    input: { text: `${more.text.slice(0, 1_024)}…` },
    inputCut: true,
  });
});

test("of a long conversation the newest message is told", () => {
  const messages = Array.from({ length: 500 }, (_, i) => ({
    role: "user",
    content: `${i} ${"x".repeat(50)}`,
  }));
  const { input, inputCut } = briefOf({ queue, input: { messages } });
  expect(inputCut).toBe(true);
  expect((input as { messages: unknown[] }).messages.at(-1)).toEqual(messages.at(-1));
});

/** Anything that JSON can be. */
function anything(depth: number): unknown {
  const kind = Math.floor(Math.random() * (depth > 0 ? 6 : 4));
  const many = () => Math.floor(Math.random() ** 6 * 60);
  if (kind === 0) return Math.random() * 1e300;
  if (kind === 1) return [null, true, false][many() % 3];
  if (kind < 4) return randomBytes(many() * 20).toString(kind === 2 ? "utf8" : "base64");
  if (kind === 4) return Array.from({ length: many() }, () => anything(depth - 1));
  return Object.fromEntries(
    Array.from({ length: many() }, (_, i) => [
      i === 0 ? "__proto__" : `${i}`.repeat(1 + many()),
      anything(depth - 1),
    ]),
  );
}

test("whatever it is, it is valid JSON of at most 4 KiB, and never half a character", () => {
  for (let i = 0; i < 500; i++) {
    const input = i % 7 === 0 ? "🧵".repeat(i * 10) : i % 7 === 1 ? [[[["x".repeat(9_000)]]]] : anything(4);
    const brief = briefOf({ queue, input });
    expect(size(brief.input)).toBeLessThanOrEqual(4_096);
    expect(brief.inputCut).toBe(size(input) > 4_096 ? true : undefined);
    if (brief.inputCut === undefined) expect(brief.input).toEqual(input);
    if (typeof input === "string") expect(JSON.stringify(brief.input)).not.toMatch(/\\ud/);
  }
});
