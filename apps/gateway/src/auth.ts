/** Who a client is. AUTH=none: everybody on this machine is one principal. AUTH=jwt: whoever the token names. */
import { ProtocolError } from "@throughline/protocol";
import { createRemoteJWKSet, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";

export interface Principal {
  /** Runs and threads belong to this. */
  readonly id: string;
  /** When the token runs out, ms since 1970; undefined: never. */
  readonly expiresAt: number | undefined;
}

export interface Authenticator {
  /** @throws ProtocolError unauthenticated, with the reason */
  authenticate(token: string | undefined): Promise<Principal>;
}

export interface JwtOptions {
  /** For HS256, HS384, HS512: at least 32 bytes. */
  secret?: string | undefined;
  /** Where the keys for RS*, PS*, ES*, EdDSA are. */
  jwksUrl?: string | undefined;
  issuer?: string | undefined;
  audience?: string | undefined;
}

/** Everybody is the same. Only for a gateway that nobody but this machine can reach. */
export function openToAll(): Authenticator {
  const principal: Principal = { id: "local", expiresAt: undefined };
  return { authenticate: async () => principal };
}

/** Tokens are JWTs; the principal is `sub`. */
export function jwtAuthenticator(options: JwtOptions): Authenticator {
  const symmetric = options.secret === undefined ? undefined : new TextEncoder().encode(options.secret);
  const remote: JWTVerifyGetKey | undefined =
    options.jwksUrl === undefined ? undefined : createRemoteJWKSet(new URL(options.jwksUrl));
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
      if (token === undefined) throw new ProtocolError("unauthenticated", "a token is needed, and none came");
      let payload: JWTPayload;
      try {
        payload = await verify(token);
      } catch (error) {
        throw new ProtocolError("unauthenticated", `the token is no good: ${(error as Error).message}`);
      }
      if (typeof payload.sub !== "string" || payload.sub === "") {
        throw new ProtocolError("unauthenticated", "the token names nobody: it has no `sub`");
      }
      return { id: payload.sub, expiresAt: payload.exp === undefined ? undefined : payload.exp * 1000 };
    },
  };
}

const asymmetric = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];
