import { AIMessageChunk } from "@langchain/core/messages";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Fold, type FoldSnapshot } from "./fold.ts";
import { type FlatMessage, type LifecycleData, lifecycle, type Part, type UnfinishedCall } from "./parts.ts";

type Fields = Record<string, unknown>;

function chunk(id: string, content: FlatMessage["content"], fields: Fields = {}, node = "model"): Part {
  const message = { type: "AIMessageChunk", id, content, ...fields } as FlatMessage;
  return { type: "messages", ns: [], data: [message, { langgraph_node: node }] };
}

/** A chunk that brings nothing but these pieces of tool calls. */
function pieces(id: string, ...chunks: unknown[]): Part {
  return chunk(id, "", { tool_call_chunks: chunks });
}

function rewound(to: number): Part {
  return lifecycle({ event: "rewound", attempt: 2, to });
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
const callsOf = (folded: Fold) => folded.messages().map(({ calls }) => calls);

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
      { message: { type: "ai", id: "a", content: "x" }, node: "writer", ns: [], complete: false, calls: [] },
      { message: { type: "ai", id: "b", content: "y" }, node: undefined, ns: [], complete: true, calls: [] },
    ]);
    folded.add(update({ messages: [{ type: "ai", id: "a", content: "x." }] }), 3);
    expect(folded.messages()[0]).toEqual({
      message: { type: "ai", id: "a", content: "x." },
      node: "writer",
      ns: [],
      complete: true,
      calls: [],
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
    expect(folded.messages()[0]).toMatchObject({ message, complete: true });
    expect(callsOf(folded)).toEqual([[]]);
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

describe("tool calls that are being streamed", () => {
  const search = { type: "tool_call_chunk", index: 0, id: "t", name: "search" };
  const first = { ...search, args: '{"q":' };

  it("show their id, name and arguments so far, beside the message and not in it", () => {
    const folded = fold([chunk("a", "Let me look."), pieces("a", { ...search, args: "" })]);
    expect(callsOf(folded)).toEqual([[{ index: 0, id: "t", name: "search", args: "" }]]);
    folded.add(pieces("a", { index: 0, args: '{"q":' }), 3);
    folded.add(pieces("a", { index: 0, args: '"cats"' }), 4);
    expect(folded.messages()).toEqual([
      {
        message: { type: "ai", id: "a", content: "Let me look." },
        node: "model",
        ns: [],
        complete: false,
        calls: [{ index: 0, id: "t", name: "search", args: '{"q":"cats"' }],
      },
    ]);
  });

  it.each<[string, Part[], UnfinishedCall[]]>([
    [
      "interleave by their index",
      [
        pieces("a", { index: 0, id: "t", args: "1" }, { index: 1, id: "u", args: "a" }),
        pieces("a", { index: 1, args: "b" }),
        pieces("a", { index: 0, args: "2" }),
      ],
      [
        { index: 0, id: "t", args: "12" },
        { index: 1, id: "u", args: "ab" },
      ],
    ],
    [
      "are two where two ids have the same index",
      [
        pieces("a", { index: 0, id: "t", name: "f", args: "{}" }),
        pieces("a", { index: 0, id: "u", name: "f", args: "[]" }),
        pieces("a", { index: 0, id: "u", args: "!" }),
      ],
      [
        { index: 0, id: "t", name: "f", args: "{}" },
        { index: 0, id: "u", name: "f", args: "[]!" },
      ],
    ],
    [
      "get their id and name late",
      [pieces("a", { index: 0, args: "1" }), pieces("a", { index: 0, id: "t", name: "f", args: "2" })],
      [{ index: 0, id: "t", name: "f", args: "12" }],
    ],
    [
      "belong together by their id where they have no index",
      [pieces("a", { id: "t", args: "1" }), pieces("a", { id: "u", args: "a" }, { id: "t", args: "2" })],
      [
        { id: "t", args: "12" },
        { id: "u", args: "a" },
      ],
    ],
    [
      "are each their own without index and id",
      [pieces("a", { name: "f", args: "1" }), pieces("a", { args: "2" }, { args: "3" })],
      [{ name: "f", args: "1" }, { args: "2" }, { args: "3" }],
    ],
    [
      "are in the content, too: counted once",
      [
        chunk("a", [{ type: "tool_use", index: 1, id: "t", name: "f", input: "" }], {
          tool_call_chunks: [{ index: 1, id: "t", name: "f", args: "" }],
        }),
        chunk("a", [{ type: "input_json_delta", index: 1, input: '{"' }], {
          tool_call_chunks: [{ index: 1, args: '{"' }],
        }),
      ],
      [{ index: 1, id: "t", name: "f", args: '{"' }],
    ],
    [
      "are in the content only",
      [
        chunk("a", [{ type: "text", index: 0, text: "Hm" }]),
        chunk("a", [{ type: "tool_use", index: 1, id: "t", name: "f", input: {} }]),
        chunk("a", [{ type: "input_json_delta", index: 1, input: '{"' }]),
        chunk("a", [{ type: "input_json_delta", index: 1, input: "a" }], { tool_call_chunks: [] }),
        chunk("a", [{ type: "tool_call_chunk", index: 2, id: "u", name: "g", args: "{" }]),
        chunk("a", [{ type: "function_call", id: "fc", call_id: "v", name: "h", arguments: "[1" }]),
        chunk("a", [{ type: "tool_call", id: "w", name: "i", args: { all: "at once" } }]),
      ],
      [
        { index: 1, id: "t", name: "f", args: '{"a' },
        { index: 2, id: "u", name: "g", args: "{" },
        { id: "v", name: "h", args: "[1" },
        { id: "w", name: "i", args: '{"all":"at once"}' },
      ],
    ],
    [
      "are none where a tool answers, or a piece is nothing",
      [
        chunk("a", [{ type: "web_search_tool_result", index: 0, tool_use_id: "t", content: [] }]),
        pieces("a", null, 1, "x"),
        chunk("a", "", { tool_call_chunks: { index: 0, args: "1" } }),
        chunk("a", "", { tool_calls: [{ id: "t", name: "f", args: {} }] }),
      ],
      [],
    ],
    [
      "begin anew where an update has come between",
      [pieces("a", first), update({ messages: [{ type: "ai", id: "a", content: "" }] }), pieces("a", first)],
      [{ index: 0, id: "t", name: "search", args: '{"q":' }],
    ],
    [
      "begin anew there in the middle of a row, too",
      [
        pieces("a", { index: 0, args: "1" }),
        update({ messages: [{ type: "ai", id: "a", content: "" }] }),
        pieces("a", { index: 0, args: "2" }),
      ],
      [{ index: 0, args: "2" }],
    ],
    [
      "are as they were before what a rewind takes back",
      [
        pieces("a", first),
        pieces("a", { index: 0, args: '"ca' }),
        pieces("a", { index: 0, args: "ts" }, { index: 1, id: "u", args: "" }),
        rewound(2),
        pieces("a", { index: 0, args: "r" }),
      ],
      [{ index: 0, id: "t", name: "search", args: '{"q":"car' }],
    ],
  ])("%s", (_, parts, expected) => {
    expect(callsOf(fold(parts))).toEqual([expected]);
  });

  it("are in a snapshot, so that they can go on; one from before there were any is read as well", () => {
    const snapshot = fold([pieces("a", first), chunk("b", "x")]).snapshot();
    expect(snapshot.calls).toEqual({ a: [{ index: 0, id: "t", name: "search", args: '{"q":' }] });
    const folded = Fold.from(snapshot);
    folded.add(pieces("a", { index: 0, args: '"c' }), 3);
    for (let asked = 0; asked < 2; asked++) {
      expect(callsOf(folded)).toEqual([[{ index: 0, id: "t", name: "search", args: '{"q":"c' }], []]);
    }

    const { calls: _, complete: __, ...old } = snapshot;
    const again = Fold.from(old);
    again.add(pieces("a", { index: 0, args: '"c' }), 3);
    expect(callsOf(again)).toEqual([[{ index: 0, args: '"c' }], []]);
  });

  it("keep a message that is called __proto__ one of many", () => {
    const snapshot = fold([pieces("__proto__", first)]).snapshot();
    const folded = Fold.from(JSON.parse(JSON.stringify(snapshot)) as FoldSnapshot);
    expect(callsOf(folded)).toMatchObject([[{ args: '{"q":' }]]);
  });

  it("add up as LangChain adds them up", () => {
    const piece = fc.record(
      {
        type: fc.constant("tool_call_chunk" as const),
        index: fc.oneof(fc.nat(2), fc.constantFrom("x", "y")),
        id: fc.constantFrom("t", "u", ""),
        name: fc.constantFrom("f", "g", ""),
        args: fc.string({ maxLength: 3 }),
      },
      { requiredKeys: ["type"] },
    );
    const chunks = fc.array(fc.array(piece, { maxLength: 3 }), { minLength: 1, maxLength: 8 });
    const plain = ({ index, id, name, args = "" }: Partial<UnfinishedCall>) => ({
      ...(index === undefined ? {} : { index }),
      ...(id ? { id } : {}),
      ...(name ? { name } : {}),
      args,
    });
    fc.assert(
      fc.property(chunks, (all) => {
        const sum = all
          .map((each) => new AIMessageChunk({ content: "", tool_call_chunks: each as never }))
          .reduce((before, each) => before.concat(each), new AIMessageChunk({ content: "" }));
        const expected = sum.tool_call_chunks?.map((each) => plain(each as Partial<UnfinishedCall>));
        expect(callsOf(fold(all.map((each) => pieces("a", ...each))))).toEqual([expected]);
      }),
      { numRuns: 500 },
    );
  });
});

describe("whole messages among the parts that are streamed", () => {
  const whole = (id: string, content: FlatMessage["content"], fields: Fields = {}) =>
    chunk(id, content, { type: "ai", ...fields });
  const calls = [{ id: "t", name: "search", args: { q: "cats" }, type: "tool_call" }];

  it.each<[string, Part[], boolean, FlatMessage["content"]]>([
    ["one that is alone", [whole("a", "x")], true, "x"],
    ["a tool's answer", [chunk("a", "x", { type: "tool", tool_call_id: "t" })], true, "x"],
    ["a chunk", [chunk("a", "x")], false, "x"],
    ["a chunk after it", [whole("a", "x"), chunk("a", "y")], false, "xy"],
    ["an empty chunk after it", [whole("a", "x"), chunk("a", "")], false, "x"],
    ["another after it", [whole("a", "x"), whole("a", "y")], false, "xy"],
    ["a chunk before it", [chunk("a", "x"), whole("a", "y")], false, "xy"],
    ["another message's chunk after it", [whole("a", "x"), chunk("b", "y")], true, "x"],
    [
      "an update after it",
      [whole("a", "x"), update({ messages: [{ type: "ai", id: "a", content: "z" }] })],
      true,
      "z",
    ],
    [
      "an update before it",
      [update({ messages: [{ type: "ai", id: "a", content: "z" }] }), whole("a", "x")],
      false,
      "zx",
    ],
    ["a chunk after it that was taken back", [whole("a", "x"), chunk("a", "y"), rewound(1)], true, "x"],
    [
      "the second of two chunks taken back",
      [whole("a", "x"), chunk("a", "y"), chunk("a", "z"), rewound(2)],
      false,
      "xy",
    ],
    [
      "a chunk after one that was taken back",
      [whole("a", "x"), chunk("a", "y"), rewound(1), chunk("a", "z")],
      false,
      "xz",
    ],
    [
      "no blocks after it, and what came then taken back",
      [whole("a", "x"), chunk("a", []), chunk("a", "y"), rewound(2)],
      false,
      "x",
    ],
    ["itself taken back", [whole("a", "x"), rewound(0), chunk("a", "y")], false, "y"],
  ])("are complete until something is streamed into them: %s", (_, parts, complete, content) => {
    expect(fold(parts).messages()[0]).toMatchObject({ complete, message: { content } });
  });

  it("are seen to be streamed into at the same offset, too: parts that no log has share one", () => {
    const folded = new Fold();
    folded.add(whole("a", "x"), 1);
    folded.add(chunk("a", "y"), 1);
    expect(folded.messages()[0]).toMatchObject({ complete: false, message: { content: "xy" } });
  });

  it("have their calls in the message: they are no pieces", () => {
    const content = [
      { type: "text", text: "Hm." },
      { type: "tool_use", id: "t", name: "search", input: {} },
    ];
    const message = { type: "ai", id: "a", content, tool_calls: calls, invalid_tool_calls: [{ name: "x" }] };
    const folded = fold([whole("a", content, message)]);
    expect(folded.messages()[0]).toMatchObject({ complete: true, calls: [] });
    expect(folded.messages()[0]?.message).toEqual(message);
    // What is streamed after it may bring more.
    folded.add(pieces("a", { index: 0, args: "{" }), 2);
    expect(folded.messages()[0]).toEqual({
      message,
      node: "model",
      ns: [],
      complete: false,
      calls: [{ index: 0, args: "{" }],
    });
  });

  it("that go on with another leave their calls out, as chunks do", () => {
    const message = { type: "ai", id: "a", content: "xy" };
    expect(fold([chunk("a", "x"), whole("a", "y", { tool_calls: calls })]).messages()[0]?.message).toEqual(
      message,
    );
    const folded = Fold.from(fold([chunk("a", "x")]).snapshot());
    folded.add(whole("a", "y", { tool_calls: calls }), 2);
    expect(folded.messages()[0]?.message).toEqual(message);
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
  fc.record({ type: fc.constant("input_json_delta"), index: fc.nat(2), input: unit }),
);
const piece = fc.record(
  { index: fc.nat(1), id: fc.constantFrom("t", "u"), name: fc.constantFrom("f", "g"), args: unit },
  { requiredKeys: [] },
);
const realCalls = fc.array(fc.record({ id: fc.constantFrom("t", "u"), name: unit, args: fc.constant({}) }), {
  maxLength: 2,
});
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
  // What a row of one call's pieces is mostly made of, and all else.
  { weight: 2, arbitrary: unit.map((args) => ({ tool_call_chunks: [{ index: 0, args }] })) },
  { weight: 2, arbitrary: fc.array(piece, { maxLength: 2 }).map((all) => ({ tool_call_chunks: all })) },
  fc.record({ type: fc.constantFrom("ai", "tool", "AIMessageChunk"), tool_calls: realCalls }),
);
const anyChunk = fc
  .tuple(fc.constantFrom(...ids), content, fields)
  .map(([id, text, extra]) => chunk(id, text, extra));
const message = fc
  .tuple(fc.constantFrom(...ids, "d"), unit, fc.option(realCalls, { nil: undefined }))
  .map(([id, text, calls]) => ({ type: "ai", id, content: text, ...(calls && { tool_calls: calls }) }));
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

  it("from a snapshot at every cut it comes to the same", () => {
    fc.assert(
      fc.property(fc.array(storyPart, { maxLength: 15 }), (parts) => {
        const expected = fold(parts).snapshot();
        for (let at = 0; at <= parts.length; at++) {
          const first = fold(parts.slice(0, at)).snapshot();
          const folded = Fold.from(JSON.parse(JSON.stringify(first)) as FoldSnapshot);
          parts.slice(at).forEach((part, i) => {
            folded.add(part, at + 1 + i);
          });
          expect(folded.snapshot()).toEqual(expected);
        }
      }),
    );
  });

  it("a rewind to every offset leaves what folding only the parts below it leaves, and what goes on, too", () => {
    const more = fc.array(anyChunk, { maxLength: 3 });
    fc.assert(
      fc.property(fc.array(storyPart, { maxLength: 15 }), more, (parts, after) => {
        for (let to = 0; to <= parts.length; to++) {
          const folded = fold(parts);
          folded.add(rewound(to), parts.length + 1);
          const expected = fold(parts.slice(0, to));
          expect(seen(folded)).toEqual(seen(expected));
          after.forEach((part, i) => {
            folded.add(part, parts.length + 2 + i);
            expected.add(part, parts.length + 2 + i);
          });
          expect(seen(folded)).toEqual(seen(expected));
        }
      }),
    );
  });

  it("no piece of a call is ever in a message", () => {
    const chunks = fc.array(
      fc
        .tuple(fc.constantFrom(...ids), content, fields)
        .map(([id, text, extra]) => chunk(id, text, { ...extra, type: "AIMessageChunk" })),
      { maxLength: 20 },
    );
    fc.assert(
      fc.property(chunks, (parts) => {
        for (const { message } of fold(parts).messages()) {
          expect(Object.keys(message)).not.toEqual(expect.arrayContaining([expect.stringMatching(/call/)]));
          expect(JSON.stringify(message.content)).not.toMatch(/"type":"(tool_use|input_json_delta)"/);
        }
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

describe("asked in the middle", () => {
  it("says at every offset what a fold of the parts up to it says, whenever it is asked", () => {
    const anyPart = fc.oneof(
      { weight: 9, arbitrary: storyPart },
      { weight: 1, arbitrary: fc.nat(12).map((to) => rewound(to)) },
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(anyPart, fc.boolean()), { maxLength: 30 }), (steps) => {
        const folded = new Fold();
        const parts = steps.map(([part]) => part);
        for (const [i, [part, asks]] of steps.entries()) {
          folded.add(part, i + 1);
          if (!asks) continue;
          expect(folded.messages()).toEqual(fold(parts.slice(0, i + 1)).messages());
        }
      }),
    );
  });

  it("makes only those anew that something has come for", () => {
    const folded = fold([
      chunk("a", "1"),
      chunk("b", "2"),
      update({ messages: [{ type: "ai", id: "c", content: "3" }] }),
    ]);
    const before = folded.messages();
    folded.add(chunk("b", "+"), 4);
    const after = folded.messages();
    expect(after.map((each, i) => each === before[i])).toEqual([true, false, true]);
    expect(contents(folded)).toEqual(["1", "2+", "3"]);
  });

  it("knows what was said aside", () => {
    const aside: Part = {
      type: "messages",
      ns: [],
      data: [{ type: "AIMessageChunk", id: "a", content: "x" }, { aside: { tool_call_id: "t" } }],
    };
    expect(
      fold([aside, chunk("b", "y")])
        .messages()
        .map((each) => each.aside),
    ).toEqual([true, undefined]);
  });
});

describe("a state that brings a message anew", () => {
  it("leaves none of its fields: what is brought once more is there", () => {
    const whole = { type: "ai", id: "a", content: "x" };
    const parts = [chunk("a", "x", { n: 1 }), update({ messages: [whole] })];
    expect(fold(parts).messages()[0]?.message).toEqual(whole);
    const again = fold([...parts, chunk("a", "y", { n: 1 })]);
    expect(again.messages()).toMatchObject([{ message: { content: "xy", n: 1 } }]);
  });
});

describe("the messages that the run's input brings", () => {
  const question: FlatMessage[] = [{ type: "human", id: "q", content: "Why?" }];
  const begun = lifecycle({ event: "started", attempt: 1, messages: question });
  const stepped = lifecycle({ event: "stepped", attempt: 1 });

  it("are known beside what the run says, and no rewind takes them", () => {
    const folded = fold([begun, chunk("a", "Be"), rewound(0), chunk("a", "Because")]);
    expect(folded.asked).toEqual(question);
    expect(contents(folded)).toEqual(["Because"]);
    expect(fold([lifecycle({ event: "started", attempt: 1 })]).asked).toEqual([]);
  });

  it("are in a snapshot, wherever it is cut, and stay when a rewind drops the rest of it", () => {
    const parts = [begun, chunk("a", "one "), stepped, chunk("a", "two"), rewound(3), chunk("a", "three")];
    for (let cut = 1; cut <= parts.length; cut++) {
      const snapshot = JSON.parse(JSON.stringify(fold(parts.slice(0, cut)).snapshot())) as FoldSnapshot;
      expect(snapshot.asked).toEqual(question);
      const rest = Fold.from(snapshot);
      for (const [i, part] of [...parts.slice(cut), rewound(0)].entries()) rest.add(part, cut + 1 + i);
      expect(rest.asked).toEqual(question);
      expect(rest.snapshot().asked).toEqual(question);
      expect(contents(rest)).toEqual([]);
    }
    expect(fold([chunk("a", "one")]).snapshot()).not.toHaveProperty("asked");
  });

  it("and a step changes nothing of what parts add up to", () => {
    const parts = [begun, chunk("a", "one "), chunk("a", "two"), update({ k: 1 })];
    const withSteps = parts.flatMap((part) => [part, stepped]);
    expect({ ...fold(withSteps).snapshot(), offset: 0 }).toEqual({ ...fold(parts).snapshot(), offset: 0 });
    expect(contents(fold([begun, chunk("a", "one "), stepped, chunk("a", "two"), rewound(3)]))).toEqual([
      "one ",
    ]);
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

  it("forget the fields that they take back: what is brought once more is there", () => {
    const cut = [chunk("a", "x", { n: 1 }), chunk("a", "y", { n: 2 }), rewound(1)];
    expect(fold(cut).messages()).toMatchObject([{ message: { content: "x", n: 1 } }]);
    const again = fold([...cut, chunk("a", "y", { n: 2 })]);
    expect(again.messages()).toMatchObject([{ message: { content: "xy", n: 2 } }]);
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

// With mutants in the code its times say nothing.
describe.skipIf(process.env.MUTATING !== undefined)("time", () => {
  const text = (id: string) => chunk(id, "token ");
  const args = (id: string) => pieces(id, { type: "tool_call_chunk", index: 0, args: "token " });

  it.each([
    ["tokens", text],
    ["pieces of a call", args],
  ])("is linear in the number of %s, with one message and with many", (_, part) => {
    for (const messages of [1, 50]) {
      const sizes = [10_000, 160_000].map((count) => {
        const parts = Array.from({ length: count }, (_, i) => part(`m${i % messages}`));
        return { parts, best: Number.POSITIVE_INFINITY };
      });
      const [few, many] = sizes;
      // In turns, so that both have the same machine; and in time of the CPU, which others do not add to.
      for (let round = 0; round < 5; round++) {
        for (const size of sizes) {
          const before = process.cpuUsage();
          fold(size.parts).messages();
          const { user, system } = process.cpuUsage(before);
          size.best = Math.min(size.best, user + system);
        }
      }
      // 16 times the tokens; what is quadratic takes 256 times as long.
      expect(many!.best / few!.best).toBeLessThan(100);
    }
  });
});
