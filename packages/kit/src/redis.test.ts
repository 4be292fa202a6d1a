import { createServer, type Server, type Socket } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import {
  type PrivateRedis,
  startPrivateRedis,
  testPrefix,
  testRedisUrl,
} from "../../../test/support/redis.ts";
import { connectRedis, type RedisConnection, type RedisRole, RedisUnavailableError } from "./redis.ts";
import { checkRedis, RedisDatabaseError, RedisTooOldError } from "./redis-check.ts";
import { RedisUrlError } from "./redis-url.ts";

const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function connect(
  url: string,
  role: RedisRole,
  options: Parameters<typeof connectRedis>[2] = {},
): RedisConnection {
  const redis = connectRedis(url, role, options);
  cleanups.push(() => redis.disconnect());
  return redis;
}

async function ownRedis(...args: string[]): Promise<PrivateRedis> {
  const redis = await startPrivateRedis({ args });
  cleanups.push(() => redis.stop());
  return redis;
}

/** A server that answers INFO as an old Redis does, and knows nothing else. */
async function fakeRedis(version: string): Promise<string> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      for (const command of chunk.toString().matchAll(/\*\d+\r\n\$\d+\r\n(\w+)\r\n/g)) {
        const info = `# Server\r\nredis_version:${version}\r\nloading:0\r\n`;
        const known = command[1]?.toUpperCase() === "INFO";
        socket.write(known ? `$${info.length}\r\n${info}\r\n` : `-ERR unknown command '${command[1]}'\r\n`);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return `redis://127.0.0.1:${(server.address() as { port: number }).port}`;
}

test.each(["commands", "worker", "subscriber", "blocking"] as const)(
  "a %s connection carries its name",
  async (role) => {
    const redis = connect(testRedisUrl(), role, { name: "my gateway" });
    await checkRedis(redis);
    expect(await redis.client("GETNAME")).toBe(`my-gateway:${role}`);
  },
);

test("a subscriber comes back after its connection was lost, and leaves subscribing again to who uses it", async () => {
  const channel = `${testPrefix()}:news`;
  const warn = vi.fn();
  const info = vi.fn();
  const subscriber = connect(testRedisUrl(), "subscriber", { logger: { warn, info } });
  const commands = connect(testRedisUrl(), "worker");
  const heard: string[] = [];
  subscriber.on("message", (_channel: string, message: string) => heard.push(message));
  await subscriber.subscribe(channel);
  await commands.client("KILL", "ID", await subscriber.client("ID"));
  await vi.waitFor(() => expect(info).toHaveBeenCalledTimes(1), { timeout: 60_000 });
  expect(await commands.publish(channel, "unheard")).toBe(0);
  await subscriber.subscribe(channel);
  await commands.publish(channel, "again");
  await vi.waitFor(() => expect(heard).toEqual(["again"]), { timeout: 60_000 });
  expect(warn).toHaveBeenCalledTimes(1);
});

test("a commands connection fails at once while Redis is away, a worker's waits", async () => {
  const first = await ownRedis();
  const commands = connect(first.url, "commands");
  const worker = connect(first.url, "worker");
  await checkRedis(commands);
  await checkRedis(worker);
  await first.stop();
  await vi.waitFor(() => expect(commands.status).not.toBe("ready"), { timeout: 60_000 });
  // Nobody is there to answer, and it does not wait for somebody: not for one turn of the event loop.
  const refused = commands.get("x").then(
    () => "answered",
    () => "refused",
  );
  const turn = new Promise((resolve) => setImmediate(resolve, "waiting"));
  expect(await Promise.race([refused, turn])).toBe("refused");
  const waiting = worker.incr("x");
  const second = await startPrivateRedis({ port: first.port });
  cleanups.push(() => second.stop());
  expect(await waiting).toBe(1);
});

test("a commands connection gives up on a server that holds its breath", async () => {
  const redis = await ownRedis();
  const commands = connect(redis.url, "commands");
  await checkRedis(commands);
  process.kill(redis.pid, "SIGSTOP");
  cleanups.push(() => process.kill(redis.pid, "SIGCONT"));
  await expect(commands.get("x")).rejects.toThrow();
});

