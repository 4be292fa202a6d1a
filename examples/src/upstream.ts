/**
 * The connection to a model endpoint: what the SDK leaves open.
 *
 * The SDK's timeout ends with the response's headers, it takes a connection that closed early for the end of the
 * answer, hides whether `[DONE]` came, reads on after it, and drops error bodies that are not OpenAI's.
 */
import { PublicError } from "@throughline/worker";
import { APIConnectionError, APIConnectionTimeoutError, APIError } from "openai";

/** What became of a request to a model. `code` says which kind; the message what to do about it. */
export class UpstreamError extends PublicError {
  override readonly name = "UpstreamError";
  declare readonly code: UpstreamErrorCode;
  /** The HTTP status, where there was one. */
  readonly status: number | undefined;
  /** When the endpoint said so: after how many seconds to try again. */
  readonly retryAfter: number | undefined;

  constructor(code: UpstreamErrorCode, message: string, more: UpstreamErrorDetails = {}) {
    super(message, { code, ...(more.cause === undefined ? {} : { cause: more.cause }) });
    this.status = more.status;
    this.retryAfter = more.retryAfter;
  }
}

export type UpstreamErrorCode =
  /** 401, 403 */
  | "upstream_unauthorized"
  /** 429 */
  | "upstream_rate_limited"
  /** another 4xx */
  | "upstream_refused"
  /** 5xx, or no connection */
  | "upstream_unavailable"
  /** no bytes for the timeout */
  | "upstream_stalled"
  /** the answer stopped before its end */
  | "upstream_incomplete"
  /** an error, or no JSON, in the middle of the answer */
  | "upstream_failed";

interface UpstreamErrorDetails {
  status?: number;
  retryAfter?: number | undefined;
  cause?: unknown;
}

export interface Endpoint {
  readonly baseURL: string;
  readonly apiKey: string | undefined;
  readonly timeoutMs: number;
}

/** One request's connection, and what was seen on it. */
export class Upstream {
  readonly #endpoint: Endpoint;
  /** Whether the stream said that it is over. */
  done = false;
  contentType = "";
  #errorBody: string | undefined;

  constructor(endpoint: Endpoint) {
    this.#endpoint = endpoint;
  }

