import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Fold, type FoldSnapshot } from "./fold.ts";
import { type FlatMessage, type LifecycleData, lifecycle, type Part } from "./parts.ts";

type Fields = Record<string, unknown>;

function chunk(id: string, content: FlatMessage["content"], fields: Fields = {}, node = "model"): Part {
  const message = { type: "AIMessageChunk", id, content, ...fields } as FlatMessage;
  return { type: "messages", ns: [], data: [message, { langgraph_node: node }] };
}

function update(values: Fields): Part {
  return { type: "updates", ns: [], data: { node: values } as never };
}

function state(values: Fields): Part {
  return { type: "values", ns: [], data: values as never };
}

function fold(parts: readonly Part[], from = 1): Fold {
  const folded = new Fold();
  parts.forEach((part, i) => {
    folded.add(part, from + i);
  });
  return folded;
}

const contents = (folded: Fold) => folded.messages().map(({ message }) => message.content);

describe("what parts add up to", () => {
  it.each<[string, Part[], FlatMessage["content"][]]>([
    ["nothing", [], []],
    ["one token", [chunk("a", "x")], ["x"]],
    ["tokens of one message", [chunk("a", "Hel"), chunk("a", "lo"), chunk("a", "")], ["Hello"]],
    ["an emoji torn apart", [chunk("a", "\ud83d"), chunk("a", "\ude00")], ["😀"]],
    ["a surrogate that stays alone", [chunk("a", "x\udc00"), chunk("a", "y")], ["x\udc00y"]],
    [
      "messages that interleave",
      [chunk("a", "1"), chunk("b", "x"), chunk("a", "2"), chunk("b", "y"), chunk("a", "3")],
      ["123", "xy"],
    ],
    [
      "text blocks that follow on each other",
      [chunk("a", [{ type: "text", text: "Hel" }]), chunk("a", [{ type: "text", text: "lo" }])],
      [[{ type: "text", text: "Hello" }]],
    ],
    [
      "blocks that interleave by their index",
      [
        chunk("a", [{ type: "thinking", index: 0, thinking: "hm" }]),
        chunk("a", [{ type: "text", index: 1, text: "Yes" }]),
        chunk("a", [{ type: "thinking", index: 0, thinking: "m" }]),
        chunk("a", [{ type: "text", index: 1, text: "!" }]),
      ],
      [
        [
          { type: "thinking", index: 0, thinking: "hmm" },
          { type: "text", index: 1, text: "Yes!" },
        ],
      ],
    ],
    [
      "strings before and after a block",
      [chunk("a", "see "), chunk("a", [{ type: "image", url: "u" }]), chunk("a", " th"), chunk("a", "is")],
      [
        [
          { type: "text", text: "see " },
          { type: "image", url: "u" },
          { type: "text", text: " this" },
        ],
      ],
    ],
    ["a chunk with no blocks", [chunk("a", "x"), chunk("a", [])], ["x"]],
    [
      "a message that an update brings",
      [update({ messages: [{ type: "ai", id: "a", content: "x" }] })],
      ["x"],
    ],
    [
      "a message that is alone in its update",
      [update({ messages: { type: "ai", id: "a", content: "x" } })],
      ["x"],
    ],
    [
      "an update of a message that was streamed",
      [chunk("a", "dra"), chunk("b", "b"), update({ messages: [{ type: "ai", id: "a", content: "final" }] })],
      ["final", "b"],
    ],
    [
      "tokens after an update of their message",
      [chunk("a", "dra"), update({ messages: [{ type: "ai", id: "a", content: "x" }] }), chunk("a", "y")],
      ["xy"],
    ],
    ["what is no message in `messages`", [update({ messages: [1, null, "x", { content: "x" }] })], []],
  ])("%s", (_, parts, expected) => {
    expect(contents(fold(parts))).toEqual(expected);
  });

  it("tells an update's messages from those that are still being streamed", () => {
    const folded = fold([
      chunk("a", "x", {}, "writer"),
      update({ messages: [{ type: "ai", id: "b", content: "y" }] }),
    ]);
    expect(folded.messages()).toEqual([
      { message: { type: "ai", id: "a", content: "x" }, node: "writer", ns: [], complete: false },
      { message: { type: "ai", id: "b", content: "y" }, node: undefined, ns: [], complete: true },
    ]);
    folded.add(update({ messages: [{ type: "ai", id: "a", content: "x." }] }), 3);
    expect(folded.messages()[0]).toEqual({
      message: { type: "ai", id: "a", content: "x." },
      node: "writer",
      ns: [],
      complete: true,
    });
  });

  it.each([
    ["AIMessageChunk", "ai"],
    ["HumanMessageChunk", "human"],
    ["ToolMessageChunk", "tool"],
    ["ai", "ai"],
  ])("makes a message of type %s one of type %s", (from, to) => {
    expect(fold([chunk("a", "x", { type: from })]).messages()[0]?.message.type).toBe(to);
  });

  it("merges what later chunks bring: newest wins, records merge", () => {
    const folded = fold([
      chunk("a", "x", { response_metadata: { model: "m", finish: null }, name: "n" }),
      chunk("a", "y", { response_metadata: { finish: "stop" }, usage_metadata: { output_tokens: 2 } }),
      chunk("a", "", { response_metadata: {}, usage_metadata: { output_tokens: 3 } }),
    ]);
    expect(folded.messages()[0]?.message).toEqual({
      type: "ai",
      id: "a",
      content: "xy",
      name: "n",
      response_metadata: { model: "m", finish: "stop" },
      usage_metadata: { output_tokens: 3 },
    });
  });

  it("never shows a chunk of a tool call as a call", () => {
    const folded = fold([
      chunk("a", "", {
        tool_call_chunks: [{ name: "rm", args: '{"p', index: 0 }],
        tool_calls: [{ name: "rm", args: {} }],
      }),
      chunk("a", [
        { type: "text", text: "Let me" },
        { type: "tool_use", index: 1, id: "t", name: "rm", input: "" },
      ]),
      chunk("a", [{ type: "input_json_delta", index: 1, input: '{"path' }], {
        tool_call_chunks: [{ args: "ath", index: 0 }],
        invalid_tool_calls: [{ args: '{"path' }],
      }),
      chunk("a", [{ type: "tool_call_chunk", index: 2, name: "rm", args: "{" }]),
    ]);
    expect(folded.messages()[0]?.message).toEqual({
      type: "ai",
      id: "a",
      content: [{ type: "text", text: "Let me" }],
    });
  });

  it("shows a call that an update brought", () => {
    const message = { type: "ai", id: "a", content: "", tool_calls: [{ name: "rm", args: {}, id: "t" }] };
    const folded = fold([
      chunk("a", "", { tool_call_chunks: [{ name: "rm" }] }),
      update({ messages: [message] }),
    ]);
    expect(folded.messages()[0]?.message).toEqual(message);
  });

  it("adds up updates, key by key, and begins anew with a whole state", () => {
    expect(fold([update({ a: 1, b: 1 }), update({ b: 2, messages: [] })]).values()).toEqual({ a: 1, b: 2 });
    expect(fold([update({ a: 1 }), state({ b: 2 }), update({ c: 3 })]).values()).toEqual({ b: 2, c: 3 });
    expect(fold([update({ a: 1 }), state({})]).values()).toEqual({});
  });

  it("takes the state from the root, messages from everywhere", () => {
    const folded = new Fold();
    folded.add({ ...chunk("a", "x"), ns: ["sub:1"] } as Part, 1);
    folded.add({ ...update({ a: 1 }), ns: ["sub:1"] } as Part, 2);
    folded.add({ ...state({ b: 1 }), ns: ["sub:1"] } as Part, 3);
    expect(folded.values()).toEqual({});
    expect(folded.messages()).toMatchObject([{ message: { content: "x" }, ns: ["sub:1"] }]);
  });

  it("passes over parts that change neither messages nor state", () => {
    const folded = fold([
      { type: "custom", ns: [], data: { messages: [{ type: "ai", id: "a", content: "x" }] } },
      { type: "updates", ns: [], data: null },
      { type: "updates", ns: [], data: { node: null, other: [1] } },
      { type: "updates", ns: [], data: { __metadata__: { cached: true } } },
      { type: "values", ns: [], data: [1] },
      { type: "debug", ns: [], data: 1 },
    ]);
    expect(folded.snapshot()).toEqual({ offset: 6, messages: [], values: {}, complete: [] });
  });

  it("keeps a key that is called __proto__ a key", () => {
    const folded = fold([
      JSON.parse('{"type":"updates","ns":[],"data":{"node":{"__proto__":{"polluted":1}}}}'),
    ]);
    const values = folded.values();
    expect(Object.getPrototypeOf(values)).toBe(Object.prototype);
    expect(Object.keys(values)).toEqual(["__proto__"]);
  });

  it("gives the text of a message, or of the newest that has any", () => {
    const folded = fold([
      chunk("a", "first"),
      chunk("b", [
        { type: "text", text: "sec" },
        { type: "image", url: "u" },
        { type: "text", text: "ond" },
      ]),
      chunk("c", ""),
    ]);
    expect(folded.text("a")).toBe("first");
    expect(folded.text("b")).toBe("second");
    expect(folded.text("c")).toBe("");
    expect(folded.text("none")).toBe("");
    expect(folded.text()).toBe("second");
    expect(new Fold().text()).toBe("");
  });
});

