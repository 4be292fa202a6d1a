/**
 * The hooks, rendered. There is no renderer among the dependencies: the one here implements the five hooks that they use
 * as React documents them, and mounts everything twice, as StrictMode does.
 */
import * as React from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { type Connection, connect } from "./connection.ts";
import { useConnection, useRun } from "./react.ts";
import { parts, ScriptedGateway } from "./testing/index.ts";

const { token, call, completed } = parts;

type Cell = { value?: unknown; deps?: readonly unknown[]; cleanup?: (() => void) | undefined };

/** One component, and what it returned last. */
class Rendered<T> {
  result!: T;
  renders = 0;
  #component: () => T;
  #cells: Cell[] = [];
  #at = 0;
  #effects: { cell: Cell; run: () => (() => void) | undefined }[] = [];
  #queued = false;
  #mounted = true;

  constructor(component: () => T) {
    this.#component = component;
    this.#render();
    const first = this.#cells.filter((cell) => "cleanup" in cell);
    for (const cell of first) cell.cleanup?.();
    for (const cell of first) cell.cleanup = (cell.value as () => (() => void) | undefined)();
  }

  rerender(component: () => T): void {
    this.#component = component;
    this.#render();
  }

  unmount(): void {
    this.#mounted = false;
    for (const cell of this.#cells) cell.cleanup?.();
  }

  #queue(): void {
    if (this.#queued || !this.#mounted) return;
    this.#queued = true;
    queueMicrotask(() => {
      this.#queued = false;
      if (this.#mounted) this.#render();
    });
  }

  #render(): void {
    const internals = (React as unknown as Record<string, { H: unknown }>)
      .__CLIENT_INTERNALS_DO_NOT_USE_OR_WARN_USERS_THEY_CANNOT_UPGRADE!;
    const before = internals.H;
    internals.H = this.#hooks;
    this.#at = 0;
    this.renders += 1;
    try {
      this.result = this.#component();
    } finally {
      internals.H = before;
    }
    for (const { cell, run } of this.#effects.splice(0)) {
      cell.cleanup?.();
      cell.value = run;
      cell.cleanup = run();
    }
  }

  #cell(make: () => Cell): Cell {
    const cell = this.#cells[this.#at] ?? make();
    this.#cells[this.#at] = cell;
    this.#at += 1;
    return cell;
  }

  readonly #hooks = {
    useState: (initial: unknown) => {
      const cell = this.#cell(() => ({ value: initial }));
      const set = (value: unknown) => {
        if (Object.is(cell.value, value)) return;
        cell.value = value;
        this.#queue();
      };
      return [cell.value, set];
    },
    useRef: (initial: unknown) => this.#cell(() => ({ value: { current: initial } })).value,
    useCallback: (callback: unknown, deps: readonly unknown[]) => {
      const cell = this.#cell(() => ({}));
      if (!same(cell.deps, deps)) Object.assign(cell, { value: callback, deps });
      return cell.value;
    },
    useEffect: (run: () => (() => void) | undefined, deps: readonly unknown[]) => {
      const cell = this.#cell(() => ({ cleanup: undefined }));
      if (!same(cell.deps, deps)) this.#effects.push({ cell, run });
      cell.deps = deps;
    },
    useSyncExternalStore: (subscribe: (listener: () => void) => () => void, read: () => unknown) => {
      this.#hooks.useEffect(
        () =>
          subscribe(() => {
            if (!Object.is(value, read())) this.#queue();
          }),
        [subscribe],
      );
      const value = read();
      return value;
    },
  };
}

function same(a: readonly unknown[] | undefined, b: readonly unknown[]): boolean {
  return a !== undefined && a.length === b.length && a.every((each, i) => Object.is(each, b[i]));
}

let gateway: ScriptedGateway;
let connection: Connection;
let rendered: { unmount(): void }[];

beforeEach(async () => {
  gateway = await ScriptedGateway.listen();
  connection = connect(gateway.url, { WebSocket });
  rendered = [];
});

afterEach(async () => {
  for (const each of rendered) each.unmount();
  connection.close();
  await gateway.close();
});

function render<T>(component: () => T): Rendered<T> {
  const made = new Rendered(component);
  rendered.push(made);
  return made;
}

function until(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 60_000, interval: 2 });
}

describe("useConnection", () => {
  it("holds one open connection while it is mounted, and tells its state", async () => {
    const { url } = gateway;
    await gateway.accept();
    const page = render(() => useConnection(url, { WebSocket }));
    await until(() => expect(page.result.state.status).toBe("open"));
    const { connection } = page.result;
    // The first mount's connection is closed, as StrictMode wants it.
    await until(() => expect(gateway.peers.filter((peer) => !peer.isClosed)).toHaveLength(2));
    page.unmount();
    expect(connection?.state.status).toBe("closed");
  });
});

describe("useRun", () => {
  it("starts a run once, draws it to its end, and starts no other for equal params", async () => {
    const peer = await gateway.accept();
    const component = () => useRun(connection, { agent: "a", input: { topic: "sea" } });
    const page = render(component);
    await peer.started();
    peer.parts("r1", 1, [token("Once "), token("upon")]);
    await until(() => expect(page.result).toMatchObject({ text: "Once upon", runId: "r1" }));
    page.rerender(component);
    peer.parts("r1", 3, [completed()]);
    await until(() => expect(page.result).toMatchObject({ status: "completed", text: "Once upon" }));
    expect(page.result.connection.status).toBe("open");
    expect(peer.received.map((each) => each.method)).toEqual(["run.start"]);
    const { renders } = page;
    await new Promise(setImmediate);
    expect(page.renders).toBe(renders);
  });

  it("goes from one run to another, and to none", async () => {
    const peer = await gateway.accept();
    let runId: string | null = "r1";
    const component = () => useRun(connection, runId);
    const page = render(component);
    await peer.subscribed();
    peer.parts("r1", 1, [token("one")]);
    await until(() => expect(page.result.text).toBe("one"));
    runId = "r2";
    page.rerender(component);
    const left = [await peer.command("run.subscribe"), await peer.command("run.unsubscribe")];
    expect(left.map((each) => each.params.runId)).toEqual(["r2", "r1"]);
    runId = null;
    page.rerender(component);
    await until(() => expect(page.result).toMatchObject({ status: "idle", text: "" }));
  });

  it("two that show the same run share it", async () => {
    const peer = await gateway.accept();
    const pages = [render(() => useRun(connection, "r1")), render(() => useRun(connection, "r1"))];
    await peer.subscribed();
    peer.parts("r1", 1, [token("one"), call({ index: 0, id: "t", name: "search", args: "{" })]);
    await until(() => expect(pages.map((page) => page.result.text)).toEqual(["one", "one"]));
    for (const page of pages) expect(page.result.messages[0]?.calls).toMatchObject([{ id: "t", args: "{" }]);
    pages[0]?.unmount();
    peer.parts("r1", 3, [token(" two")]);
    await until(() => expect(pages[1]?.result.text).toBe("one two"));
    const cancelled = pages[1]?.result.cancel({ keep: "discard" });
    const command = await peer.command("run.cancel");
    expect(command.params).toEqual({ runId: "r1", keep: "discard" });
    peer.answer(command, { runId: "r1", status: "cancelled", offset: 2, checkpoint: null });
    await cancelled;
  });

  it("waits for a connection", () => {
    const page = render(() => useRun(null, { agent: "a" }));
    expect(page.result).toMatchObject({ status: "idle", connection: { status: "connecting" } });
  });
});