test("an outage is logged once, however many attempts it takes, and its end once", async () => {
  const server = await ownRedis();
  const warn = vi.fn();
  const info = vi.fn();
  const onError = vi.fn();
  const redis = connect(server.url, "commands", { logger: { warn, info }, onError });
  await checkRedis(redis);
  const attempts = vi.fn();
  redis.on("reconnecting", attempts);
  await server.stop();
  await vi.waitFor(() => expect(attempts.mock.calls.length).toBeGreaterThan(3), { timeout: 60_000 });
  const back = await startPrivateRedis({ port: server.port });
  cleanups.push(() => back.stop());
  await vi.waitFor(() => expect(info).toHaveBeenCalledTimes(1), { timeout: 60_000 });
  expect(warn).toHaveBeenCalledTimes(1);
  expect(onError).toHaveBeenCalledTimes(1);
  expect(warn.mock.calls[0]?.[0]).toMatch(/^redis \(commands, 127\.0\.0\.1:\d+\) is away: .*; reconnecting$/);
  expect(info.mock.calls[0]?.[0]).toMatch(/is back after \d+\.\d s$/);
});

test("closing a connection is no outage", async () => {
  const warn = vi.fn();
  const redis = connect(testRedisUrl(), "commands", { logger: { warn, info: vi.fn() } });
  await checkRedis(redis);
  await redis.quit();
  expect(warn).not.toHaveBeenCalled();
});

test("the check warns of what will hurt in production", async () => {
  const careless = await ownRedis("--maxmemory-policy", "allkeys-lru");
  const { version, warnings } = await checkRedis(connect(careless.url, "commands"));
  expect(version).toMatch(/^\d+\.\d+/);
  expect(warnings).toEqual([
    expect.stringMatching(/^maxmemory-policy is allkeys-lru/),
    expect.stringMatching(/^nothing is persisted/),
  ]);
  const careful = await ownRedis("--appendonly", "yes");
  expect((await checkRedis(connect(careful.url, "commands"))).warnings).toEqual([]);
  const managed = await ownRedis("--rename-command", "CONFIG", "");
  expect((await checkRedis(connect(managed.url, "commands"))).warnings).toEqual([]);
});

test.each(["5.0.14", "6.0.16"])("the check refuses Redis %s", async (version) => {
  const redis = connect(await fakeRedis(version), "commands");
  const failure = await checkRedis(redis).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(RedisTooOldError);
  expect((failure as Error).message).toMatch(
    `is version ${version}: Redis 6.2 or newer, or Valkey, is needed`,
  );
});

test.each(["6.2.0", "7.2.4", "8.0.0", "10.1.0"])("the check takes version %s", async (version) => {
  expect(await checkRedis(connect(await fakeRedis(version), "commands"))).toMatchObject({ version });
});

test("the check says in one line that nothing listens, that a login is refused, that a URL is none", async () => {
  const gone = await ownRedis();
  await gone.stop();
  const down = await checkRedis(connect(gone.url, "commands"), { timeoutMs: 500 }).catch(
    (error: unknown) => error,
  );
  expect(down).toBeInstanceOf(RedisUnavailableError);
  expect((down as Error).message).toBe(
    `Redis at 127.0.0.1:${gone.port} is not available: nothing listens there (ECONNREFUSED)`,
  );
  const locked = await ownRedis("--requirepass", "right");
  for (const url of [locked.url, `redis://:hunter2@127.0.0.1:${locked.port}`]) {
    const refused = await checkRedis(connect(url, "commands")).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(RedisUnavailableError);
    expect((refused as Error).message).toContain("it refused the login");
    expect((refused as Error).message).not.toContain("hunter2");
  }
  expect(() => connectRedis("localhost:6379", "commands")).toThrow(RedisUrlError);
});

test("the check refuses a database that is not there, where ioredis would go on in number 0", async () => {
  const { url } = await ownRedis("--databases", "2");
  const failure = await checkRedis(connect(`${url}/99`, "commands")).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(RedisDatabaseError);
  expect((failure as Error).message).toMatch(/refuses database 99 of the Redis URL: ERR .*out of range/);
  const redis = connect(`${url}/1`, "commands");
  await checkRedis(redis);
  expect(await redis.call("CLIENT", "INFO")).toMatch(/ db=1 /);
});