// Properties.

const ids = ["a", "b", "c"];
const unit = fc.string({ unit: "binary", maxLength: 4 }); // Any code units, lone surrogates among them.
const block = fc.oneof(
  fc.record({ type: fc.constant("text"), text: unit }),
  fc.record({ type: fc.constant("text"), index: fc.nat(2), text: unit }),
  fc.record({ type: fc.constant("thinking"), index: fc.nat(2), thinking: unit }),
  fc.record({ type: fc.constant("image"), url: unit }),
  fc.record({ type: fc.constant("tool_use"), index: fc.nat(2), id: unit, name: unit }),
);
const content = fc.oneof({ weight: 4, arbitrary: unit }, fc.array(block, { maxLength: 3 })) as fc.Arbitrary<
  FlatMessage["content"]
>;
const fields = fc.oneof(
  { weight: 3, arbitrary: fc.constant({}) },
  fc.record(
    {
      response_metadata: fc.dictionary(fc.constantFrom("x", "y"), fc.nat(3)),
      name: fc.constantFrom("n", "m"),
    },
    { requiredKeys: [] },
  ),
);
const anyChunk = fc
  .tuple(fc.constantFrom(...ids), content, fields)
  .map(([id, text, extra]) => chunk(id, text, extra));
const message = fc
  .tuple(fc.constantFrom(...ids, "d"), unit)
  .map(([id, text]) => ({ type: "ai", id, content: text }));