  /** `fetch` for the SDK. Its body fails after `timeoutMs` in which the reader waited and no byte came. */
  readonly fetch: typeof globalThis.fetch = async (input, init) => {
    const response = await fetch(input, init);
    this.contentType = response.headers.get("content-type") ?? "";
    if (response.body === null) return response;
    const { status, statusText, headers } = response;
    const body = this.#watched(response.body);
    if (response.ok) return new Response(body, { status, statusText, headers });
    this.#errorBody = await new Response(body).text();
    return new Response(this.#errorBody, { status, statusText, headers });
  };

  #watched(body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
    const { timeoutMs } = this.#endpoint;
    const reader = body.getReader();
    // A line begins after a line break: one stands before the first.
    let tail = "\n";
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          let stalled = false;
          // Runs only while somebody waits for bytes: a slow reader is not a stalled endpoint.
          const timer = setTimeout(() => {
            stalled = true;
            const error = this.stalled();
            controller.error(error);
            reader.cancel(error).catch(ignored);
          }, timeoutMs);
          try {
            const { done, value } = await reader.read();
            if (stalled) return;
            if (done) return controller.close();
            controller.enqueue(value);
            const text =
              tail + Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("latin1");
            if (doneLine.test(text)) {
              this.done = true;
              controller.close();
              reader.cancel().catch(ignored);
            }
            tail = text.slice(-doneLength);
          } catch (error) {
            if (!stalled) throw error;
          } finally {
            clearTimeout(timer);
          }
        },
        cancel: (reason) => reader.cancel(reason),
      },
      { highWaterMark: 0 },
    );
  }

  stalled(): UpstreamError {
    const seconds = this.#endpoint.timeoutMs / 1000;
    return new UpstreamError("upstream_stalled", `${this.#where} sent nothing for ${seconds} s`);
  }

  incomplete(cause?: unknown): UpstreamError {
    const how =
      cause === undefined
        ? `ended the stream without a finish_reason or [DONE]${this.#notAStream}`
        : `broke the connection (${reasonOf(cause)})`;
    const message = `${this.#where} ${how} in the middle of the answer`;
    return new UpstreamError("upstream_incomplete", message, { cause });
  }

  failed(what: string, cause?: unknown): UpstreamError {
    const message = `${this.#where} reported an error in the middle of the answer: ${this.#quote(what)}`;
    return new UpstreamError("upstream_failed", message, { cause });
  }

  /** What an error that the SDK or the connection threw means. */
  explain(error: unknown): Error {
    if (error instanceof UpstreamError) return error;
    if (error instanceof APIConnectionTimeoutError) return this.stalled();
    if (error instanceof APIConnectionError) {
      const cause = error.cause instanceof UpstreamError ? error.cause : undefined;
      const message = `${this.#where} cannot be reached: ${reasonOf(error)}`;
      return cause ?? new UpstreamError("upstream_unavailable", message, { cause: error });
    }
    if (error instanceof APIError) {
      return error.status === undefined
        ? this.failed(error.message, error)
        : this.#refused(error, error.status);
    }
    if (error instanceof SyntaxError) return this.failed("a chunk is not JSON", error);
    return this.incomplete(error);
  }

  #refused(error: APIError, status: number): UpstreamError {
    const said = this.#quote(messageIn(this.#errorBody) ?? error.message);
    const retryAfter = secondsIn(error.headers?.get("retry-after"));
    const details = { status, retryAfter, cause: error };
    const answer = `${this.#where} answered ${status}: ${said}`;
    if (status === 401 || status === 403) {
      return new UpstreamError("upstream_unauthorized", `${answer} (check OPENAI_API_KEY)`, details);
    }
    if (status === 404) {
      const hint = "check OPENAI_MODEL and OPENAI_BASE_URL";
      return new UpstreamError("upstream_refused", `${answer} (${hint})`, details);
    }
    if (status === 429) {
      const hint = retryAfter === undefined ? "" : ` (try again in ${retryAfter} s)`;
      return new UpstreamError("upstream_rate_limited", `${answer}${hint}`, details);
    }
    return new UpstreamError(status >= 500 ? "upstream_unavailable" : "upstream_refused", answer, details);
  }

  get #where(): string {
    return `the model endpoint ${this.#endpoint.baseURL}`;
  }

  get #notAStream(): string {
    return this.contentType.startsWith("text/event-stream")
      ? ""
      : ` (its content type: ${this.contentType || "none"})`;
  }

  /** Some endpoints repeat the key that they refuse; an error is stored and shown. */
  #quote(said: string): string {
    const { apiKey } = this.#endpoint;
    const safe = apiKey === undefined ? said : said.replaceAll(apiKey, "…");
    return safe.length > 500 ? `${safe.slice(0, 500)}…` : safe;
  }
}

const doneLine = /[\r\n]data: ?\[DONE\]/;
const doneLength = "\ndata: [DONE]".length;

/** A body that is being given up may fail once more; what it was given up for is what is told. */
function ignored(): void {}

/** The innermost error is the one that says something: `fetch failed` ← `connect ECONNREFUSED …`. */
function reasonOf(error: unknown): string {
  let reason = error;
  while (reason instanceof Error && reason.cause !== undefined) reason = reason.cause;
  if (!(reason instanceof Error)) return String(reason);
  const code = "code" in reason && typeof reason.code === "string" ? reason.code : undefined;
  return reason.message || code || reason.name;
}

/** `{error: {message}}`, `{error: "…"}`, `{message}`, `{detail}`; else the body as it is. */
function messageIn(body: string | undefined): string | undefined {
  if (body === undefined || body.trim() === "") return undefined;
  try {
    const parsed: unknown = JSON.parse(body);
    const said =
      field(field(parsed, "error"), "message") ?? field(parsed, "error") ?? field(parsed, "message");
    const found = said ?? field(parsed, "detail") ?? parsed;
    return typeof found === "string" ? found : JSON.stringify(found);
  } catch {
    return body.trim();
  }
}

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** Retry-After: seconds, or a date. */
function secondsIn(header: string | null | undefined): number | undefined {
  if (!header) return undefined;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, Math.ceil(seconds));
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, Math.ceil((date - Date.now()) / 1000));
}
