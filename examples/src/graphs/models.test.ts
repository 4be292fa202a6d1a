import { AIMessage, type AIMessageChunk, HumanMessage } from "@langchain/core/messages";
import { expect, test } from "vitest";
import { EndpointModel, RecitingModel, restOfStory } from "./models.ts";

const human = new HumanMessage("go on");

test("a reciting model streams its text token by token, and answers whole with one id", async () => {
  const model = new RecitingModel(() => "Once upon a time", 0);
  const chunks: AIMessageChunk[] = [];
  for await (const chunk of await model.stream([human])) chunks.push(chunk);
  const words = chunks.map(({ content }) => content).filter((content) => content !== "");
  expect(words).toEqual(["Once", " upon", " a", " time"]);
  expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  expect((await model.invoke([human])).content).toBe("Once upon a time");
});

test("it stops between two tokens when its signal is aborted, with the signal's reason", async () => {
  const stop = new AbortController();
  const model = new RecitingModel(() => "one two three", 5);
  const said: unknown[] = [];
  const reading = async () => {
    for await (const { content } of await model.stream([human], { signal: stop.signal })) {
      said.push(content);
      if (said.length === 1) stop.abort(new Error("stopped"));
    }
  };
  await expect(reading()).rejects.toThrow("stopped");
  expect(said).toEqual(["one"]);
});

test("the story goes on where the conversation has it", () => {
  const rest = (...answers: string[]) =>
    restOfStory(
      answers.map((content) => ({ type: "ai", content })),
      "one two three",
    );
  expect(rest()).toBe("one two three");
  expect(rest("one")).toBe(" two three");
  expect(rest("one", "", " two")).toBe(" three");
  expect(rest("one two three")).toBe("one two three");
  expect(rest("one", " two three", "one two")).toBe(" three");
  expect(rest("no story", "one")).toBe(" two three");
});

test("an endpoint's failure is the model's, and is not tried again", async () => {
  let requests = 0;
  const { createServer } = await import("node:http");
  const server = createServer((_, response) => {
    requests += 1;
    response.writeHead(500).end("overloaded");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  const settings = { baseURL: `http://127.0.0.1:${port}/v1`, apiKey: "k", model: "m", timeoutMs: 1_000 };
  await expect(new EndpointModel(settings).invoke([human])).rejects.toMatchObject({
    code: "upstream_unavailable",
    status: 500,
  });
  expect(requests).toBe(1);
  server.close();
});

test("an endpoint's answer has its text, thoughts, finish reason and usage, and the request the conversation", async () => {
  const { createServer } = await import("node:http");
  let body = "";
  const chunk = (delta: object, finish_reason: string | null = null, more: object = {}) =>
    `data: ${JSON.stringify({ id: "c1", choices: [{ index: 0, delta, finish_reason }], ...more })}\n\n`;
  const server = createServer(async (request, response) => {
    for await (const piece of request) body += piece;
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(
      chunk({ reasoning_content: "Hm." }) +
        chunk({ content: "Hel" }) +
        chunk({ content: "lo" }) +
        chunk({}, "stop", { usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } }) +
        "data: [DONE]\n\n",
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  const model = new EndpointModel({
    baseURL: `http://127.0.0.1:${port}/v1`,
    apiKey: undefined,
    model: "m",
    timeoutMs: 5_000,
  });
  const said = await model.invoke([human, new AIMessage("gone on"), human]);
  server.close();
  expect(said).toMatchObject({
    content: "Hello",
    additional_kwargs: { reasoning_content: "Hm." },
    response_metadata: { finish_reason: "stop" },
    usage_metadata: { input_tokens: 3, output_tokens: 2, total_tokens: 5 },
  });
  expect(JSON.parse(body)).toMatchObject({
    model: "m",
    stream: true,
    messages: [
      { role: "user", content: "go on" },
      { role: "assistant", content: "gone on" },
      { role: "user", content: "go on" },
    ],
  });
});