const values = fc
  .record({ x: fc.nat(9), y: fc.nat(9), messages: fc.array(message, { maxLength: 2 }) }, { requiredKeys: [] })
  .map((each) => each as Fields);
const storyPart: fc.Arbitrary<Part> = fc.oneof(
  { weight: 6, arbitrary: anyChunk },
  { weight: 1, arbitrary: values.map(update) },
  { weight: 1, arbitrary: values.map(state) },
  { weight: 1, arbitrary: fc.constant<Part>({ type: "custom", ns: [], data: 1 }) },
);
const story = fc.array(storyPart, { maxLength: 40 });

/** What is seen of a fold: all of it but the offset. */
const seen = (folded: Fold) => ({ messages: folded.messages(), values: folded.values() });

describe("properties", () => {
  it("the text of a message is the concatenation of its chunks, code unit for code unit", () => {
    const chunks = fc.array(fc.tuple(fc.constantFrom(...ids), unit), { maxLength: 60 });
    fc.assert(
      fc.property(chunks, (all) => {
        const folded = fold(all.map(([id, text]) => chunk(id, text)));
        for (const id of ids) {
          const expected = all.filter(([of]) => of === id).map(([, text]) => text);
          const found = folded.messages().find((each) => each.message.id === id);
          expect(found?.message.content).toBe(expected.length === 0 ? undefined : expected.join(""));
        }
      }),
    );
  });

  it("rewound {to} leaves what folding only the parts that remain leaves", () => {
    // Again and again: a takeover may be taken over.
    const attempts = fc.array(fc.tuple(story, fc.double({ min: 0, max: 1, noNaN: true })), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(attempts, story, (all, last) => {
        const folded = new Fold();
        let remaining: { part: Part; offset: number }[] = [];
        let offset = 0;
        const add = (part: Part) => {
          folded.add(part, ++offset);
          remaining.push({ part, offset });
        };
        all.forEach(([parts, where], attempt) => {
          for (const part of parts) add(part);
          const to = Math.floor(where * offset);
          remaining = remaining.filter((each) => each.offset <= to || each.part.type === "lifecycle");
          const data: LifecycleData = { event: "rewound", attempt: attempt + 2, to };
          folded.add(lifecycle(data), ++offset);
        });
        for (const part of last) add(part);
        const expected = new Fold();
        for (const each of remaining) expected.add(each.part, each.offset);
        expect(seen(folded)).toEqual(seen(expected));
      }),
    );
  });

  it("from a snapshot on it comes to the same as from the beginning", () => {
    fc.assert(
      fc.property(story, story, (before, after) => {
        const all = [...before, ...after];
        const first = fold(before).snapshot();
        const folded = Fold.from(JSON.parse(JSON.stringify(first)) as FoldSnapshot);
        after.forEach((part, i) => {
          folded.add(part, before.length + 1 + i);
        });
        expect(folded.snapshot()).toEqual({ ...fold(all).snapshot(), offset: folded.offset });
      }),
    );
  });

  it("a fold says the same however often it is asked, and does not change what it was given", () => {
    fc.assert(
      fc.property(story, (parts) => {
        const before = JSON.stringify(parts);
        const asked = new Fold();
        parts.forEach((part, i) => {
          asked.add(part, i + 1);
          asked.snapshot();
        });
        expect(asked.snapshot()).toEqual(fold(parts).snapshot());
        expect(JSON.stringify(parts)).toBe(before);
      }),
    );
  });
});

