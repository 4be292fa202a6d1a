import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Dispatcher, defaultQueue } from "@throughline/dispatch";
import { exportJWK, generateKeyPair, type JWK, type JWTPayload, SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { RefusedError, TestClient, type TestClientOptions } from "../../../test/support/client.ts";
import { type Line, startLine } from "../../../test/support/line.ts";
import { ScriptedRun } from "../../../test/support/run.ts";
import { patienceMs, until, within } from "../../../test/support/until.ts";
import { gatewayConfig } from "./config.ts";

const secret = "a secret that is long enough for HS256";
const key = new TextEncoder().encode(secret);

async function sign(claims: JWTPayload, expiresIn = "1h", signedWith: Uint8Array = key): Promise<string> {
  return await new SignJWT(claims)
    .setProtectedHeader({ alg: "HS256" })
    .setIssuedAt()
    .setExpirationTime(expiresIn)
    .sign(signedWith);
}

let line: Line;
const open = (options: TestClientOptions = {}, gateway = 0) => line.client(gateway, options);
const bearer = (token: string): TestClientOptions => ({ headers: { authorization: `Bearer ${token}` } });

async function refused(options: TestClientOptions, gateway = 0): Promise<number> {
  try {
    await open(options, gateway);
  } catch (error) {
    if (error instanceof RefusedError) return error.code;
    throw error;
  }
  throw new Error("the gateway let it in");
}

beforeAll(async () => {
  line = await startLine({
    workers: 0,
    env: { AUTH: "jwt", JWT_SECRET: secret, JWT_ISSUER: "us", JWT_AUDIENCE: "them" },
  });
});
afterAll(() => line.stop());

const alice = { sub: "alice", iss: "us", aud: "them" };
const bob = { ...alice, sub: "bob" };

describe("a token", () => {
  test("travels in a header, as a subprotocol, or in the URL", async () => {
    const token = await sign(alice);
    const { url } = line.gateways[0]!;
    const clients = [
      await open(bearer(token)),
      await open({ protocols: ["throughline.v1", `throughline.bearer.${token}`] }),
      await open({ protocols: [`throughline.bearer.${token}`] }),
      await TestClient.open(`${url}?token=${token}`),
    ];
    for (const client of clients) expect(await client.call("server.ping", {})).toEqual({});
    expect(clients[1]!.ws.protocol).toBe("throughline.v1");
    clients[3]!.drop();
  });

  test.each<[string, () => Promise<string>]>([
    ["signed with another secret", () => sign(alice, "1h", new TextEncoder().encode("x".repeat(40)))],
    ["that has expired", () => sign(alice, "-1s")],
    ["from another issuer", () => sign({ ...alice, iss: "others" })],
    ["for another audience", () => sign({ ...alice, aud: "others" })],
    ["that names nobody", () => sign({ iss: "us", aud: "them" })],
    ["that is none", async () => "nonsense"],
    ["without a signature", async () => unsigned(alice)],
  ])("%s is refused with 4401", async (_, make) => {
    expect(await refused(bearer(await make()))).toBe(4401);
  });

  test("that is missing is refused with 4401", async () => {
    expect(await refused({})).toBe(4401);
    expect(await refused({ headers: { authorization: "Basic Zm9vOmJhcg==" } })).toBe(4401);
  });
});

function unsigned(claims: JWTPayload): string {
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${encode({ alg: "none" })}.${encode(claims)}.`;
}

describe("two owners", () => {
  test("never see each other's runs and threads", async () => {
    const run = await ScriptedRun.open(line.redis, line.prefix, "alices", "alice");
    await run.append([{ type: "custom", ns: [], data: 1 }]);
    const [hers, his] = [await open(bearer(await sign(alice))), await open(bearer(await sign(bob)))];
    expect((await hers.call("run.get", { runId: run.runId })).head).toBe(1);
    await until(async () => (await hers.follow(run.runId)).last === 1);
    const { runId } = run;
    for (const [method, params] of [
      ["run.get", { runId }],
      ["run.subscribe", { runId }],
      ["run.cancel", { runId }],
    ] as const) {
      const refusal = await his.refusal(method, params);
      const unknown = await his.refusal(method, { runId: "nobody's" });
      expect(refusal.code).toBe("no_such_run");
      // Not even the words differ.
      expect(refusal.message.replace(runId, "")).toBe(unknown.message.replace("nobody's", ""));
    }
    expect((await hers.call("run.get", { runId })).runId).toBe(runId);
    const dispatcher = new Dispatcher(line.redis, { prefix: line.prefix });
    const start = { agent: "a", threadId: "alices-thread", request: { queue: defaultQueue } };
    await dispatcher.start({ ...start, owner: "alice" });
    expect((await hers.call("run.list", { threadId: "alices-thread" })).runs).toHaveLength(1);
    for (const [method, params] of [
      ["thread.get", {}],
      ["thread.history", {}],
      ["thread.update", { values: { a: 1 } }],
      ["run.list", {}],
    ] as const) {
      const refusal = await his.refusal(method, { threadId: "alices-thread", ...params });
      expect(refusal.code).toBe("no_such_thread");
    }
    expect(await his.call("run.list", {})).toEqual({ runs: [] });
    const mine = await dispatcher.start({ ...start, owner: "bob", multitaskStrategy: "reject" });
    const { runs } = await his.call("run.list", { threadId: "alices-thread" });
    expect(runs).toMatchObject([{ runId: mine.runId, threadId: "alices-thread" }]);
    await dispatcher.close();
  });
});

describe("auth.refresh", () => {
  test("takes a new token of the same principal, and no other's", async () => {
    const client = await open(bearer(await sign(alice)));
    const { expiresAt } = await client.call("auth.refresh", { token: await sign(alice, "2h") });
    expect(Date.parse(expiresAt!)).toBeGreaterThan(Date.now() + 3_600_000);
    expect(await client.refusal("auth.refresh", { token: await sign(bob) })).toMatchObject({
      code: "permission_denied",
    });
    expect(await client.refusal("auth.refresh", { token: "nonsense" })).toMatchObject({
      code: "unauthenticated",
    });
    expect(await client.call("server.ping", {})).toEqual({});
  });

  test("P7: a socket whose token ran out is closed with 4401, unless it was refreshed in time", async () => {
    const gateway = await line.addGateway({ HEARTBEAT_MS: "100" });
    const index = line.gateways.indexOf(gateway);
    const soon = Math.floor(Date.now() / 1000) + 600;
    const [goes, stays] = [
      await open(bearer(await sign(alice)), index),
      await open(bearer(await sign(alice)), index),
    ];
    const short = await new SignJWT(alice)
      .setProtectedHeader({ alg: "HS256" })
      .setExpirationTime(soon)
      .sign(key);
    for (const client of [goes, stays]) await client.call("auth.refresh", { token: short });
    await stays.call("auth.refresh", { token: await sign(alice) });
    vi.spyOn(Date, "now").mockReturnValue((soon + 60) * 1000);
    const { code } = await within(goes.closed, patienceMs, "the close");
    expect(code).toBe(4401);
    vi.restoreAllMocks();
    expect(await stays.call("server.ping", {})).toEqual({});
  });
});

describe("JWKS", () => {
  let server: Server;
  const keys: JWK[] = [];
  let asked = 0;

  beforeAll(async () => {
    server = createServer((_, response) => {
      asked++;
      response.setHeader("content-type", "application/json").end(JSON.stringify({ keys }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  });
  afterAll(() => server.close());

  test("keys are fetched once, and only asymmetric algorithms are taken", async () => {
    const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
    const other = await generateKeyPair("ES256");
    keys.push({ ...(await exportJWK(publicKey)), kid: "one", alg: "ES256" });
    const { port } = server.address() as AddressInfo;
    const jwks = await startLine({
      workers: 0,
      env: { AUTH: "jwt", JWT_JWKS_URL: `http://127.0.0.1:${port}/keys` },
    });
    const enter = (token: string) => jwks.client(0, bearer(token));
    const make = (signedWith: CryptoKey, kid: string) =>
      new SignJWT({ sub: "alice" })
        .setProtectedHeader({ alg: "ES256", kid })
        .setExpirationTime("1h")
        .sign(signedWith);
    try {
      for (let i = 0; i < 3; i++) {
        expect(await (await enter(await make(privateKey, "one"))).call("server.ping", {})).toEqual({});
      }
      expect(asked).toBe(1);
      await expect(enter(await make(other.privateKey, "one"))).rejects.toMatchObject({ code: 4401 });
      await expect(enter(await make(other.privateKey, "two"))).rejects.toMatchObject({ code: 4401 });
      // The public key, used as if it were a shared secret.
      const confused = await sign({ sub: "alice" }, "1h", new TextEncoder().encode(JSON.stringify(keys[0])));
      await expect(enter(confused)).rejects.toMatchObject({ code: 4401 });
    } finally {
      await jwks.stop();
    }
  });
});

