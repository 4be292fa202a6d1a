import { Fold, type Part } from "@throughline/protocol";
import { LogReader, type SnapshotSlice } from "@throughline/runlog";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { TestClient } from "../../../test/support/client.ts";
import { type Line, startLine } from "../../../test/support/line.ts";
import { ScriptedRun } from "../../../test/support/run.ts";
import { Transcript } from "../../../test/support/transcript.ts";
import { until } from "../../../test/support/until.ts";
import { Feed, type FeedPage } from "./feed.ts";
import { RunLog } from "./followed-log.ts";
import { PageCache } from "./page-cache.ts";
import { Semaphore } from "./semaphore.ts";
import { framePage, type SnapshotPage, sliceOf } from "./snapshot.ts";

const maxFrame = 1024 * 1024;
const token = (content: string): Part => ({
  type: "messages",
  ns: [],
  data: [{ type: "AIMessageChunk", id: "m", content }, {}],
});

/** The payload of a frame of more than 65,535 bytes, or of fewer. */
function payload(frame: Buffer): { method: string; params: Record<string, unknown> } {
  const header = frame[1] === 127 ? 10 : frame[1] === 126 ? 4 : 2;
  return JSON.parse(frame.toString("utf8", header));
}

function framesOf(stored: Buffer, first = 8) {
  const page = (n: number) => {
    const [from, count] = sliceOf(n);
    const slice = stored.subarray(from, from + count);
    return framePage("r", n, { epoch: "e", first, length: stored.length, slice });
  };
  const { pages } = page(1);
  return Array.from({ length: pages }, (_, i) => page(i + 1));
}

describe("a snapshot's frames", () => {
  test("add up to it, wherever its pages end in a character, and each is one that everybody takes", () => {
    const pieces = fc.array(fc.string({ unit: "binary", minLength: 1, maxLength: 40 }), {
      minLength: 1,
      maxLength: 8,
    });
    fc.assert(
      fc.property(pieces, fc.integer({ min: 0, max: 7 }), (some, shift) => {
        const content = `${"x".repeat(shift)}${some.join("").repeat(40_000)}${'🧵é漢\u0001\\"'.repeat(120_000)}`;
        const stored = { offset: 7, messages: [{ type: "ai", id: "m", content }], values: {} };
        const frames = framesOf(Buffer.from(JSON.stringify(stored)));
        expect(frames.length).toBeGreaterThan(1);
        const all = frames.map(({ frame }) => payload(frame));
        expect(Math.max(...frames.map(({ frame }) => frame.length))).toBeLessThan(maxFrame);
        expect(all.map(({ params }) => params.page)).toEqual(all.map((_, i) => i + 1));
        const joined = JSON.parse(all.map(({ params }) => params.text).join(""));
        expect(joined.messages[0].content === stored.messages[0]!.content).toBe(true);
      }),
      { numRuns: 10 },
    );
  });

  test("are one as long as that is no larger than a frame may be", () => {
    const empty = JSON.stringify({ offset: 7, messages: [], values: { text: "" } });
    const around = framesOf(Buffer.from(empty))[0]!.frame.length - empty.length;
    // Headers of large frames are 8 bytes longer, and no part of the payload.
    const room = maxFrame - (around - 4 + 2) - empty.length;
    const at = (size: number) => framesOf(Buffer.from(empty.replace('""', JSON.stringify("x".repeat(size)))));
    const [last] = at(room);
    expect([last!.whole, last!.pages, payload(last!.frame).method]).toEqual([true, 1, "run.snapshot"]);
    expect(payload(last!.frame).params).toMatchObject({ runId: "r", offset: 7, messages: [] });
    const over = at(room + 20);
    expect(over[0]!.whole).toBe(false);
    expect(over.length).toBeGreaterThan(1);
  });

  test("say that there is nothing where nothing is stored", () => {
    const [only] = framesOf(Buffer.alloc(0));
    expect(payload(only!.frame).params).toEqual({ runId: "r", offset: 7, messages: [], values: {} });
  });
});

