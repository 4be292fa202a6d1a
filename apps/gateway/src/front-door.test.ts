/** Whoever can reach the port: what they send costs them their socket, and nobody else anything. */
import { connect, type Socket } from "node:net";
import { SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RefusedError, type TestClientOptions } from "../../../test/support/client.ts";
import { type Line, startLine } from "../../../test/support/line.ts";
import { patienceMs, until, within } from "../../../test/support/until.ts";
import { addressOf } from "./addresses.ts";
import { gatewayConfig, normalOrigin, warningsOf } from "./config.ts";

const secret = "a secret that is long enough for HS256";
let line: Line;
beforeAll(async () => {
  line = await startLine({ workers: 0, env: { AUTH: "jwt", JWT_SECRET: secret } });
});
afterAll(() => line.stop());

const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
const sign = (claims: object, header: object = {}) =>
  new SignJWT(claims as never)
    .setProtectedHeader({ alg: "HS256", ...header })
    .sign(new TextEncoder().encode(secret));
const soon = () => Math.floor(Date.now() / 1000) + 600;
const bearer = (token: string, more: TestClientOptions = {}): TestClientOptions => ({
  ...more,
  headers: { authorization: `Bearer ${token}`, ...more.headers },
});

async function refusal(options: TestClientOptions, gateway = 0): Promise<{ code: number; message: string }> {
  const error = await line.client(gateway, options).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof RefusedError) return { code: error.code, message: error.message };
  throw new Error("the gateway let it in", { cause: error });
}

/** A socket that is no WebSocket client: what it wrote, what it got, and when it was gone. */
function raw(text: string, gateway = 0) {
  const socket: Socket = connect(line.gateways[gateway]!.port, "127.0.0.1");
  let got = "";
  socket.setEncoding("latin1").on("data", (data) => {
    got += data;
  });
  socket.on("error", () => {});
  socket.write(text);
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  return { socket, closed, got: () => got };
}

const upgrade = (path: string, ...headers: string[]) =>
  [
    `GET ${path} HTTP/1.1`,
    "Host: gateway",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ...headers,
    "",
    "",
  ].join("\r\n");

describe("a token", () => {
  test.each<[string, () => Promise<string> | string, RegExp]>([
    [
      "whose header says what no close frame can hold",
      () => `${encode({ alg: "HS256", crit: Array(100).fill("あ") })}.${encode({ sub: "a" })}.AAAA`,
      /no JWT that can be checked/,
    ],
    ["that has expired", () => sign({ sub: "a", exp: soon() - 3_600 }), /has expired/],
    ["without exp", () => sign({ sub: "a" }), /no `exp`/],
    ["whose exp no clock reaches", () => sign({ sub: "a", exp: 1e300 }), /`exp` is no time/],
    ["that is not valid yet", () => sign({ sub: "a", exp: soon(), nbf: soon() }), /not valid yet/],
    ["whose sub has a newline", () => sign({ sub: "a\nb", exp: soon() }), /control characters/],
    ["whose sub is long", () => sign({ sub: "a".repeat(257), exp: soon() }), /more than 256/],
    ["with another signature", async () => `${(await sign({ sub: "a" })).slice(0, -4)}AAAA`, /signature/],
    ["of another algorithm", () => `${encode({ alg: "none" })}.${encode({ sub: "a" })}.`, /token/],
  ])("%s is refused with 4401, and the reason", async (_, make, reason) => {
    const { code, message } = await refusal(bearer(await make()));
    expect(code).toBe(4401);
    expect(message).toMatch(reason);
  });

  test("that is missing is told so", async () => {
    expect((await refusal({})).message).toMatch(/a token is needed, and none came/);
  });

  test("may go without exp where the operator says so", async () => {
    await line.addGateway({ JWT_REQUIRE_EXP: "false" });
    const client = await line.client(line.gateways.length - 1, bearer(await sign({ sub: "a" })));
    expect(await client.call("auth.refresh", { token: await sign({ sub: "a" }) })).toEqual({
      expiresAt: null,
    });
  });
});

