import {
  AIMessage,
  AIMessageChunk,
  type BaseMessage,
  ChatMessage,
  FunctionMessage,
  HumanMessage,
  HumanMessageChunk,
  RemoveMessage,
  SystemMessage,
  ToolMessage,
  ToolMessageChunk,
} from "@langchain/core/messages";
import { DeltaSnapshot } from "@langchain/langgraph-checkpoint";
import { describe, expect, test } from "vitest";
import { InvalidArgumentError } from "./errors.ts";
import {
  flattenMessage,
  flattenValues,
  mergeMessages,
  normalizeMessages,
  toBaseMessage,
} from "./messages.ts";

const overTheWire = <T>(value: T): T => JSON.parse(JSON.stringify(value));

describe("a flat message", () => {
  test("is its type and what its fields carry", () => {
    expect(flattenMessage(new HumanMessage({ id: "1", content: "hi" }))).toEqual({
      type: "human",
      id: "1",
      content: "hi",
    });
    expect(flattenMessage(new AIMessageChunk({ id: "2", content: "" }))).toEqual({
      type: "AIMessageChunk",
      id: "2",
      content: "",
    });
    expect(flattenMessage(new AIMessage({ content: [] }))).toEqual({ type: "ai", content: [] });
  });

  test("is what toDict() gives, without what carries nothing", () => {
    for (const message of everyKind()) {
      const { data } = message.toDict() as unknown as { data: Record<string, unknown> };
      const { type: _, ...fields } = flattenMessage(message);
      expect(data).toMatchObject(fields);
    }
  });

  test.each(everyKind().map((message) => [message.constructor.name, message] as const))(
    "goes over the wire and back: %s",
    (_name, message) => {
      const flat = flattenMessage(message);
      const back = toBaseMessage(overTheWire(flat));
      expect(back.lc_id).toEqual(message.lc_id);
      expect(back.content).toEqual(message.content);
      expect(back.additional_kwargs).toEqual(message.additional_kwargs);
      expect(flattenMessage(back)).toEqual(flat);
    },
  );

  test("keeps its text byte for byte", () => {
    const content = "\ud83d|\udc00|\0|\u2028|👩‍👩‍👧";
    expect(toBaseMessage(overTheWire(flattenMessage(new AIMessage({ id: "1", content })))).content).toBe(
      content,
    );
    const blocks = [{ type: "text", text: content }];
    expect(
      toBaseMessage(overTheWire(flattenMessage(new AIMessage({ id: "1", content: blocks })))).content,
    ).toEqual(blocks);
  });

  test("does not turn raw tool calls into calls", () => {
    const raw = { id: "c", type: "function" as const, function: { name: "f", arguments: "{}" } };
    const message = toBaseMessage({ type: "ai", content: "", additional_kwargs: { tool_calls: [raw] } });
    expect((message as AIMessage).tool_calls).toEqual([]);
  });

  test("has the id that was given to the message later", () => {
    const message = new HumanMessage("hi");
    message.id = "later";
    expect(flattenMessage(message).id).toBe("later");
  });
});

