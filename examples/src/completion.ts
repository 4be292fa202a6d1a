/**
 * One answer of a model behind an OpenAI-compatible chat completions endpoint, as it is streamed.
 *
 * Invariants:
 * - an answer is complete only if the endpoint said so, with a finish_reason or with `[DONE]`; else this throws;
 * - once the signal is aborted the request's connection is closed;
 * - nothing is tried again: what has been streamed stays as it was streamed.
 */
import { readConfig } from "@throughline/kit";
import OpenAI, { BadRequestError, UnprocessableEntityError } from "openai";
import { z } from "zod";
import { type Endpoint, Upstream } from "./upstream.ts";

const environment = z.object({
  OPENAI_BASE_URL: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe("the URL of a chat completions endpoint, such as http://127.0.0.1:11434/v1"),
  OPENAI_API_KEY: z.string().optional(),
  OPENAI_MODEL: z.string().default("gpt-4o-mini"),
  OPENAI_TIMEOUT_MS: z.coerce
    .number()
    .int()
    .min(1)
    .max(3_600_000)
    .default(60_000)
    .describe("the milliseconds, at most an hour, that the endpoint may send nothing"),
});

export interface ChatSettings extends Endpoint {
  readonly model: string;
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** The settings in the environment; undefined when it names neither an endpoint nor a key. Throws a ConfigError. */
export function chatSettings(env: Environment): ChatSettings | undefined {
  const { OPENAI_BASE_URL, OPENAI_API_KEY, OPENAI_MODEL, OPENAI_TIMEOUT_MS } = readConfig(environment, env);
  if (OPENAI_BASE_URL === undefined && OPENAI_API_KEY === undefined) return undefined;
  return {
    baseURL: OPENAI_BASE_URL ?? "https://api.openai.com/v1",
    apiKey: OPENAI_API_KEY,
    model: OPENAI_MODEL,
    timeoutMs: OPENAI_TIMEOUT_MS,
  };
}

/** What an endpoint says at once. */
export interface Delta {
  /** The completion's id, where the endpoint gives it one. */
  id?: string | undefined;
  text?: string;
  /** A piece of a reasoning model's thoughts. */
  thought?: string;
  /** With the last: why the answer ends, what it cost. */
  fields?: Record<string, unknown>;
}

/** What is read of a chunk; endpoints differ in everything else. */
const completionChunk = z.object({
  id: z.string().nullish(),
  model: z.string().nullish(),
  system_fingerprint: z.string().nullish(),
  /** vLLM's form of an error: `{object: "error", message}`. */
  object: z.string().nullish(),
  message: z.string().nullish(),
  choices: z
    .array(
      z.object({
        index: z.number().nullish(),
        finish_reason: z.string().nullish(),
        delta: z
          .object({
            content: z.string().nullish(),
            refusal: z.string().nullish(),
            /** The thoughts of a reasoning model: DeepSeek's and vLLM's name for them, then OpenRouter's. */
            reasoning_content: z.string().nullish(),
            reasoning: z.string().nullish(),
          })
          .nullish(),
      }),
    )
    .nullish(),
  usage: z
    .object({
      prompt_tokens: z.number().nullish(),
      completion_tokens: z.number().nullish(),
      total_tokens: z.number().nullish(),
      prompt_tokens_details: z.object({ cached_tokens: z.number().nullish() }).nullish(),
      completion_tokens_details: z.object({ reasoning_tokens: z.number().nullish() }).nullish(),
    })
    .nullish(),
});
type CompletionChunk = z.infer<typeof completionChunk>;

/** Finish reasons with which an endpoint says that it gave up: OpenRouter's, and DeepSeek's. */
const gaveUp: ReadonlySet<string> = new Set(["error", "insufficient_system_resource"]);

/**
 * Streams the answer to these messages; the last delta has its `fields`.
 *
 * @throws UpstreamError; the signal's reason once it is aborted
 */
export async function* complete(
  messages: CompletionMessages,
  settings: ChatSettings,
  signal: AbortSignal,
): AsyncGenerator<Delta, void, undefined> {
  const upstream = new Upstream(settings);
  let id: string | undefined;
  let finish: string | undefined;
  let usage: CompletionChunk["usage"];
  const about: Record<string, unknown> = { model_name: settings.model };

  try {
    for await (const raw of await ask(upstream, settings, messages, signal)) {
      const { data } = completionChunk.safeParse(raw);
      if (data === undefined) throw upstream.failed(`a chunk is not one: ${JSON.stringify(raw)}`);
      if (data.object === "error") throw upstream.failed(data.message ?? "no reason given");
      if (data.id) id ??= data.id;
      if (data.model) about.model_name = data.model;
      if (data.system_fingerprint) about.system_fingerprint = data.system_fingerprint;
      usage = data.usage ?? usage;

      const choice = data.choices?.find((each) => (each.index ?? 0) === 0);
      const thought = choice?.delta?.reasoning_content || choice?.delta?.reasoning;
      if (thought) yield { id, thought };
      const text = choice?.delta?.content || choice?.delta?.refusal;
      if (text) yield { id, text };
      if (choice?.finish_reason) finish = choice.finish_reason;
    }
  } catch (error) {
    signal.throwIfAborted();
    // After a finish_reason nothing but the usage is still to come.
    if (finish === undefined) throw upstream.explain(error);
  }
  // The SDK ends its stream without a word when the request is aborted, and when the connection closes.
  signal.throwIfAborted();
  if (finish === undefined && !upstream.done) throw upstream.incomplete();
  if (finish !== undefined && gaveUp.has(finish)) throw upstream.failed(`finish_reason ${finish}`);

  const fields = {
    response_metadata: { ...about, finish_reason: finish ?? null },
    ...(usage ? { usage_metadata: usageMetadata(usage) } : {}),
  };
  yield { id, fields };
}

export type CompletionMessages = OpenAI.ChatCompletionMessageParam[];

async function ask(
  upstream: Upstream,
  settings: ChatSettings,
  messages: CompletionMessages,
  signal: AbortSignal,
): Promise<AsyncIterable<unknown>> {
  const client = new OpenAI({
    baseURL: settings.baseURL,
    // Without a key the SDK would refuse to start, and with a made-up one the endpoint might.
    apiKey: settings.apiKey ?? "none",
    ...(settings.apiKey === undefined ? { defaultHeaders: { Authorization: null } } : {}),
    timeout: settings.timeoutMs,
    maxRetries: 0,
    fetch: upstream.fetch,
    logLevel: "off",
  });
  const body = { model: settings.model, messages, stream: true } as const;
  try {
    return await client.chat.completions.create(
      { ...body, stream_options: { include_usage: true } },
      { signal },
    );
  } catch (error) {
    // Some endpoints know no stream_options, and say so before anything was streamed.
    const refused = error instanceof BadRequestError || error instanceof UnprocessableEntityError;
    if (!refused || !/stream_options|include_usage/.test(upstream.explain(error).message)) throw error;
    return await client.chat.completions.create(body, { signal });
  }
}

/** LangChain's names for what OpenAI counts. */
function usageMetadata(usage: NonNullable<CompletionChunk["usage"]>): Record<string, unknown> {
  const input = usage.prompt_tokens ?? 0;
  const output = usage.completion_tokens ?? 0;
  const cached = usage.prompt_tokens_details?.cached_tokens;
  const reasoning = usage.completion_tokens_details?.reasoning_tokens;
  return {
    input_tokens: input,
    output_tokens: output,
    total_tokens: usage.total_tokens ?? input + output,
    ...(cached == null ? {} : { input_token_details: { cache_read: cached } }),
    ...(reasoning == null ? {} : { output_token_details: { reasoning } }),
  };
}