describe("a socket that is refused", () => {
  test("is gone at once, whatever its client does then", async () => {
    for (const path of ["/nope", "//", "/v1/ws?token=bad"]) {
      const client = raw(upgrade(path));
      await until(() => client.got() !== "");
      client.socket.write("x");
      // It never closes its end.
      await within(client.closed, patienceMs, `the end of ${path}`);
    }
    const held = await new Promise<number>((resolve, reject) => {
      line.gateways[0]!.server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
    });
    expect(held).toBe(0);
  });

  test("may not send much before", async () => {
    const client = raw(upgrade("/v1/ws?token=bad"));
    await until(() => client.got().includes("101"));
    // A frame of 1 MiB, masked with zeros.
    client.socket.write(Buffer.from([0x81, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]));
    client.socket.write(Buffer.alloc(1024 * 1024, 0x61));
    await within(client.closed, patienceMs, "its end");
  });
});

describe("how many may come", () => {
  const good = async () => bearer(await sign({ sub: "a", exp: soon() }));

  test("in all", async () => {
    await line.addGateway({ MAX_SOCKETS: "2" });
    const at = line.gateways.length - 1;
    const first = await line.client(at, await good());
    await line.client(at, await good());
    expect((await refusal(await good(), at)).code).toBe(1013);
    await first.close();
    await until(
      async () =>
        await line.client(at, await good()).then(
          () => true,
          () => false,
        ),
    );
  });

  test("from one address, as the proxy before the gateway knows it", async () => {
    await line.addGateway({ MAX_SOCKETS_PER_ADDRESS: "2", TRUST_PROXY: "1" });
    const at = line.gateways.length - 1;
    const from = async (forwarded: string) =>
      bearer(await sign({ sub: "a", exp: soon() }), { headers: { "x-forwarded-for": forwarded } });
    const first = await line.client(at, await from("203.0.113.7"));
    await line.client(at, await from("1.2.3.4, 203.0.113.7"));
    const { code, message } = await refusal(await from("203.0.113.7"), at);
    expect([code, message]).toEqual([1013, expect.stringContaining("too many sockets from this address")]);
    await line.client(at, await from("203.0.113.8"));
    // An IPv6 network counts as one.
    await line.client(at, await from("2001:db8::1"));
    await line.client(at, await from("2001:0db8:0:0:1::2"));
    expect((await refusal(await from("2001:db8::3"), at)).code).toBe(1013);
    await first.close();
    await until(
      async () =>
        await line.client(at, await from("203.0.113.7")).then(
          () => true,
          () => false,
        ),
    );
  });

  test("those of this machine, and of private networks, are a proxy's clients: they are not counted", () => {
    const address = (remoteAddress: string) =>
      addressOf({ headers: {}, socket: { remoteAddress } } as never, 0);
    for (const own of ["127.0.0.1", "::ffff:10.1.2.3", "192.168.1.1", "172.20.0.1", "fd00::1", "::1"]) {
      expect(address(own)).toBeUndefined();
    }
    expect(address("::ffff:203.0.113.7")).toBe("203.0.113.7");
    expect(address("2001:db8:1:2:3::4")).toBe("2001:db8:1:2");
  });
});

describe("a command", () => {
  const open = async (gateway = 0) =>
    await line.client(gateway, bearer(await sign({ sub: "a", exp: soon() })));
  const start = (input: string) => `{"id":7,"method":"run.start","params":{"agent":"x","input":${input}}}`;

  test.each([
    ["numbers that are not finite", start(`[${"[1e999],".repeat(9_000)}1]`), "a number that is not finite"],
    ["101 lists in each other", start("[".repeat(99) + "]".repeat(99)), "nested deeper than 100"],
    ["a hundred thousand lists in each other", start("[".repeat(100_000)), "nested deeper than 100"],
    ["too many values", start(`[${"0,".repeat(50_000)}0]`), "more than 50000 values"],
  ])("with %s is refused under its id, and costs the socket nothing else", async (_, text, reason) => {
    const client = await open();
    for (let i = 0; i < 3; i++) client.raw(text);
    await until(() => client.strays.length === 3);
    expect(client.strays[0]).toMatchObject({ id: 7, error: "invalid_argument", retryable: false });
    expect(client.strays[0]!.message).toContain(reason);
    expect(await client.call("server.ping", {})).toEqual({});
  });

  test("of more bytes than the socket may send is refused, and then may come again", async () => {
    await line.addGateway({ BYTES_PER_SECOND: "100000" });
    const client = await open(line.gateways.length - 1);
    const pad = "x".repeat(200_000);
    const ping = () =>
      client.call("server.ping", { pad } as never).then(
        () => "taken",
        ({ message }: Error) => message,
      );
    const answers = await Promise.all([ping(), ping(), ping(), ping()]);
    expect(answers.slice(0, 2)).toEqual(["taken", "taken"]);
    expect(answers).toContain("more than 100000 bytes of commands a second");
    await until(async () => (await ping()) === "taken");
  });
});

