/** React hooks. They hold no state of their own: it lives in the connection and in the stores. */
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { AgentName, Agents, CustomOf, InputOf, StateOf } from "./agents.ts";
import { type Connection, type ConnectOptions, connect } from "./connection.ts";
import {
  type Conversation,
  type ConversationOptions,
  type ConversationView,
  type ConversationWith,
  conversation,
  initialView,
  noThreads,
  type Threads,
  type ThreadsOptions,
  type ThreadsView,
  threads,
} from "./conversation/index.ts";
import type { StorePort } from "./conversation/port.ts";
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
function useConnectionState(connection: Pick<StorePort, "state" | "onState"> | null): ConnectionState {
  const subscribe = useCallback(
    (listener: () => void) => connection?.onState(listener) ?? nothing(),
    [connection],
  );
  const read = () => connection?.state ?? connecting;
  return useSyncExternalStore(subscribe, read, () => connecting);
}

/**
 * A connection for as long as the component is mounted; another one when `url` changes. `connection` is null during the
 * first render. Options are read when the connection is made.
 */
export function useConnection<A extends Agents = Agents>(
  url: string,
  options: ConnectOptions = {},
): { connection: Connection<A> | null; state: ConnectionState } {
  const [connection, setConnection] = useState<Connection<A> | null>(null);
  const latest = useRef(options);
  latest.current = options;
  useEffect(() => {
    const made = connect<A>(url, latest.current);
    setConnection(made);
    return () => made.close();
  }, [url]);
  return { connection, state: useConnectionState(connection) };
}

interface Readable<View> {
  readonly subscribe: (listener: () => void) => () => void;
  readonly getSnapshot: () => View;
}

/** Holds a store while the component is mounted; `null` until then, and while `key` is null. */
function useHeld<S extends Readable<unknown>>(
  key: unknown,
  make: () => { store: S; release: () => void },
): S | null {
  const [held, setHeld] = useState<{ store: S; key: unknown } | null>(null);
  const latest = useRef(make);
  latest.current = make;
  useEffect(() => {
    if (key === null) return;
    const { store, release } = latest.current();
    setHeld({ store, key });
    return () => {
      release();
      setHeld(null);
    };
  }, [key]);
  return held !== null && held.key === key ? held.store : null;
}

function useView<View>(store: Readable<View> | null, before: View): View {
  const read = () => store?.getSnapshot() ?? before;
  return useSyncExternalStore(store?.subscribe ?? nothing, read, () => before);
}

/** One object as long as the values are the same. */
function useKey(...values: unknown[]): object {
  const key = useRef<{ values: unknown[] }>({ values: [] });
  const same =
    values.length === key.current.values.length && values.every((each, i) => each === key.current.values[i]);
  if (!same) key.current = { values };
  return key.current;
}

/**
 * A run: by its id, by the params of one to start (equal params are the same start), or one that was started already. null:
 * none. Renders once a frame at most. Components that show the same run share it; the last one to go detaches from it.
 */
export function useRun(
  connection: StorePort | null,
  target: RunTarget | null,
  options: RunStoreOptions = {},
): RunView & { connection: ConnectionState; cancel: (options?: CancelOptions) => Promise<void> } {
  const key = useKey(connection, target === null ? null : targetKey(target, options));
  const isNone = connection === null || target === null;
  const store = useHeld<RunStore>(isNone ? null : key, () => holdStore(connection!, target!, options));
  const view = useView(store, idleView);
  const cancel = useCallback(async (how?: CancelOptions) => store?.cancel(how), [store]);
  return { ...view, connection: useConnectionState(connection), cancel };
}

type Actions = Pick<
  Conversation,
  "send" | "stop" | "edit" | "regenerate" | "answer" | "retry" | "select" | "unqueue" | "loadEarlier"
>;

/** What `useThread` answers: all that there is to see, and all that can be done. Done before there is a store it is false. */
export type ThreadHook<Input = unknown, State = Record<string, unknown>, Custom = unknown> = ConversationView<
  State,
  Custom
> &
  Pick<Conversation<Input, State, Custom>, keyof Actions>;

/**
 * A conversation: of a thread, or a new one, which begins with the first message. Renders once a frame at most; a message
 * stays the same object as long as nothing of it changes. Components that show the same thread share it.
 */
export function useThread<A extends Agents, N extends AgentName<A>>(
  connection: Connection<A> | null,
  options: ConversationOptions<N>,
): ThreadHook<InputOf<A[N]>, StateOf<A[N]>, CustomOf<A[N]>> {
  const { agent, threadId } = options;
  const shown = useRef<{ threadId: string | undefined; turn: number; store: Conversation | null }>(null);
  shown.current ??= { threadId, turn: 0, store: null };
  if (shown.current.threadId !== threadId) {
    // The id that a new thread has been given is no other thread.
    const isOwn = shown.current.threadId === undefined && threadId === shown.current.store?.threadId;
    shown.current.threadId = threadId;
    if (!isOwn) shown.current.turn += 1;
  }
  const { turn } = shown.current;
  const key = useKey(connection, turn);
  const store = useHeld<ConversationWith<A[N]>>(connection === null ? null : key, () => {
    const store = conversation(connection!, options, key);
    shown.current!.store = store as Conversation;
    return { store, release: () => store.close() };
  });
  const { initial, pageSize, run } = options;
  // Another agent, or other params, are for the runs to come: what is shown stays.
  useEffect(() => store?.use({ agent, ...(run !== undefined && { run }) }), [store, agent, run]);
  const before = useMemo(
    () => initialView({ threadId, initial, pageSize } as ConversationOptions),
    [threadId, initial, pageSize],
  );
  const view = useView(store as Readable<ConversationView> | null, before);
  const actions = useMemo(() => actionsOf(store as Conversation | null), [store]);
  return useMemo(() => ({ ...view, ...actions }), [view, actions]) as never;
}

function actionsOf(store: Conversation | null): Actions {
  const not = async () => false;
  return {
    send: (...given) => store?.send(...given) ?? not(),
    stop: (...given) => store?.stop(...given) ?? not(),
    edit: (...given) => store?.edit(...given) ?? not(),
    regenerate: (...given) => store?.regenerate(...given) ?? not(),
    answer: (...given) => store?.answer(...given) ?? not(),
    retry: (...given) => store?.retry(...given) ?? not(),
    select: (...given) => store?.select(...given) ?? not(),
    unqueue: (...given) => store?.unqueue(...given) ?? not(),
    loadEarlier: () => store?.loadEarlier(),
  };
}

/** The owner's threads, live: a sidebar. Options are compared by what they say. */
export function useThreads(
  connection: StorePort | null,
  options: ThreadsOptions = {},
): ThreadsView & Pick<Threads, "create" | "rename" | "patch" | "delete" | "loadMore"> {
  const key = useKey(connection, JSON.stringify(options));
  const store = useHeld<Threads>(connection === null ? null : key, () => {
    const store = threads(connection!, options);
    return { store, release: () => store.close() };
  });
  const view = useView<ThreadsView>(store, noThreads);
  const actions = useMemo(
    () => ({
      create: async (...given: Parameters<Threads["create"]>) => store?.create(...given),
      rename: async (...given: Parameters<Threads["rename"]>) => store?.rename(...given),
      patch: async (...given: Parameters<Threads["patch"]>) => store?.patch(...given),
      delete: async (threadId: string) => (await store?.delete(threadId)) ?? false,
      loadMore: async () => store?.loadMore(),
    }),
    [store],
  );
  return { ...view, ...actions };
}
