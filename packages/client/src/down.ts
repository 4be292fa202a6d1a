/** Why there is no connection: a code for programs, a sentence for people. */
import { closeCodes } from "@throughline/protocol";

/** All the reasons that a connection's state may have. */
export type ReasonCode =
  /** `close()` was called. */
  | "closed"
  /** The browser says that the device has no network. */
  | "offline"
  /** No connection could be made: no network, no gateway, or another address than a gateway's. */
  | "unreachable"
  /** The address is none, or a server is there that has no such path. */
  | "address"
  /** The connection broke, or ended without a reason of the gateway's. */
  | "lost"
  /** The gateway said nothing for too long. */
  | "no_answer"
  /** The gateway restarts. */
  | "restarting"
  /** The gateway has too much to do, or this client sends too much. */
  | "overloaded"
  /** This client took nothing for too long. */
  | "slow"
  /** There is no token, or the gateway does not take it. */
  | "token"
  /** This page's origin, or this user, may not connect. */
  | "forbidden"
  /** One side does not understand the other. */
  | "protocol";

export interface Down {
  readonly code: ReasonCode;
  readonly reason: string;
  /** The WebSocket close code, where there was one. */
  readonly closeCode?: number;
}

const ofCloseCodes: Readonly<Record<number, ReasonCode>> = {
  [closeCodes.goingAway]: "restarting",
  [closeCodes.frameTooLarge]: "protocol",
  [closeCodes.restarting]: "restarting",
  [closeCodes.overloaded]: "overloaded",
  [closeCodes.badFrame]: "protocol",
  [closeCodes.badToken]: "token",
  [closeCodes.forbidden]: "forbidden",
  [closeCodes.noProgress]: "slow",
  [closeCodes.rateLimited]: "overloaded",
};

/** What a socket's end means. `opened`: whether there was a connection at all. */
export function downOf(closeCode: number, opened: boolean, said: string | undefined): Down {
  const code = ofCloseCodes[closeCode] ?? (opened ? "lost" : "unreachable");
  return { code, reason: said || describe(closeCode, opened), closeCode };
}

function describe(closeCode: number, opened: boolean): string {
  if (closeCode !== 1006) return `closed with code ${closeCode}`;
  return opened ? "the connection broke" : "no connection could be made";
}