describe("a snapshot of many frames", () => {
  let line: Line;
  beforeAll(async () => {
    line = await startLine({ workers: 0 });
  });
  afterAll(() => line.stop());

  /** The kernel holds less for a socket that is not read. */
  const large = 12 * 1024 * 1024;

  /** A run of two parts of which the first was trimmed; `more` goes on with it. */
  async function trimmedRun(runId: string, size: number) {
    const run = await ScriptedRun.open(line.redis, line.prefix, runId);
    const fold = new Fold();
    let offset = 0;
    const append = async (part: Part) => {
      await run.append([part]);
      fold.add(part, ++offset);
    };
    const trim = () => run.writer.trim(offset, JSON.stringify(fold.snapshot()));
    await append(token('"'.repeat(size / 2)));
    await trim();
    await append(token("rest"));
    return { run, fold, append, trim };
  }

  async function pagedClient(): Promise<{ client: TestClient; pages: number[][] }> {
    const client = await line.client(0, { validate: false });
    const pages: number[][] = [];
    client.ws.on("message", (data) => {
      const frame = JSON.parse(String(data));
      if (frame.method === "run.page")
        pages.push([frame.params.offset, frame.params.page, frame.params.pages]);
    });
    return { client, pages };
  }

  test("P7, P8: waits for a reader that stops, in a bounded buffer; trimmed again meanwhile, it begins anew", async () => {
    const { run, fold, append, trim } = await trimmedRun("stops", large);
    const { client, pages } = await pagedClient();
    const { runId } = run;
    const { localPort, remotePort } = client.socket;
    const handles = (process as unknown as { _getActiveHandles(): unknown[] })._getActiveHandles();
    const held = handles.find((handle) => {
      const socket = handle as Partial<TestClient["socket"]>;
      return socket.localPort === remotePort && socket.remotePort === localPort;
    }) as TestClient["socket"];
    const followed = new Transcript(runId, 0);
    client.ws.once("message", () => client.socket.pause());
    await client.call("run.subscribe", { runId, pages: true });
    await until(() => held.writableLength > 0);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(held.writableLength).toBeLessThan(maxFrame);
    await append(token(" and more"));
    await trim();
    await append(token(" of it"));
    client.socket.resume();
    await until(() => client.transcript(runId).last === 4, 30_000);
    followed.check();
    const begun = pages.flatMap(([offset, page]) => (page === 1 ? [offset] : []));
    expect(begun).toEqual([1, 3]);
    // Neither was sent but from its beginning, in order; the second all of it.
    const [, , count] = pages.at(-1)!;
    const second = pages.filter(([offset]) => offset === 3);
    expect(second).toEqual(Array.from({ length: count! }, (_, i) => [3, i + 1, count]));
    expect(pages.length - second.length).toBeLessThan(count!);
    expect(fold.offset).toBe(4);
  }, 60_000);

  test("a subscriber that takes no pages, and falls behind them, is told so; asked again it is refused", async () => {
    const run = await ScriptedRun.open(line.redis, line.prefix, "behind");
    await run.append([token("a")]);
    const client = await line.client();
    const others = line.gateways[0]!.runs;
    const followed = await client.follow(run.runId);
    await until(() => followed.last === 1);
    const part = token("x".repeat(2 * maxFrame));
    await run.appendUnheard([part]);
    const fold = new Fold();
    fold.add(token("a"), 1);
    fold.add(part, 2);
    await run.writer.trim(2, JSON.stringify(fold.snapshot()));
    await run.append([token("b")]);
    await until(() => followed.unsubscribed.length > 0);
    expect(followed.unsubscribed).toEqual(["too_large"]);
    expect(await client.refusal("run.subscribe", { runId: run.runId, after: 1 })).toMatchObject({
      code: "payload_too_large",
      retryable: false,
    });
    await until(() => line.gateways[0]!.runs === others);
  });

  test("is read once for all who are behind together, and let go with the last of them", async () => {
    const { run } = await trimmedRun("shared", 3 * maxFrame);
    let slices = 0;
    class Counting extends LogReader {
      override async snapshotSlice(...args: [string, number, number]): Promise<SnapshotSlice | null> {
        slices++;
        return await super.snapshotSlice(...args);
      }
    }
    const cache = new PageCache<FeedPage | SnapshotPage>(8 * maxFrame);
    const feed = new Feed(new RunLog(line.prefix, run.runId), {
      reader: new Counting(line.redis, line.prefix),
      live: undefined as never,
      reads: new Semaphore(4),
      cache,
      options: { pageBytes: 1_000 },
      onIdle: () => {},
    });
    const log = { epoch: `e-${run.runId}`, logFirst: 2 };
    const readers = 24;
    for (let i = 0; i < readers; i++) feed.enterBehind();
    const [first] = await Promise.all(Array.from({ length: readers }, () => feed.snapshotPage(log, 1)));
    for (let page = 2; page <= first!.pages; page++) {
      const read = await Promise.all(Array.from({ length: readers }, () => feed.snapshotPage(log, page)));
      expect(new Set(read).size).toBe(1);
    }
    expect(slices).toBe(first!.pages);
    expect(await feed.snapshotPage({ ...log, logFirst: 3 }, 1)).toBeNull();
    expect(await feed.snapshotPage({ ...log, epoch: "another" }, 1)).toBeNull();
    expect(cache.bytes).toBeGreaterThan(3 * maxFrame);
    for (let i = 0; i < readers; i++) feed.leaveBehind();
    expect(cache.bytes).toBe(0);
  });
});
