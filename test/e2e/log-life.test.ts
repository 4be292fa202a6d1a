import { Fold, type Part } from "@throughline/protocol";
import { LogReader, runKeys } from "@throughline/runlog";
import { type AgentContext, agent, token } from "@throughline/worker";
import { afterEach, describe, expect, test } from "vitest";
import { Gate } from "../support/agents.ts";
import { type Line, startLine } from "../support/line.ts";
import { until } from "../support/until.ts";

let line: Line | undefined;
afterEach(async () => {
  await line?.stop();
  line = undefined;
});

describe("a log that grows over its limit", () => {
  test("P7: is trimmed by its worker: late readers get a snapshot and the rest, and it adds up to the same", async () => {
    const gate = new Gate();
    const pieces: string[] = [];
    async function* chatty({ signal }: AgentContext) {
      for (let i = 0; !gate.isOpen && !signal.aborted; i++) {
        const piece = `${i} ${"x".repeat(500)} `;
        pieces.push(piece);
        yield token(piece);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
    line = await startLine({ agents: { chatty }, worker: { maxLog: 100_000 } });
    const client = await line.client();
    const early = await client.start({ agent: "chatty" });
    const { runId } = early;
    await until(async () => {
      const { first } = await client.call("run.get", { runId });
      return first > 1;
    });

    const late = await (await line.client()).follow(runId);
    await until(() => late.snapshots.length > 0);
    gate.open();
    await early.ended();
    await late.ended();

    const [snapshot] = late.snapshots;
    const fold = Fold.from(snapshot as never);
    for (const { offset, part } of late.delivered) fold.add(part as Part, offset);
    const text = pieces.join("");
    expect(fold.text() === text, `${fold.text().length} of ${text.length} characters`).toBe(true);
    // It holds no more than it may, but for what a second brings.
    let held = 0;
    for await (const { part } of new LogReader(line.redis, line.prefix).parts(runId))
      held += JSON.stringify(part).length;
    expect(held).toBeLessThan(2_000_000);
    const { threadId } = await client.call("run.get", { runId });
    const { values } = await client.call("thread.get", { threadId });
    expect((values.messages as { content: string }[]).at(-1)?.content === text).toBe(true);
  });
});

describe("a log that Redis lost the end of", () => {
  test.each(["restart", "resume"] as const)(
    "P1, P5: gets a new epoch; readers are told, and the run goes on to its end (%s)",
    async (takeover) => {
      const gate = new Gate();
      async function* story({ partial }: AgentContext) {
        const text = String(partial?.messages.at(-1)?.content ?? "");
        for (let i = text.length; i < 20; i++) {
          if (i === 15) await gate.passed;
          yield token("x");
        }
      }
      line = await startLine({ agents: { story: agent(story, { takeover }) } });
      const client = await line.client();
      const { runId, epoch } = await client.call("run.start", { agent: "story", subscribe: false });
      const follower = await (await line.client()).follow(runId);
      await until(() => follower.last === 16);
      // What a failover to a replica that lagged leaves: a log that ends earlier than what was seen of it.
      const keys = runKeys(line.prefix, runId);
      const entries = await line.redis.xrange(keys.log, "11-0", "+");
      await line.redis.xdel(keys.log, ...entries.map(([id]) => id));
      const [newest] = await line.redis.xrevrange(keys.log, "+", "-", "COUNT", 1);
      await line.redis.hset(keys.run, "head", Number.parseInt(newest?.[0] ?? "0", 10));
      gate.open();
      expect(await follower.ended()).toMatchObject({ event: "completed" });

      expect(follower.resets).toHaveLength(1);
      const logged: Part[] = [];
      for await (const { part } of new LogReader(line.redis, line.prefix).parts(runId)) logged.push(part);
      expect(follower.parts).toEqual(logged);
      expect(follower.text).toBe("x".repeat(20));
      expect((await client.call("run.get", { runId })).epoch).not.toBe(epoch);
    },
  );
});

test("P5: a cancel at any moment of a run's beginning ends it, and is answered", async () => {
  async function* patient({ signal }: AgentContext) {
    yield "a";
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  }
  line = await startLine({ agents: { patient }, worker: { concurrency: 10 } });
  const client = await line.client();
  for (let wave = 0; wave < 10; wave++) {
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const { runId } = await client.call("run.start", { agent: "patient", subscribe: false });
        // Moments apart in turns of the event loop, not in time.
        for (let turn = 0; turn < i * 3; turn++) await new Promise((resolve) => setImmediate(resolve));
        const answer = await client.call("run.cancel", { runId, keep: "discard" });
        expect(answer.status).toBe("cancelled");
        const record = await client.call("run.get", { runId });
        expect(record).toMatchObject({ status: "cancelled", head: answer.offset });
      }),
    );
  }
});
