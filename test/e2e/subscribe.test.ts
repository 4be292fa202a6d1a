import { type Filter, Fold, lifecycle, type Part } from "@throughline/protocol";
import { body, LogReader, LogWriter, RunStore, runKeys } from "@throughline/runlog";
import { custom, token } from "@throughline/worker";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { colourful, count, countText, Gate } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import { ScriptedRun } from "../support/run.ts";
import { Transcript } from "../support/transcript.ts";
import { until } from "../support/until.ts";

let line: Line;
let client: TestClient;
let gate = new Gate();

async function* gatedColours() {
  yield* colourful({ input: { rounds: 2 } } as never);
  await gate.passed;
  yield* colourful({ input: { rounds: 2 } } as never);
}

beforeAll(async () => {
  line = await startLine({ agents: { colourful, count, gatedColours } });
  client = await line.client();
});
afterAll(() => line.stop());

describe("filters", () => {
  /** Which of the parts of `colourful` a filter keeps, as a reader of the protocol would say it. */
  const cases: [Filter, (part: Part) => boolean][] = [
    [{ modes: ["messages"] }, (part) => part.type === "messages"],
    [{ modes: ["updates", "custom"] }, (part) => part.type === "updates" || part.type === "custom"],
    [{ modes: ["debug"] }, () => false],
    [{ ns: ["review:1"] }, (part) => part.ns[0] === "review:1"],
    [{ ns: ["review:1"], depth: 0 }, (part) => part.ns.length === 1],
    [{ depth: 0 }, (part) => part.ns.length === 0],
    [{ depth: 1 }, (part) => part.ns.length <= 1],
    [{ ns: ["nowhere"] }, () => false],
    [{ nodes: ["writer"] }, (part) => JSON.stringify(part).includes('"langgraph_node":"writer"')],
    [{ nodes: ["planner"] }, (part) => part.type === "updates"],
    [{ nodes: ["writer", "critic"] }, (part) => part.type === "messages"],
    [{ tags: ["draft"] }, (part) => JSON.stringify(part).includes('"tags":["draft"]')],
    [{ tags: ["draft", "other"], modes: ["messages"] }, (part) => JSON.stringify(part).includes("draft")],
    [{ tags: ["draft"], nodes: ["critic"] }, () => false],
    [{ modes: [] }, () => false],
    [{}, () => true],
  ];

  test.each(cases)(
    "%j keeps what it says, lifecycle always, and offsets stay contiguous",
    async (filter, kept) => {
      gate = new Gate();
      const whole = await client.start({ agent: "gatedColours" });
      await until(() => whole.last === 11);
      // One half from the log, one half live.
      const filtered = await (await line.client()).follow(whole.runId, { filter });
      await until(() => filtered.last === 11);
      gate.open();
      await whole.ended();
      await filtered.ended();
      expect(filtered.offsets).toEqual(whole.offsets);
      expect(filtered.delivered).toEqual(
        whole.delivered.map(({ offset, part }) => ({
          offset,
          part: part!.type === "lifecycle" || kept(part!) ? part : null,
        })),
      );
      // A resume in the middle of a batch cuts as it does without a filter.
      for (const after of [1, 4, 11, 13, 21]) {
        const rest = await client.follow(whole.runId, { after, filter }, new Transcript(whole.runId, after));
        await rest.ended();
        expect(rest.delivered).toEqual(filtered.delivered.slice(after));
      }
    },
  );

  test("a run of parts that are left out is one frame that names their number", async () => {
    const run = await ScriptedRun.open(line.redis, line.prefix, "skipped");
    await run.append(Array.from({ length: 500 }, (_, i) => custom(i)));
    await run.finish();
    const frames: string[] = [];
    const own = await line.client();
    own.ws.on("message", (data) => frames.push(data.toString()));
    const transcript = await own.follow(run.runId, { filter: { modes: ["messages"] } });
    await transcript.ended();
    expect(transcript.offsets).toEqual(Array.from({ length: 501 }, (_, i) => i + 1));
    expect(frames.join("").length).toBeLessThan(5_000);
  });
});

describe("where a subscription begins", () => {
  test('after "head" brings only what is new', async () => {
    gate = new Gate();
    const whole = await client.start({ agent: "gatedColours" });
    await until(() => whole.last === 11);
    const own = await line.client();
    const fresh = await own.follow(whole.runId, { after: "head" });
    expect(fresh.last).toBe(11);
    gate.open();
    await fresh.ended();
    await whole.ended();
    expect(fresh.delivered).toEqual(whole.delivered.slice(11));
    const nothing = await own.follow(whole.runId, { after: "head" });
    await until(() => nothing.unsubscribed.length === 1);
    expect(nothing.delivered).toEqual([]);
  });

  test.each([
    ["another epoch", { after: 5, epoch: "not-this-one" }],
    ["an offset that the log does not have", { after: 10_000 }],
    ["an offset one above the head", { after: 23 }],
  ])("%s: run.reset, then everything from offset 1", async (_, params) => {
    const whole = await client.start({ agent: "count", input: { n: 20 } });
    await whole.ended();
    expect(whole.last).toBe(22);
    const { epoch } = await client.call("run.get", { runId: whole.runId });
    const transcript = new Transcript(whole.runId, params.after);
    const own = await line.client();
    await own.follow(whole.runId, params, transcript);
    await transcript.ended();
    expect(transcript.resets).toMatchObject([{ epoch }]);
    expect(transcript.delivered).toEqual(whole.delivered);
  });

  test("the same epoch and the very head are no reset", async () => {
    const whole = await client.start({ agent: "count", input: { n: 20 } });
    await whole.ended();
    const { epoch, head } = await client.call("run.get", { runId: whole.runId });
    const own = await line.client();
    const rest = await own.follow(whole.runId, { after: head, epoch }, new Transcript(whole.runId, head));
    await until(() => rest.unsubscribed.length === 1);
    expect(rest.resets).toEqual([]);
    expect(rest.delivered).toEqual([]);
  });

  test("the epoch changes while someone follows: run.reset, then everything from offset 1", async () => {
    const run = await ScriptedRun.open(line.redis, line.prefix, "new-epoch");
    await run.append([custom("old")]);
    const own = await line.client();
    const transcript = await own.follow(run.runId);
    await until(() => transcript.last === 1);
    const keys = runKeys(line.prefix, run.runId);
    // Redis came back with an older log, and the run was written anew under another epoch, a gap ahead.
    const log = [custom("new"), custom("newer")];
    await line.redis
      .multi()
      .del(keys.log)
      .xadd(keys.log, "2-0", "n", 2, "b", body(log))
      .xadd(keys.log, "3-0", "n", 1, "b", body([custom("newest")]))
      .hset(keys.run, "epoch", "another", "head", 3)
      .publish(keys.live, `3:1\n${body([custom("newest")])}`)
      .exec();
    await until(() => transcript.last === 3);
    expect(transcript.resets).toMatchObject([{ epoch: "another" }]);
    expect(transcript.parts).toEqual([...log, custom("newest")]);
    transcript.check();
  });
});

