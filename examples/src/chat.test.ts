import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { AgentContext } from "@throughline/worker";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { chat } from "./chat.ts";
import { chatSettings } from "./completion.ts";
import type { Message } from "./input.ts";
import { Recorded, run } from "./testing.ts";

/** A server that speaks chat completions, and what it saw. */
class Model {
  readonly requests: { url: string | undefined; authorization: string | undefined; body: Body }[] = [];
  /** Connections that were closed before their response was complete. */
  dropped = 0;
  #server: Server | undefined;
  respond: (response: ServerResponse, request: number) => void | Promise<void> = () => {};

  async listen(): Promise<string> {
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/v1`;
  }

  async close(): Promise<void> {
    this.#server?.closeAllConnections();
    if (this.#server?.listening) await new Promise((resolve) => this.#server?.close(resolve));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    response.on("close", () => {
      if (!response.writableFinished) this.dropped++;
    });
    const { url } = request;
    this.requests.push({ url, authorization: request.headers.authorization, body: JSON.parse(body) });
    await this.respond(response, this.requests.length);
  }
}

interface Body {
  model: string;
  stream: boolean;
  stream_options?: unknown;
  messages: unknown[];
}

const sse = { "content-type": "text/event-stream; charset=utf-8" };

function event(delta: object, finish_reason: string | null = null, more: object = {}): string {
  const choices = [{ index: 0, delta, finish_reason }];
  return `data: ${JSON.stringify({ id: "chatcmpl-1", object: "chat.completion.chunk", model: "m-1", choices, ...more })}\n\n`;
}
const say = (content: string) => event({ content });
const stop = event({}, "stop");
const done = "data: [DONE]\n\n";
const usage = `data: ${JSON.stringify({
  id: "chatcmpl-1",
  choices: [],
  usage: {
    prompt_tokens: 7,
    completion_tokens: 3,
    total_tokens: 10,
    prompt_tokens_details: { cached_tokens: 2 },
    completion_tokens_details: { reasoning_tokens: 1 },
  },
})}\n\n`;

let model: Model;
let env: Record<string, string>;
beforeEach(async () => {
  model = new Model();
  env = { OPENAI_BASE_URL: await model.listen(), OPENAI_API_KEY: "sk-secret", OPENAI_MODEL: "m" };
});
afterEach(() => model.close());

const human = (content: string): Message => ({ type: "human", content });
const ask = (given: Partial<AgentContext> = {}) =>
  run(chat(env), { input: "hi", messages: [human("hi")], ...given });
const answer = (given: Partial<AgentContext> = {}) => Recorded.of(ask(given));

/** Answers every request with this stream. */
function streams(...pieces: (string | Buffer)[]): void {
  model.respond = (response) => {
    response.writeHead(200, sse);
    for (const piece of pieces) response.write(piece);
    response.end();
  };
}

/** Runs until the failure, and gives the tokens that came before it. */
async function failure(given: Partial<AgentContext> = {}): Promise<{ error: unknown; text: string }> {
  const recorded = new Recorded();
  try {
    for await (const part of ask(given)) recorded.parts.push(part);
  } catch (error) {
    return { error, text: recorded.text };
  }
  throw new Error(`the answer was taken for complete: ${JSON.stringify(recorded.text)}`);
}

describe("an answer", () => {
  it("is streamed under the completion's id, and ends with its finish reason and usage", async () => {
    streams(event({ role: "assistant", content: "" }), say("Hel"), say("lo"), stop, usage, done);
    const { chunks, tokens } = await answer();
    expect(tokens).toEqual(["Hel", "lo", ""]);
    expect(new Set(chunks.map((chunk) => chunk.id))).toEqual(new Set(["chatcmpl-1"]));
    expect(chunks.at(-1)).toMatchObject({
      content: "",
      response_metadata: { finish_reason: "stop", model_name: "m-1" },
      usage_metadata: {
        input_tokens: 7,
        output_tokens: 3,
        total_tokens: 10,
        input_token_details: { cache_read: 2 },
        output_token_details: { reasoning: 1 },
      },
    });
    expect(model.requests).toHaveLength(1);
    expect(model.requests[0]).toMatchObject({
      url: "/v1/chat/completions",
      authorization: "Bearer sk-secret",
      body: { model: "m", stream: true, stream_options: { include_usage: true } },
    });
  });

  it("comes token by token, not at its end", async () => {
    let go = () => {};
    const wait = new Promise<void>((resolve) => {
      go = resolve;
    });
    model.respond = async (response) => {
      response.writeHead(200, sse);
      response.write(say("first"));
      await wait;
      response.end(say(" second") + stop + done);
    };
    const parts = ask();
    const first = await parts.next();
    expect(first.value.data[0].content).toBe("first");
    go();
    const rest = await Recorded.of({ [Symbol.asyncIterator]: () => parts });
    expect(rest.text).toBe(" second");
  });

  it("survives any split of its bytes: in the middle of a character, of a line, of [DONE]", async () => {
    const bytes = Buffer.from(
      `: comment\r\n\r\n${say("añ漢😀")}${say("\n\ndata: [DONE]\n\n").replaceAll("\n\n", "\r\n\r\n")}${say("e\u0301")}${stop}${done}`,
    );
    for (const size of [1, 2, 3, 7, 64]) {
      model.respond = async (response) => {
        response.writeHead(200, sse);
        response.socket?.setNoDelay(true);
        for (let i = 0; i < bytes.length; i += size) {
          response.write(bytes.subarray(i, i + size));
          if (i % 5 === 0) await new Promise(setImmediate);
        }
        response.end();
      };
      expect((await answer()).text).toBe("añ漢😀\n\ndata: [DONE]\n\ne\u0301");
    }
  });

  it("may bring thoughts, empty deltas, a refusal, other choices and chunks without any", async () => {
    streams(
      event({ role: "assistant" }),
      event({ content: null, reasoning_content: "Let me see" }),
      event({ reasoning: "Hm" }),
      `data: ${JSON.stringify({ id: "chatcmpl-1", choices: [{ index: 1, delta: { content: "no" } }] })}\n\n`,
      `data: ${JSON.stringify({ choices: [{ index: 0, delta: null }], prompt_filter_results: [] })}\n\n`,
      event({ refusal: "I can't" }),
      say(""),
      event({ content: "." }, "content_filter"),
      done,
    );
    const recorded = await answer();
    expect(recorded.tokens).toEqual(["I can't", ".", ""]);
    expect(recorded.custom).toEqual([
      { kind: "reasoning", text: "Let me see" },
      { kind: "reasoning", text: "Hm" },
    ]);
    expect(recorded.chunks.at(-1)).toMatchObject({ response_metadata: { finish_reason: "content_filter" } });
  });

  it.each([
    ["a finish_reason, and no [DONE]", [say("all"), stop]],
    ["[DONE], and no finish_reason", [say("all"), done]],
  ])("is complete with %s", async (_, pieces) => {
    streams(...pieces);
    expect((await answer()).text).toBe("all");
  });

  it("ends with [DONE] when the endpoint then keeps the connection open", async () => {
    model.respond = (response) => {
      response.writeHead(200, sse);
      response.write(say("all") + stop + done);
    };
    expect((await answer()).text).toBe("all");
    await vi.waitFor(() => expect(model.dropped).toBe(1), { timeout: 60_000 });
  });

  it("is complete when the connection breaks or stalls after its finish_reason", async () => {
    env.OPENAI_TIMEOUT_MS = "2000";
    for (const after of [(response: ServerResponse) => response.destroy(), () => {}]) {
      model.respond = async (response) => {
        response.writeHead(200, sse);
        response.write(say("all") + stop);
        await sleep(20);
        after(response);
      };
      expect((await answer()).text).toBe("all");
    }
  });

  it("has no id of its own where the thread has that one already", async () => {
    streams(say("new"), stop, done);
    const { chunks } = await answer({
      messages: [{ type: "ai", id: "chatcmpl-1", content: "old" }, human("hi")],
    });
    expect(chunks.map((chunk) => chunk.id)).toEqual([undefined, undefined]);
  });

  it("is asked for again without stream_options where the endpoint knows none", async () => {
    model.respond = (response, request) => {
      if (request === 1) {
        response.writeHead(422, { "content-type": "application/json" });
        response.end('{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}');
        return;
      }
      response.writeHead(200, sse);
      response.end(say("ok") + stop + done);
    };
    expect((await answer()).text).toBe("ok");
    expect(model.requests).toHaveLength(2);
    expect(model.requests[1]?.body).not.toHaveProperty("stream_options");
  });

  it("needs no key where a base URL is set, and then sends none", async () => {
    delete env.OPENAI_API_KEY;
    streams(say("ok"), stop, done);
    await answer();
    expect(model.requests[0]?.authorization).toBeUndefined();
  });
});

describe("the history", () => {
  it("is the thread's messages", async () => {
    streams(stop, done);
    const image = { type: "image_url", image_url: { url: "data:image/png;base64,AA==" } };
    await answer({
      input: { messages: [] },
      messages: [
        { type: "system", content: "be brief" },
        { type: "human", content: [{ type: "text", text: "what is it?" }, image] },
        {
          type: "ai",
          content: "",
          tool_calls: [{ id: "c1", name: "look", args: { at: 1 }, type: "tool_call" }],
        },
        { type: "tool", tool_call_id: "c1", content: "a cat" },
        { type: "ai", content: "A c", additional_kwargs: { cancelled: true } },
        { type: "ai", content: "" },
        {
          type: "ai",
          content: [
            { type: "text", text: "A " },
            { type: "text", text: "cat" },
          ],
        },
        human("sure?"),
      ],
    });
    expect(model.requests[0]?.body.messages).toEqual([
      { role: "system", content: "be brief" },
      { role: "user", content: [{ type: "text", text: "what is it?" }, image] },
      {
        role: "assistant",
        content: null,
        tool_calls: [{ id: "c1", type: "function", function: { name: "look", arguments: '{"at":1}' } }],
      },
      { role: "tool", tool_call_id: "c1", content: "a cat" },
      { role: "assistant", content: "A c" },
      { role: "assistant", content: "A cat" },
      { role: "user", content: "sure?" },
    ]);
  });

  it("has a string input once", async () => {
    streams(stop, done);
    await answer({ input: "hi", messages: [human("hi")] });
    await answer({ input: "hi", messages: [] });
    for (const { body } of model.requests) expect(body.messages).toEqual([{ role: "user", content: "hi" }]);
  });

  it("must not be empty, and must be made of what a model knows", async () => {
    expect(await failure({ input: {}, messages: [] })).toMatchObject({
      error: { name: "InputError", message: expect.stringMatching(/^input: there is nothing to answer/) },
    });
    expect(await failure({ input: {}, messages: [{ type: "remove", content: "" }] })).toMatchObject({
      error: {
        name: "InputError",
        message: 'messages: a message of type "remove" cannot be sent to a model',
      },
    });
    expect(model.requests).toHaveLength(0);
  });
});

describe("an answer that breaks off is no answer (P5)", () => {
  it.each([
    ["nothing at all", []],
    ["text only", [say("half an ans")]],
    ["half a finish_reason", [say("half an ans"), stop.slice(0, -10)]],
    ["half a [DONE]", [say("half an ans"), "data: [DON"]],
    ["null finish reasons", [say("half an ans"), event({}, null)]],
    ["[DONE] in a comment", [say("half an ans"), ": data: [DONE]\n\n"]],
  ])("the stream ends after %s", async (_, pieces) => {
    streams(...pieces);
    const { error, text } = await failure();
    expect(error).toMatchObject({ name: "UpstreamError", code: "upstream_incomplete" });
    expect(text).toBe(pieces.length === 0 ? "" : "half an ans");
  });

  it("the connection breaks", async () => {
    model.respond = async (response) => {
      response.writeHead(200, sse);
      response.write(say("half"));
      await sleep(30);
      response.destroy();
    };
    const { error, text } = await failure();
    expect(error).toMatchObject({
      code: "upstream_incomplete",
      message: expect.stringMatching(/broke the connection \(.+\) in the middle of the answer$/),
    });
    expect(text).toBe("half");
    expect(model.requests).toHaveLength(1);
  });

  it("the endpoint stalls before its first byte, in its headers and in its answer", async () => {
    env.OPENAI_TIMEOUT_MS = "150";
    for (const head of [undefined, "", say("half")]) {
      model.respond = (response) => {
        if (head === undefined) return;
        response.writeHead(200, sse);
        response.flushHeaders();
        if (head !== "") response.write(head);
      };
      const { error } = await failure();
      expect(error).toMatchObject({
        code: "upstream_stalled",
        message: `the model endpoint ${env.OPENAI_BASE_URL} sent nothing for 0.15 s`,
      });
    }
    await vi.waitFor(() => expect(model.dropped).toBe(3), { timeout: 60_000 });
  });

  it("a slow endpoint does not stall as long as it sends anything, and a slow reader is no stall", async () => {
    const ms = 3_600_000;
    env.OPENAI_TIMEOUT_MS = String(ms);
    // Time passes when this test says so.
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const set = vi.spyOn(globalThis, "setTimeout");
    const waits = () => set.mock.calls.filter((call) => call[1] === ms).length;
    try {
      model.respond = async (response) => {
        response.writeHead(200, sse);
        for (let i = 0; i < 5; i++) {
          const before = waits();
          response.write(": still thinking\n\n");
          while (waits() === before) await new Promise((resolve) => setImmediate(resolve));
          vi.advanceTimersByTime(0.8 * ms);
        }
        response.end(say("a") + say("b") + stop + done);
      };
      const recorded = new Recorded();
      for await (const part of ask()) {
        recorded.parts.push(part);
        vi.advanceTimersByTime(1.2 * ms);
      }
      expect(recorded.text).toBe("ab");
    } finally {
      set.mockRestore();
      vi.useRealTimers();
    }
  });

  it("the endpoint reports an error in its stream, in any of the usual forms", async () => {
    for (const [data, message] of [
      [{ error: { message: "the server is overloaded", code: 503 } }, /the server is overloaded/],
      [{ error: "out of memory" }, /out of memory/],
      [{ object: "error", message: "context too long", code: 400 }, /context too long/],
      [{ choices: [{ index: 0, delta: {}, finish_reason: "error" }] }, /finish_reason error/],
      [{ choices: "none" }, /a chunk is not one/],
    ] as const) {
      streams(say("half"), `data: ${JSON.stringify(data)}\n\n`, done);
      const { error, text } = await failure();
      expect(error).toMatchObject({ code: "upstream_failed", message: expect.stringMatching(message) });
      expect(text).toBe("half");
    }
    streams(say("half"), "data: {not json\n\n", done);
    expect((await failure()).error).toMatchObject({ message: expect.stringMatching(/a chunk is not JSON/) });
  });

  it("the endpoint does not stream", async () => {
    model.respond = (response) => {
      response.writeHead(200, { "content-type": "text/html" });
      response.end("<html>Welcome</html>");
    };
    expect((await failure()).error).toMatchObject({
      code: "upstream_incomplete",
      message: expect.stringMatching(/\(its content type: text\/html\)/),
    });
  });
});

describe("a request that is refused", () => {
  const json = { "content-type": "application/json" };
  const refuse = (status: number, body: string, headers: Record<string, string> = json) => {
    model.respond = (response) => {
      response.writeHead(status, headers);
      response.end(body);
    };
  };

  it.each([
    [401, "upstream_unauthorized", /answered 401: bad key … \(check OPENAI_API_KEY\)$/],
    [403, "upstream_unauthorized", /answered 403: bad key … \(check OPENAI_API_KEY\)$/],
    [404, "upstream_refused", /answered 404: bad key … \(check OPENAI_MODEL and OPENAI_BASE_URL\)$/],
    [400, "upstream_refused", /answered 400: bad key …$/],
    [500, "upstream_unavailable", /answered 500: bad key …$/],
    [503, "upstream_unavailable", /answered 503: bad key …$/],
  ])(
    "with %i says what to do, tries nothing again and never shows the key",
    async (status, code, message) => {
      refuse(status, JSON.stringify({ error: { message: "bad key sk-secret" } }));
      const { error } = await failure();
      expect(error).toMatchObject({
        name: "UpstreamError",
        code,
        status,
        message: expect.stringMatching(message),
      });
      expect(model.requests).toHaveLength(1);
    },
  );

  it("with 429 says when to try again", async () => {
    for (const [header, seconds] of [
      ["20", 20],
      ["1.5", 2],
      [new Date(Date.now() + 30_000).toUTCString(), expect.closeTo(30, -1)],
    ] as const) {
      refuse(429, '{"error":{"message":"slow down"}}', { ...json, "retry-after": header });
      const { error } = await failure();
      expect(error).toMatchObject({ code: "upstream_rate_limited", status: 429, retryAfter: seconds });
      expect((error as Error).message).toMatch(/answered 429: slow down \(try again in \d+ s\)$/);
    }
    refuse(429, "");
    expect((await failure()).error).toMatchObject({
      retryAfter: undefined,
      message: expect.stringMatching(/429/),
    });
  });

  it("is explained in whatever form the body is", async () => {
    for (const [body, said] of [
      ['{"detail":"no such model"}', "no such model"],
      ['{"message":"no such model"}', "no such model"],
      ['{"error":"no such model"}', "no such model"],
      ["no such model\n", "no such model"],
      ['{"code":7}', '{"code":7}'],
      ["x".repeat(2000), `${"x".repeat(500)}…`],
    ]) {
      refuse(400, body!);
      expect((await failure()).error).toMatchObject({
        message: expect.stringContaining(`answered 400: ${said}`),
      });
    }
  });

  it("by nobody: the connection is refused", async () => {
    await model.close();
    expect((await failure()).error).toMatchObject({
      code: "upstream_unavailable",
      message: expect.stringMatching(/cannot be reached: .*ECONNREFUSED/),
    });
  });
});

describe("a cancel", () => {
  const reason = new Error("cancelled by the user");

  it("closes the connection in the middle of an answer that never ends", async () => {
    model.respond = (response) => {
      response.writeHead(200, sse);
      const timer = setInterval(() => response.write(say("on and ")), 5);
      response.on("close", () => clearInterval(timer));
    };
    const controller = new AbortController();
    const parts = ask({ signal: controller.signal });
    for (let i = 0; i < 5; i++) await parts.next();
    controller.abort(reason);
    await expect(Recorded.of({ [Symbol.asyncIterator]: () => parts })).rejects.toBe(reason);
    await vi.waitFor(() => expect(model.dropped).toBe(1), { timeout: 60_000 });
  });

  it("closes it while the endpoint is silent, before and after its headers", async () => {
    for (const headers of [false, true]) {
      model.respond = (response) => {
        if (headers) response.writeHead(200, sse).flushHeaders();
      };
      const controller = new AbortController();
      const answered = ask({ signal: controller.signal }).next();
      await vi.waitFor(() => expect(model.requests).toHaveLength(headers ? 2 : 1), { timeout: 60_000 });
      await sleep(30);
      controller.abort(reason);
      await expect(answered).rejects.toBe(reason);
      await vi.waitFor(() => expect(model.dropped).toBe(headers ? 2 : 1), { timeout: 60_000 });
    }
  });

  it("before the run began sends nothing", async () => {
    await expect(answer({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(model.requests).toHaveLength(0);
  });

  it("is not needed by a reader that stops reading", async () => {
    model.respond = (response) => {
      response.writeHead(200, sse);
      response.write(say("a") + say("b"));
    };
    for await (const _ of ask()) break;
    await vi.waitFor(() => expect(model.dropped).toBe(1), { timeout: 60_000 });
  });
});

describe("the settings", () => {
  it("are none without a URL and a key, and a run then says what to set", async () => {
    expect(chatSettings({})).toBeUndefined();
    expect(chatSettings({ OPENAI_API_KEY: "", OPENAI_BASE_URL: "", OPENAI_MODEL: "m" })).toBeUndefined();
    await expect(Recorded.of(run(chat({}), { input: "hi" }))).rejects.toMatchObject({
      code: "not_configured",
      message: expect.stringMatching(/OPENAI_API_KEY.*OPENAI_BASE_URL.*OPENAI_MODEL/),
    });
  });

  it("have defaults", () => {
    expect(chatSettings({ OPENAI_API_KEY: "k" })).toEqual({
      baseURL: "https://api.openai.com/v1",
      apiKey: "k",
      model: "gpt-4o-mini",
      timeoutMs: 60_000,
    });
  });

  it.each([
    ["OPENAI_BASE_URL", "localhost"],
    ["OPENAI_BASE_URL", "ftp://localhost"],
    ["OPENAI_TIMEOUT_MS", "soon"],
    ["OPENAI_TIMEOUT_MS", "0"],
  ])("%s=%s is refused by name", (name, value) => {
    expect(() => chatSettings({ OPENAI_API_KEY: "k", [name]: value })).toThrow(name);
  });
});
