import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { findRedisServer, NoRedisError } from "./install.ts";

// A machine in small: PATH is one folder, and the package manager in it is a script.

let bin: string;

function program(name: string, script: string): void {
  writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`);
  chmodSync(join(bin, name), 0o755);
}

beforeEach(() => {
  bin = mkdtempSync(join(tmpdir(), "throughline-bin-"));
  symlinkSync("/bin/sh", join(bin, "sh"));
  vi.stubEnv("PATH", bin);
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(bin, { recursive: true, force: true });
});

async function failure(): Promise<NoRedisError> {
  const error: unknown = await findRedisServer({ info: () => {} }).catch((reason: unknown) => reason);
  if (error instanceof NoRedisError) return error;
  throw new Error("it should have failed");
}

test("an installed server is found without a word, redis-server before valkey-server", async () => {
  const info = vi.fn();
  program("valkey-server", "");
  expect(await findRedisServer({ info })).toBe(join(bin, "valkey-server"));
  program("redis-server", "");
  expect(await findRedisServer({ info })).toBe(join(bin, "redis-server"));
  expect(info).not.toHaveBeenCalled();
});

test("a missing server is installed, and one line says so", async () => {
  const info = vi.fn();
  program("brew", `[ "$*" = "install redis" ] && /bin/ln -s /bin/true "${bin}/redis-server"`);
  expect(await findRedisServer({ info })).toBe(join(bin, "redis-server"));
  expect(info).toHaveBeenCalledTimes(1);
  expect(info.mock.calls[0]?.[0]).toMatch(/^redis-server is not installed: installing it with brew/);
});

test("an installation that fails is one line, with what the package manager said last", async () => {
  program("brew", "echo trying; echo no network >&2; exit 1");
  const { message, code } = await failure();
  expect(code).toBe("no_redis");
  expect(message).toContain("set REDIS_URL");
  expect(message).toContain("brew could not install it (no network)");
  expect(message).not.toContain("\n");
});

test("without a package manager one line says what to do by hand", async () => {
  expect((await failure()).message).toMatch(/install redis-server .* or set REDIS_URL: no package manager/);
});
