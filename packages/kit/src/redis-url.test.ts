import { expect, test } from "vitest";
import { describeRedisUrl, parseRedisUrl, RedisUrlError } from "./redis-url.ts";

test.each([
  ["redis://127.0.0.1:6379", { kind: "single", url: "redis://127.0.0.1:6379" }],
  ["rediss://user:p@host/3?family=6", { kind: "single", url: "rediss://user:p@host/3?family=6" }],
  ["redis+cluster://a", { kind: "cluster", tls: false, nodes: [{ host: "a", port: 6379 }] }],
  [
    "rediss+cluster://me:p%40ss@a:7000,10.0.0.2,[::1]:7002/0",
    {
      kind: "cluster",
      tls: true,
      username: "me",
      password: "p@ss",
      nodes: [
        { host: "a", port: 7000 },
        { host: "10.0.0.2", port: 6379 },
        { host: "::1", port: 7002 },
      ],
    },
  ],
  [
    "redis+sentinel://s1,s2:26380/mymaster",
    {
      kind: "sentinel",
      tls: false,
      sentinels: [
        { host: "s1", port: 26379 },
        { host: "s2", port: 26380 },
      ],
      name: "mymaster",
      db: 0,
    },
  ],
  [
    "rediss+sentinel://:secret:with:colons@s1/my%20master/2?sentinel_username=watch&sentinel_password=a%26b",
    {
      kind: "sentinel",
      tls: true,
      password: "secret:with:colons",
      sentinels: [{ host: "s1", port: 26379 }],
      name: "my master",
      db: 2,
      sentinelUsername: "watch",
      sentinelPassword: "a&b",
    },
  ],
  // What people forget to encode in a password: the last @ ends the login.
  [
    "redis+cluster://:p@/?w@a",
    { kind: "cluster", tls: false, password: "p@/?w", nodes: [{ host: "a", port: 6379 }] },
  ],
])("%s", (url, address) => {
  expect(parseRedisUrl(url)).toEqual(address);
});

test.each([
  ["localhost:6379", "does not begin with redis://"],
  ["http://localhost", "does not begin with redis://"],
  ["redis://a:b:c", "cannot be read"],
  ["redis://localhost/name", "has something else than a database number in its path"],
  ["redis://a:1,b:2", "names several hosts: say whether they are a cluster or sentinels"],
  ["redis+clutser://a", "is of a kind that we do not know, clutser"],
  ["redis+cluster://", "has no host:port where number 1 should be"],
  ["redis+cluster://a:7000,,c", "has no host:port where number 2 should be"],
  ["redis+cluster://a:7000;b:7001", "has no host:port where number 1 should be"],
  ["redis+cluster://::1:7000", "has no host:port where number 1 should be"],
  ["redis+cluster://a:70000", "has a port that is none, of host number 1"],
  ["redis+cluster://a/1", "asks for database 1, but a Cluster has number 0 only"],
  ["redis+cluster://a?tls=true", 'has a parameter "tls" that we do not know'],
  ["redis+sentinel://a,b", "does not say what the Sentinels call the master"],
  ["redis+sentinel://a/mymaster/x", "has something else than the master's name and a database number"],
  ["redis+sentinel://a/mymaster?db=1", "known: sentinel_username, sentinel_password"],
  ["redis+sentinel://:100%@a/mymaster", "has a % that is no percent-encoding"],
])("%s is refused", (url, why) => {
  expect(() => parseRedisUrl(url)).toThrow(RedisUrlError);
  expect(() => parseRedisUrl(url)).toThrow(why);
});

test("no message holds a login, however bad the URL", () => {
  const bad = [
    "redis+cluster://me:hunter2",
    "redis+cluster://me:hunter2@a:b:c",
    "redis+sentinel://me:hunter2@a",
    "me:hunter2@a",
  ];
  for (const url of bad) {
    let message = "";
    try {
      parseRedisUrl(url);
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toMatch(/it must look like/);
    expect(message).not.toContain("hunter2");
  }
});

test("where a URL leads, without its login", () => {
  expect(describeRedisUrl("redis://me:p@host")).toBe("host:6379");
  expect(describeRedisUrl("redis+cluster://me:p@a:7000,[::1]")).toBe("the Cluster a:7000,[::1]:6379");
  expect(describeRedisUrl("redis+sentinel://me:p@a,b/mymaster")).toBe(
    "mymaster of the Sentinels a:26379,b:26379",
  );
});
