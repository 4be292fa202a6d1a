/** Who a client is. AUTH=none: everybody on this machine is one principal. AUTH=jwt: whoever the token names. */
import type { Logger } from "@throughline/kit";
import { ProtocolError } from "@throughline/protocol";
import { createRemoteJWKSet, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";

export interface Principal {
  /** Runs and threads belong to this. */
  readonly id: string;
  /** When the token runs out, ms since 1970; undefined: never. */
  readonly expiresAt: number | undefined;
}

export interface Authenticator {
  /**
   * @throws ProtocolError: `unauthenticated`, with a reason of ours and nothing of the token's; `unavailable` where the
   * keys cannot be had now
   */
  authenticate(token: string | undefined): Promise<Principal>;
}

export interface JwtOptions {
  /** For HS256, HS384, HS512: at least 32 bytes. */
  secret?: string | undefined;
  /** Where the keys for RS*, PS*, ES*, EdDSA are. */
  jwksUrl?: string | undefined;
  issuer?: string | undefined;
  audience?: string | undefined;
  /** Tokens need an `exp`. @default true */
  requireExpiry?: boolean | undefined;
}

/** Everybody is the same. Only for a gateway that nobody but this machine can reach. */
export function openToAll(): Authenticator {
  const principal: Principal = { id: "local", expiresAt: undefined };
  return { authenticate: async () => principal };
}

/** How long the server of the keys may take, ms. */
const keysTimeoutMs = 5_000;
/** Keys are not fetched more often than this, whatever tokens name, ms. */
const keysCooldownMs = 1_000;
/** Keys that are older are fetched again, while they are used, ms. */
const keysFreshMs = 600_000;
/** The last moment that a `Date` knows, s since 1970. */
const maxTime = 8_640_000_000_000;
/** Characters of a `sub`, which becomes part of keys. */
const maxSubject = 256;

/** Tokens are JWTs; the principal is `sub`. */
export function jwtAuthenticator(options: JwtOptions, logger: Logger): Authenticator {
  const symmetric = options.secret === undefined ? undefined : new TextEncoder().encode(options.secret);
  const remote = options.jwksUrl === undefined ? undefined : remoteKeys(options.jwksUrl, logger);
  const claims = {
    ...(options.issuer === undefined ? {} : { issuer: options.issuer }),
    ...(options.audience === undefined ? {} : { audience: options.audience }),
  };
  const verify = async (token: string): Promise<JWTPayload> => {
    // The algorithms follow from the key, never from the token.
    const { payload } =
      symmetric === undefined
        ? await jwtVerify(token, remote as JWTVerifyGetKey, { ...claims, algorithms: asymmetric })
        : await jwtVerify(token, symmetric, { ...claims, algorithms: ["HS256", "HS384", "HS512"] });
    return payload;
  };
  return {
    async authenticate(token) {
      if (token === undefined) throw refused("a token is needed, and none came");
      let payload: JWTPayload;
      try {
        payload = await verify(token);
      } catch (error) {
        throw error instanceof ProtocolError ? error : refused(reasonOf(error));
      }
      const { sub, exp } = payload;
      if (typeof sub !== "string" || sub === "") throw refused("the token names nobody: it has no `sub`");
      if (sub.length > maxSubject || /[\p{Cc}\p{Cs}]/u.test(sub)) {
        throw refused(`the token's \`sub\` has control characters, or more than ${maxSubject} characters`);
      }
      if (exp === undefined && options.requireExpiry !== false) throw refused("the token has no `exp`");
      if (exp !== undefined && Math.abs(exp) > maxTime) throw refused("the token's `exp` is no time");
      return { id: sub, expiresAt: exp === undefined ? undefined : exp * 1000 };
    },
  };
}

function refused(reason: string): ProtocolError {
  return new ProtocolError("unauthenticated", reason);
}

/** What is wrong with a token, in words of ours: an error of the library may quote what the client wrote. */
function reasonOf(error: unknown): string {
  if (error instanceof errors.JWTExpired) return "the token has expired";
  if (error instanceof errors.JWTClaimValidationFailed) {
    const about: Record<string, string> = {
      iss: "the token is from another issuer",
      aud: "the token is for another audience",
      nbf: "the token is not valid yet",
    };
    return about[error.claim] ?? "a claim of the token is not what it must be";
  }
  if (error instanceof errors.JWSSignatureVerificationFailed) return "the token's signature is not right";
  if (error instanceof errors.JWKSNoMatchingKey) return "the token is signed with a key that is not known";
  if (error instanceof errors.JOSEAlgNotAllowed) return "the token's algorithm is not allowed";
  return "the token is no JWT that can be checked";
}

/**
 * The keys at a URL. Where they cannot be had, a token is neither good nor bad: that is `unavailable`, with one warning
 * until they are there again; and keys that are known go on being used.
 */
function remoteKeys(url: string, logger: Logger): JWTVerifyGetKey {
  const keys = createRemoteJWKSet(new URL(url), {
    timeoutDuration: keysTimeoutMs,
    cooldownDuration: keysCooldownMs,
    cacheMaxAge: Number.POSITIVE_INFINITY,
  });
  let failedAt = Number.NEGATIVE_INFINITY;
  let fetchedAt = Number.NEGATIVE_INFINITY;
  let isDown = false;
  const failed = (error: unknown) => {
    failedAt = performance.now();
    if (!isDown) logger.warn({ err: error, url }, "the keys for tokens cannot be fetched");
    isDown = true;
  };
  const fetched = () => {
    fetchedAt = performance.now();
    if (isDown) logger.info({ url }, "the keys for tokens can be fetched again");
    isDown = false;
  };
  /** Fetches them, for all who wait at once; not again at once where that failed. */
  const reload = async () => {
    if (performance.now() - failedAt < keysCooldownMs) throw outOfReach();
    try {
      await keys.reload();
      fetched();
    } catch (error) {
      failed(error);
      throw outOfReach();
    }
  };
  return async (header, token) => {
    if (keys.jwks() === undefined) await reload();
    else if (performance.now() - fetchedAt > keysFreshMs) void reload().catch(() => {});
    try {
      return await keys(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) {
        if (error instanceof errors.JWKSMultipleMatchingKeys) throw error;
        failed(error);
        throw outOfReach();
      }
      if (!keys.coolingDown) throw error;
      // Rotated since they were fetched, a moment ago.
      await new Promise((resolve) => setTimeout(resolve, keysCooldownMs));
      await reload();
      return await keys(header, token);
    }
  };
}

function outOfReach(): ProtocolError {
  return new ProtocolError("unavailable", "the keys for tokens are out of reach");
}

const asymmetric = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];
