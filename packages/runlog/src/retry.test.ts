import { once } from "node:events";
import { Redis, ReplyError } from "ioredis";
import { expect, test } from "vitest";
import { testRedisUrl } from "../../../test/support/redis.ts";
import { isPassing, persist, refusalTeller } from "./retry.ts";

const reply = (message: string) => new ReplyError(message);

test.each([
  "OOM command not allowed when used memory > 'maxmemory'.",
  "ERR Error running script (call to f_0): @user_script:1: OOM command not allowed",
  "READONLY You can't write against a read only replica.",
  "LOADING Redis is loading the dataset in memory",
  "CLUSTERDOWN Hash slot not served",
])("Redis says that it cannot now: %s", (message) => {
  expect(isPassing(reply(message))).toBe(true);
});

test.each(["ERR unknown command", "WRONGTYPE Operation against a key", "NOPERM no permissions", "ERR OOMPH"])(
  "Redis says that it never will: %s",
  (message) => {
    expect(isPassing(reply(message))).toBe(false);
  },
);

test("a connection that is not there, or goes away, passes", async () => {
  const failures: Error[] = [];
  const redis = new Redis(testRedisUrl(), {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    lazyConnect: true,
  });
  redis.on("error", () => {});
  await redis.get("x").catch((error) => failures.push(error));
  await once(redis, "ready");
  const blocked = redis.blpop("nothing-is-ever-here", 0).catch((error) => failures.push(error));
  redis.disconnect(true);
  await blocked;
  redis.disconnect();
  await redis.get("x").catch((error) => failures.push(error));
  const nobody = new Redis({ port: 1, lazyConnect: true, retryStrategy: () => null });
  nobody.on("error", () => {});
  await nobody.connect().catch((error) => failures.push(error));
  expect(failures.map((error) => [error.message, isPassing(error)])).toEqual(
    failures.map((error) => [error.message, true]),
  );
  expect(failures).toHaveLength(4);
});

test("an agent's or a client's abort does not", () => {
  expect(isPassing(new DOMException("This operation was aborted", "AbortError"))).toBe(false);
});

test("persist repeats what passes, and throws what does not", async () => {
  const answers = [reply("OOM"), reply("LOADING"), reply("ERR no")];
  let calls = 0;
  const send = async () => {
    throw answers[calls++]!;
  };
  const retried: Error[] = [];
  await expect(persist(send, (error) => retried.push(error))).rejects.toBe(answers[2]);
  expect(calls).toBe(3);
  expect(retried).toEqual(answers.slice(0, 2));
});

test("of each kind of refusal is told once in a while, of a connection that is away not at all", () => {
  const script = "ERR Error running script (call to f_0): @user_script:1: OOM command not allowed";
  const errors = [
    reply("OOM no"),
    reply(script),
    reply("READONLY no"),
    reply("ERR no"),
    new Error("Connection is closed."),
  ];
  const told = (everyMs: number) => {
    const words: string[] = [];
    const tell = refusalTeller((each) => words.push(each), everyMs);
    for (const error of errors) tell(error);
    return words;
  };
  expect(told(3_600_000)).toEqual(["OOM no", "READONLY no"]);
  expect(told(0)).toEqual(["OOM no", script, "READONLY no"]);
});