describe("toBaseMessage", () => {
  test.each([
    ["user", HumanMessage],
    ["assistant", AIMessage],
    ["system", SystemMessage],
  ])("takes the role %s", (role, type) => {
    const message = toBaseMessage({ role, content: "hi", id: "1" });
    expect(message).toBeInstanceOf(type);
    expect(flattenMessage(message)).toEqual({ type: message.type, content: "hi", id: "1" });
  });

  test("takes OpenAI's tool calls and answers", () => {
    const call = { id: "c", type: "function", function: { name: "add", arguments: '{"a":1}' } };
    const asked = toBaseMessage({ role: "assistant", content: null, tool_calls: [call] });
    expect((asked as AIMessage).tool_calls).toEqual([
      { id: "c", name: "add", args: { a: 1 }, type: "tool_call" },
    ]);
    expect(asked.content).toBe("");
    const answered = toBaseMessage({ role: "tool", content: "2", tool_call_id: "c" });
    expect((answered as ToolMessage).tool_call_id).toBe("c");
  });

  test("gives every message an id that is stored with it, and keeps one that is there", () => {
    for (const like of ["hi", { role: "user", content: "hi" }, new HumanMessage("hi")]) {
      const message = toBaseMessage(like);
      expect(message.id).toMatch(/^[0-9a-f-]{36}$/);
      expect(message.toDict().data.id).toBe(message.id);
    }
    const message = new HumanMessage({ id: "1", content: "hi" });
    expect(toBaseMessage(message)).toBe(message);
    expect(message.id).toBe("1");
  });

  test.each([
    null,
    7,
    [],
    {},
    { type: "human" },
    { type: "human", content: 7 },
    { type: "constructor", content: "" },
    { type: "__proto__", content: "" },
    { role: "tool", content: "no call" },
    {
      role: "assistant",
      content: "",
      tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{" } }],
    },
  ])("refuses %j", (like) => {
    expect(() => toBaseMessage(like as never)).toThrow(InvalidArgumentError);
  });
});

test("normalizeMessages takes one or many and answers flat ones with ids", () => {
  expect(normalizeMessages("hi")).toEqual([{ type: "human", content: "hi", id: expect.any(String) }]);
  expect(
    normalizeMessages([new AIMessage({ id: "1", content: "a" }), { role: "user", id: "2", content: "b" }]),
  ).toEqual([
    { type: "ai", content: "a", id: "1" },
    { type: "human", content: "b", id: "2" },
  ]);
});

describe("flattenValues", () => {
  test("finds messages anywhere, and leaves the rest and the original alone", () => {
    const message = new HumanMessage({ id: "1", content: "hi" });
    const flat = { type: "human", id: "1", content: "hi" };
    const values = {
      messages: [message],
      deep: { er: [{ message }] },
      in: new Map([["a", new Set([message])]]),
      none: null,
      n: 1,
      delta: new DeltaSnapshot([message]),
    };
    expect(flattenValues(values)).toEqual({
      messages: [flat],
      deep: { er: [{ message: flat }] },
      in: { a: [flat] },
      none: null,
      n: 1,
      delta: [flat],
    });
    expect(values.messages[0]).toBe(message);
    expect(
      Object.hasOwn(
        flattenValues(JSON.parse('{"__proto__":{"a":1}}') as Record<string, unknown>),
        "__proto__",
      ),
    ).toBe(true);
  });
});

describe("mergeMessages", () => {
  const human = (id: string, content = id) => new HumanMessage({ id, content });
  const remove = (id: string) => new RemoveMessage({ id });
  const merged = (left: BaseMessage[], right: BaseMessage[]) =>
    mergeMessages(left, right).map((message) => message.content);

  test("replaces in place, appends, removes", () => {
    const left = [human("a"), human("b"), human("c")];
    expect(merged(left, [human("d"), human("b", "B")])).toEqual(["a", "B", "c", "d"]);
    expect(merged(left, [remove("a"), remove("c")])).toEqual(["b"]);
    expect(merged(left, [remove("a"), human("a", "A")])).toEqual(["A", "b", "c"]);
    expect(merged(left, [human("d"), remove("d")])).toEqual(["a", "b", "c"]);
    expect(merged(left, [human("x"), remove("__remove_all__"), human("y")])).toEqual(["y"]);
    expect(() => merged(left, [remove("z")])).toThrow(InvalidArgumentError);
  });
});

function everyKind(): BaseMessage[] {
  const call = { id: "c", name: "add", args: { a: 1, deep: { b: ["\ud83d"] } }, type: "tool_call" as const };
  return [
    new HumanMessage({ id: "1", content: "hi", name: "Ada" }),
    new HumanMessage({
      id: "1",
      content: [
        { type: "text", text: "see" },
        { type: "image_url", image_url: { url: "data:," } },
      ],
    }),
    new SystemMessage({ id: "1", content: "be kind" }),
    new AIMessage({
      id: "1",
      content: "so far",
      tool_calls: [call],
      invalid_tool_calls: [{ id: "d", name: "f", args: "{", error: "no", type: "invalid_tool_call" }],
      additional_kwargs: { cancelled: true },
      response_metadata: { model_name: "m" },
    }),
    new AIMessage({
      id: "1",
      content: "counted",
      usage_metadata: { input_tokens: 1, output_tokens: 2, total_tokens: 3 },
    } as never),
    new AIMessage({
      id: "1",
      content: [{ type: "text", text: "v1" }],
      response_metadata: { output_version: "v1" },
    }),
    new ToolMessage({
      id: "1",
      content: "2",
      tool_call_id: "c",
      name: "add",
      status: "error",
      artifact: { raw: [2] },
    }),
    new FunctionMessage({ id: "1", content: "2", name: "add" }),
    new ChatMessage({ id: "1", content: "hm", role: "critic" }),
    new RemoveMessage({ id: "1" }),
    new HumanMessageChunk({ id: "1", content: "h" }),
    new ToolMessageChunk({ id: "1", content: "2", tool_call_id: "c" }),
    new AIMessageChunk({ id: "1", content: "tok" }),
    new AIMessageChunk({
      id: "1",
      content: "",
      tool_call_chunks: [{ id: "c", name: "add", args: '{"a":', index: 0, type: "tool_call_chunk" }],
    }),
  ];
}