describe("settings", () => {
  test("origins are compared as browsers write them", async () => {
    expect(
      gatewayConfig({ ALLOWED_ORIGINS: "HTTPS://App.Example:443/, http://b:8080" }).ALLOWED_ORIGINS,
    ).toEqual(["https://app.example", "http://b:8080"]);
    expect(normalOrigin("capacitor://localhost")).toBe("capacitor://localhost");
    for (const none of ["app.example", "https://app.example/path", "https://", "https://a?b"]) {
      expect(() => gatewayConfig({ ALLOWED_ORIGINS: none })).toThrow(/is no origin/);
    }
    await line.addGateway({ ALLOWED_ORIGINS: "https://App.example/" });
    const at = line.gateways.length - 1;
    const from = async (origin: string) => bearer(await sign({ sub: "a", exp: soon() }), { origin });
    await line.client(at, await from("https://app.example"));
    expect((await refusal(await from("https://app.example:444"), at)).code).toBe(4403);
  });

  test("an owner has a share where there are several, and where one is set", () => {
    const share = (env: Record<string, string>) => {
      const { MAX_RUNS_PER_OWNER, MAX_STORED_BYTES_PER_OWNER } = gatewayConfig(env);
      return [MAX_RUNS_PER_OWNER, MAX_STORED_BYTES_PER_OWNER];
    };
    const jwt = { AUTH: "jwt", JWT_SECRET: secret };
    const set = { MAX_RUNS_PER_OWNER: "7", MAX_STORED_BYTES_PER_OWNER: "8000" };
    expect(share({})).toEqual([undefined, undefined]);
    expect(share(jwt)).toEqual([50, 500_000_000]);
    expect(share(set)).toEqual([7, 8_000]);
    expect(share({ ...jwt, ...set })).toEqual([7, 8_000]);
    expect(() => share({ ...jwt, MAX_RUNS_PER_OWNER: "none" })).toThrow(/MAX_RUNS_PER_OWNER/);
  });

  test.each([
    [{ PORT: "x" }, "PORT: .*; it should be a port, from 1 to 65535, or 0 for any that is free"],
    [
      { TRUST_PROXY: "true" },
      "TRUST_PROXY: .*; it should be how many proxies stand before the gateway, from 0 to 10",
    ],
    [{ HEARTBEAT_MS: "99999999999" }, "HEARTBEAT_MS: 2147483647 at most: Node's timers hold no more"],
    [{ SLOW_SOCKET_MS: "2147483648" }, "SLOW_SOCKET_MS: 2147483647 at most"],
  ])("that are wrong are refused with what would be right: %j", (env, line) => {
    expect(() => gatewayConfig(env)).toThrow(new RegExp(`^${line}`));
  });

  test("for tokens that nobody is asked for are warned of", () => {
    const env = { JWT_SECRET: secret, JWT_JWKS_URL: "https://keys.example" };
    expect(warningsOf(gatewayConfig(env))).toEqual([
      expect.stringMatching(/^JWT_SECRET is set but not used, for AUTH is none: /),
      expect.stringMatching(/^JWT_JWKS_URL is set but not used, for AUTH is none: /),
    ]);
    expect(warningsOf(gatewayConfig({}))).toEqual([]);
  });

  test("that work and may not be meant are warned of", () => {
    const warnings = (env: Record<string, string>) => warningsOf(gatewayConfig({ AUTH: "jwt", ...env }));
    expect(warnings({ JWT_SECRET: secret })).toEqual([]);
    const open = warnings({ JWT_JWKS_URL: "https://keys.example", JWT_REQUIRE_EXP: "false" });
    expect(open.map((each) => each.split(" ")[0])).toEqual(["JWT_ISSUER", "JWT_AUDIENCE", "JWT_REQUIRE_EXP"]);
  });
});
