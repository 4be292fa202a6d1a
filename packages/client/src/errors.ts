/** The client's own errors. What a gateway refuses is a `ProtocolError`. */

/** The connection was lost after a command was sent that must not be sent twice: whether it was done is unknown. */
export class ConnectionLostError extends Error {
  override readonly name = "ConnectionLostError";
  readonly code = "connection_lost";
  /** Which command: `thread.update`. */
  readonly method: string;

  constructor(method: string) {
    super(`the connection was lost before ${method} was answered: whether it was done is not known`);
    this.method = method;
  }
}

/** The connection is closed for good: by `close()`, or because the gateway said not to come back. */
export class ConnectionClosedError extends Error {
  override readonly name = "ConnectionClosedError";
  readonly code = "connection_closed";
  /** The WebSocket close code, where a gateway closed it: 1009, 4400, 4401 or 4403. */
  readonly closeCode: number | undefined;

  constructor(reason: string, closeCode?: number) {
    super(`the connection is closed: ${reason}`);
    this.closeCode = closeCode;
  }
}

/** `detach()` was called: the run goes on, but this `Run` no longer follows it. */
export class DetachedError extends Error {
  override readonly name = "DetachedError";
  readonly code = "detached";

  constructor(runId: string) {
    super(`detached from run ${runId}`);
  }
}

/** The API was used in a way that it cannot serve; the message says which. */
export class UsageError extends Error {
  override readonly name = "UsageError";
  readonly code: "already_attached" | "already_reading" | "no_websocket";

  constructor(code: UsageError["code"], message: string) {
    super(message);
    this.code = code;
  }
}
