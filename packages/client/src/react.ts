/** React hooks. They hold no state of their own: it lives in the connection and in the run's store. */
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { type Connection, type ConnectOptions, connect } from "./connection.ts";
import {
  holdStore,
  idleView,
  type RunStore,
  type RunStoreOptions,
  type RunTarget,
  type RunView,
  targetKey,
} from "./conversation/run-store.ts";
import type { ConnectionState } from "./link.ts";
import type { CancelOptions } from "./run.ts";

export type { RunTarget, RunView } from "./conversation/run-store.ts";

const connecting: ConnectionState = { status: "connecting", attempt: 1 };
const nothing = () => () => {};

/** The state of a connection, kept up to date. */
function useConnectionState(connection: Connection | null): ConnectionState {
  const subscribe = useCallback(
    (listener: () => void) => connection?.onState(listener) ?? nothing(),
    [connection],
  );
  const read = () => connection?.state ?? connecting;
  return useSyncExternalStore(subscribe, read, read);
}

/**
 * A connection for as long as the component is mounted; another one when `url` changes. `connection` is null during the
 * first render. Options are read when the connection is made.
 */
export function useConnection(
  url: string,
  options: ConnectOptions = {},
): { connection: Connection | null; state: ConnectionState } {
  const [connection, setConnection] = useState<Connection | null>(null);
  const latest = useRef(options);
  latest.current = options;
  useEffect(() => {
    const made = connect(url, latest.current);
    setConnection(made);
    return () => made.close();
  }, [url]);
  return { connection, state: useConnectionState(connection) };
}

/**
 * A run: by its id, by the params of one to start (equal params are the same start), or one that was started already. null:
 * none. Renders once a frame at most. Components that show the same run share it; the last one to go detaches from it.
 */
export function useRun(
  connection: Connection | null,
  target: RunTarget | null,
  options: RunStoreOptions = {},
): RunView & { connection: ConnectionState; cancel: (options?: CancelOptions) => Promise<void> } {
  const [store, setStore] = useState<RunStore | null>(null);
  const latest = useRef({ target, options });
  latest.current = { target, options };
  const key = target === null ? null : targetKey(target, options);
  useEffect(() => {
    const { target, options } = latest.current;
    if (connection === null || key === null || target === null) return;
    const held = holdStore(connection, target, options);
    setStore(held.store);
    return () => {
      held.release();
      setStore(null);
    };
  }, [connection, key]);
  const read = () => store?.getSnapshot() ?? idleView;
  const view = useSyncExternalStore(store?.subscribe ?? nothing, read, read);
  const cancel = useCallback(async (how?: CancelOptions) => store?.cancel(how), [store]);
  return { ...view, connection: useConnectionState(connection), cancel };
}
