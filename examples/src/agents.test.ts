import { expect, it } from "vitest";
import { agents } from "./agents.ts";

it("chat is offered only where the environment names a model", () => {
  expect(Object.keys(agents({}))).toEqual(["storyteller", "digest", "chat-graph", "research"]);
  expect(Object.keys(agents({ OPENAI_API_KEY: "k" }))).toEqual([
    "storyteller",
    "digest",
    "chat-graph",
    "research",
    "chat",
  ]);
  expect(Object.keys(agents({ OPENAI_BASE_URL: "http://127.0.0.1:1/v1" }))).toContain("chat");
});

it("every agent says in one line what it does", () => {
  for (const agent of Object.values(agents({ OPENAI_API_KEY: "k" }))) {
    expect(agent.description).toMatch(/^[A-Z].{10,100}$/);
  }
});
