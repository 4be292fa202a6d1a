import type { AgentContext } from "@throughline/worker";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { Message } from "./input.ts";
import { defaultStory } from "./story.ts";
import { storyteller } from "./storyteller.ts";
import { Recorded, run, take } from "./testing.ts";

afterEach(() => {
  vi.useRealTimers();
});

const tell = (given: Partial<AgentContext>) => Recorded.of(run(storyteller, given));

function threadOf(messages: Message[], values: Record<string, unknown>): Partial<AgentContext> {
  return { messages, checkpoint: { checkpointId: "checkpoint", values: { ...values, messages } } };
}

const human = (content: string): Message => ({ type: "human", id: "h", content });

describe("a story", () => {
  it("is exactly the text, whatever is in it", async () => {
    const texts = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.array(fc.integer({ min: 0, max: 0xffff })).map((units) => String.fromCharCode(...units)),
    );
    await fc.assert(
      fc.asyncProperty(texts, async (text) => {
        expect((await tell({ input: { text, tokensPerSecond: 0 } })).text).toBe(text);
      }),
    );
  });

  it("is the default one for no input, a string and messages", async () => {
    vi.useFakeTimers();
    for (const input of [undefined, null, "tell me", { messages: [human("tell me")] }, {}]) {
      const told = tell({ input });
      await vi.runAllTimersAsync();
      expect((await told).text).toBe(defaultStory);
    }
    expect(defaultStory.split(/\s+/).length).toBeGreaterThan(550);
  });

  it("comes at the rate that was asked for, else at 40 tokens a second", async () => {
    vi.useFakeTimers();
    const text = Array.from({ length: 101 }, (_, i) => `w${i}`).join(" ");
    for (const [input, ms] of [
      [{ text }, 2500],
      [{ text, tokensPerSecond: 100 }, 1000],
      [{ text, tokensPerSecond: 0.5 }, 200_000],
      [{ text, tokensPerSecond: 0 }, 0],
    ] as const) {
      const start = performance.now();
      let end = Number.NaN;
      const told = tell({ input }).then((recorded) => {
        end = performance.now();
        return recorded;
      });
      await vi.runAllTimersAsync();
      expect((await told).tokens).toHaveLength(101);
      expect(end - start).toBe(ms);
    }
  });

  it("leaves in the state what a continuation needs, and the default text only by name", async () => {
    expect((await tell({ input: { tokensPerSecond: 0 } })).state).toEqual({
      story: "default",
      tokensPerSecond: 0,
    });
    const { state, parts } = await tell({ input: { text: "a b", tokensPerSecond: 0 } });
    expect(state).toEqual({ story: { text: "a b" }, tokensPerSecond: 0 });
    expect(parts[0]).toMatchObject({ type: "updates", data: { storyteller: state } });
  });

  it("is one message, whose id the worker chooses", async () => {
    const { chunks } = await tell({ input: { text: "a b c", tokensPerSecond: 0 } });
    expect(chunks.map((chunk) => chunk.id)).toEqual([undefined]);
  });

  it("may be empty", async () => {
    expect((await tell({ input: { text: "" } })).tokens).toEqual([]);
  });

  it("costs per token what a short story does, however long it is", async () => {
    const sizes = [3_000, 60_000].map((times) => ({
      ...{ times, text: "lorem ipsum dolor sit amet ".repeat(times) },
      best: Number.POSITIVE_INFINITY,
    }));
    for (let round = 0; round < 3; round++) {
      for (const size of sizes) {
        const before = process.cpuUsage();
        let count = 0;
        const input = { text: size.text, tokensPerSecond: 0 };
        for await (const _ of run(storyteller, { input })) count++;
        const { user, system } = process.cpuUsage(before);
        size.best = Math.min(size.best, user + system);
        expect(count).toBe(5 * size.times + 2);
      }
    }
    // 20 times the tokens; what is quadratic takes 400 times as long.
    const [short, long] = sizes;
    expect(long!.best / short!.best).toBeLessThan(100);
  });

  it("stops when the run is cancelled, in a wait and at full speed", async () => {
    for (const tokensPerSecond of [0.01, 0]) {
      const controller = new AbortController();
      const reason = new Error("cancelled");
      const parts = run(storyteller, {
        input: { text: "a b c d ".repeat(100_000), tokensPerSecond },
        signal: controller.signal,
      });
      await parts.next();
      await parts.next();
      const waiting = parts.next();
      controller.abort(reason);
      const after = waiting.then(() => parts.next());
      await expect(after).rejects.toBe(reason);
    }
  });

  it("lets the event loop go round at full speed", async () => {
    let rounds = 0;
    let told = false;
    const count = () => {
      rounds++;
      if (!told) setImmediate(count);
    };
    setImmediate(count);
    await tell({ input: { text: "a b c d ".repeat(100_000), tokensPerSecond: 0 } });
    told = true;
    expect(rounds).toBeGreaterThan(2);
  });
});

describe("the input", () => {
  it.each([
    [{ text: 5 }, /^text: /],
    [{ tokensPerSecond: -1 }, /^tokensPerSecond: /],
    [{ tokensPerSecond: "fast" }, /^tokensPerSecond: /],
    [{ tokensPerSecond: Number.NaN }, /^tokensPerSecond: /],
    [{ tokensPerSecond: 1e9 }, /^tokensPerSecond: /],
    [{ continue: "yes" }, /^continue: /],
    [{ continue: true, text: "a" }, /^text: /],
    [{ text: null, tokensPerSecond: null }, /text: .*; tokensPerSecond: /],
  ])("%j is refused, and the error names the field", async (input, message) => {
    await expect(tell({ input })).rejects.toMatchObject({
      name: "InputError",
      code: "invalid_argument",
      message: expect.stringMatching(message),
    });
  });
});