describe("rewinds", () => {
  it("drop a snapshot that holds what they take back", () => {
    const snapshot: FoldSnapshot = {
      offset: 5,
      messages: [{ type: "ai", id: "a", content: "x" }],
      values: { a: 1 },
    };
    const cut = Fold.from(snapshot);
    cut.add(lifecycle({ event: "rewound", attempt: 2, to: 0 }), 6);
    expect(cut.snapshot()).toEqual({ offset: 6, messages: [], values: {}, complete: [] });
    const whole = Fold.from(snapshot);
    whole.add(chunk("a", "y"), 6);
    whole.add(lifecycle({ event: "rewound", attempt: 2, to: 5 }), 7);
    expect(whole.snapshot()).toEqual({ ...snapshot, offset: 7, complete: [] });
  });

  it("leave the tokens that come after them where they belong", () => {
    const folded = fold([
      chunk("a", "Hello, "),
      chunk("a", "wrold"),
      lifecycle({ event: "rewound", attempt: 2, to: 1 }),
      chunk("a", "world"),
    ]);
    expect(folded.text()).toBe("Hello, world");
  });
});

describe("time", () => {
  it("is linear in the number of tokens, with one message and with many", () => {
    const cost = (count: number, messages: number) => {
      const parts = Array.from({ length: count }, (_, i) => chunk(`m${i % messages}`, "token "));
      let best = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 5; i++) {
        const started = performance.now();
        fold(parts).messages();
        best = Math.min(best, performance.now() - started);
      }
      return best;
    };
    for (const messages of [1, 50]) {
      cost(10_000, messages); // Warm.
      // 32 times the tokens, with room for a busy machine; what is quadratic takes a thousand times as long.
      expect(cost(160_000, messages) / cost(5_000, messages)).toBeLessThan(250);
    }
  });
});
