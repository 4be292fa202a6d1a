import { Command } from "@langchain/langgraph";
import { describe, expect, test } from "vitest";
import { neverWritesMessages } from "./silent.ts";

// biome-ignore-start lint/suspicious/noExplicitAny: only their text matters.
type Any = any;
const model: Any = {};
const helper: Any = {};
const key: Any = "messages";
const langgraph = { Command };

describe("a function never writes messages", () => {
  const functions: Record<string, Any> = {
    "that answers with other keys": async (state: Any) => {
      const { content } = await model.invoke(state.messages);
      return { summary: content };
    },
    "that is an expression": async () => ({ summary: (await model.invoke()).content }),
    "that answers nothing": async (state: Any) => {
      await helper(state);
    },
    "that answers nothing, in words": (state: Any) => {
      if (state.a) return;
      if (state.b) return undefined;
      if (state.c) return null;
      return void 0;
    },
    "with several answers": function choose(state: Any) {
      try {
        if (state.a) return { a: 1, "b-c": 2 };
        for (const each of state.list) if (each) return state.d ? { e: each } : {};
      } catch {
        return new Command({ goto: "end", update: { failed: true } });
      }
      return new langgraph.Command({ goto: ["a"] });
    },
    "whose inner functions do": (state: Any) => {
      const inner = () => ({ messages: [] });
      class Other {
        run() {
          return { messages: state };
        }
      }
      const own = {
        run() {
          return { messages: [] };
        },
      };
      return { made: [inner(), new Other(), own] };
    },
    "that is a method": {
      async run(state: Any) {
        return { summary: await model.invoke(state) };
      },
    }.run,
  };
  test.each(Object.entries(functions))("%s", (_, run) => {
    expect(neverWritesMessages(run)).toBe(true);
    expect(neverWritesMessages(run)).toBe(true);
  });
});

describe("a function may write messages", () => {
  const functions: Record<string, Any> = {
    "that does": async (state: Any) => ({ messages: [await model.invoke(state)] }),
    "that does in one of its answers": (state: Any) => {
      if (state.a) return { summary: 1 };
      return { summary: 1, messages: [] };
    },
    "that does under a quoted key": () => ({ ["messages" as string]: [] }),
    "that does in a command": () => new Command({ update: { messages: [] }, goto: "a" }),
    "whose answer is spread": (state: Any) => ({ ...state }),
    "whose answer has a computed key": () => ({ [key]: [] }),
    "whose answer is a variable": (state: Any) => {
      const update = { summary: state };
      return update;
    },
    "whose answer is another's": async (state: Any) => await helper(state),
    "whose command is spread": (state: Any) => new Command({ ...state }),
    "whose command's update is another's": (state: Any) => new Command({ update: helper(state) }),
    "that answers a list of commands": () => [new Command({ update: { messages: [] } })],
    "that is a generator": function* generate() {
      yield { messages: [] };
    },
    "that is an async generator": async function* generate() {
      yield { messages: [] };
    },
    "that is native": Array.prototype.push,
    "that is bound": ((state: Any) => ({ summary: state })).bind(null),
    "that is a class": class {},
    "with something else that is new": () => new helper.Thing({ update: {} }),
  };
  test.each(Object.entries(functions))("%s", (_, run) => {
    expect(neverWritesMessages(run)).toBe(false);
  });
});
// biome-ignore-end lint/suspicious/noExplicitAny: only their text matters.