describe("settings", () => {
  test.each([
    [{ HOST: "0.0.0.0" }, /AUTH.*none lets everybody in/],
    [{ HOST: "::" }, /AUTH/],
    [{ HOST: "192.168.1.1" }, /AUTH/],
    [{ HOST: "example.com" }, /AUTH/],
    [{ AUTH: "jwt" }, /JWT_SECRET/],
    [{ AUTH: "jwt", JWT_SECRET: "short" }, /32 bytes/],
    [{ AUTH: "jwt", JWT_SECRET: secret, JWT_JWKS_URL: "http://x/" }, /one of/],
    [{ AUTH: "maybe" }, /AUTH/],
    [{ PORT: "70000" }, /PORT/],
    [{ LOW_WATER_BYTES: "2000000" }, /LOW_WATER_BYTES/],
  ])("%j is refused", (env, message) => {
    expect(() => gatewayConfig(env)).toThrow(message);
  });

  test.each([{ HOST: "127.0.0.1" }, { HOST: "localhost" }, { HOST: "::1" }, { HOST: "127.8.9.1" }])(
    "AUTH=none is for this machine: %j",
    (env) => {
      expect(gatewayConfig(env).AUTH).toBe("none");
    },
  );
});

describe("origins", () => {
  const from = (origin: string): TestClientOptions => ({ headers: { origin } });

  test("with AUTH=none only this machine's pages get in", async () => {
    const own = await line.addGateway({ AUTH: "none", JWT_SECRET: "" });
    const index = line.gateways.indexOf(own);
    for (const origin of ["http://localhost:5173", "http://127.0.0.1", "https://[::1]:8443"]) {
      await open(from(origin), index);
    }
    await open({}, index);
    for (const origin of [
      "https://evil.example",
      "http://localhost.evil.example",
      "http://127.0.0.1.evil.example",
      "null",
      "file://",
    ]) {
      expect(await refused(from(origin), index)).toBe(4403);
    }
  });

  test("ALLOWED_ORIGINS says which, with tokens as without", async () => {
    const own = await line.addGateway({ ALLOWED_ORIGINS: "https://a.example, https://b.example" });
    const index = line.gateways.indexOf(own);
    const token = await sign(alice);
    const with_ = (origin: string) => ({ headers: { origin, authorization: `Bearer ${token}` } });
    await open(with_("https://a.example"), index);
    await open(with_("https://b.example"), index);
    expect(await refused(with_("https://c.example"), index)).toBe(4403);
    expect(await refused(with_("http://a.example"), index)).toBe(4403);
  });

  test("with tokens, and nothing said, every page that has one gets in", async () => {
    const authorization = `Bearer ${await sign(alice)}`;
    await open({ headers: { origin: "https://anywhere.example", authorization } });
  });
});
