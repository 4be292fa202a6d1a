import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { isAlive, waitForExit } from "./process.ts";
import { findFreePort, RedisStartError, startPrivateRedis } from "./redis.ts";

let dataDir: string;

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "throughline-test-"));
});

afterEach(() => {
  rmSync(dataDir, { recursive: true, force: true });
});

async function ask<T>(url: string, question: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url, { replyMapping: "legacy" });
  try {
    return await question(redis);
  } finally {
    redis.disconnect();
  }
}

test("stop leaves neither process nor folder", async () => {
  const redis = await startPrivateRedis();
  const [, dir] = (await ask(redis.url, (client) => client.config("GET", "dir"))) as string[];
  expect(dir).toContain("throughline-redis-");
  await Promise.all([redis.stop(), redis.stop()]);
  expect(isAlive(redis.pid)).toBe(false);
  expect(existsSync(dir!)).toBe(false);
});

test("it listens on the loopback only and keeps nothing without a data folder", async () => {
  const redis = await startPrivateRedis();
  try {
    const settings = await ask(redis.url, async (client) => [
      await client.config("GET", "bind"),
      await client.config("GET", "appendonly"),
      await client.config("GET", "save"),
    ]);
    expect(settings).toEqual([
      ["bind", "127.0.0.1"],
      ["appendonly", "no"],
      ["save", ""],
    ]);
  } finally {
    await redis.stop();
  }
});

test("many at once get ports of their own", async () => {
  const servers = await Promise.all([1, 2, 3, 4].map(() => startPrivateRedis()));
  expect(new Set(servers.map(({ port }) => port)).size).toBe(4);
  await Promise.all(servers.map((server) => server.stop()));
});

test("with a data folder the state survives a restart", async () => {
  const first = await startPrivateRedis({ dataDir });
  await ask(first.url, (client) => client.set("story", "so far"));
  await first.stop();
  const second = await startPrivateRedis({ dataDir });
  expect(second.reused).toBe(false);
  expect(await ask(second.url, (client) => client.get("story"))).toBe("so far");
  await second.stop();
});

test("a stale note about a server that is gone does not matter", async () => {
  const note = { pid: process.pid, port: await findFreePort(), ownerPid: process.pid };
  writeFileSync(join(dataDir, "throughline-redis.json"), JSON.stringify(note));
  const redis = await startPrivateRedis({ dataDir });
  expect(redis.reused).toBe(false);
  await redis.stop();
});

test("a note that points at another server does not make that one ours", async () => {
  const other = await startPrivateRedis();
  const note = { pid: other.pid, port: other.port, ownerPid: process.pid };
  writeFileSync(join(dataDir, "throughline-redis.json"), JSON.stringify(note));
  const redis = await startPrivateRedis({ dataDir });
  expect(redis.pid).not.toBe(other.pid);
  await redis.stop();
  expect(isAlive(other.pid)).toBe(true);
  await other.stop();
});

test("a taken port is a clear error, and nothing stays", async () => {
  const other = await startPrivateRedis();
  const failure = await startPrivateRedis({ port: other.port }).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(RedisStartError);
  expect((failure as Error).message).toMatch(/in use/i);
  expect((failure as Error).message).not.toContain("\n");
  await other.stop();
});

test("an argument that the server does not know is a clear error", async () => {
  await expect(startPrivateRedis({ args: ["--no-such-setting", "1"] })).rejects.toThrow(RedisStartError);
});

test("a server without a data folder dies with us, even when we are killed", async () => {
  const program = `
    import { startPrivateRedis } from ${JSON.stringify(fileURLToPath(new URL("../dist/redis.js", import.meta.url)))};
    console.log((await startPrivateRedis()).pid);
    setInterval(() => {}, 1000);`;
  const owner = spawn(process.execPath, ["--input-type=module", "-e", program]);
  let output = "";
  owner.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  await vi.waitFor(() => expect(output).toMatch(/^\d+\n/), { timeout: 60_000 });
  const pid = Number(output);
  expect(isAlive(pid)).toBe(true);
  owner.kill("SIGKILL");
  expect(await waitForExit(pid, 10_000)).toBe(true);
});
