/** The gateway's settings, from the environment. */
import { isIP } from "node:net";
import { readConfig, redisUrl } from "@throughline/kit";
import { z } from "zod";

const count = z.coerce.number().int().positive();
/** Node's timers hold no more. */
const maxMs = 2_147_483_647;
const ms = z.coerce
  .number()
  .int()
  .positive()
  .max(maxMs, `${maxMs} at most: Node's timers hold no more`)
  .describe(`milliseconds, from 1 to ${maxMs}`);
const text = z.string().min(1).optional();

const schema = z
  .object({
    /** The address to listen on. @default "127.0.0.1" */
    HOST: z.string().default("127.0.0.1"),
    /** 0: any that is free. @default 8787 */
    PORT: z.coerce
      .number()
      .int()
      .min(0)
      .max(65_535)
      .default(8787)
      .describe("a port, from 1 to 65535, or 0 for any that is free"),
    /** @default "redis://127.0.0.1:6379" */
    REDIS_URL: redisUrl.default("redis://127.0.0.1:6379"),
    /** Of every key in Redis. @default "tl" */
    KEY_PREFIX: z
      .string()
      .regex(/^[A-Za-z0-9_.-]+$/, "letters, digits, _ . - only")
      .default("tl"),
    /** `none`: everybody is one principal. @default "none" */
    AUTH: z.enum(["none", "jwt"]).default("none"),
    JWT_SECRET: z.string().min(32, "an HS256 secret has at least 32 bytes").optional(),
    JWT_JWKS_URL: z.url().optional(),
    JWT_ISSUER: text,
    JWT_AUDIENCE: text,
    /** Whether tokens need an `exp`. @default true */
    JWT_REQUIRE_EXP: z.stringbool().default(true),
    /** Comma-separated; `*` allows all. @default this machine's own pages with AUTH=none, else all */
    ALLOWED_ORIGINS: z
      .string()
      .min(1)
      .transform((list, ctx) =>
        list.split(",").map((each) => {
          const origin = each.trim();
          if (origin === "*") return origin;
          const normal = normalOrigin(origin);
          if (normal !== undefined) return normal;
          ctx.addIssue({
            code: "custom",
            message: `${JSON.stringify(origin)} is no origin: those are like https://app.example, or *`,
          });
          return z.NEVER;
        }),
      )
      .optional(),
    /** How many proxies stand before the gateway: see `addressOf`. @default 0 */
    TRUST_PROXY: z.coerce
      .number()
      .int()
      .min(0)
      .max(10)
      .default(0)
      .describe("how many proxies stand before the gateway, from 0 to 10"),
    /** Sockets at once. @default 100_000 */
    MAX_SOCKETS: count.default(100_000),
    /** @default 1_000 */
    MAX_SOCKETS_PER_ADDRESS: count.default(1_000),
    /** Between two pings of a socket. @default 25_000 */
    HEARTBEAT_MS: ms.default(25_000),
    /** Of a frame from a client. @default 1_048_576 */
    MAX_FRAME_BYTES: count.default(1_048_576),
    /** Of one socket. @default 1_000 */
    MAX_SUBSCRIPTIONS: count.default(1_000),
    /** Bytes that a socket may hold unsent before its subscriptions read at its own pace. @default 1_048_576 */
    HIGH_WATER_BYTES: count.default(1_048_576),
    /** Unsent bytes below which a socket gets more. Below HIGH_WATER_BYTES. @default 262_144 */
    LOW_WATER_BYTES: count.default(262_144),
    /** How long a socket may take nothing before it is closed with 4408. @default 300_000 */
    SLOW_SOCKET_MS: ms.default(300_000),
    /** Of one socket. @default 200 */
    COMMANDS_PER_SECOND: count.default(200),
    /** Bytes of commands of one socket. @default 4_194_304 */
    BYTES_PER_SECOND: count.default(4_194_304),
    /** Runs in one thread's line. @default 1_000 */
    MAX_RUNS_IN_LINE: count.default(1_000),
    /** Runs of one owner that have not ended. @default 50 with AUTH=jwt; with AUTH=none, where all are one, no bound */
    MAX_RUNS_PER_OWNER: count.optional(),
    /** Bytes stored of one owner's runs and updates. @default 500_000_000 with AUTH=jwt; with AUTH=none no bound */
    MAX_STORED_BYTES_PER_OWNER: count.optional(),
    /** New sockets. @default 5_000 */
    CONNECTIONS_PER_SECOND: count.default(5_000),
    /** How long runs are kept after their end, s; a day at least, for that long an idempotency key holds. @default 604_800 */
    RUN_TTL_S: z.coerce.number().int().min(86_400, "a day (86400) at least").default(604_800),
    /** How long runs are kept while nothing happens, s. @default 604_800 */
    RUN_IDLE_TTL_S: z.coerce.number().int().min(86_400, "a day (86400) at least").default(604_800),
    /** How long nobody may read a run that was started with onDisconnect "cancel", before it is cancelled. @default 2_500 */
    DISCONNECT_GRACE_MS: ms.default(2_500),
    /** Within which clients are told to leave when the gateway stops. @default 3_000 */
    DRAIN_MS: z.coerce
      .number()
      .int()
      .nonnegative()
      .max(7_000, "7000 at most: the process exits after 10 s")
      .default(3_000),
  })
  .superRefine((env, ctx) => {
    const issue = (path: string, message: string) => ctx.addIssue({ code: "custom", path: [path], message });
    if (env.AUTH === "none" && !isLoopback(env.HOST)) {
      issue(
        "AUTH",
        `none lets everybody in, and HOST=${env.HOST} can be reached from elsewhere: set AUTH=jwt, or HOST=127.0.0.1`,
      );
    }
    if (env.AUTH === "jwt" && (env.JWT_SECRET === undefined) === (env.JWT_JWKS_URL === undefined)) {
      issue("AUTH", "jwt needs one of JWT_SECRET and JWT_JWKS_URL");
    }
    if (env.LOW_WATER_BYTES >= env.HIGH_WATER_BYTES)
      issue("LOW_WATER_BYTES", "must be below HIGH_WATER_BYTES");
  })
  .transform((env) => {
    if (env.AUTH === "none") return env;
    const { MAX_RUNS_PER_OWNER = 50, MAX_STORED_BYTES_PER_OWNER = 500_000_000 } = env;
    return { ...env, MAX_RUNS_PER_OWNER, MAX_STORED_BYTES_PER_OWNER };
  });

