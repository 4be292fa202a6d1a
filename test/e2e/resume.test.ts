import { type Part, type StreamMode, streamModes } from "@throughline/protocol";
import { custom, token } from "@throughline/worker";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { count, countText, Gate } from "../support/agents.ts";
import type { TestClient } from "../support/client.ts";
import { type Line, startLine } from "../support/line.ts";
import { type PrivateRedis, startPrivateRedis } from "../support/redis.ts";
import { ScriptedRun } from "../support/run.ts";
import { Transcript } from "../support/transcript.ts";
import { patienceMs, until } from "../support/until.ts";

const many = { COMMANDS_PER_SECOND: "100000" };

describe("resume at every offset", () => {
  const gates = [new Gate(), new Gate()];
  let line: Line;

  async function* gated() {
    for (let i = 0; i < 90; i++) {
      if (i === 30) await gates[0]!.passed;
      if (i === 60) await gates[1]!.passed;
      // A turn of the event loop between some tokens: batches of many sizes.
      if (i % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
      yield `${i} `;
    }
  }

  beforeAll(async () => {
    line = await startLine({ agents: { count, gated }, env: many });
  });
  afterAll(() => line.stop());

  test("P1: of a run that has ended gives exactly the rest, ending included", async () => {
    const client = await line.client();
    const whole = await client.start({ agent: "count", input: { n: 300, ms: 0 } });
    await whole.ended();
    expect(whole.text).toBe(countText(300));
    expect(whole.offsets).toEqual(Array.from({ length: 302 }, (_, i) => i + 1));
    // More than one batch, or nothing would have been cut.
    expect(await line.redis.xlen(`${line.prefix}:{${whole.runId}}:log`)).toBeGreaterThan(10);
    const again = await line.client();
    for (let after = 0; after < 302; after++) {
      const rest = await again.follow(whole.runId, { after }, new Transcript(whole.runId, after));
      await until(() => rest.unsubscribed.length > 0, patienceMs, `the rest after ${after}`);
      expect(rest.delivered).toEqual(whole.delivered.slice(after));
      expect(rest.unsubscribed).toEqual(["ended"]);
      rest.check();
    }
    // After the ending itself there is nothing but the word that it has ended.
    const nothing = await again.follow(whole.runId, { after: 302 }, new Transcript(whole.runId, 302));
    await until(() => nothing.unsubscribed.length > 0);
    expect(nothing.delivered).toEqual([]);
    expect(nothing.resets).toEqual([]);
  });

  test("P1: of a run that goes on gives exactly the rest, at every offset and head", async () => {
    const first = await (await line.client()).start({ agent: "gated" });
    const rests: Transcript[] = [];
    const followEvery = async (head: number) => {
      await until(() => first.last === head, patienceMs, `head ${head}`);
      for (let after = 0; after <= head; after++) {
        rests.push(
          await (await line.client()).follow(first.runId, { after }, new Transcript(first.runId, after)),
        );
      }
    };
    await followEvery(31);
    gates[0]!.open();
    await followEvery(61);
    gates[1]!.open();
    await first.ended();
    expect(first.offsets).toEqual(Array.from({ length: 92 }, (_, i) => i + 1));
    for (const rest of rests) {
      const from = rest.next! - 1 - rest.delivered.length;
      await rest.ended();
      expect(rest.delivered).toEqual(first.delivered.slice(from === 0 ? 0 : rest.offsets[0]! - 1));
    }
    expect(rests).toHaveLength(32 + 62);
  });
});

describe("whatever happens on the way", () => {
  let redis: PrivateRedis;
  let line: Line;
  let runs = 0;

  beforeAll(async () => {
    // Its own Redis: connections are killed in it.
    redis = await startPrivateRedis();
    line = await startLine({ redisUrl: redis.url, workers: 0, gateways: 2, env: many });
  });
  afterAll(async () => {
    await line.stop();
    await redis.stop();
  });

  type Step =
    | { do: "append"; sizes: number[]; heard: boolean }
    | { do: "drop" | "kill-subscriber" | "close" | "resubscribe" }
    | { do: "turn" };

  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant("append" as const),
        sizes: fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 12 }),
        heard: fc.boolean(),
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constantFrom("drop" as const, "resubscribe" as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("close" as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("kill-subscriber" as const) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("turn" as const) }) },
  );

  test("P1, P2: appends, lost messages, dropped sockets and resubscribes in any order: each part once", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 30 }), async (steps) => {
        const run = await ScriptedRun.open(line.redis, line.prefix, `run-${runs++}`);
        const transcript = new Transcript(run.runId, 0);
        // One that never moves: it sees the lost messages only.
        const still = await line.client(0);
        const follower = await still.follow(run.runId);
        let sockets = 0;
        let client: TestClient = await line.client(0);
        await client.follow(run.runId, {}, transcript);
        const reopen = async () => {
          client = await line.client(++sockets % 2);
          await client.follow(run.runId, {}, transcript);
        };
        let serial = 0;
        for (const each of steps) {
          if (each.do === "append") {
            const parts: Part[] = each.sizes.map((size) =>
              token(`${serial++}${"x".repeat(size)}`, { id: "m" }),
            );
            await (each.heard ? run.append(parts) : run.appendUnheard(parts));
          } else if (each.do === "drop") {
            client.drop();
            await client.closed;
            await reopen();
          } else if (each.do === "close") {
            await client.close();
            await reopen();
          } else if (each.do === "resubscribe") {
            await client.follow(run.runId, {}, transcript);
          } else if (each.do === "kill-subscriber") {
            await line.redis.call("CLIENT", "KILL", "TYPE", "pubsub");
          } else {
            await new Promise((resolve) => setImmediate(resolve));
          }
        }
        const last = await run.finish();
        for (const each of [transcript, follower]) {
          await each.ended();
          expect(each.offsets).toEqual(Array.from({ length: last }, (_, i) => i + 1));
          expect(each.parts).toEqual(JSON.parse(JSON.stringify(run.written)));
        }
        client.drop();
        still.drop();
      }),
      { numRuns: 40, endOnFailure: true },
    );
  });

  test("P2: an ending whose message is lost is found all the same", async () => {
    const run = await ScriptedRun.open(line.redis, line.prefix, "unheard-ending");
    const client = await line.client(0);
    const transcript = await client.follow(run.runId);
    await run.append([custom(1)]);
    await until(() => transcript.last === 1);
    await line.redis.call("CLIENT", "KILL", "TYPE", "pubsub");
    await run.finish();
    await transcript.ended();
    expect(transcript.offsets).toEqual([1, 2]);
  });
});

test("every stream mode travels", async () => {
  const line = await startLine({
    agents: {
      async *all() {
        for (const type of streamModes) {
          if (type === "messages") yield token("t");
          else
            yield { type: type as Exclude<StreamMode, "messages">, ns: ["a", "b"], data: { [type]: true } };
        }
      },
    },
  });
  try {
    const transcript = await (await line.client()).start({ agent: "all", modes: [...streamModes] });
    expect((await transcript.ended()).event).toBe("completed");
    expect(transcript.parts.map((part) => part.type)).toEqual([
      "lifecycle",
      "values",
      ...streamModes,
      "lifecycle",
    ]);
  } finally {
    await line.stop();
  }
});
