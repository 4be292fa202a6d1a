import { beforeEach, describe, expect, test } from "vitest";
import { Outbox, type Outgoing } from "./outbox.ts";

/** More than is kept as strings. */
const long = 9_000;
const bodyOf = (lines: readonly string[]) => `[${lines.join(",\n")}]`;

function filled(...lines: string[]): Outgoing {
  const outbox = new Outbox();
  for (const line of lines) outbox.push(line);
  expect(outbox.count).toBe(lines.length);
  const outgoing = outbox.take();
  expect(outgoing.count).toBe(lines.length);
  expect(outgoing.size).toBe(lines.reduce((sum, line) => sum + line.length + 2, 0));
  return outgoing;
}

/** The memory that a batch is in. */
function memoryOf({ body }: Outgoing): ArrayBufferLike {
  if (typeof body === "string") throw new Error("it is a string");
  return body.buffer;
}

const spilled = () => filled("x".repeat(long));

describe("an outbox", () => {
  test("has what waits as one array, one part per line, however many and however long", () => {
    const cases = [
      ["1"],
      ["1", '"two"', "3"],
      ["x".repeat(8_190)],
      ["x".repeat(8_191)],
      ["x".repeat(long), "after"],
      ["before", "x".repeat(long)],
      Array.from({ length: 5_000 }, (_, i) => `"part ${i}"`),
      // UTF-8 takes three bytes for each of these.
      Array.from({ length: 300 }, () => "﷽".repeat(1_000)),
      ["short", "﷽".repeat(600_000), "short"],
      ["👩‍🚀".repeat(5_000), "é".repeat(90_000)],
    ];
    for (const lines of cases) {
      const outgoing = filled(...lines);
      expect(outgoing.body.toString()).toBe(bodyOf(lines));
      outgoing.release();
    }
  });

  test("keeps few as strings, and writes many down as they come", () => {
    expect(typeof filled("x".repeat(8_190)).body).toBe("string");
    expect(typeof filled("x".repeat(8_191)).body).toBe("object");
  });

  test("that was emptied is as new", () => {
    const outbox = new Outbox();
    expect(outbox.take()).toMatchObject({ count: 0, size: 0, body: "" });
    for (const line of ["a", "x".repeat(long), "b"]) {
      outbox.push(line);
      const { body, count, size } = outbox.take();
      expect([body.toString(), count, size]).toEqual([bodyOf([line]), 1, line.length + 2]);
      expect(outbox.count).toBe(0);
      expect(outbox.take()).toMatchObject({ count: 0, size: 0, body: "" });
    }
  });
});

describe("the memory of batches", () => {
  // What other tests gave back is taken.
  beforeEach(() => {
    for (let i = 0; i < 100; i++) spilled();
  });

  test("is another's when its batch was given back, and not before", () => {
    const first = filled("a".repeat(long));
    const second = filled("b".repeat(long));
    expect(memoryOf(second)).not.toBe(memoryOf(first));
    expect(first.body.toString()).toBe(bodyOf(["a".repeat(long)]));
    first.release();
    const third = filled("c".repeat(long));
    expect(memoryOf(third)).toBe(memoryOf(first));
    expect(memoryOf(spilled())).not.toBe(memoryOf(first));
    expect(second.body.toString()).toBe(bodyOf(["b".repeat(long)]));
  });

  test("that a larger one took the place of is given back at once", () => {
    const outbox = new Outbox();
    outbox.push("x".repeat(long));
    outbox.push("y".repeat(200_000));
    const large = outbox.take();
    const next = spilled();
    expect(memoryOf(next)).not.toBe(memoryOf(large));
    expect(memoryOf(next).byteLength).toBe(256 * 1024);
    expect(large.body.toString()).toBe(bodyOf(["x".repeat(long), "y".repeat(200_000)]));
    large.release();
    expect(memoryOf(spilled())).toBe(memoryOf(large));
  });

  test("of a huge batch is not kept", () => {
    const huge = filled("x".repeat(1_100_000));
    huge.release();
    expect(memoryOf(spilled())).not.toBe(memoryOf(huge));
  });

  test("comes to 16 MB at the most", () => {
    for (let round = 0; round < 2; round++) {
      const batches = Array.from({ length: 80 }, spilled);
      const given = new Set(batches.map(memoryOf));
      for (const batch of batches) batch.release();
      const next = Array.from({ length: 80 }, spilled).map(memoryOf);
      expect(next.filter((memory) => given.has(memory))).toHaveLength(64);
    }
  });
});