describe("the life of a subscription", () => {
  test("the ending is followed by run.unsubscribed, and the run is no longer held", async () => {
    const own = await line.client();
    const before = line.gateways[0]!.runs;
    const run = await own.start({ agent: "count", input: { n: 3 } });
    await run.ended();
    await until(() => run.unsubscribed.length === 1);
    expect(run.unsubscribed).toEqual(["ended"]);
    await until(() => line.gateways[0]!.runs <= before);
  });

  test("subscribing again replaces: one frame for each part, not two", async () => {
    gate = new Gate();
    const own = await line.client();
    const run = await own.start({ agent: "gatedColours" });
    await until(() => run.last === 11);
    for (const after of [11, 3, 11]) {
      await own.follow(run.runId, { after }, new Transcript(run.runId, after));
    }
    const last = own.transcript(run.runId);
    const filtered = new Transcript(run.runId, 11);
    await own.follow(run.runId, { after: 11, filter: { modes: ["custom"] } }, filtered);
    gate.open();
    await filtered.ended();
    expect(filtered.parts.map(({ type }) => type)).toEqual([
      "custom",
      "custom",
      "custom",
      "custom",
      "lifecycle",
    ]);
    expect(last.delivered).toEqual([]);
    // The answer to the next command is behind whatever would still have come.
    await own.call("server.ping", {});
    filtered.check();
  });

  test("run.unsubscribe stops the parts, and the run goes on", async () => {
    gate = new Gate();
    const own = await line.client();
    const run = await own.start({ agent: "gatedColours" });
    await until(() => run.last === 11);
    await own.call("run.unsubscribe", { runId: run.runId });
    const other = await client.follow(run.runId);
    gate.open();
    await other.ended();
    await own.call("server.ping", {});
    expect(run.last).toBe(11);
    // Not subscribed is no error: what was asked for is so.
    expect(await own.call("run.unsubscribe", { runId: run.runId })).toEqual({});
    await own.follow(run.runId, {}, run);
    await run.ended();
    expect(run.delivered).toEqual(other.delivered);
  });

  test("many sockets on one run, in at different moments, see the same", async () => {
    gate = new Gate();
    const first = await client.start({ agent: "gatedColours" });
    const others: Transcript[] = [];
    for (let i = 0; i < 30; i++) {
      others.push(await (await line.client()).follow(first.runId));
      if (i === 15) gate.open();
    }
    for (const other of others) {
      await other.ended();
      expect(other.delivered).toEqual(first.delivered);
    }
  });
});

test("P1: a trimmed log begins with run.snapshot: what it added up to, then the rest", async () => {
  const runId = "trimmed";
  const runs = new RunStore(line.redis, { prefix: line.prefix });
  const request = JSON.stringify({ queue: "none" });
  await runs.open({ runId, threadId: "t", agent: "a", owner: "local", epoch: "e", request });
  const claimed = await new LogWriter(line.redis, { prefix: line.prefix }).claim(runId);
  if (claimed.outcome !== "claimed") throw new Error(claimed.outcome);
  const { writer } = claimed;
  const fold = new Fold();
  for (let i = 0; i < 10; i++) {
    const part = token(`${i} `, { id: "m" });
    void writer.write(part);
    await writer.flush();
    fold.add(part, i + 1);
    if (i === 5) await writer.trim(6, JSON.stringify(fold.snapshot()));
  }
  expect((await new LogReader(line.redis, line.prefix).page(runId, 0, 1))!.first).toBe(7);
  const live = await client.follow(runId);
  await until(() => live.last === 10);
  expect(live.snapshots).toMatchObject([{ offset: 6, messages: [{ id: "m", content: countText(6) }] }]);
  expect(live.offsets).toEqual([7, 8, 9, 10]);
  const inside = await (await line.client()).follow(runId, { after: 3 }, new Transcript(runId, 3));
  const above = await (await line.client()).follow(runId, { after: 6 }, new Transcript(runId, 6));
  await writer.finish(lifecycle({ event: "completed" }).data);
  for (const each of [live, inside, above]) {
    await each.ended();
    expect(each.offsets).toEqual([7, 8, 9, 10, 11]);
  }
  expect(inside.snapshots).toHaveLength(1);
  expect(above.snapshots).toHaveLength(0);
});
