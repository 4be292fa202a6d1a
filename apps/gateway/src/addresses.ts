/** Where sockets come from, and how many from each address. */
import type { IncomingMessage } from "node:http";
import { BlockList, isIP, isIPv4 } from "node:net";

/** Of this machine, or of a network that is somebody's own: a proxy's, most likely. */
const own = new BlockList();
for (const [net, bits] of [
  ["127.0.0.0", 8],
  ["10.0.0.0", 8],
  ["172.16.0.0", 12],
  ["192.168.0.0", 16],
  ["169.254.0.0", 16],
  ["100.64.0.0", 10],
] as const) {
  own.addSubnet(net, bits, "ipv4");
}
own.addAddress("::1", "ipv6");
own.addSubnet("fc00::", 7, "ipv6");
own.addSubnet("fe80::", 10, "ipv6");

/**
 * The address that a request comes from.
 *
 * @param proxies how many proxies stand before the gateway: each has added an address to `X-Forwarded-For`, and what is
 * farther left is whatever the client wrote
 * @returns undefined where it is not known: behind a proxy that nobody has told of, all clients have one address
 */
export function addressOf({ headers, socket }: IncomingMessage, proxies: number): string | undefined {
  if (proxies > 0) {
    const forwarded = [headers["x-forwarded-for"] ?? []].flat().join(",").split(",");
    const address = forwarded.at(-proxies)?.trim() ?? "";
    return isIP(address) === 0 ? undefined : networkOf(address);
  }
  const address = socket.remoteAddress?.replace(/^::ffff:/, "");
  if (address === undefined || own.check(address, isIPv4(address) ? "ipv4" : "ipv6")) return undefined;
  return networkOf(address);
}

/** Whoever has an IPv6 address has the 2^64 beside it as well. */
function networkOf(address: string): string {
  if (isIPv4(address)) return address;
  const [before = "", after] = (address.split("%")[0] ?? "").split("::");
  const head = before.split(":").filter((group) => group !== "");
  const tail = (after ?? "").split(":").filter((group) => group !== "");
  const zeros =
    after === undefined ? [] : Array<string>(Math.max(0, 8 - head.length - tail.length)).fill("0");
  const groups = [...head, ...zeros, ...tail].slice(0, 4);
  return groups.map((group) => Number.parseInt(group, 16).toString(16)).join(":");
}

export class Addresses {
  readonly #max: number;
  readonly #counts = new Map<string, number>();

  constructor(max: number) {
    this.#max = max;
  }

  isFull(address: string | undefined): boolean {
    return address !== undefined && (this.#counts.get(address) ?? 0) >= this.#max;
  }

  enter(address: string | undefined): void {
    if (address !== undefined) this.#counts.set(address, (this.#counts.get(address) ?? 0) + 1);
  }

  leave(address: string | undefined): void {
    if (address === undefined) return;
    const left = (this.#counts.get(address) ?? 0) - 1;
    if (left > 0) this.#counts.set(address, left);
    else this.#counts.delete(address);
  }
}
