/** What every command has: a connection that is open, a terminal, and Ctrl-C. */
import {
  type Connection,
  ConnectionClosedError,
  type ConnectionState,
  connect,
  ProtocolError,
} from "@throughline/client";
import { closeCodes } from "@throughline/protocol";
import { WebSocket } from "ws";
import type { Terminal } from "./terminal.ts";

export interface Session {
  readonly connection: Connection;
  readonly terminal: Terminal;
  /** How people call this program: a command that is shown can be copied. */
  readonly command: string;
  /** Calls the listener with the number of the press. Answers how to stop that. */
  onInterrupt(listener: (press: number) => void): () => void;
  /** Ends the process at once. */
  exit(code: number): void;
}

export interface Gateway {
  url: string;
  /** The command line names it: then a command that is shown has to name it too. */
  isNamed: boolean;
  token: string | undefined;
  /** For how long the first connection is tried, in seconds. Later ones are tried forever. */
  waitSeconds: number;
}

/** Nobody answered at the gateway's address. */
class GatewayAwayError extends Error {
  override readonly name = "GatewayAwayError";
  readonly code = "gateway_away";

  constructor(url: string, reason: string) {
    super(
      `no gateway answers at ${url} (${reason}). Start one with: npm start; or name another with --url or THROUGHLINE_URL`,
    );
  }
}

/** Connects, and gives up where that takes too long: a first connection may well be to the wrong place. */
export async function openConnection(gateway: Gateway, terminal: Terminal): Promise<Connection> {
  const { url, token, waitSeconds } = gateway;
  const connection = connect(url, { WebSocket, ...(token === undefined ? {} : { token }) });
  let reason = "no answer";
  const failure = await new Promise<Error | undefined>((resolve) => {
    const timer = setTimeout(() => resolve(new GatewayAwayError(url, reason)), waitSeconds * 1000);
    let isTold = false;
    const stop = connection.onState((state) => {
      if (state.status === "waiting") {
        reason = state.reason;
        if (!isTold) terminal.note(`waiting for a gateway at ${url} (${reason}) …`);
        isTold = true;
        return;
      }
      if (state.status === "connecting") return;
      clearTimeout(timer);
      stop();
      resolve(
        state.status === "closed" ? new ConnectionClosedError(state.reason, state.closeCode) : undefined,
      );
    });
  });
  if (failure === undefined) return connection;
  connection.close();
  throw failure;
}

const longWaitMs = 2_000;

/** Says when the connection is lost, and when it is back. Answers how to stop that. */
export function announceReconnects(
  { connection, terminal }: Session,
  nextOffset: () => number,
  state: ConnectionState = connection.state,
): () => void {
  let lost = state.status !== "open";
  return connection.onState((state) => {
    if (state.status === "waiting") {
      // One line for an outage, another only where the next try is so far off that people wonder.
      if (!lost) terminal.note(`connection lost; reconnecting in ${wait(state)} …`);
      else if (state.retryInMs >= longWaitMs)
        terminal.note(`still no connection; trying again in ${wait(state)} …`);
      lost = true;
    } else if (state.status === "open" && lost) {
      lost = false;
      terminal.note(`back; went on at offset ${nextOffset()}`);
    }
  });
}

function wait({ retryInMs }: { retryInMs: number }): string {
  return retryInMs < 1000 ? `${retryInMs} ms` : `${(retryInMs / 1000).toFixed(1).replace(".0", "")} s`;
}

/** What went wrong, in a line that says what to do about it. */
export function explain(error: unknown, command: string): string {
  if (error instanceof ConnectionClosedError && error.closeCode === closeCodes.badToken) {
    const why = error.message.replace("the connection is closed: ", "");
    const which = why.includes("none came") ? "one" : "another";
    return `the gateway refuses the connection: ${why}; pass ${which} with --token or THROUGHLINE_TOKEN`;
  }
  if (error instanceof ProtocolError && error.code === "no_such_agent") {
    return `${error.message} (${error.code}); \`${command} agents\` lists those there are`;
  }
  if (error instanceof ProtocolError) return `${error.message} (${error.code})`;
  return error instanceof Error ? error.message : String(error);
}
