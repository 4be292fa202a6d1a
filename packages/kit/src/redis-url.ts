/**
 * REDIS_URL, in its three forms:
 *
 *     redis://[user:password@]host[:6379][/db]
 *     redis+cluster://[user:password@]host[:6379][,host[:port]…]
 *     redis+sentinel://[user:password@]host[:26379][,host[:port]…]/name[/db][?sentinel_password=…]
 *
 * With `rediss` everything goes over TLS, the Sentinels too. The first is what every client takes. There is no standard
 * for the others; these are what Python's clients have come to (limits, redis-sentinel-url, Prefect), so that one setting
 * can serve several programs. The login is the data nodes'; Sentinels have one of their own, if any.
 */
import { z } from "zod";

export interface HostAndPort {
  host: string;
  port: number;
}

interface Common {
  tls: boolean;
  username?: string;
  password?: string;
}

export type RedisAddress =
  /** The URL is ioredis's to read. */
  | { kind: "single"; url: string }
  | (Common & { kind: "cluster"; nodes: HostAndPort[] })
  | (Common & {
      kind: "sentinel";
      sentinels: HostAndPort[];
      /** What the Sentinels call the master. */
      name: string;
      db: number;
      sentinelUsername?: string;
      sentinelPassword?: string;
    });

/** REDIS_URL is none. The message says what would be one, and never holds the login. */
export class RedisUrlError extends Error {
  readonly code = "bad_redis_url";
  override readonly name = "RedisUrlError";
  constructor(wrong: string) {
    super(
      `the Redis URL ${wrong}; it must look like redis://user:password@host:6379, ` +
        "redis+cluster://host:6379,host:6379 or redis+sentinel://host:26379,host:26379/name (rediss for TLS)",
    );
  }
}

/** A setting that holds a Redis URL. */
export const redisUrl = z.string().superRefine((url, context) => {
  try {
    parseRedisUrl(url);
  } catch (error) {
    context.addIssue({ code: "custom", message: (error as RedisUrlError).message });
  }
});

/** @throws {RedisUrlError} */
export function parseRedisUrl(url: string): RedisAddress {
  const [, scheme, tls, form, rest = ""] = /^(redis(s?)(?:\+(\w+))?):\/\/(.*)$/.exec(url) ?? [];
  if (scheme === undefined) throw new RedisUrlError("does not begin with redis:// or one of its kin");
  if (form === undefined) {
    if (rest.includes(","))
      throw new RedisUrlError("names several hosts: say whether they are a cluster or sentinels");
    if (!URL.canParse(url)) throw new RedisUrlError("cannot be read");
    if (!/^\/?\d*$/.test(new URL(url).pathname))
      throw new RedisUrlError("has something else than a database number in its path");
    return { kind: "single", url };
  }
  if (form !== "cluster" && form !== "sentinel")
    throw new RedisUrlError(`is of a kind that we do not know, ${form}`);
  // Node's URL takes one host only. The last @ ends the login: no host and no path of ours has one.
  const at = rest.lastIndexOf("@");
  const [, hosts = "", path = "", query = ""] =
    /^([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/.exec(rest.slice(at + 1)) ?? [];
  const parameters = new URLSearchParams(query);
  const common: Common = { tls: tls === "s", ...parseLogin(rest.slice(0, Math.max(at, 0))) };
  const segments = path.split("/").filter((segment) => segment !== "");
  if (form === "cluster") {
    refuseOthers(parameters, []);
    if (segments.length > 0 && segments.join("/") !== "0") {
      throw new RedisUrlError(`asks for database ${segments.join("/")}, but a Cluster has number 0 only`);
    }
    return { kind: "cluster", ...common, nodes: parseHosts(hosts, 6379) };
  }
  refuseOthers(parameters, ["sentinel_username", "sentinel_password"]);
  const [name, db = "0", ...more] = segments;
  if (name === undefined)
    throw new RedisUrlError("does not say what the Sentinels call the master, as in /mymaster");
  if (!/^\d+$/.test(db) || more.length > 0)
    throw new RedisUrlError("has something else than the master's name and a database number in its path");
  return {
    kind: "sentinel",
    ...common,
    sentinels: parseHosts(hosts, 26379),
    name: decode(name),
    db: Number(db),
    ...pick("sentinelUsername", parameters.get("sentinel_username")),
    ...pick("sentinelPassword", parameters.get("sentinel_password")),
  };
}

/** Where a Redis URL leads, without the login, for logs. */
export function describeRedisUrl(url: string): string {
  const address = parseRedisUrl(url);
  switch (address.kind) {
    case "single": {
      const { hostname, port } = new URL(url);
      return `${hostname || "localhost"}:${port || 6379}`;
    }
    case "cluster":
      return `the Cluster ${joinHosts(address.nodes)}`;
    case "sentinel":
      return `${address.name} of the Sentinels ${joinHosts(address.sentinels)}`;
  }
}

function joinHosts(hosts: readonly HostAndPort[]): string {
  return hosts.map(({ host, port }) => `${host.includes(":") ? `[${host}]` : host}:${port}`).join(",");
}

function parseHosts(list: string, defaultPort: number): HostAndPort[] {
  return list.split(",").map((each, i) => {
    const [, bracketed, name, digits] = /^(?:\[([\da-fA-F:.]+)\]|([^:[\]\s]+))(?::(\d+))?$/.exec(each) ?? [];
    const host = bracketed ?? name;
    const port = digits === undefined ? defaultPort : Number(digits);
    if (host === undefined) throw new RedisUrlError(`has no host:port where number ${i + 1} should be`);
    if (port < 1 || port > 65_535)
      throw new RedisUrlError(`has a port that is none, of host number ${i + 1}`);
    return { host, port };
  });
}

function parseLogin(login: string): Pick<Common, "username" | "password"> {
  const colon = login.indexOf(":");
  const username = colon === -1 ? login : login.slice(0, colon);
  const password = colon === -1 ? "" : login.slice(colon + 1);
  return { ...pick("username", decode(username)), ...pick("password", decode(password)) };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new RedisUrlError("has a % that is no percent-encoding: write it as %25");
  }
}

function pick<Key extends string>(key: Key, value: string | null): { [key in Key]?: string } {
  return (value ? { [key]: value } : {}) as { [key in Key]?: string };
}

function refuseOthers(parameters: URLSearchParams, known: readonly string[]): void {
  for (const key of parameters.keys()) {
    if (!known.includes(key)) {
      throw new RedisUrlError(
        `has a parameter "${key}" that we do not know${known.length ? ` (known: ${known.join(", ")})` : ""}`,
      );
    }
  }
}