describe("continue", () => {
  const text = "one two three four five six seven eight nine ten";
  const input = { continue: true };

  it("goes on from exactly where the partial stopped, as often as it is cancelled", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.lorem({ mode: "sentences" }),
          fc.constant("la la la la la la la la la la"),
          fc.constant(text),
        ),
        fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 6 }),
        async (story, stops) => {
          let values: Record<string, unknown> = {};
          const messages: Message[] = [];
          let context: Partial<AgentContext> = { input: { text: story, tokensPerSecond: 0 } };
          for (const [i, stop] of stops.entries()) {
            const recorded = await take(run(storyteller, context), stop);
            values = { ...values, ...recorded.state };
            // A partial without text is not kept.
            if (recorded.text !== "") messages.push(recorded.cancelled(`m${i}`));
            if (messages.length === 0) return;
            const told = messages.map((message) => message.content).join("");
            expect(story.startsWith(told)).toBe(true);
            if (told === story) return;
            context = { input, ...threadOf([...messages], values) };
          }
          const rest = await tell(context);
          expect(messages.map((message) => message.content).join("") + rest.text).toBe(story);
        },
      ),
    );
  });

  it("goes on with the newest of two tellings, also when the text repeats itself", async () => {
    const song = "la ".repeat(20);
    const first = await take(run(storyteller, { input: { text: song, tokensPerSecond: 0 } }), 5);
    const second = await take(run(storyteller, { input: { text: song, tokensPerSecond: 0 } }), 3);
    const messages = [first.cancelled("a"), second.cancelled("b")];
    const rest = await tell({ input, ...threadOf(messages, second.state) });
    expect(second.text + rest.text).toBe(song);
  });

  it("joins partials that do not say where they began", async () => {
    const partial = (content: string): Message => ({
      type: "ai",
      content,
      additional_kwargs: { cancelled: true },
    });
    const messages = [human("go"), partial("one two"), partial(" three"), partial(" four five")];
    const rest = await tell({ input, ...threadOf(messages, { story: { text }, tokensPerSecond: 0 }) });
    expect(rest.text).toBe(" six seven eight nine ten");
  });

  it("keeps the rate, or takes a new one", async () => {
    const first = await take(run(storyteller, { input: { tokensPerSecond: 0 } }), 40);
    const thread = threadOf([first.cancelled("a")], first.state);
    const same = await tell({ input, ...thread });
    expect(first.text + same.text).toBe(defaultStory);
    expect(same.state).toEqual({ tokensPerSecond: 0 });
    const slower = await take(run(storyteller, { input: { ...input, tokensPerSecond: 7 }, ...thread }), 1);
    expect(slower.state).toEqual({ tokensPerSecond: 7 });
  });

  it("says why there is nothing to continue", async () => {
    const state = { story: { text }, tokensPerSecond: 0 };
    const ai = (content: string, cancelled = true): Message => ({
      type: "ai",
      content,
      additional_kwargs: cancelled ? { cancelled } : {},
    });
    for (const [thread, why] of [
      [{}, "the thread has no answer yet"],
      [threadOf([human("hi")], {}), "the thread has no answer yet"],
      [threadOf([ai("one two", false)], state), "the thread's last answer was not cancelled"],
      [
        threadOf([ai("one"), human("hi"), ai("hello", false)], state),
        "the thread's last answer was not cancelled",
      ],
      [threadOf([ai("one two")], {}), "the thread's state holds no story"],
      [threadOf([ai("eins zwei")], state), "the thread's last answer is not a part of its story"],
      [threadOf([ai(text)], state), "the story was told to its end"],
    ] as const) {
      await expect(tell({ input, ...thread })).rejects.toMatchObject({
        code: "invalid_argument",
        message: `continue: there is nothing to continue: ${why}`,
      });
    }
  });
});

describe("a takeover", () => {
  const input = { text: "one two three four five", tokensPerSecond: 0 };
  const streamed = (content: string) => ({
    partial: { messages: [human("hi"), { type: "ai", id: "run-answer", content }], values: {} },
  });

  it("goes on after the last token, in the same message", async () => {
    const rest = await tell({ input, attempt: 2, ...streamed("one two") });
    expect(rest.parts).toEqual([" three", " four", " five"]);
  });

  it("begins at the beginning when nothing was streamed", async () => {
    for (const partial of [{ messages: [], values: {} }, null]) {
      const whole = await tell({ input, attempt: 2, partial });
      expect(whole.text).toBe(input.text);
      expect(whole.state).toHaveProperty("story");
    }
  });

  it("has nothing to add when all was streamed", async () => {
    expect((await tell({ input, attempt: 2, ...streamed(input.text) })).parts).toEqual([]);
  });

  it("goes on within a continuation", async () => {
    const first = await take(run(storyteller, { input }), 2);
    const thread = threadOf([first.cancelled("a")], first.state);
    const rest = await tell({ input: { continue: true }, attempt: 2, ...thread, ...streamed(" three") });
    expect(rest.parts).toEqual([" four", " five"]);
  });

  it("refuses to go on after what is not in the text", async () => {
    await expect(tell({ input, attempt: 2, ...streamed("eins") })).rejects.toMatchObject({
      message: "partial: what an earlier attempt streamed is not in the text",
    });
  });
});
