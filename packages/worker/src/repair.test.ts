import { AIMessage, type BaseMessage, HumanMessage, ToolMessage } from "@langchain/core/messages";
import { expect, test } from "vitest";
import { withAnswers } from "./repair.ts";

const calls = (...ids: string[]) =>
  new AIMessage({ content: "I ask", tool_calls: ids.map((id) => ({ id, name: "look", args: {} })) });
const answer = (tool_call_id: string) => new ToolMessage({ content: "found", tool_call_id });
const texts = (messages: readonly BaseMessage[]) =>
  messages.map((message) => `${message.getType()}:${message.content}`);

test("a call that nobody answered is answered behind it, before what was said later", () => {
  const later = new AIMessage("later");
  const repaired = withAnswers([new HumanMessage("x"), calls("a"), later, calls("b", "c"), answer("b")]);
  expect(texts(repaired as BaseMessage[])).toEqual([
    "human:x",
    "ai:I ask",
    "tool:cancelled",
    "ai:later",
    "ai:I ask",
    "tool:found",
    "tool:cancelled",
  ]);
});

test("calls of earlier turns stay as they are: somebody took them so", () => {
  const messages = [calls("a"), new HumanMessage("x")];
  expect(withAnswers(messages)).toEqual(messages);
});