export type GatewayEnv = z.infer<typeof schema>;

/** @throws ConfigError that says which variable is wrong, and what would be right */
export function gatewayConfig(env: NodeJS.ProcessEnv = process.env): GatewayEnv {
  return readConfig(schema, env);
}

/** An origin as browsers write it: in lower case, without the port that its scheme has anyway. undefined: it is none. */
export function normalOrigin(text: string): string | undefined {
  if (!/^[a-z][a-z0-9+.-]*:\/\/[^/?#]+\/?$/i.test(text) || !URL.canParse(text)) return undefined;
  const { origin, protocol, host } = new URL(text);
  // Of schemes that it does not know, a URL's origin is "null".
  return origin === "null" ? `${protocol}//${host}`.toLowerCase() : origin;
}

/** What an operator should know of settings that work, and may not be meant. */
export function warningsOf(env: GatewayEnv): string[] {
  if (env.AUTH !== "jwt") {
    return (["JWT_SECRET", "JWT_JWKS_URL"] as const)
      .filter((name) => env[name] !== undefined)
      .map((name) => `${name} is set but not used, for AUTH is ${env.AUTH}: set AUTH=jwt to ask for tokens`);
  }
  const warnings: string[] = [];
  if (env.JWT_JWKS_URL !== undefined) {
    for (const name of ["JWT_ISSUER", "JWT_AUDIENCE"] as const) {
      if (env[name] === undefined) {
        warnings.push(`${name} is not set: tokens that these keys signed for others are good here as well`);
      }
    }
  }
  if (!env.JWT_REQUIRE_EXP) warnings.push("JWT_REQUIRE_EXP is off: a token without `exp` is good for ever");
  return warnings;
}

/** Whether only this machine can reach a server that listens on `host`. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, "");
  if (bare === "localhost") return true;
  if (isIP(bare) === 4) return bare.startsWith("127.");
  return bare === "::1";
}
